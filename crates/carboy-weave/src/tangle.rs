//! From a document to the files it holds, byte for byte, and for each line the place it comes from.
//!
//! *Must never* add a byte that is in no block: the indentation of a reference is the only thing that is repeated.

use std::collections::{BTreeMap, BTreeSet};

use crate::attributes::{self, Eof, Refs};
use crate::document::{Block, Document, Kind, Part};
use crate::fault::{Fault, Faults, Problem};
use crate::limits::{FILES_MAX, REFERENCE_DEPTH_MAX, TANGLED_BYTES_MAX, TANGLED_LINES_MAX};
use crate::path::TreePath;

/// What a document tangles to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tangled {
    /// The files.
    pub files: BTreeMap<TreePath, TangledFile>,
    /// Chunks by name.
    pub chunks: BTreeMap<String, Chunk>,
}

/// A chunk: all of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Indices of its blocks, in order.
    pub blocks: Vec<usize>,
    /// Its file.
    pub file: Option<TreePath>,
    /// Indices of the blocks that refer to it.
    pub used_in: BTreeSet<usize>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TangledFile {
    /// Its chunk.
    pub chunk: String,
    /// Its bytes.
    pub text: String,
    /// Where each of its lines comes from.
    pub origins: Vec<Origin>,
    /// The places at which blocks stand in it.
    pub instances: Vec<Instance>,
    /// How it ends.
    pub eof: Eof,
}

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Line of the document, from 1.
    pub line: usize,
    /// Index into [`TangledFile::instances`].
    pub instance: usize,
}

/// A block at one of the places where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Index of the block.
    pub block: usize,
    /// What stands before each of its lines that is not blank.
    pub indent: String,
    /// The instance that refers to it and the document's line on which it does.
    pub parent: Option<(usize, usize)>,
}

/// Who uses a chunk that has no file, and that no other chunk refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// Nobody: that is an error.
    Refused,
    /// Somebody else, who has looked: the front matter of an agent's file does.
    Elsewhere,
}

/// Tangles.
pub fn tangle(document: &Document) -> Result<Tangled, Faults> {
    tangle_where(document, Unused::Refused)
}

/// Tangles a document that chunks may be taken from by somebody else.
pub fn tangle_where(document: &Document, rule: Unused) -> Result<Tangled, Faults> {
    let chunks = chunks(document)?;
    let mut problems = references(document, &chunks);
    problems.extend(ends(document, &chunks));
    match rule {
        Unused::Refused => problems.extend(unused(document, &chunks)),
        Unused::Elsewhere => {}
    }
    problems.extend(directories(document, &chunks));
    Faults::none_or(problems, ())?;
    cycles(document, &chunks)?;
    let (mut files, mut left) = (BTreeMap::new(), Left { bytes: TANGLED_BYTES_MAX, lines: TANGLED_LINES_MAX });
    for (name, chunk) in &chunks {
        if let Some(path) = &chunk.file {
            let file = Expansion::of(document, &chunks, name, &mut left)?;
            files.insert(path.clone(), file);
        }
    }
    Ok(Tangled { files, chunks })
}

/// The parts of chunks, with their blocks.
fn parts(document: &Document) -> impl Iterator<Item = (usize, &Block, &Part)> {
    document.blocks().iter().enumerate().filter_map(|(index, block)| match &block.kind {
        Kind::Chunk(part) => Some((index, block, part)),
        Kind::Plain | Kind::Include { .. } => None,
    })
}

fn part_of(block: &Block) -> &Part {
    match &block.kind {
        Kind::Chunk(part) => part,
        Kind::Plain | Kind::Include { .. } => unreachable!("chunks list blocks that are parts of chunks"),
    }
}

/// References of a block: line of the document, indentation, name.
fn references_of<'d>(document: &'d Document, block: &'d Block) -> impl Iterator<Item = (usize, &'d str, &'d str)> {
    let on = part_of(block).refs == Refs::Chunks;
    let lines = document.lines(block).enumerate().filter(move |_| on);
    lines.filter_map(|(n, line)| attributes::reference(line).map(|(indent, name)| (block.line + 1 + n, indent, name)))
}

fn chunks(document: &Document) -> Result<BTreeMap<String, Chunk>, Faults> {
    let mut chunks = BTreeMap::<String, Chunk>::new();
    let mut owners = BTreeMap::<TreePath, (String, usize)>::new();
    let mut problems = Vec::new();
    for (index, block, part) in parts(document) {
        let chunk = chunks.entry(part.name.clone()).or_default();
        chunk.blocks.push(index);
        let Some(file) = &part.file else { continue };
        let owner = owners.get(file);
        if let Some((first, line)) = owner.filter(|(first, _)| *first != part.name) {
            let (path, first) = (file.to_string(), first.clone());
            problems.push(Fault::FileTwice { path, first, line: *line }.at(block.line));
        } else if let Some(first) = chunk.file.as_ref().filter(|first| *first != file) {
            let line = owners.get(first).map_or(block.line, |(_, line)| *line);
            let (name, first) = (part.name.clone(), first.to_string());
            problems.push(Fault::TwoFiles { name, first, line }.at(block.line));
        } else {
            chunk.file = Some(file.clone());
            owners.entry(file.clone()).or_insert((part.name.clone(), block.line));
            if owners.len() > FILES_MAX {
                return Err(Fault::TooManyFiles.at(block.line).into());
            }
        }
    }
    let all = parts(document).flat_map(|(index, block, _)| {
        references_of(document, block).map(move |(_, _, name)| (index, name)).collect::<Vec<_>>()
    });
    for (index, name) in all {
        if let Some(chunk) = chunks.get_mut(name) {
            chunk.used_in.insert(index);
        }
    }
    Faults::none_or(problems, chunks)
}

fn references(document: &Document, chunks: &BTreeMap<String, Chunk>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (_, block, _) in parts(document) {
        for (line, _, name) in references_of(document, block) {
            if !chunks.contains_key(name) {
                problems.push(Fault::Undefined(name.to_owned()).at(line));
            }
        }
    }
    problems
}

/// `eof="none"` stands where a file ends, and nowhere else.
fn ends(document: &Document, chunks: &BTreeMap<String, Chunk>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, block, part) in parts(document).filter(|(_, _, part)| part.eof == Eof::None) {
        let chunk = &chunks[&part.name];
        if chunk.file.is_none() || chunk.blocks.last() != Some(&index) || block.body.is_empty() {
            problems.push(Fault::Eof.at(block.line));
        } else if !chunk.used_in.is_empty() {
            problems.push(Fault::EofInside(part.name.clone()).at(block.line));
        }
    }
    problems
}

/// Chunks that no file reaches.
fn unused(document: &Document, chunks: &BTreeMap<String, Chunk>) -> Vec<Problem> {
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = chunks.iter().filter(|(_, c)| c.file.is_some()).map(|(name, _)| name.as_str()).collect();
    while let Some(name) = open.pop() {
        if !reached.insert(name) {
            continue;
        }
        let blocks = chunks.get(name).into_iter().flat_map(|chunk| &chunk.blocks);
        open.extend(blocks.flat_map(|b| references_of(document, &document.blocks()[*b])).map(|(_, _, name)| name));
    }
    let lost = chunks.iter().filter(|(name, _)| !reached.contains(name.as_str()));
    lost.map(|(name, chunk)| Fault::Unused(name.clone()).at(document.blocks()[chunk.blocks[0]].line)).collect()
}

/// `a` and `a/b` cannot both be files.
fn directories(document: &Document, chunks: &BTreeMap<String, Chunk>) -> Vec<Problem> {
    let files: BTreeMap<&str, &Chunk> =
        chunks.values().filter_map(|chunk| Some((chunk.file.as_ref()?.as_str(), chunk))).collect();
    let mut problems = Vec::new();
    for (path, chunk) in &files {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]).find(|above| files.contains_key(above));
        if let Some(above) = above {
            let line = document.blocks()[chunk.blocks[0]].line;
            problems.push(Fault::FileAndDirectory { path: above.to_owned(), below: (*path).to_owned() }.at(line));
        }
    }
    problems
}

/// How far the search for cycles is with a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Open,
    Done,
}

fn cycles(document: &Document, chunks: &BTreeMap<String, Chunk>) -> Result<(), Faults> {
    fn visit<'c>(
        document: &'c Document,
        chunks: &'c BTreeMap<String, Chunk>,
        name: &'c str,
        marks: &mut BTreeMap<&'c str, Mark>,
        way: &mut Vec<&'c str>,
    ) -> Result<(), Problem> {
        marks.insert(name, Mark::Open);
        way.push(name);
        for block in &chunks[name].blocks {
            for (line, _, next) in references_of(document, &document.blocks()[*block]) {
                match marks.get(next) {
                    Some(Mark::Done) => {}
                    Some(Mark::Open) => {
                        let from = way.iter().position(|n| *n == next).unwrap_or(0);
                        let round = way[from..].iter().chain([&next]).map(|n| (*n).to_owned()).collect();
                        return Err(Fault::Cycle(round).at(line));
                    }
                    None if way.len() == REFERENCE_DEPTH_MAX => return Err(Fault::TooDeep.at(line)),
                    None => visit(document, chunks, next, marks, way)?,
                }
            }
        }
        way.pop();
        marks.insert(name, Mark::Done);
        Ok(())
    }
    let mut marks = BTreeMap::new();
    for name in chunks.keys() {
        if !marks.contains_key(name.as_str()) {
            visit(document, chunks, name, &mut marks, &mut Vec::new())?;
        }
    }
    Ok(())
}

/// What may still be written.
struct Left {
    bytes: usize,
    lines: usize,
}

impl Left {
    /// One line, or one use of a block.
    fn take(&mut self, bytes: usize, line: usize) -> Result<(), Problem> {
        let rest = self.bytes.checked_sub(bytes).zip(self.lines.checked_sub(1));
        (self.bytes, self.lines) = rest.ok_or_else(|| Fault::TangledTooLarge.at(line))?;
        Ok(())
    }
}

/// A file being put together.
struct Expansion<'d> {
    document: &'d Document,
    chunks: &'d BTreeMap<String, Chunk>,
    file: TangledFile,
    left: &'d mut Left,
}

impl<'d> Expansion<'d> {
    fn of(
        document: &'d Document,
        chunks: &'d BTreeMap<String, Chunk>,
        name: &str,
        left: &'d mut Left,
    ) -> Result<TangledFile, Faults> {
        let last = &document.blocks()[chunks[name].blocks[chunks[name].blocks.len() - 1]];
        let eof = part_of(last).eof;
        let (text, origins, instances) = (String::new(), Vec::new(), Vec::new());
        let file = TangledFile { chunk: name.to_owned(), text, origins, instances, eof };
        let mut expansion = Expansion { document, chunks, file, left };
        expansion.chunk(name, "", None, 0)?;
        let mut file = expansion.file;
        if eof == Eof::None {
            let end = line_end(document, last);
            if !file.text.ends_with(end) {
                return Err(Fault::Eof.at(last.line).into());
            }
            file.text.truncate(file.text.len() - end.len());
        }
        Ok(file)
    }

    fn chunk(&mut self, name: &str, indent: &str, parent: Option<(usize, usize)>, depth: usize) -> Result<(), Problem> {
        for index in &self.chunks[name].blocks {
            let block = &self.document.blocks()[*index];
            let refs = part_of(block).refs;
            let instance = self.file.instances.len();
            self.left.take(0, block.line)?;
            self.file.instances.push(Instance { block: *index, indent: indent.to_owned(), parent });
            if depth > REFERENCE_DEPTH_MAX {
                return Err(Fault::TooDeep.at(block.line));
            }
            for (n, line) in self.document.lines(block).enumerate() {
                let number = block.line + 1 + n;
                match attributes::reference(line).filter(|_| refs == Refs::Chunks) {
                    Some((inner, next)) => {
                        self.chunk(next, &format!("{indent}{inner}"), Some((instance, number)), depth + 1)?;
                    }
                    None => self.line(indent, line, Origin { line: number, instance })?,
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, indent: &str, line: &str, origin: Origin) -> Result<(), Problem> {
        let indent = if is_blank(line) { "" } else { indent };
        self.left.take(indent.len() + line.len(), origin.line)?;
        self.file.text.push_str(indent);
        self.file.text.push_str(line);
        self.file.origins.push(origin);
        Ok(())
    }
}

/// A line of nothing but its end.
pub(crate) fn is_blank(line: &str) -> bool {
    matches!(line, "\n" | "\r\n" | "")
}

/// What `eof="none"` takes away: the end of a line as this document writes it.
pub(crate) fn line_end(document: &Document, block: &Block) -> &'static str {
    if document.text()[block.open.clone()].ends_with("\r\n") { "\r\n" } else { "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tangled(text: &str) -> BTreeMap<String, String> {
        let tangled = tangle(&Document::parse(text).unwrap()).unwrap();
        tangled.files.into_iter().map(|(path, file)| (path.to_string(), file.text)).collect()
    }

    fn fault(text: &str) -> String {
        match Document::parse(text).and_then(|document| tangle(&document)) {
            Ok(_) => String::new(),
            Err(faults) => faults.to_string(),
        }
    }

    #[test]
    fn chunks_grow_by_repeating_and_references_keep_their_indentation() {
        // G54, G55
        let files = tangled(
            "# T\n\n```py {chunk=\"main\" file=\"a/b.py\"}\ndef f():\n    <<body>>\n```\n\nThen.\n\n~~~py {chunk=\"main\"}\nf()\n~~~\n\n\
             ````py {chunk=\"body\"}\nx = \"\"\"\n```\n\n  y\"\"\"\n````\n",
        );
        assert_eq!(files["a/b.py"], "def f():\n    x = \"\"\"\n    ```\n\n      y\"\"\"\nf()\n");
    }

    #[test]
    fn ends_of_files_and_lines_are_kept() {
        assert_eq!(tangled("```{file=\"a\" eof=\"none\"}\nx\n```\n")["a"], "x");
        assert_eq!(tangled("```{file=\"a\" eof=\"none\"}\r\nx\r\n```\r\n")["a"], "x");
        assert_eq!(tangled("```{file=\"a\"}\nx\r\n\r\ny \t\n```\n")["a"], "x\r\n\r\ny \t\n");
        assert_eq!(tangled("```{file=\"a\"}\n```\n")["a"], "");
        assert_eq!(tangled("```{file=\"a\" refs=\"none\"}\n<<b>>\n```")["a"], "<<b>>\n");
    }

    #[test]
    fn every_line_knows_where_it_comes_from() {
        let text = "---\ntitle: x\n---\n```{file=\"a\"}\n1\n  <<b>>\n2\n```\n```{chunk=\"b\"}\n3\n```\n";
        let document = Document::parse(text).unwrap();
        assert_eq!(document.title().as_deref(), Some("x"));
        let tangled = tangle(&document).unwrap();
        let file = tangled.files.values().next().unwrap();
        assert_eq!(file.text, "1\n  3\n2\n");
        assert_eq!(file.origins.iter().map(|o| o.line).collect::<Vec<_>>(), [5, 10, 7]);
        assert_eq!(file.instances[1].indent, "  ");
    }

    #[test]
    fn each_error_has_its_line() {
        for (text, said) in [
            ("a\0", "line 1: a NUL byte"),
            ("\n```{file=\"a\"}\n", "line 2: this code block is never closed"),
            ("```{file=\"a\"}\nx\n```\ry\n```\n", "line 1: this code block has a carriage return"),
            ("- ```{file=\"a\"}\n  x\n  ```\n", "line 1: a chunk stands in a list"),
            (" ```{file=\"a\"}\n x\n ```\n", "line 1: a chunk stands in a list"),
            ("```{file=\"/etc/passwd\"}\n```\n", "line 1: \"/etc/passwd\" leads out"),
            ("```{file=\"a/../../b\"}\n```\n", "leads out"),
            ("```{file=\".git/config\"}\n```\n", "is reserved"),
            ("```{file=\"a\"}\n<<b>>\n```\n", "line 2: there is no chunk \"b\""),
            ("x\n\n```{chunk=\"b\"}\n```\n", "line 3: chunk \"b\" is used by no file"),
            (
                "```{file=\"a\"}\n```\n```{chunk=\"b\" file=\"a\"}\n```\n",
                "line 3: \"a\" is already the file of chunk \"a\" (line 1)",
            ),
            ("```{chunk=\"b\" file=\"a\"}\n```\n```{chunk=\"b\" file=\"c\"}\n```\n", "line 3: chunk \"b\" already has"),
            ("```{file=\"a\"}\n```\n```{file=\"a/b\"}\n```\n", "line 3: \"a\" and \"a/b\" cannot both be"),
            (
                "```{file=\"a\"}\n<<b>>\n```\n```{chunk=\"b\"}\n<<c>>\n```\n```{chunk=\"c\"}\n<<b>>\n```\n",
                "line 8: chunks contain each other: b → c → b",
            ),
            ("```{file=\"a\" eof=\"none\"}\n```\n", "line 1: eof=\"none\" belongs"),
            ("```{file=\"a\" eof=\"none\"}\nx\n```\n```{file=\"a\"}\n```\n", "line 1: eof=\"none\" belongs"),
            ("```{file=\"a\"}\n<<b>>\n```\n```{file=\"b\" eof=\"none\"}\nx\n```\n", "line 4: chunk \"b\" ends without"),
            ("```{chunk=\"a\" lines=\"1-2\"}\n```\n", "no attribute `lines`"),
        ] {
            assert!(fault(text).contains(said), "{text}\n{}", fault(text));
        }
    }

    #[test]
    fn what_multiplies_ends_at_its_limit() {
        // H6
        let mut text = String::from("```{file=\"a\"}\n<<c0>>\n```\n");
        for n in 0..30 {
            text.push_str(&format!("```{{chunk=\"c{n}\"}}\n<<c{}>>\n<<c{}>>\n```\n", n + 1, n + 1));
        }
        let end = format!("```{{chunk=\"c30\"}}\n{}\n```\n", "x".repeat(99));
        assert!(fault(&(text.clone() + &end)).contains("more than 67108864 bytes or 1000000 lines together"));
        let empty = text.clone() + "```{chunk=\"c30\"}\n```\n";
        assert!(fault(&empty).contains("1000000 lines together"));
        for n in 30..40 {
            text.push_str(&format!("```{{chunk=\"c{n}\"}}\n<<c{}>>\n```\n", n + 1));
        }
        assert!(fault(&(text + "```{chunk=\"c40\"}\n```\n")).contains("more than 32 deep"));
        let files: String = (0..=FILES_MAX).map(|n| format!("```{{file=\"{n}\"}}\n```\n")).collect();
        assert!(fault(&files).contains("more than 2000 files"));
        assert!(fault(&" ".repeat(crate::limits::DOCUMENT_BYTES_MAX + 1)).contains("more than 8388608 bytes"));
        assert!(fault(&"```\n```\n".repeat(crate::limits::BLOCKS_MAX + 1)).contains("more than 10000 code blocks"));
    }

    #[test]
    fn a_block_that_markdown_does_not_see_is_no_chunk() {
        assert!(tangled("<!--\n```{file=\"a\"}\nx\n```\n-->\n").is_empty());
        assert!(tangled("````\n```{file=\"a\"}\nx\n```\n````\n").is_empty());
    }
}
