//! The opening line of a fenced code block: its fence, its language, its attributes.
//!
//! *Must never* pass over something between the braces that it does not know: a misspelt attribute would silently take
//! code out of a program.

use crate::fault::Fault;
use crate::limits::NAME_BYTES_MAX;
use crate::path::TreePath;

/// A fence's sign and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// `` ` `` or `~`.
    pub mark: char,
    /// How many.
    pub length: usize,
}

impl Fence {
    /// The fence at the beginning of a line, if there is one.
    pub fn of(line: &str) -> Option<Fence> {
        let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
        let length = line.chars().take_while(|c| *c == mark).count();
        (length >= 3).then_some(Fence { mark, length })
    }

    /// Whether a line ends a block that began with this fence (CommonMark 4.5).
    pub fn closed_by(self, line: &str) -> bool {
        let inner = line.trim_start_matches(' ');
        if line.len() - inner.len() > 3 {
            return false;
        }
        let length = inner.chars().take_while(|c| *c == self.mark).count();
        length >= self.length && inner[length..].chars().all(char::is_whitespace)
    }

    /// A fence of the same sign that no line of `body` closes, this one if it will do. A carriage return counts as the
    /// end of a line, as it does for Markdown.
    pub fn around(self, body: &str) -> Fence {
        let closing = body.split(['\n', '\r']).filter(|line| self.closed_by(line));
        let longest = closing.map(|line| line.matches(self.mark).count()).max();
        Fence { length: longest.map_or(self.length, |longest| longest + 1), ..self }
    }

    /// As text.
    pub fn text(self) -> String {
        self.mark.to_string().repeat(self.length)
    }
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// With the end of its last line.
    Newline,
    /// Without: `eof="none"`.
    None,
}

/// Whether `<<name>>` means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refs {
    /// It stands for a chunk.
    Chunks,
    /// It stands for itself: `refs="none"`.
    None,
}

/// What the braces say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// There are none.
    None,
    /// A part of a chunk.
    Chunk {
        /// Its name.
        name: String,
        /// Its file.
        file: Option<TreePath>,
        /// The end of its file.
        eof: Eof,
        /// References in it.
        refs: Refs,
        /// A template's lines, first and last.
        lines: Option<(usize, usize)>,
    },
    /// A copy of a part of the library.
    Include {
        /// The library's file.
        path: TreePath,
        /// Which part; all of it where none is named.
        anchor: Option<String>,
    },
}

/// Language and attributes of what follows the fence.
pub fn parse(info: &str) -> Result<(String, Attributes), Fault> {
    let info = info.trim();
    let brace = info.find('{').unwrap_or(info.len());
    let language = info[..brace].split_whitespace().next().unwrap_or("").to_owned();
    let Some(inner) = info[brace..].strip_prefix('{') else { return Ok((language, Attributes::None)) };
    let inner = inner.strip_suffix('}').ok_or_else(|| Fault::Attributes("no } at the end of the line".to_owned()))?;
    Ok((language, attributes(&pairs(inner)?)?))
}

fn pairs(inner: &str) -> Result<Vec<(&str, &str)>, Fault> {
    let (mut pairs, mut rest) = (Vec::<(&str, &str)>::new(), inner.trim());
    while !rest.is_empty() {
        let told = |what: String| Fault::Attributes(what);
        let (key, after) = rest.split_once('=').ok_or_else(|| told(format!("`{rest}` has no =")))?;
        let (key, after) = (key.trim(), after.trim_start());
        let after =
            after.strip_prefix('"').ok_or_else(|| told(format!("the value of `{key}` is not in \"quotes\"")))?;
        let (value, after) = after.split_once('"').ok_or_else(|| told(format!("the value of `{key}` has no end")))?;
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(told(format!("`{key}` stands there twice")));
        }
        if !(after.is_empty() || after.starts_with(char::is_whitespace)) {
            return Err(told(format!("no blank after the value of `{key}`")));
        }
        pairs.push((key, value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn attributes(pairs: &[(&str, &str)]) -> Result<Attributes, Fault> {
    let value = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    for (key, _) in pairs {
        if !["chunk", "file", "eof", "refs", "include", "anchor", "lines"].contains(key) {
            return Err(Fault::UnknownAttribute((*key).to_owned()));
        }
    }
    if let Some(path) = value("include") {
        if let Some((key, _)) = pairs.iter().find(|(key, _)| !["include", "anchor"].contains(key)) {
            return Err(Fault::Attributes(format!("`include` and `{key}` exclude each other")));
        }
        let anchor = value("anchor").map(name).transpose()?;
        return Ok(Attributes::Include { path: TreePath::parse(path)?, anchor });
    }
    if value("anchor").is_some() {
        return Err(Fault::Attributes("`anchor` belongs to `include`".to_owned()));
    }
    let file = value("file").map(TreePath::parse).transpose()?;
    let named = value("chunk").map(name).transpose()?.or_else(|| file.as_ref().map(|file| file.as_str().to_owned()));
    let named = named.ok_or_else(|| Fault::Attributes("neither a chunk, nor a file, nor an include".to_owned()))?;
    let only_none = |attribute: &'static str| match value(attribute) {
        None => Ok(false),
        Some("none") => Ok(true),
        Some(other) => Err(Fault::Value { attribute, value: other.to_owned(), allowed: "\"none\" only" }),
    };
    let eof = if only_none("eof")? { Eof::None } else { Eof::Newline };
    let refs = if only_none("refs")? { Refs::None } else { Refs::Chunks };
    Ok(Attributes::Chunk { name: named, file, eof, refs, lines: value("lines").map(lines).transpose()? })
}

fn lines(text: &str) -> Result<(usize, usize), Fault> {
    let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    range.filter(|(first, last)| (1..=*last).contains(first)).ok_or_else(|| Fault::Value {
        attribute: "lines",
        value: text.to_owned(),
        allowed: "FIRST-LAST, from 1",
    })
}

/// A chunk's name.
pub fn name(text: &str) -> Result<String, Fault> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(Fault::Name(text.escape_debug().to_string())) }
}

/// Whether it is one.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | ' ');
    let plain = text.trim() == text && !text.contains("  ");
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && plain && text.chars().all(fits)
}

/// The reference that is all of a line: its indentation and the chunk's name.
pub fn reference(line: &str) -> Option<(&str, &str)> {
    let body = line.strip_suffix('\n').unwrap_or(line);
    let body = body.strip_suffix('\r').unwrap_or(body);
    let inner = body.trim_start_matches([' ', '\t']);
    let name = inner.strip_prefix("<<")?.strip_suffix(">>")?;
    is_name(name).then(|| (&body[..body.len() - inner.len()], name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_what_it_is() {
        let (language, attributes) = parse(r#"rust {chunk="a b" file="src/a.rs" eof="none" refs="none"}"#).unwrap();
        let file = Some(TreePath::parse("src/a.rs").unwrap());
        let expected = Attributes::Chunk { name: "a b".into(), file, eof: Eof::None, refs: Refs::None, lines: None };
        assert_eq!((language.as_str(), attributes), ("rust", expected));
        assert_eq!(parse("sh title").unwrap(), ("sh".to_owned(), Attributes::None));
        let Attributes::Chunk { name, .. } = parse("{file=\"a/b\"}").unwrap().1 else { panic!("a chunk") };
        assert_eq!(name, "a/b");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (info, said) in [
            ("rust {chunk=\"a\"", "no } at the end"),
            ("rust {chunk=a}", "not in \"quotes\""),
            ("rust {chunk=\"a}", "has no end"),
            ("rust {chunk=\"a\" chunk=\"b\"}", "twice"),
            ("rust {chunk=\"a\"file=\"b\"}", "no blank"),
            ("rust {chnuk=\"a\"}", "no attribute `chnuk`"),
            ("rust {.numbered}", "has no ="),
            ("rust {}", "neither a chunk"),
            ("rust {anchor=\"a\"}", "belongs to `include`"),
            ("rust {include=\"a\" chunk=\"b\"}", "exclude each other"),
            ("rust {chunk=\"a\" eof=\"newline\"}", "\"none\" only"),
            ("rust {chunk=\" a\"}", "is no name"),
            ("rust {chunk=\"a<b\"}", "is no name"),
            ("rust {include=\"../a\"}", "leads out"),
            ("rust {chunk=\"a\" lines=\"3-2\"}", "FIRST-LAST"),
        ] {
            let fault = parse(info).unwrap_err().to_string();
            assert!(fault.contains(said), "{info}: {fault}");
        }
    }

    #[test]
    fn a_reference_is_all_of_its_line() {
        assert_eq!(reference("\t  <<a b>>\r\n"), Some(("\t  ", "a b")));
        for line in ["x <<a>>\n", "<<a>> \n", "<<a>>;\n", "<< a >>\n", "<<>>\n", "cat <<EOF\n", "a << b >> c\n"] {
            assert_eq!(reference(line), None, "{line}");
        }
    }

    #[test]
    fn a_fence_grows_until_nothing_closes_it() {
        let fence = Fence { mark: '`', length: 3 };
        assert_eq!(fence.around("a\n```rust\n").length, 3);
        assert_eq!(fence.around("a\n   ````  \nb\r`````\rc").length, 6);
        assert_eq!(fence.around("    ```\n~~~\n").length, 3);
    }
}
