//! A document as a part of a page: prose as it is, chunks as figures that name where they are used and what they use.
//!
//! *Must never* show code that differs from what is tangled, or a copy of the library that differs from the library.

use std::collections::BTreeMap;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, CowStr, Event, HeadingLevel, Parser, Tag, TagEnd, html};

use super::markdown::{Target, picture, safe, target};
use super::{Heading, Page, code, escape, heading_link, slug};
use crate::attributes::{self, Refs};
use crate::document::{Block, Document, Kind, Part, options};
use crate::fault::{Fault, Faults, Problem};
use crate::tangle::Tangled;
use crate::{Sources, include};

pub(super) struct Woven<'p> {
    page: &'p mut Page,
    document: &'p Document,
    tangled: &'p Tangled,
    /// Blocks by where they begin.
    blocks: BTreeMap<usize, usize>,
    problems: Vec<Problem>,
    events: Vec<Event<'p>>,
    /// What is open: how deep, a code block that is no chunk, a heading.
    depth: usize,
    plain: Option<(String, String)>,
    heading: Option<(HeadingLevel, String, usize)>,
    /// A block that has been written as a whole.
    skipping: bool,
}

/// The anchor of a chunk's part.
pub(super) fn chunk_anchor(name: &str, part: usize) -> String {
    let exact = exact(name);
    if part == 0 { format!("chunk:{exact}") } else { format!("chunk:{exact}:{}", part + 1) }
}

/// The anchor of a copy of the library: its file's own name, and its part.
fn library_anchor(path: &str, part: Option<&str>) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let part = part.map_or(String::new(), |part| format!(":{}", exact(part)));
    format!("library:{}{part}", exact(file))
}

/// Two names that differ in a sign only have two anchors.
fn exact(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.chars().map(|c| if plain(c) { c.to_string() } else { format!("~{:x}", u32::from(c)) }).collect()
}

impl<'p> Woven<'p> {
    pub(super) fn new(page: &'p mut Page, document: &'p Document, tangled: &'p Tangled) -> Woven<'p> {
        let blocks = document.blocks().iter().enumerate().map(|(index, block)| (block.open.start, index)).collect();
        let (problems, events) = (Vec::new(), Vec::new());
        Woven {
            page,
            document,
            tangled,
            blocks,
            problems,
            events,
            depth: 0,
            plain: None,
            heading: None,
            skipping: false,
        }
    }

    pub(super) fn write(mut self, library: &dyn Sources) -> Result<(), Faults> {
        for (name, chunk) in &self.tangled.chunks {
            self.page.anchors.extend((0..chunk.blocks.len()).map(|part| chunk_anchor(name, part)));
        }
        for block in self.document.blocks() {
            let lines = self.document.lines(block).count();
            self.page.anchors.extend((1..=lines).map(|n| format!("L{}", block.line + n)));
        }
        for (block, path, wanted) in include::all(self.document, library) {
            let fault = match wanted {
                Ok(wanted) if wanted == self.document.text()[block.body.clone()] => continue,
                Ok(_) => Fault::IncludeDrift(path.to_string()),
                Err(fault) => fault,
            };
            self.problems.push(fault.at(block.line));
        }
        let (markdown, from) = self.document.markdown();
        for (event, range) in Parser::new_ext(markdown, options()).into_offset_iter() {
            self.event(event, from + range.start..from + range.end);
        }
        let (problems, events) = (std::mem::take(&mut self.problems), std::mem::take(&mut self.events));
        html::push_html(&mut self.page.body, events.into_iter());
        self.page.body.push('\n');
        Faults::none_or(problems, ())
    }

    fn html(&mut self, text: String) {
        self.events.push(Event::Html(CowStr::from(text)));
    }

    fn fault(&mut self, fault: Fault, at: usize) {
        self.problems.push(fault.at(self.document.line_of(at)));
    }

    fn event(&mut self, event: Event<'p>, range: Range<usize>) {
        match &event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => info.split_whitespace().next().unwrap_or("").to_owned(),
                    CodeBlockKind::Indented => String::new(),
                };
                return self.code_begins(language, range.start);
            }
            Event::End(TagEnd::CodeBlock) => return self.code_ends(range.start),
            Event::Text(text) if self.plain.is_some() => {
                if let Some((_, code)) = &mut self.plain {
                    code.push_str(text);
                }
                return;
            }
            Event::Text(_) if self.skipping => return,
            Event::Start(Tag::Heading { level, .. }) => self.heading = Some((*level, String::new(), self.events.len())),
            Event::End(TagEnd::Heading(_)) => return self.heading_ends(event, range.start),
            Event::Text(text) | Event::Code(text) => {
                if let Some((_, said, _)) = &mut self.heading {
                    said.push_str(text);
                }
            }
            Event::Start(Tag::Table(_)) => {
                // Regions of one page are told apart by their names.
                let line = self.document.line_of(range.start);
                self.html(format!(
                    "<div class=\"table\" role=\"region\" aria-label=\"Table on line {line}\" tabindex=\"0\">"
                ));
            }
            Event::Start(_) | Event::End(_) | Event::Html(_) | Event::InlineHtml(_) | Event::Rule => {}
            Event::InlineMath(_) | Event::DisplayMath(_) | Event::FootnoteReference(_) => {}
            Event::SoftBreak | Event::HardBreak | Event::TaskListMarker(_) => {}
        }
        self.leads(&event, range.start);
        if matches!(event, Event::Start(_)) {
            self.depth += 1;
        } else if matches!(event, Event::End(_)) {
            self.depth = self.depth.saturating_sub(1);
        }
        let table_ends = matches!(event, Event::End(TagEnd::Table));
        self.events.push(safe(event));
        if table_ends {
            self.html("</div>\n".to_owned());
        }
    }

    /// Judges where a link or a picture leads.
    fn leads(&mut self, event: &Event<'_>, at: usize) {
        let judged = if let Event::Start(Tag::Link { dest_url, .. }) = event {
            target(dest_url).map(|target| match target {
                Target::Anchor(anchor) => self.page.links.push((anchor.to_owned(), self.document.line_of(at))),
                Target::Elsewhere => {}
            })
        } else if let Event::Start(Tag::Image { dest_url, .. }) = event {
            picture(dest_url)
        } else {
            Ok(())
        };
        if let Err(fault) = judged {
            self.fault(fault, at);
        }
    }

    fn heading_ends(&mut self, event: Event<'p>, at: usize) {
        let Some((level, said, start)) = self.heading.take() else { return };
        self.depth = self.depth.saturating_sub(1);
        let anchor = self.page.anchor(&slug(&said));
        if let Some(Event::Start(Tag::Heading { id, .. })) = self.events.get_mut(start) {
            *id = Some(CowStr::from(anchor.clone()));
        }
        self.events.push(Event::InlineHtml(CowStr::from(heading_link(&anchor, &said))));
        self.events.push(event);
        if said.trim().is_empty() {
            self.fault(Fault::EmptyHeading, at);
        }
        self.page.headings.push(Heading { level: level as u8, text: said, anchor });
    }

    fn code_begins(&mut self, language: String, at: usize) {
        let known = self.blocks.get(&at).filter(|_| self.depth == 0).map(|index| &self.document.blocks()[*index]);
        match known {
            Some(block) => {
                self.skipping = true;
                self.block(block);
            }
            None if language == "mermaid" => {
                self.fault(Fault::Diagram("it stands in a list or a quotation; move it out".to_owned()), at);
                self.skipping = true;
            }
            None => self.plain = Some((language, String::new())),
        }
    }

    fn code_ends(&mut self, at: usize) {
        self.skipping = false;
        if let Some((language, text)) = self.plain.take() {
            let lines = code::lines(&language, &text, None, &|_| None);
            let label = format!("Code on line {}", self.document.line_of(at));
            self.html(format!("<figure class=\"code\">{}</figure>\n", code::block(&label, &lines)));
        }
    }

    fn block(&mut self, block: &'p Block) {
        let text = &self.document.text()[block.body.clone()];
        let first = Some(block.line + 1);
        let html = match &block.kind {
            Kind::Plain if block.language == "mermaid" => return self.diagram(text, block),
            Kind::Plain => {
                let lines = code::lines(&block.language, text, first, &|_| None);
                format!(
                    "<figure class=\"code\">{}</figure>\n",
                    code::block(&format!("Code on line {}", block.line), &lines)
                )
            }
            Kind::Include { path, anchor } => {
                let lines = code::lines(&block.language, text, first, &|_| None);
                let part = anchor.as_deref().unwrap_or_default();
                let name = if part.is_empty() {
                    String::new()
                } else {
                    format!("<span class=\"name\">{}</span> ", escape(part))
                };
                let id = self.page.anchor(&library_anchor(path.as_str(), anchor.as_deref()));
                format!(
                    "<figure class=\"code library\" id=\"{id}\"><figcaption>{name}<span class=\"file\">{}</span> <span \
                     class=\"note\">from the library, read-only</span></figcaption>{}</figure>\n",
                    escape(path.as_str()),
                    code::block(&format!("From {path} {part}"), &lines)
                )
            }
            Kind::Chunk(part) => self.chunk(block, part, text),
        };
        self.html(html);
    }

    fn diagram(&mut self, text: &str, block: &Block) {
        // The page writes into its body; what has been seen so far stands before it.
        let events = std::mem::take(&mut self.events);
        html::push_html(&mut self.page.body, events.into_iter());
        if let Err(problem) = self.page.diagram(text, block.line + 1) {
            self.problems.push(problem);
        }
    }

    fn chunk(&self, block: &Block, part: &Part, text: &str) -> String {
        let chunk = &self.tangled.chunks[&part.name];
        let number = chunk.blocks.iter().position(|b| self.document.blocks()[*b].line == block.line).unwrap_or(0);
        let count = chunk.blocks.len();
        let refs = part.refs == Refs::Chunks;
        let instead = |line: &str| {
            let (indent, name) = attributes::reference(line).filter(|_| refs)?;
            Some(format!(
                "{indent}<a class=\"ref\" href=\"#{}\">&lt;&lt;{}&gt;&gt;</a>",
                chunk_anchor(name, 0),
                escape(name)
            ))
        };
        let lines = code::lines(&block.language, text, Some(block.line + 1), &instead);
        let mut caption = format!("<span class=\"name\">{}</span>", escape(&part.name));
        if let Some(file) = chunk.file.as_ref().filter(|file| file.as_str() != part.name) {
            caption += &format!(" <span class=\"file\">{}</span>", escape(file.as_str()));
        }
        if count > 1 {
            let other = |n: usize, word: &str| format!(" <a href=\"#{}\">{word}</a>", chunk_anchor(&part.name, n));
            caption += &format!(" <span class=\"note\">part {} of {count}</span>", number + 1);
            caption += &number.checked_sub(1).map_or(String::new(), |n| other(n, "previous part"));
            caption += &if number + 1 < count { other(number + 1, "next part") } else { String::new() };
        }
        // At the first part: many parts with many uses each would be many times many links.
        let uses: Vec<String> =
            chunk.used_in.iter().filter(|_| number == 0).filter_map(|index| self.place_of(*index)).collect();
        if !uses.is_empty() {
            caption += &format!(" <span class=\"note\">used in {}</span>", uses.join(", "));
        }
        format!(
            "<figure class=\"code chunk\" id=\"{}\"><figcaption>{caption}</figcaption>{}</figure>\n",
            chunk_anchor(&part.name, number),
            code::block(&format!("Chunk {}, part {}", part.name, number + 1), &lines)
        )
    }

    /// A link to the part of a chunk that a block is.
    fn place_of(&self, index: usize) -> Option<String> {
        let Kind::Chunk(part) = &self.document.blocks()[index].kind else { return None };
        let number = self.tangled.chunks[&part.name].blocks.iter().position(|block| *block == index)?;
        let which = if number == 0 { String::new() } else { format!(" (part {})", number + 1) };
        Some(format!("<a href=\"#{}\">{}{which}</a>", chunk_anchor(&part.name, number), escape(&part.name)))
    }
}
