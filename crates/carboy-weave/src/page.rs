//! One page: headings, prose, tables, code, diagrams, and what belongs to it (its stylesheet, its pictures).
//!
//! ```text
//!  Page::new ─▶ prose │ heading │ paragraph │ list │ table │ code │ diagram │ document ─▶ Page::render ─▶ Site
//! ```
//!
//! The page works under `default-src 'none'; style-src 'self'; img-src 'self'`: the stylesheet and the pictures are files
//! beside it, because a hash in a policy would have to change with each edit; there is no script, because nothing here
//! needs one. *Must never* pass raw HTML on (the operator's own header excepted), ask for anything from elsewhere, or
//! depend on anything but what it was given: the same document is the same page.

mod code;
mod markdown;
mod woven;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::diagram;
use crate::document::Document;
use crate::fault::{Fault, Faults, Problem};
use crate::tangle::Tangled;
use crate::{Sources, tangle};

/// Light, dark and paper.
const STYLE: &str = include_str!("page/style.css");
/// Deepest headings in the table of contents.
const CONTENTS_LEVEL_MAX: u8 = 3;

/// A page being made.
#[derive(Debug)]
pub struct Page {
    name: String,
    title: String,
    language: String,
    header: String,
    body: String,
    headings: Vec<Heading>,
    anchors: BTreeSet<String>,
    /// Links into the page that were written, with the line of the document.
    links: Vec<(String, usize)>,
    drawings: Vec<diagram::Drawing>,
}

#[derive(Debug)]
struct Heading {
    level: u8,
    text: String,
    anchor: String,
}

/// What a cell of a table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// Something that is written exactly so.
    Code(String),
    /// A place in this page: anchor and words.
    Place(String, String),
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    /// Something that is written exactly so.
    pub fn code(text: impl Into<String>) -> Cell {
        Cell::Code(text.into())
    }

    fn html(&self) -> String {
        match self {
            Cell::Text(text) => escape(text),
            Cell::Code(text) => format!("<code>{}</code>", escape(text)),
            Cell::Place(anchor, text) => format!("<a href=\"#{}\">{}</a>", escape(anchor), escape(text)),
        }
    }
}

/// A page and what belongs to it: text by file name, all of them in one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The page's own name.
    pub page: String,
    /// Its files.
    pub files: BTreeMap<String, String>,
}

/// The page of a document, with its copies of the library checked.
pub fn weave(document: &Document, name: &str, header: &str, library: &dyn Sources) -> Result<Site, Faults> {
    let tangled = tangle(document)?;
    let title = document.title().unwrap_or_else(|| name.to_owned());
    let mut page = Page::new(name, &title).header(header);
    page.document(document, &tangled, library)?;
    page.files(document, &tangled);
    page.render()
}

impl Page {
    /// An empty page; `name` is its files' name without an ending.
    pub fn new(name: &str, title: &str) -> Page {
        Page {
            name: name.to_owned(),
            title: title.to_owned(),
            language: "en".to_owned(),
            header: String::new(),
            body: String::new(),
            headings: Vec::new(),
            anchors: BTreeSet::from(["contents".to_owned(), "top".to_owned()]),
            links: Vec::new(),
            drawings: Vec::new(),
        }
    }

    /// HTML above the page, as it is: from the operator, never from a document.
    pub fn header(mut self, html: &str) -> Page {
        self.header = html.to_owned();
        self
    }

    /// The language of its words (BCP 47).
    pub fn language(mut self, language: &str) -> Page {
        self.language = language.to_owned();
        self
    }

    /// A heading; its anchor.
    pub fn heading(&mut self, level: u8, text: &str) -> String {
        let (level, anchor) = (level.clamp(1, 6), self.anchor(&slug(text)));
        let _ =
            writeln!(self.body, "<h{level} id=\"{anchor}\">{}{}</h{level}>", escape(text), heading_link(&anchor, text));
        self.headings.push(Heading { level, text: text.to_owned(), anchor: anchor.clone() });
        anchor
    }

    /// A paragraph of plain words.
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    /// A list.
    pub fn list(&mut self, items: &[Cell]) {
        let items: String = items.iter().map(|item| format!("<li>{}</li>\n", item.html())).collect();
        let _ = writeln!(self.body, "<ul>\n{items}</ul>");
    }

    /// A table with a caption.
    pub fn table(&mut self, caption: &str, head: &[&str], rows: &[Vec<Cell>]) {
        let head: String = head.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
        let row = |row: &Vec<Cell>| {
            let cells: String = row.iter().map(|cell| format!("<td>{}</td>", cell.html())).collect();
            format!("<tr>{cells}</tr>\n")
        };
        let rows: String = rows.iter().map(row).collect();
        let caption = escape(caption);
        let _ = writeln!(
            self.body,
            "<div class=\"table\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table>\n<caption>{caption}</caption>\n\
             <thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>"
        );
    }

    /// Code; `first_line` numbers it.
    pub fn code(&mut self, label: &str, language: &str, text: &str, first_line: Option<usize>) {
        let lines = code::lines(language, text, first_line, &|_| None);
        let _ = writeln!(self.body, "<figure class=\"code\">{}</figure>", code::block(label, &lines));
    }

    /// A diagram as in the module `diagram`; `line` is the line of its first line.
    pub fn diagram(&mut self, source: &str, line: usize) -> Result<(), Problem> {
        let drawing = diagram::draw(source, line)?;
        let number = self.drawings.len() + 1;
        let (width, height) = drawing.size;
        let words: String = drawing.words.iter().map(|words| format!("<li>{}</li>\n", escape(words))).collect();
        let (name, title) = (escape(&url(&self.name)), escape(&drawing.title));
        let _ = writeln!(
            self.body,
            "<figure class=\"diagram\" id=\"diagram-{number}\"><div class=\"wide\" role=\"region\" aria-label=\"Diagram {number}\" \
             tabindex=\"0\"><picture><source media=\"screen and (prefers-color-scheme: dark)\" \
             srcset=\"{name}-{number}-dark.svg\"><img src=\"{name}-{number}.svg\" width=\"{width}\" height=\"{height}\" \
             alt=\"{title}; its description in words follows\"></picture></div>\n<figcaption><details><summary>Diagram {number} in \
             words</summary>\n<ul>\n{words}</ul></details></figcaption></figure>"
        );
        self.drawings.push(drawing);
        Ok(())
    }

    /// Markdown that is no document: an agent's prose, with its plain code blocks and diagrams.
    pub fn prose(&mut self, markdown: &str) -> Result<(), Faults> {
        let document = Document::parse(markdown)?;
        let tangled = tangle(&document)?;
        self.document(&document, &tangled, &BTreeMap::new())
    }

    /// A whole document: prose, chunks with their references both ways, copies of the library.
    pub fn document(&mut self, document: &Document, tangled: &Tangled, library: &dyn Sources) -> Result<(), Faults> {
        woven::Woven::new(self, document, tangled).write(library)
    }

    /// A table of the files of a document.
    pub fn files(&mut self, document: &Document, tangled: &Tangled) {
        if tangled.files.is_empty() {
            return;
        }
        self.heading(2, "Files");
        let row = |(path, file): (&crate::TreePath, &crate::TangledFile)| {
            let lines = file.origins.len();
            let first = document.blocks()[tangled.chunks[&file.chunk].blocks[0]].line;
            let chunk = Cell::Place(woven::chunk_anchor(&file.chunk, 0), file.chunk.clone());
            vec![Cell::code(path.as_str()), chunk, Cell::text(lines.to_string()), Cell::text(first.to_string())]
        };
        let rows: Vec<Vec<Cell>> = tangled.files.iter().map(row).collect();
        self.table("What this document tangles to", &["File", "Chunk", "Lines", "Begins on line"], &rows);
    }

    /// A free anchor.
    fn anchor(&mut self, wanted: &str) -> String {
        let mut anchor = wanted.to_owned();
        let mut number = 1;
        while !self.anchors.insert(anchor.clone()) {
            number += 1;
            anchor = format!("{wanted}-{number}");
        }
        anchor
    }

    /// The page and its files.
    pub fn render(self) -> Result<Site, Faults> {
        let dangling = self.links.iter().filter(|(anchor, _)| !self.anchors.contains(anchor));
        let problems = dangling.map(|(anchor, line)| Fault::NoTarget(anchor.clone()).at(*line)).collect();
        Faults::none_or(problems, ())?;
        let page = format!("{}.html", self.name);
        let mut files = BTreeMap::from([(page.clone(), self.html()), (format!("{}.css", self.name), STYLE.to_owned())]);
        for (n, drawing) in self.drawings.into_iter().enumerate() {
            files.insert(format!("{}-{}.svg", self.name, n + 1), drawing.light);
            files.insert(format!("{}-{}-dark.svg", self.name, n + 1), drawing.dark);
        }
        Ok(Site { page, files })
    }

    fn html(&self) -> String {
        let (title, name) = (escape(&self.title), escape(&url(&self.name)));
        // The first heading is the page's name; where there is none, its title is.
        let own_title = self.headings.iter().any(|heading| heading.level == 1);
        let heading = if own_title { String::new() } else { format!("<h1>{title}</h1>\n") };
        let contents = self.contents();
        // Without one a browser asks for /favicon.ico, which is not there.
        let icon = match self.drawings.is_empty() {
            true => String::new(),
            false => format!("<link rel=\"icon\" type=\"image/svg+xml\" href=\"{name}-1.svg\">\n"),
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<link rel=\"stylesheet\" href=\"{name}.css\">\n{icon}</head>\n<body id=\"top\">\n\
             <a class=\"skip\" href=\"#main\">To the text</a>\n{}<div class=\"page\">\n{contents}<main id=\"main\">\n{heading}{}</main>\n\
             </div>\n</body>\n</html>\n",
            escape(&self.language),
            if self.header.is_empty() {
                String::new()
            } else {
                format!("<header>\n{}\n</header>\n", self.header.trim_end())
            },
            self.body
        )
    }

    fn contents(&self) -> String {
        let listed: Vec<&Heading> =
            self.headings.iter().filter(|heading| (2..=CONTENTS_LEVEL_MAX).contains(&heading.level)).collect();
        if listed.is_empty() {
            return String::new();
        }
        let (mut out, mut depth) = (String::new(), 1u8);
        for heading in listed {
            // A level that is left out does not open two lists.
            let level = heading.level.min(depth + 1);
            match level.cmp(&depth) {
                std::cmp::Ordering::Greater => out.push_str("\n<ol>\n<li>"),
                std::cmp::Ordering::Equal => out.push_str("</li>\n<li>"),
                std::cmp::Ordering::Less => {
                    (level..depth).for_each(|_| out.push_str("</li>\n</ol>"));
                    out.push_str("</li>\n<li>");
                }
            }
            depth = level;
            let _ = write!(out, "<a href=\"#{}\">{}</a>", heading.anchor, escape(&heading.text));
        }
        (1..depth).for_each(|_| out.push_str("</li>\n</ol>"));
        format!("<nav id=\"contents\" aria-label=\"Contents\">\n<p class=\"label\">Contents</p>{out}\n</nav>\n")
    }
}

/// The sign beside a heading that leads to it.
fn heading_link(anchor: &str, text: &str) -> String {
    format!(" <a class=\"here\" href=\"#{anchor}\" aria-label=\"Link to: {}\">#</a>", escape(text))
}

/// Text as HTML, in an element or in an attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A file name in a link.
fn url(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A heading's anchor: lower case, digits, hyphens.
pub(crate) fn slug(text: &str) -> String {
    let kept: String = text
        .chars()
        .filter_map(|c| match c {
            c if c.is_alphanumeric() => Some(c.to_lowercase().to_string()),
            ' ' | '-' | '_' | '/' | '.' | ':' => Some("-".to_owned()),
            _ => None,
        })
        .collect();
    let parts: Vec<&str> = kept.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "section".to_owned() } else { parts.join("-") }
}

#[cfg(test)]
mod tests;
