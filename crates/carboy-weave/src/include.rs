//! Parts of library files that a document shows: between marker lines, or an item by its name.
//!
//! *Must never* guess: a name that fits twice is an error.

use crate::document::{Block, Document, Kind};
use crate::fault::Fault;
use crate::limits::SOURCE_BYTES_MAX;
use crate::{Sources, TreePath};

/// What begins a part, before its name.
const BEGIN: &str = "ANCHOR:";
/// What ends it.
const END: &str = "ANCHOR_END:";

/// Words before an item's name.
const ITEM_WORDS: &[&str] = &[
    "fn",
    "struct",
    "enum",
    "trait",
    "union",
    "type",
    "mod",
    "const",
    "static",
    "macro_rules!",
    "def",
    "class",
    "function",
];
/// Words before those.
const QUALIFIERS: &[&str] = &["pub", "async", "unsafe", "extern", "default", "export", "const", "static"];

/// The part of the library that a block shows; its last line has an end.
pub fn wanted(path: &TreePath, anchor: Option<&str>, library: &dyn Sources) -> Result<String, Fault> {
    let bytes = library.read(path).ok_or_else(|| Fault::NoInclude(path.to_string()))?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= SOURCE_BYTES_MAX && !text.contains('\0'));
    let text = text.ok_or_else(|| Fault::IncludeNotText(path.to_string()))?;
    let mut part = match anchor {
        None => text,
        Some(anchor) => cut(path, &text, anchor)?,
    };
    if !part.is_empty() && !part.ends_with('\n') {
        part.push('\n');
    }
    Ok(part)
}

/// Blocks that show a part of the library, each with what it should be.
pub fn all<'d>(
    document: &'d Document,
    library: &'d dyn Sources,
) -> impl Iterator<Item = (&'d Block, &'d TreePath, Result<String, Fault>)> {
    document.blocks().iter().filter_map(move |block| match &block.kind {
        Kind::Include { path, anchor } => Some((block, path, wanted(path, anchor.as_deref(), library))),
        Kind::Plain | Kind::Chunk(_) => None,
    })
}

fn cut(path: &TreePath, text: &str, anchor: &str) -> Result<String, Fault> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let twice = || Fault::AnchorTwice { path: path.to_string(), anchor: anchor.to_owned() };
    let none = || Fault::NoAnchor { path: path.to_string(), anchor: anchor.to_owned() };
    let places = |sign| lines.iter().enumerate().filter(move |(_, l)| marker(l, sign) == Some(anchor)).map(|(n, _)| n);
    let (mut begins, mut ends) = (places(BEGIN), places(END));
    match (begins.next(), ends.next()) {
        (Some(begin), Some(end)) if begin < end => {
            if begins.next().is_some() || ends.next().is_some() {
                return Err(twice());
            }
            let inside = lines[begin + 1..end].iter();
            return Ok(inside.filter(|l| marker(l, BEGIN).is_none() && marker(l, END).is_none()).copied().collect());
        }
        (Some(_), _) | (_, Some(_)) => return Err(none()),
        (None, None) => {}
    }
    let mut items = (0..lines.len()).filter(|n| defines(lines[*n], anchor));
    let first = items.next().ok_or_else(none)?;
    if items.next().is_some() {
        return Err(twice());
    }
    let last = if path.extension() == "py" { python_end(&lines, first) } else { brace_end(&lines, first) };
    Ok(lines[with_comments(&lines, first)..=last].concat())
}

/// The name of a marker line: whatever stands before the sign is the language's comment.
fn marker<'l>(line: &'l str, sign: &str) -> Option<&'l str> {
    let (before, after) = line.split_once(sign)?;
    if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    after.split_whitespace().next()
}

/// Whether a line begins an item of this name.
fn defines(line: &str, name: &str) -> bool {
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let bare = word.split('(').next().unwrap_or(word);
        let Some(next) = words.peek() else { return false };
        if ITEM_WORDS.contains(&word) {
            let end = next.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(next.len());
            if &next[..end] == name {
                return true;
            }
        }
        if !QUALIFIERS.contains(&bare) && !word.starts_with('"') {
            return false;
        }
    }
    false
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The first line of the comments and attributes above an item.
fn with_comments(lines: &[&str], item: usize) -> usize {
    let above = |line: &str| {
        let text = line.trim_start();
        indent(line) == indent(lines[item])
            && (text.starts_with("///") || text.starts_with("#[") || text.starts_with('@'))
    };
    (0..item).rev().take_while(|n| above(lines[*n])).last().unwrap_or(item)
}

/// An item in a formatted file ends on a line with its own indentation that ends in `}` or `;`.
fn brace_end(lines: &[&str], first: usize) -> usize {
    let ends = |n: &usize| {
        let text = lines[*n].trim_end();
        !text.is_empty() && indent(lines[*n]) == indent(lines[first]) && text.ends_with(['}', ';'])
    };
    (first..lines.len()).find(ends).unwrap_or(lines.len() - 1)
}

/// An item in Python ends before the next line that is not further in than itself.
fn python_end(lines: &[&str], first: usize) -> usize {
    let out = |n: &usize| {
        let text = lines[*n].trim();
        !text.is_empty() && indent(lines[*n]) <= indent(lines[first]) && !text.starts_with(')')
    };
    let end = (first + 1..lines.len()).find(out).unwrap_or(lines.len());
    (first..end).rev().find(|n| !lines[*n].trim().is_empty()).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(file: &str, text: &str, anchor: &str) -> Result<String, Fault> {
        cut(&TreePath::parse(file).unwrap(), text, anchor)
    }

    #[test]
    fn a_part_stands_between_its_marker_lines() {
        let text = "a\n// ANCHOR: x\nb\n// ANCHOR: y\nc\n// ANCHOR_END: y\n# ANCHOR_END: x\nd\n";
        assert_eq!(part("a.rs", text, "x").unwrap(), "b\nc\n");
        assert_eq!(part("a.rs", text, "y").unwrap(), "c\n");
        assert!(matches!(part("a.rs", "// ANCHOR: x\n", "x"), Err(Fault::NoAnchor { .. })));
        assert!(matches!(part("a.rs", &text.repeat(2), "x"), Err(Fault::AnchorTwice { .. })));
    }

    #[test]
    fn an_item_has_its_name_its_comments_and_its_end() {
        let text = "/// Doc.\n#[must_use]\npub(crate) async fn run(\n    a: u8,\n) -> u8 {\n    if a {\n    }\n}\n\nimpl X {\n    const A: u8 = 1;\n    fn go() {\n    }\n}\nfn runs() {}\n";
        assert!(part("a.rs", text, "run").unwrap().starts_with("/// Doc.\n#[must_use]\npub(crate)"));
        assert!(part("a.rs", text, "run").unwrap().ends_with("    }\n}\n"));
        assert_eq!(part("a.rs", text, "go").unwrap(), "    fn go() {\n    }\n");
        assert_eq!(part("a.rs", text, "A").unwrap(), "    const A: u8 = 1;\n");
        assert_eq!(
            part("a.py", "@x\ndef f(\n    a,\n):\n    y\n\n    z\n\nq\n", "f").unwrap(),
            "@x\ndef f(\n    a,\n):\n    y\n\n    z\n"
        );
        assert!(matches!(part("a.rs", "fn a() {}\nfn a() {}\n", "a"), Err(Fault::AnchorTwice { .. })));
        assert!(matches!(part("a.rs", text, "stop"), Err(Fault::NoAnchor { .. })));
    }
}
