//! The frame around a page: navigation, the page's own headings, the way back and on. One file each, style included.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::markdown::escape;
use super::{Book, Page};

/// Inside each page: a page read from a disk may load nothing beside itself.
const STYLE: &str = include_str!("style.css");

/// The page at this place of the book, whole.
pub fn html(book: &Book, index: usize, links: &BTreeMap<&str, String>) -> String {
    let page = &book.pages[index];
    let title = if page.rendered.title.is_empty() { &page.name } else { &page.rendered.title };
    let navigation = navigation(book, page);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#page\">To the text</a>\n\
         <details class=\"menu\"><summary>carboy: contents</summary><nav aria-label=\"Contents\">{navigation}</nav></details>\n\
         <nav class=\"side\" aria-label=\"Contents\">{navigation}</nav>\n\
         <main id=\"page\">\n{}{}</main>\n</body>\n</html>\n",
        if title == "carboy" { escape(title) } else { format!("{} · carboy", escape(title)) },
        page.rendered.html(links),
        around(book, index)
    )
}

fn up(page: &Page) -> String {
    "../".repeat(page.file.matches('/').count())
}

fn navigation(book: &Book, here: &Page) -> String {
    let (mut out, up) = (String::new(), up(here));
    let mut pages = book.pages.iter();
    for chapter in &book.chapters {
        // Writing to a String cannot fail.
        let _ = write!(out, "<h2>{}</h2><ul>", escape(&chapter.name));
        for page in pages.by_ref().take(chapter.entries.len()) {
            let current = if page.file == here.file { " aria-current=\"page\"" } else { "" };
            let _ = write!(out, "<li><a href=\"{up}{}\"{current}>{}</a>", page.file, escape(&page.name));
            if page.file == here.file && page.rendered.sections.len() > 1 {
                out.push_str("<ul>");
                for (anchor, text) in &page.rendered.sections {
                    let _ = write!(out, "<li><a href=\"#{}\">{}</a></li>", escape(anchor), escape(text));
                }
                out.push_str("</ul>");
            }
            out.push_str("</li>");
        }
        out.push_str("</ul>");
    }
    out
}

/// The page before and the page after.
fn around(book: &Book, index: usize) -> String {
    let up = up(&book.pages[index]);
    let link = |page: Option<&Page>, rel: &str, arrow: (&str, &str)| {
        page.map_or(String::from("<span></span>"), |page| {
            format!("<a rel=\"{rel}\" href=\"{up}{}\">{}{}{}</a>", page.file, arrow.0, escape(&page.name), arrow.1)
        })
    };
    let before = index.checked_sub(1).and_then(|before| book.pages.get(before));
    format!(
        "<nav class=\"around\" aria-label=\"Pages\">{}{}</nav>\n",
        link(before, "prev", ("← ", "")),
        link(book.pages.get(index + 1), "next", ("", " →"))
    )
}
