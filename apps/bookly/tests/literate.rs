//! Bookly as a document: that it is the program, all of it, in the order in which it is told, and the page that is served.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bookly::server::ARCHITECTURE;
use carboy_weave::sync::{Base, Side, sync};
use carboy_weave::verify::{Difference, drifts};
use carboy_weave::{Document, Kind, Sources, Tangled, TreePath, page, tangle};

const NAME: &str = "Bookly.lit.md";
/// What the page may weigh: it comes with the program.
const PAGE_BYTES_MAX: usize = 800 * 1024;

/// Files below a directory.
struct Below(PathBuf);

impl Sources for Below {
    fn read(&self, path: &TreePath) -> Option<Vec<u8>> {
        fs::read(self.0.join(path.as_str())).ok()
    }
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn library() -> Below {
    Below(home().join("../.."))
}

fn document() -> (Document, Tangled) {
    let document = Document::parse(&fs::read_to_string(home().join(NAME)).unwrap()).unwrap();
    let tangled = tangle(&document).unwrap();
    (document, tangled)
}

/// Every file of the application that a person writes, but the document and the tests.
fn own_files(directory: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(home()).unwrap().to_str().unwrap().to_owned();
        match name.as_str() {
            NAME | "tests" | "src/tests.rs" | "src/tests" | "woven" | ".lit" | "target" => {}
            _ if path.is_dir() => own_files(&path, into),
            _ => {
                into.insert(name);
            }
        }
    }
}

#[test]
fn g54_g54b_the_document_holds_every_file_of_bookly_but_its_tests() {
    let (document, tangled) = document();
    let mut own = BTreeSet::new();
    own_files(home(), &mut own);
    let held: BTreeSet<String> = tangled.files.keys().map(|path| path.as_str().to_owned()).collect();
    assert_eq!(held, own);
    assert_eq!(document.title().as_deref(), Some("Bookly"));
    for module in ["config", "data", "tools", "agent", "server"] {
        let chunk = &tangled.chunks[&format!("{module}-rs")];
        assert_eq!(chunk.file.as_ref().unwrap().as_str(), format!("src/{module}.rs"));
    }
}

#[test]
fn g55_the_files_are_what_the_document_says_to_the_octet_and_one_octet_more_is_found() {
    let (document, tangled) = document();
    for (path, file) in &tangled.files {
        assert_eq!(Below(home().into()).read(path).unwrap(), file.text.as_bytes(), "{}", path.as_str());
    }
    assert_eq!(drifts(&document, &tangled, NAME, &Below(home().into()), &library()), []);

    let path = TreePath::parse("src/config.rs").unwrap();
    let mut files: BTreeMap<TreePath, Vec<u8>> =
        tangled.files.iter().map(|(path, file)| (path.clone(), file.text.clone().into_bytes())).collect();
    files.get_mut(&path).unwrap().push(b' ');
    let found = drifts(&document, &tangled, NAME, &files, &library());
    assert_eq!(found.len(), 1);
    assert!(found[0].path == path && matches!(found[0].what, Difference::Lines(_)));
}

#[test]
fn g54b_what_the_document_shows_of_the_library_is_the_librarys() {
    let (document, tangled) = document();
    let shown: BTreeSet<&str> = document
        .blocks()
        .iter()
        .filter_map(|block| match &block.kind {
            Kind::Include { path, .. } => Some(path.as_str()),
            Kind::Plain | Kind::Chunk(_) => None,
        })
        .collect();
    for told in ["turn.rs", "talk.rs", "calls.rs", "confirm.rs", "guard_state.rs", "layers/reply.rs"] {
        assert!(shown.contains(format!("crates/carboy-agent/src/{told}").as_str()), "{told}");
    }
    // A library without these files is one that has moved on: each copy is told.
    let nothing: BTreeMap<TreePath, Vec<u8>> = BTreeMap::new();
    let copies = document.blocks().iter().filter(|block| matches!(block.kind, Kind::Include { .. })).count();
    assert_eq!(drifts(&document, &tangled, NAME, &Below(home().into()), &nothing).len(), copies);
}

/// Headings with their level, and how many blocks of code stand below each before the next.
fn sections(document: &Document) -> Vec<(usize, String, usize)> {
    let code: BTreeSet<usize> = document
        .blocks()
        .iter()
        .filter(|block| match &block.kind {
            Kind::Chunk(_) | Kind::Include { .. } => true,
            Kind::Plain => false,
        })
        .map(|block| block.line)
        .collect();
    let inside = |line: usize| {
        document.blocks().iter().any(|block| {
            document.line_range(line).start >= block.open.start && document.line_range(line).start < block.close.end
        })
    };
    let mut found: Vec<(usize, String, usize)> = Vec::new();
    for (at, text) in (1..).zip(document.text().lines()) {
        let level = text.bytes().take_while(|byte| *byte == b'#').count();
        if code.contains(&at) {
            if let Some(last) = found.last_mut() {
                last.2 += 1;
            }
        } else if level > 1 && text[level..].starts_with(' ') && !inside(at) {
            found.push((level, text[level + 1..].to_owned(), 0));
        }
    }
    found
}

#[test]
fn g56_the_document_tells_it_in_order_with_code_after_each_section_of_prose() {
    let (document, _) = document();
    let found = sections(&document);
    let parts: Vec<&str> = found.iter().filter(|(level, ..)| *level == 2).map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(
        parts,
        [
            "Introduction",
            "Four layers",
            "Lifecycle",
            "Module layout",
            "Configuration",
            "Fixtures",
            "Tools",
            "Agent loop",
            "HTTP surface",
        ]
    );
    for (_, name, code) in &found {
        assert!(*code > 0, "no code below {name}");
    }
    let below = |part: &str| {
        let at = found.iter().position(|(_, name, _)| name == part).unwrap();
        found[at + 1..].iter().take_while(|(level, ..)| *level > 2).count()
    };
    assert_eq!((below("Agent loop"), below("HTTP surface")), (7, 5));
}

#[test]
fn g56_a_reader_of_the_page_alone_finds_the_line_that_refuses_a_return_that_was_not_checked() {
    let (_, html) = ARCHITECTURE[0];
    let html = std::str::from_utf8(html).unwrap();
    let (introduction, _) = html.split_once("<h2 id=\"four-layers\"").unwrap();
    let promise = introduction.find("No return is started that was not checked").unwrap();
    assert!(introduction[promise..].contains("<a href=\"#chunk:spend-the-proof\">"));
    let (_, chunk) = html.split_once("id=\"chunk:spend-the-proof\"").unwrap();
    let (chunk, _) = chunk.split_once("</figure>").unwrap();
    assert!(chunk.contains("redeem(guard") && chunk.contains("map_err(not_checked)"), "{chunk}");
}

#[test]
fn g57_three_diagrams_the_layers_a_request_with_numbers_and_a_loop_and_the_modules() {
    let (document, _) = document();
    let diagrams: Vec<&str> = document
        .blocks()
        .iter()
        .filter(|block| block.language == "mermaid")
        .map(|block| &document.text()[block.body.clone()])
        .collect();
    let [layers, request, modules] = diagrams[..] else { panic!("{} diagrams", diagrams.len()) };
    assert!(layers.starts_with("flowchart "));
    assert!((1..=4).all(|layer| layers.contains(&format!("L{layer} "))), "{layers}");
    assert!(request.starts_with("sequenceDiagram\n  autonumber\n") && request.contains("\n  loop "), "{request}");
    assert!(modules.starts_with("graph "));
    for step in ["data --> config", "config --> tools", "tools --> agent", "agent --> server"] {
        assert!(modules.contains(step), "{step}");
    }
}

#[test]
fn g53_no_module_knows_one_that_comes_after_it() {
    let order = ["data", "config", "tools", "agent", "server"];
    let (_, tangled) = document();
    for (path, file) in tangled.files.iter().filter(|(path, _)| path.extension() == "rs") {
        let module = path.as_str().trim_start_matches("src/").trim_end_matches(".rs");
        let module = module.split('/').next().unwrap();
        let Some(own) = order.iter().position(|name| *name == module) else { continue };
        for later in &order[own + 1..] {
            assert!(!file.text.contains(&format!("crate::{later}")), "{module} knows {later}");
        }
    }
}

#[test]
fn g58_an_edit_of_a_source_goes_into_the_chunk_that_tells_of_it() {
    let (document, tangled) = document();
    let base: Base = tangled.files.iter().map(|(path, file)| (path.clone(), file.text.clone())).collect();
    let mut files: BTreeMap<TreePath, Vec<u8>> =
        base.iter().map(|(path, text)| (path.clone(), text.clone().into_bytes())).collect();
    let path = TreePath::parse("src/config.rs").unwrap();
    let edited = base[&path].replace("window_days: 30", "window_days: 21");
    files.insert(path.clone(), edited.clone().into_bytes());
    let synced = sync(&document, &base, Side::Neither, &files, &library()).unwrap();
    assert_eq!(synced.document, document.text().replace("window_days: 30", "window_days: 21"));
    assert_ne!(synced.document, document.text());
    assert_eq!(synced.files[&path], edited);
}

#[test]
fn g59_the_page_that_comes_with_the_program_is_woven_from_this_document() {
    let (document, _) = document();
    let site = page::weave(&document, "Bookly", "", &library()).unwrap();
    let served: BTreeMap<&str, &[u8]> = ARCHITECTURE.iter().copied().collect();
    assert_eq!(served.len(), ARCHITECTURE.len());
    assert_eq!(ARCHITECTURE[0].0, site.page);
    let woven: BTreeMap<&str, &[u8]> = site.files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    assert!(served == woven, "run `carboy lit weave apps/bookly/{NAME}`");
    assert!(String::from_utf8_lossy(served["Bookly.css"]).contains("--ground: #f5f3ee"));
    let weight: usize = served.values().map(|bytes| bytes.len()).sum();
    assert!(weight < PAGE_BYTES_MAX, "{weight} octets");
}

#[test]
fn g59_g48_the_page_asks_for_nothing_but_its_own_files_and_runs_nothing() {
    let html = std::str::from_utf8(ARCHITECTURE[0].1).unwrap();
    for part in ["<script", "<style", " style=", "javascript:", " onclick"] {
        assert!(!html.contains(part), "{part}");
    }
    let quoted = |name: &str| -> Vec<String> {
        let opening = format!(" {name}=\"");
        html.split(&opening).skip(1).map(|part| part.split('"').next().unwrap().to_owned()).collect()
    };
    let ids: BTreeSet<String> = quoted("id").into_iter().collect();
    let files: BTreeSet<&str> = ARCHITECTURE.iter().map(|(name, _)| *name).collect();
    for target in [quoted("href"), quoted("src"), quoted("srcset")].concat() {
        match target.strip_prefix('#') {
            Some(anchor) => assert!(ids.contains(anchor), "{target}"),
            None => assert!(files.contains(target.as_str()), "{target}"),
        }
    }
}
