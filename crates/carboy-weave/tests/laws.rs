//! Laws of documents: what goes in comes out, what is edited moves and nothing else does, what differs is found.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use carboy_weave::sync::{Base, Side, SyncError, sync};
use carboy_weave::verify::drifts;
use carboy_weave::{Document, Kind, TreePath, bootstrap::bootstrap, page, tangle};
use proptest::prelude::*;

type Files = BTreeMap<TreePath, Vec<u8>>;

/// Any text but NUL; fences, references, ends of lines and what Markdown makes much of come often.
fn source() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("\r".to_owned()),
        Just("```\n".to_owned()),
        Just("   ````  \n".to_owned()),
        Just("~~~\r".to_owned()),
        Just("  <<a>>\n".to_owned()),
        Just("<<missing>>\r\n".to_owned()),
        Just("trailing \t \n".to_owned()),
        Just("    \n".to_owned()),
        Just("# heading {chunk=\"x\"}\n".to_owned()),
        Just("<!-- \n".to_owned()),
        Just("\u{feff}".to_owned()),
        "[^\0]{0,12}".prop_map(|text| text),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn tree() -> impl Strategy<Value = Files> {
    let name = prop_oneof!["[a-z]{1,3}", "[a-z]{1,2}/[a-z]{1,2}\\.rs", "d/[a-zé]{1,3} [0-9]"];
    prop::collection::btree_map(name, source(), 1..5).prop_filter_map("a file is no directory", |files| {
        let parsed: Option<Files> =
            files.iter().map(|(path, text)| Some((TreePath::parse(path).ok()?, text.clone().into_bytes()))).collect();
        parsed.filter(|_| !files.keys().any(|a| files.keys().any(|b| b.starts_with(&format!("{a}/")))))
    })
}

fn template(files: &Files, fence: &str, end: &str) -> String {
    let block =
        |path: &TreePath| format!("Prose *of* `it`. {end}{end}{fence}rs {{file=\"{path}\"}}{end}{fence}{end}{end}");
    files.keys().map(block).collect::<String>() + "Last words"
}

fn tangled(text: &str) -> Files {
    let tangled = tangle(&Document::parse(text).unwrap()).unwrap();
    tangled.files.into_iter().map(|(path, file)| (path, file.text.into_bytes())).collect()
}

fn base(files: &Files) -> Base {
    files.iter().map(|(path, bytes)| (path.clone(), String::from_utf8(bytes.clone()).unwrap())).collect()
}

/// Everything of a document that is no chunk.
fn rest(text: &str) -> String {
    let document = Document::parse(text).unwrap();
    let (mut out, mut at) = (String::new(), 0);
    for block in document.blocks().iter().filter(|block| matches!(block.kind, Kind::Chunk(_))) {
        out.push_str(&text[at..block.open.start]);
        at = block.close.end;
    }
    out + &text[at..]
}

/// A document with chunks in chunks, each name used once or twice.
fn nested() -> impl Strategy<Value = String> {
    let line = prop_oneof![Just(String::new()), "[a-c]{1,2}", " {1,4}[a-c]", Just("end".to_owned())];
    let body = prop::collection::vec(line, 0..6);
    (body.clone(), body.clone(), body.clone(), body, 1usize..3).prop_map(|(a, b, c, d, uses)| {
        let lines = |all: &[String]| all.iter().map(|line| format!("{line}\n")).collect::<String>();
        let used = "  <<inner>>\nmid\n".repeat(uses);
        format!(
            "# T \n\n```{{chunk=\"m\" file=\"a\"}}\n{}{used}{}```\n text\n```{{chunk=\"inner\"}}\n{}<<deep>>\n```\n\n\n~~~{{chunk=\"deep\"}}\n{}~~~",
            lines(&a),
            lines(&b),
            lines(&c),
            lines(&d)
        )
    })
}

/// An edit: lines taken out at a place, others put in.
fn edited(text: &str, at: usize, out: usize, fresh: &[String]) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let at = at.min(lines.len());
    let end = (at + out).min(lines.len());
    lines.splice(at..end, fresh.iter().map(|line| format!("{line}\n")));
    lines.concat()
}

proptest! {
    #[test]
    fn tangling_after_bootstrap_is_the_identity(files in tree(), tilde in any::<bool>(), crlf in any::<bool>()) {
        // G55, G58
        let template = template(&files, if tilde { "~~~" } else { "```" }, if crlf { "\r\n" } else { "\n" });
        let document = bootstrap(&template, &files, &BTreeMap::new()).unwrap();
        prop_assert_eq!(tangled(&document), files);
        prop_assert_eq!(rest(&document), rest(&template));
    }

    #[test]
    fn any_file_may_become_any_other_and_every_other_byte_stays(files in tree(), new in source(), which in 0usize..5) {
        let document = bootstrap(&template(&files, "```", "\n"), &files, &BTreeMap::new()).unwrap();
        let mut now = files.clone();
        let path = files.keys().nth(which % files.len()).unwrap();
        now.insert(path.clone(), new.into_bytes());
        let synced = sync(&Document::parse(&document).unwrap(), &base(&files), Side::Neither, &now, &BTreeMap::new());
        match synced {
            Ok(synced) => {
                prop_assert_eq!(tangled(&synced.document), now);
                prop_assert_eq!(rest(&synced.document), rest(&document));
            }
            // A line that would be read as a reference is refused with words.
            Err(error) => prop_assert!(matches!(error, SyncError::Reference { .. }), "{}", error),
        }
    }

    #[test]
    fn an_edit_among_nested_chunks_is_exact_or_refused(
        document in nested(), at in 0usize..20, out in 0usize..4, fresh in prop::collection::vec(" {0,3}[a-c]{0,2}", 0..3)
    ) {
        let files = tangled(&document);
        let text = String::from_utf8(files.values().next().unwrap().clone()).unwrap();
        let new = edited(&text, at, out, &fresh);
        let now: Files = files.keys().map(|path| (path.clone(), new.clone().into_bytes())).collect();
        match sync(&Document::parse(&document).unwrap(), &base(&files), Side::Neither, &now, &BTreeMap::new()) {
            Ok(synced) => {
                prop_assert_eq!(tangled(&synced.document), now);
                prop_assert_eq!(rest(&synced.document), rest(&document));
            }
            Err(error) => prop_assert!(
                matches!(error, SyncError::Shared { .. } | SyncError::Indentation { .. } | SyncError::NotExact(_)),
                "{}", error
            ),
        }
    }

    #[test]
    fn a_change_of_one_byte_is_found(files in tree(), which in 0usize..5, at in 0usize..200, byte in any::<u8>()) {
        // G55
        let document = bootstrap(&template(&files, "```", "\n"), &files, &BTreeMap::new()).unwrap();
        let document = Document::parse(&document).unwrap();
        let right = tangle(&document).unwrap();
        prop_assert!(drifts(&document, &right, "d", &files, &BTreeMap::new()).is_empty());
        let path = files.keys().nth(which % files.len()).unwrap().clone();
        let mut now = files.clone();
        let bytes = now.get_mut(&path).unwrap();
        match bytes.len() {
            0 => bytes.push(byte),
            length => bytes[at % length] ^= byte.max(1),
        }
        let found = drifts(&document, &right, "d", &now, &BTreeMap::new());
        prop_assert_eq!(found.iter().map(|drift| &drift.path).collect::<Vec<_>>(), [&path]);
    }

    #[test]
    fn any_text_is_a_document_or_an_error_and_never_a_panic(text in "(\\PC|\n|\r|[`~{}=\"<>#|*_\\[\\]()!-]|```|~~~|\\{file=\"a\"\\}){0,60}") {
        if let Ok(document) = Document::parse(&text) {
            let _ = tangle(&document);
            if let Ok(site) = page::weave(&document, "d", "", &BTreeMap::new()) {
                let html = &site.files["d.html"];
                prop_assert!(!html.contains(" style=") || text.contains("style="));
            }
        }
    }
}
