//! A document from a template and the sources as they are: blocks that name a file and are empty are filled.
//!
//! `{chunk="main" file="src/main.rs"}` takes the whole file; several parts of one chunk take `lines="1-20"` each. *Must
//! never* hand back a document that tangles to anything but these sources.

use crate::attributes::Refs;
use crate::document::{Block, Document, Kind, Part, Stage};
use crate::fault::{Fault, Faults, Problem};
use crate::tangle::{line_end, tangle};
use crate::{Sources, TreePath, attributes, include};

/// Fills a template.
pub fn bootstrap(template: &str, sources: &dyn Sources, library: &dyn Sources) -> Result<String, Faults> {
    let template = Document::read(template, Stage::Template)?;
    let (text, mut out, mut at, mut problems) = (template.text(), String::new(), 0, Vec::new());
    for (index, block) in template.blocks().iter().enumerate() {
        let filled =
            match &block.kind {
                Kind::Plain => continue,
                Kind::Include { path, anchor } => include::wanted(path, anchor.as_deref(), library)
                    .map(|part| Filled { body: part, eof: false, refs: false }),
                Kind::Chunk(part) if block.body.is_empty() => match fill(&template, index, block, part, sources) {
                    Some(filled) => filled,
                    None => continue,
                },
                Kind::Chunk(_) => continue,
            };
        match filled {
            Ok(filled) => {
                out.push_str(&text[at..block.open.start]);
                out.push_str(&filled.block(text, block));
                at = block.close.end;
            }
            Err(fault) => problems.push(fault.at(block.line)),
        }
    }
    out.push_str(&text[at..]);
    Faults::none_or(problems, ())?;
    exact(&out, sources)?;
    Ok(out)
}

/// What goes into a block.
struct Filled {
    body: String,
    eof: bool,
    refs: bool,
}

impl Filled {
    fn block(&self, text: &str, block: &Block) -> String {
        let fence = block.fence.around(&self.body);
        let more = fence.mark.to_string().repeat(fence.length - block.fence.length);
        let mut open = text[block.open.clone()].to_owned();
        // The template's own attribute has done its work.
        if let Some(from) = open.find("lines=\"") {
            let to = open[from + 7..].find('"').map_or(open.len(), |end| from + 7 + end + 1);
            open.replace_range(from..to, "");
            open = open.replace(" }", "}");
        }
        for attribute in
            [self.eof.then_some(" eof=\"none\""), self.refs.then_some(" refs=\"none\"")].into_iter().flatten()
        {
            open.insert_str(open.rfind('}').unwrap_or(open.len()), attribute);
        }
        let close = &text[block.close.clone()];
        let inner = close.trim_start_matches(' ');
        format!("{more}{open}{}{}{more}{inner}", self.body, &close[..close.len() - inner.len()])
    }
}

/// The parts of a chunk.
fn parts<'t>(template: &'t Document, name: &'t str) -> impl Iterator<Item = (usize, &'t Part)> {
    template.blocks().iter().enumerate().filter_map(move |(index, block)| match &block.kind {
        Kind::Chunk(part) if part.name == name => Some((index, part)),
        Kind::Chunk(_) | Kind::Plain | Kind::Include { .. } => None,
    })
}

/// What an empty part is filled with; a chunk without a file stays empty.
fn fill(
    template: &Document,
    index: usize,
    block: &Block,
    part: &Part,
    sources: &dyn Sources,
) -> Option<Result<Filled, Fault>> {
    let path = parts(template, &part.name).find_map(|(_, part)| part.file.clone());
    let Some(path) = path else {
        let told = || Err(Fault::Template("lines=\"…\" belongs to a chunk that has a file".to_owned()));
        return part.lines.map(|_| told());
    };
    let several = parts(template, &part.name).count() > 1;
    if several && part.lines.is_none() {
        let said =
            format!("chunk \"{}\" has several parts; say which lines=\"FIRST-LAST\" each of them takes", part.name);
        return Some(Err(Fault::Template(said)));
    }
    let last = parts(template, &part.name).last().is_some_and(|(last, _)| last == index);
    Some(source(&path, sources).and_then(|text| {
        let mut body = match part.lines {
            None => text,
            Some((first, end)) => {
                let lines: Vec<&str> = text.split_inclusive('\n').collect();
                let said = || Fault::Template(format!("{path} has {} lines, not {end}", lines.len()));
                lines.get(first - 1..end).ok_or_else(said)?.concat()
            }
        };
        let eof = last && !body.is_empty() && !body.ends_with('\n');
        if eof {
            body.push_str(line_end(template, block));
        }
        let looks = body.split_inclusive('\n').any(|line| attributes::reference(line).is_some());
        Ok(Filled { eof: eof && part.eof == attributes::Eof::Newline, refs: looks && part.refs == Refs::Chunks, body })
    }))
}

fn source(path: &TreePath, sources: &dyn Sources) -> Result<String, Fault> {
    let bytes = sources.read(path).ok_or_else(|| Fault::Template(format!("there is no file {path}")))?;
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| Fault::Template(format!("{path} is not UTF-8 text without NUL bytes")))
}

/// The document says what the sources say.
fn exact(text: &str, sources: &dyn Sources) -> Result<(), Faults> {
    let document = Document::parse(text)?;
    let tangled = tangle(&document)?;
    let mut problems: Vec<Problem> = Vec::new();
    for (path, file) in &tangled.files {
        if sources.read(path).as_deref() != Some(file.text.as_bytes()) {
            let line = document.blocks()[tangled.chunks[&file.chunk].blocks[0]].line;
            let said =
                format!("its parts do not add up to {path}; every line of the file belongs to one part, in order");
            problems.push(Fault::Template(said).at(line));
        }
    }
    Faults::none_or(problems, ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sources(files: &[(&str, &str)]) -> BTreeMap<TreePath, Vec<u8>> {
        files.iter().map(|(path, text)| (TreePath::parse(path).unwrap(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_template_is_filled_with_what_is_there() {
        // G58
        let template = "# T\n\n```rs {chunk=\"a\" file=\"a.rs\" lines=\"1-2\"}\n```\nand\n\n```rs {chunk=\"a\" lines=\"3-3\"}\n```\n\n```{file=\"b\"}\n```\n";
        let filled =
            bootstrap(template, &sources(&[("a.rs", "1\n2\n```\n"), ("b", "<<x>>")]), &BTreeMap::new()).unwrap();
        assert_eq!(
            filled,
            "# T\n\n```rs {chunk=\"a\" file=\"a.rs\"}\n1\n2\n```\nand\n\n````rs {chunk=\"a\"}\n```\n````\n\n```{file=\"b\" eof=\"none\" refs=\"none\"}\n<<x>>\n```\n"
        );
    }

    #[test]
    fn a_template_that_does_not_add_up_is_refused() {
        let there = sources(&[("a", "1\n2\n3\n"), ("bad", "\0")]);
        for (template, said) in [
            ("```{file=\"b\"}\n```\n", "there is no file b"),
            ("```{file=\"bad\"}\n```\n", "not UTF-8 text without NUL"),
            ("```{file=\"a\" lines=\"1-4\"}\n```\n", "a has 3 lines, not 4"),
            ("```{file=\"a\" lines=\"1-2\"}\n```\n", "do not add up to a"),
            ("```{file=\"a\"}\n```\n```{chunk=\"a\"}\n```\n", "several parts"),
            ("```{file=\"a\"}\nother\n```\n", "do not add up to a"),
            ("```{chunk=\"x\" lines=\"1-2\"}\n```\n", "belongs to a chunk that has a file"),
        ] {
            let faults = bootstrap(template, &there, &BTreeMap::new()).unwrap_err().to_string();
            assert!(faults.contains(said), "{template}: {faults}");
        }
    }
}
