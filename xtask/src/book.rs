//! `cargo xtask book`: the documents as a static book in `target/book/`, to be read from a disk or any web server.
//!
//! ```text
//! docs/SUMMARY.md ─▶ Book { pages in order } ─▶ each page: events, links resolved, anchors ─▶ HTML, one file a page
//! ```
//!
//! A page asks for nothing but itself: no script, no font, no picture from elsewhere. A link that leads nowhere, a page
//! that the summary does not name, and HTML in a document are errors. *Must never* follow a link out of the repository.

mod markdown;
mod page;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{complain, tree};
use markdown::Rendered;
use summary::{Chapter, Entry};

/// The order of the pages.
const SUMMARY: &str = "docs/SUMMARY.md";
/// Where the documents are that must all be in the book.
const DOCUMENTS: &str = "docs/";
/// Octets of a picture.
const PICTURE_BYTES_MAX: usize = 300 * 1024;

/// Whether the book is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To `target/book`.
    Write,
    /// Only looked at.
    Check,
}

/// Renders all pages, complains, writes.
pub fn run(mode: Mode) -> Result<(), String> {
    let top = tree::root();
    let book = Book::read(&top)?;
    let mut complaints = book.orphans();
    complaints.extend(book.dangling());
    complain("book", complaints)?;
    if mode == Mode::Write {
        let into = top.join("target/book");
        book.write(&into)?;
        println!("book: {} pages, first {}", book.pages.len(), into.join(&book.pages[0].file).display());
    } else {
        println!("book: {} pages", book.pages.len());
    }
    Ok(())
}

/// One page.
struct Page {
    /// Its source, from the top of the repository.
    source: String,
    /// Its place in the book.
    file: String,
    /// Its name in the navigation.
    name: String,
    rendered: Rendered,
}

struct Book {
    chapters: Vec<Chapter>,
    pages: Vec<Page>,
    /// Every document there is.
    documents: Vec<String>,
    /// Files that are linked to and are no pages: copied.
    copied: BTreeSet<String>,
    top: PathBuf,
}

/// Where a link leads.
enum Target {
    /// To another place: a web address.
    Elsewhere,
    /// To a page, and perhaps a heading of it.
    Page { source: String, anchor: Option<String> },
    /// To a file of the repository that is no page.
    File(String),
}

impl Book {
    fn read(top: &Path) -> Result<Book, String> {
        let files = tree::files(top)?;
        let chapters = summary::parse(SUMMARY, &tree::text(top, SUMMARY)?)?;
        let mut pages = Vec::new();
        for Entry { name, source } in chapters.iter().flat_map(|chapter| &chapter.entries) {
            let rendered = if top.join(source).is_dir() {
                markdown::listing(top, name, source, &files)?
            } else {
                markdown::render(&tree::text(top, source).map_err(|e| format!("{SUMMARY}: {e}"))?)
            };
            pages.push(Page { source: source.clone(), file: place(source), name: name.clone(), rendered });
        }
        let named = |file: &String| file.starts_with(DOCUMENTS) && file.ends_with(".md") && file != SUMMARY;
        let documents = files.into_iter().filter(named).collect();
        let mut book = Book { chapters, pages, documents, copied: BTreeSet::new(), top: top.to_owned() };
        let links = book.pages.iter().flat_map(|page| page.rendered.links.iter().map(move |link| (page, link)));
        let copied = links.filter_map(|(page, link)| match book.target(&page.source, link) {
            Ok(Target::File(file)) => Some(file),
            Ok(Target::Elsewhere | Target::Page { .. }) | Err(_) => None,
        });
        book.copied = copied.collect();
        Ok(book)
    }

    /// Pages that nobody would find.
    fn orphans(&self) -> Vec<String> {
        let missing = |document: &&String| !self.pages.iter().any(|page| page.source == **document);
        self.documents.iter().filter(missing).map(|d| format!("{SUMMARY} does not name {d}")).collect()
    }

    /// Links that lead nowhere, and what else is wrong in a page.
    fn dangling(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for page in &self.pages {
            complaints.extend(page.rendered.complaints.iter().map(|what| format!("{}: {what}", page.source)));
            for link in &page.rendered.links {
                if let Err(why) = self.target(&page.source, link) {
                    complaints.push(format!("{}: [{link}]: {why}", page.source));
                }
            }
            for picture in &page.rendered.pictures {
                if let Err(why) = self.picture(&page.source, picture) {
                    complaints.push(format!("{}: the picture {picture}: {why}", page.source));
                }
            }
        }
        complaints
    }

    fn target(&self, source: &str, link: &str) -> Result<Target, String> {
        if link.starts_with("https://") || link.starts_with("http://") {
            return Ok(Target::Elsewhere);
        }
        let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
        let path = if path.is_empty() { source.to_owned() } else { below(source, path)? };
        let page = self.pages.iter().find(|page| page.source == path);
        // A file of a directory that is one page is a heading of that page.
        let holder = || self.pages.iter().find(|page| path.starts_with(&format!("{}/", page.source)));
        match (page, anchor) {
            (Some(page), Some(anchor)) if !page.rendered.anchors.contains(anchor) => {
                Err(format!("{} has no heading #{anchor}", page.source))
            }
            (Some(_), anchor) => Ok(Target::Page { source: path, anchor: anchor.map(str::to_owned) }),
            (None, _) if self.top.join(&path).is_dir() => Err("a directory, and no page of the book".to_owned()),
            (None, _) if !self.top.join(&path).is_file() => Err("there is no such file".to_owned()),
            (None, _) => Ok(holder().map_or(Target::File(path.clone()), |page| Target::Page {
                source: page.source.clone(),
                anchor: Some(markdown::slug(&path)),
            })),
        }
    }

    /// A link as it stands in the page's HTML.
    fn href(&self, page: &Page, link: &str) -> String {
        let up = "../".repeat(page.file.matches('/').count());
        match self.target(&page.source, link) {
            Ok(Target::Page { source, anchor }) => {
                let anchor = anchor.map_or(String::new(), |anchor| format!("#{anchor}"));
                format!("{up}{}{anchor}", place(&source))
            }
            Ok(Target::File(file)) => format!("{up}{}", copy_place(&file)),
            Ok(Target::Elsewhere) | Err(_) => link.to_owned(),
        }
    }

    /// A picture as an address that holds it: a page asks for nothing but itself.
    fn picture(&self, source: &str, picture: &str) -> Result<String, String> {
        let bytes = fs::read(self.top.join(below(source, picture)?)).map_err(|error| error.to_string())?;
        if bytes.len() > PICTURE_BYTES_MAX {
            return Err(format!("it has {} octets, more than {PICTURE_BYTES_MAX}; show less", bytes.len()));
        }
        Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes)))
    }

    fn write(&self, into: &Path) -> Result<(), String> {
        if into.exists() {
            fs::remove_dir_all(into).map_err(|e| format!("cannot clear {}: {e}", into.display()))?;
        }
        for (index, page) in self.pages.iter().enumerate() {
            let mut links: BTreeMap<&str, String> =
                page.rendered.links.iter().map(|link| (link.as_str(), self.href(page, link))).collect();
            for picture in &page.rendered.pictures {
                links.insert(picture, self.picture(&page.source, picture)?);
            }
            put(&into.join(&page.file), page::html(self, index, &links).as_bytes())?;
        }
        for file in &self.copied {
            let content = fs::read(self.top.join(file)).map_err(|e| format!("cannot read {file}: {e}"))?;
            put(&into.join(copy_place(file)), &content)?;
        }
        Ok(())
    }
}

/// Where a source's page stands in the book.
fn place(source: &str) -> String {
    let stem = source.strip_prefix(DOCUMENTS).unwrap_or(source).trim_end_matches(".md");
    let lower = if source.starts_with(DOCUMENTS) { stem.to_owned() } else { stem.to_lowercase() };
    if lower == "readme" { "index.html".to_owned() } else { format!("{lower}.html") }
}

/// Where a copied file stands: as text, because a browser would offer anything else for download.
fn copy_place(file: &str) -> String {
    format!("files/{file}.txt")
}

/// A path beside `source`, from the top of the repository.
fn below(source: &str, path: &str) -> Result<String, String> {
    let mut parts: Vec<&str> = source.split('/').collect();
    parts.pop();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().ok_or("not UTF-8")?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop().ok_or("it leads out of the repository")?;
            }
            Component::RootDir | Component::Prefix(_) => return Err("an absolute path".to_owned()),
        }
    }
    Ok(parts.join("/"))
}

fn put(path: &Path, content: &[u8]) -> Result<(), String> {
    let told = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(told)?;
    }
    fs::write(path, content).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_from_the_page_they_stand_in_and_never_out() {
        assert_eq!(below("docs/guides/a.md", "../install.md").unwrap(), "docs/install.md");
        assert_eq!(below("README.md", "docs/./install.md").unwrap(), "docs/install.md");
        assert!(below("README.md", "../secret.md").is_err());
        assert!(below("README.md", "/etc/passwd").is_err());
    }

    #[test]
    fn the_readme_is_the_first_page_and_the_rest_keep_their_names() {
        assert_eq!(place("README.md"), "index.html");
        assert_eq!(place("SECURITY.md"), "security.html");
        assert_eq!(place("docs/guides/tonight.md"), "guides/tonight.html");
    }
}
