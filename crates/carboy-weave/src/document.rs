//! A document taken apart: front matter, prose, code blocks.
//!
//! Markdown itself (CommonMark, by pulldown-cmark) says what a code block is; the bytes of a chunk are then taken from the
//! document as they stand. *Must never* see a chunk that Markdown does not see: what runs is what the page shows.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::attributes::{self, Attributes, Eof, Fence, Refs};
use crate::fault::{Fault, Faults, Problem};
use crate::limits::{BLOCKS_MAX, DOCUMENT_BYTES_MAX};
use crate::path::TreePath;

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    text: String,
    /// Where each line begins.
    starts: Vec<usize>,
    /// Where the Markdown begins, below the front matter.
    body: usize,
    blocks: Vec<Block>,
}

/// A fenced code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Line of the opening fence, from 1.
    pub line: usize,
    /// The opening line with its end.
    pub open: Range<usize>,
    /// The lines between the fences.
    pub body: Range<usize>,
    /// The closing line with its end.
    pub close: Range<usize>,
    /// The fence.
    pub fence: Fence,
    /// What stands first after the fence.
    pub language: String,
    /// What the block is.
    pub kind: Kind,
}

/// What a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To be looked at.
    Plain,
    /// A part of a chunk.
    Chunk(Part),
    /// A copy of a part of the library.
    Include {
        /// The library's file.
        path: TreePath,
        /// Which part.
        anchor: Option<String>,
    },
}

/// A part of a chunk: chunks grow by repeating their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The chunk.
    pub name: String,
    /// Its file, where this part names it.
    pub file: Option<TreePath>,
    /// The end of its file.
    pub eof: Eof,
    /// Whether references are references.
    pub refs: Refs,
    /// A template's lines.
    pub(crate) lines: Option<(usize, usize)>,
}

/// What of Markdown is understood; the same for tangling and for the page.
pub(crate) fn options() -> Options {
    Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS | Options::ENABLE_FOOTNOTES
}

/// Whether a text is a document or what one is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Document,
    Template,
}

impl Document {
    /// Takes a text apart.
    pub fn parse(text: &str) -> Result<Document, Faults> {
        Document::read(text, Stage::Document)
    }

    pub(crate) fn read(text: &str, stage: Stage) -> Result<Document, Faults> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(Fault::DocumentTooLarge.at(1).into());
        }
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut document =
            Document { text: text.to_owned(), starts, body: front_matter_bytes(text), blocks: Vec::new() };
        if let Some(at) = text.find('\0') {
            return Err(Fault::Nul.at(document.line_of(at)).into());
        }
        let problems = document.find_blocks(stage);
        Faults::none_or(problems, document)
    }

    fn find_blocks(&mut self, stage: Stage) -> Vec<Problem> {
        let (mut problems, mut blocks, mut depth) = (Vec::new(), Vec::new(), 0usize);
        for (event, range) in Parser::new_ext(&self.text[self.body..], options()).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    let (at, end) = (self.body + range.start, self.body + range.end);
                    let line = self.line_of(at);
                    if blocks.len() == BLOCKS_MAX {
                        problems.push(Fault::TooManyBlocks.at(line));
                        return problems;
                    }
                    if depth > 0 || !self.starts.contains_at(at) {
                        if info.contains('{') {
                            problems.push(Fault::Nested.at(line));
                        }
                    } else {
                        match self.block(at, end, stage) {
                            Ok(block) => blocks.push(block),
                            Err(fault) => problems.push(fault.at(line)),
                        }
                    }
                    depth += 1;
                }
                Event::Start(_) => depth += 1,
                Event::End(TagEnd::CodeBlock) | Event::End(_) => depth = depth.saturating_sub(1),
                Event::Text(_) | Event::Code(_) | Event::Html(_) | Event::InlineHtml(_) | Event::Rule => {}
                Event::InlineMath(_) | Event::DisplayMath(_) | Event::FootnoteReference(_) => {}
                Event::SoftBreak | Event::HardBreak | Event::TaskListMarker(_) => {}
            }
        }
        self.blocks = blocks;
        problems
    }

    /// The block that begins at `at`; Markdown says that it ends at `end`.
    fn block(&self, at: usize, end: usize, stage: Stage) -> Result<Block, Fault> {
        let line = self.line_of(at);
        let open = self.line_range(line);
        let fence = Fence::of(&self.text[open.clone()]).ok_or(Fault::Nested)?;
        let (language, attributes) = attributes::parse(&self.text[open.start + fence.length..open.end])?;
        let lines = (line + 1..=self.starts.len()).map(|number| self.line_range(number));
        let close = lines.into_iter().find(|range| fence.closed_by(&self.text[range.clone()]));
        let close = close.filter(|range| !range.is_empty()).ok_or_else(|| Fault::Unclosed(fence.text()))?;
        // Markdown ends lines at a bare carriage return, too: where it saw another end, its page and our files differ.
        if !(close.start..=close.end).contains(&end) {
            return Err(Fault::BareCarriageReturn);
        }
        let body = open.end..close.start;
        let kind = match attributes {
            Attributes::None => Kind::Plain,
            Attributes::Include { path, anchor } => Kind::Include { path, anchor },
            Attributes::Chunk { lines: Some(_), .. } if stage == Stage::Document => {
                return Err(Fault::UnknownAttribute("lines".to_owned()));
            }
            Attributes::Chunk { name, file, eof, refs, lines } => Kind::Chunk(Part { name, file, eof, refs, lines }),
        };
        Ok(Block { line, open, body, close, fence, language, kind })
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All blocks at the top level, in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The lines of a block, each with its end.
    pub fn lines(&self, block: &Block) -> impl Iterator<Item = &str> {
        self.text[block.body.clone()].split_inclusive('\n')
    }

    /// What stands between the fences of the front matter.
    pub fn front_matter(&self) -> &str {
        let whole = &self.text[..self.body];
        let inner = whole.split_once('\n').map_or("", |(_, rest)| rest).trim_end();
        inner.strip_suffix("---").unwrap_or("")
    }

    /// The front matter's `title`.
    pub fn title(&self) -> Option<String> {
        let value = self.front_matter().lines().find_map(|line| line.strip_prefix("title:"))?.trim();
        let plain = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(value);
        (!plain.is_empty()).then(|| plain.to_owned())
    }

    /// The Markdown below the front matter, and where it begins.
    pub fn markdown(&self) -> (&str, usize) {
        (&self.text[self.body..], self.body)
    }

    /// The line of a place, from 1.
    pub fn line_of(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// A line with its end.
    pub fn line_range(&self, line: usize) -> Range<usize> {
        let start = self.starts.get(line - 1).copied().unwrap_or(self.text.len());
        start..self.starts.get(line).copied().unwrap_or(self.text.len())
    }
}

/// Whether a sorted list has a value.
trait Sorted {
    fn contains_at(&self, at: usize) -> bool;
}

impl Sorted for Vec<usize> {
    fn contains_at(&self, at: usize) -> bool {
        self.binary_search(&at).is_ok()
    }
}

/// How long the front matter is; a byte order mark belongs to it.
fn front_matter_bytes(text: &str) -> usize {
    let mark = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut at = mark;
    for (number, line) in text[mark..].split_inclusive('\n').enumerate() {
        let fence = line.trim_end() == "---";
        at += line.len();
        match (number, fence) {
            (0, false) => return mark,
            (0, true) | (_, false) => {}
            (_, true) => return at,
        }
    }
    mark
}
