//! From Markdown to the events of one page, with its headings, its links and what is wrong in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pulldown_cmark::{CodeBlockKind, CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use crate::tree;

/// A page before its links are known.
#[derive(Debug, Default)]
pub struct Rendered {
    /// The first heading, as text.
    pub title: String,
    /// Headings of the second level: anchor and text.
    pub sections: Vec<(String, String)>,
    /// Every heading's anchor.
    pub anchors: BTreeSet<String>,
    /// Every link, as written.
    pub links: BTreeSet<String>,
    /// Every picture, as written: a file beside the document.
    pub pictures: BTreeSet<String>,
    /// What does not belong into a document.
    pub complaints: Vec<String>,
    events: Vec<Event<'static>>,
}

/// Reads a document.
pub fn render(text: &str) -> Rendered {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut page = Rendered::default();
    let mut heading: Option<(HeadingLevel, String, usize)> = None;
    for event in Parser::new_ext(text, options) {
        match &event {
            Event::Start(Tag::Heading { level, .. }) => heading = Some((*level, String::new(), page.events.len())),
            Event::Text(said) | Event::Code(said) => {
                if let Some((_, text, _)) = &mut heading {
                    text.push_str(said);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some((level, said, at)) = heading.take() {
                    let anchor = page.heading(level, said);
                    if let Some(Event::Start(Tag::Heading { id, .. })) = page.events.get_mut(at) {
                        *id = Some(CowStr::from(anchor.clone()));
                    }
                    // The sign stands before the text, so that it is found in one place in long headings too.
                    let sign =
                        format!("<a class=\"anchor\" href=\"#{anchor}\" aria-label=\"link to this heading\">#</a>");
                    page.events.push(Event::InlineHtml(CowStr::from(sign)));
                }
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                page.links.insert(dest_url.to_string());
            }
            Event::Start(Tag::Image { dest_url, .. }) => {
                if dest_url.contains(':') || !dest_url.ends_with(".png") {
                    page.complaints
                        .push(format!("the picture {dest_url}: only a .png of the repository is put into a page"));
                }
                page.pictures.insert(dest_url.to_string());
            }
            // A table's cell has no other way to end a line.
            Event::InlineHtml(raw) if &**raw == "<br>" => {
                page.events.push(Event::HardBreak);
                continue;
            }
            // For those who write the document: marks between which figures are generated.
            Event::Html(raw) if raw.trim_start().starts_with("<!--") && raw.trim_end().ends_with("-->") => continue,
            Event::Html(raw) | Event::InlineHtml(raw) => {
                page.complaints.push(format!("HTML: {}; put it into backticks", raw.trim()));
            }
            Event::Start(_) | Event::End(_) | Event::InlineMath(_) | Event::DisplayMath(_) => {}
            Event::FootnoteReference(_) | Event::SoftBreak | Event::HardBreak | Event::Rule => {}
            Event::TaskListMarker(_) => {}
        }
        page.events.push(event.into_static());
    }
    page
}

/// A directory as one page: each of its files under a heading.
pub fn listing(top: &Path, name: &str, directory: &str, files: &[String]) -> Result<Rendered, String> {
    let mut text = format!("# {name}\n");
    for file in files.iter().filter(|file| file.starts_with(&format!("{directory}/"))) {
        let content = tree::text(top, file)?;
        // Longer than any fence inside.
        let fence = "`".repeat(content.lines().filter_map(|l| l.find(|c| c != '`')).max().unwrap_or(0).max(3) + 1);
        text.push_str(&format!("\n## `{file}`\n\n{fence}\n{}\n{fence}\n", content.trim_end()));
    }
    Ok(render(&text))
}

impl Rendered {
    /// Takes a heading; its anchor.
    fn heading(&mut self, level: HeadingLevel, said: String) -> String {
        let wanted = slug(&said);
        let mut anchor = wanted.clone();
        let mut number = 0;
        while !self.anchors.insert(anchor.clone()) {
            number += 1;
            anchor = format!("{wanted}-{number}");
        }
        match level {
            HeadingLevel::H1 if self.title.is_empty() => self.title = said,
            HeadingLevel::H2 => self.sections.push((anchor.clone(), said)),
            HeadingLevel::H1 | HeadingLevel::H3 | HeadingLevel::H4 | HeadingLevel::H5 | HeadingLevel::H6 => {}
        }
        anchor
    }

    /// The page's own part of the HTML, with these links in place of those that were written.
    pub fn html(&self, links: &BTreeMap<&str, String>) -> String {
        let mut events = Vec::with_capacity(self.events.len());
        let mut console = false;
        for event in &self.events {
            match event {
                Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                    let to = links.get(&**dest_url).cloned().unwrap_or_else(|| dest_url.to_string());
                    let (dest_url, title, id) = (CowStr::from(to), title.clone(), id.clone());
                    events.push(Event::Start(Tag::Link { link_type: *link_type, dest_url, title, id }));
                }
                Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                    let to = links.get(&**dest_url).cloned().unwrap_or_default();
                    let (dest_url, title, id) = (CowStr::from(to), title.clone(), id.clone());
                    events.push(Event::Start(Tag::Image { link_type: *link_type, dest_url, title, id }));
                }
                // Wide tables scroll by themselves, and not the page with them.
                Event::Start(Tag::Table(_)) => events.extend([html("<div class=\"table\">"), event.clone()]),
                Event::End(TagEnd::Table) => events.extend([event.clone(), html("</div>")]),
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    console = &**language == "console";
                    events.push(event.clone());
                }
                Event::End(TagEnd::CodeBlock) => {
                    console = false;
                    events.push(event.clone());
                }
                Event::Text(said) if console => events.push(html(&commands(said))),
                Event::Start(_) | Event::End(_) | Event::Text(_) | Event::Code(_) | Event::Html(_) => {
                    events.push(event.clone())
                }
                Event::InlineHtml(_) | Event::InlineMath(_) | Event::DisplayMath(_) => events.push(event.clone()),
                Event::FootnoteReference(_) | Event::SoftBreak | Event::HardBreak => events.push(event.clone()),
                Event::Rule | Event::TaskListMarker(_) => events.push(event.clone()),
            }
        }
        let mut out = String::new();
        pulldown_cmark::html::push_html(&mut out, events.into_iter());
        out
    }
}

fn html(text: &str) -> Event<'static> {
    Event::InlineHtml(CowStr::from(text.to_owned()))
}

/// What is typed stands out from what is answered; so does what goes into a file with it, but less.
fn commands(text: &str) -> String {
    let (mut out, mut until): (String, Option<String>) = (String::new(), None);
    for line in text.split_inclusive('\n') {
        let escaped = escape(line);
        if let Some(end) = &until {
            out.push_str(&format!("<i>{escaped}</i>"));
            if end == line.trim_end() {
                until = None;
            }
        } else if line.starts_with("$ ") {
            out.push_str(&format!("<b>{escaped}</b>"));
            until = line.split_once("<<'").and_then(|(_, end)| end.split('\'').next()).map(str::to_owned);
        } else {
            out.push_str(&escaped);
        }
    }
    out
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// A heading's anchor, as the forges that show these documents make it: lower case, blanks to `-`, punctuation gone.
pub fn slug(text: &str) -> String {
    let kept = text.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_the_forges_and_no_two_are_the_same() {
        assert_eq!(slug("`check --json`"), "check---json");
        assert_eq!(slug("settings.yml"), "settingsyml");
        let page = render("# A\n## Same\n## Same\n");
        assert_eq!(page.sections, [("same".into(), "Same".into()), ("same-1".into(), "Same".into())]);
        assert_eq!(page.title, "A");
    }

    #[test]
    fn html_and_pictures_are_complained_about_and_code_is_not() {
        let page = render("a <script>x</script> ![p](https://a.example/p.png)\n\n`<b>`\n\n```text\n<i>\n```\n");
        assert_eq!(page.complaints.len(), 3, "{:?}", page.complaints);
    }

    #[test]
    fn a_picture_is_put_into_the_page() {
        let page = render("![p](images/p.png)\n");
        assert_eq!(page.complaints, Vec::<String>::new());
        let html = page.html(&BTreeMap::from([("images/p.png", "data:image/png;base64,AA==".to_owned())]));
        assert_eq!(html, "<p><img src=\"data:image/png;base64,AA==\" alt=\"p\" /></p>\n");
    }

    #[test]
    fn a_link_is_replaced_and_what_is_typed_stands_out() {
        let page = render("[x](y.md)\n\n```console\n$ cat > f <<'END'\na & b\nEND\nanswer\n```\n");
        let html = page.html(&BTreeMap::from([("y.md", "y.html".to_owned())]));
        assert!(html.contains("href=\"y.html\""), "{html}");
        assert!(html.contains("<i>a &amp; b\n</i><i>END\n</i>answer"), "{html}");
    }
}
