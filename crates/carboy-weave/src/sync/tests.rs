//! Edits of sources flow back, and nothing else of the document moves.

use super::*;

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn files(text: &str) -> Base {
    let tangled = tangle(&Document::parse(text).unwrap()).unwrap();
    tangled.files.into_iter().map(|(path, file)| (path, file.text)).collect()
}

fn bytes(files: &Base) -> BTreeMap<TreePath, Vec<u8>> {
    files.iter().map(|(path, text)| (path.clone(), text.clone().into_bytes())).collect()
}

/// The document after `edit` was made in the file `a`, both agreeing before.
fn edited(text: &str, edit: impl Fn(&str) -> String) -> Result<String, SyncError> {
    let base = files(text);
    let mut now = base.clone();
    let source = now.get_mut(&path("a")).unwrap();
    *source = edit(source);
    let document = Document::parse(text).unwrap();
    let synced = sync(&document, &base, Side::Neither, &bytes(&now), &BTreeMap::new())?;
    assert_eq!(synced.files, now);
    assert_eq!(files(&synced.document), now);
    Ok(synced.document)
}

const NESTED: &str = "# T \n\n```rs {chunk=\"m\" file=\"a\"}\nfn f() {\n    <<body>>\n}\n```\ntext\n\n~~~ {chunk=\"body\"}\nlet a = 1;\n\nlet b = 2;\n~~~\nend";

#[test]
fn an_edit_goes_into_the_block_it_was_made_in() {
    // G58
    let new = edited(NESTED, |s| s.replace("let a = 1;", "let a = 3;")).unwrap();
    assert_eq!(new, NESTED.replace("a = 1", "a = 3"));
    let new = edited(NESTED, |s| s.replace("    let b = 2;\n", "    let b = 2;\n    b();\n\n    c();\n")).unwrap();
    assert_eq!(new, NESTED.replace("let b = 2;\n", "let b = 2;\nb();\n\nc();\n"));
    let new = edited(NESTED, |s| s.replace("}\n", "}\n\nfn g() {}\n")).unwrap();
    assert_eq!(new, NESTED.replace("}\n```", "}\n\nfn g() {}\n```"));
    let new = edited(NESTED, |s| format!("// First.\n{s}")).unwrap();
    assert_eq!(new, NESTED.replace("fn f", "// First.\nfn f"));
    let new = edited(NESTED, |_| String::new()).unwrap();
    assert_eq!(
        new,
        NESTED.replace("fn f() {\n    <<body>>\n}\n", "    <<body>>\n").replace("let a = 1;\n\nlet b = 2;\n", "")
    );
}

#[test]
fn a_line_that_is_out_of_its_chunk_goes_to_the_one_around_it_or_is_refused() {
    let new = edited(NESTED, |s| s.replace("    let b = 2;\n", "    let b = 2;\n  x\n")).unwrap();
    assert_eq!(new, NESTED.replace("<<body>>\n", "<<body>>\n  x\n"));
    let refused = edited(NESTED, |s| s.replace("    let a = 1;", "let a = 1;")).unwrap_err();
    assert!(refused.to_string().contains("line 2 of a is less indented"), "{refused}");
}

#[test]
fn a_fence_grows_around_what_would_close_it() {
    let new = edited("```{file=\"a\"}\nx\n```\n", |_| "x\n````\n".to_owned()).unwrap();
    assert_eq!(new, "`````{file=\"a\"}\nx\n````\n`````\n");
}

#[test]
fn the_end_of_a_file_flows_back_too() {
    let new = edited("```{file=\"a\"}\nx\n```\n", |_| "x".to_owned()).unwrap();
    assert_eq!(new, "```{file=\"a\" eof=\"none\"}\nx\n```\n");
    assert_eq!(edited(&new, |_| "x\ny\n".to_owned()).unwrap(), "```{file=\"a\"}\nx\ny\n```\n");
    let crlf = "```{eof=\"none\" file=\"a\"}\r\nx\r\n```\r\n";
    assert_eq!(edited(crlf, |_| "x\r\n".to_owned()).unwrap(), "```{file=\"a\"}\r\nx\r\n```\r\n");
}

#[test]
fn a_line_that_looks_like_a_reference_is_refused() {
    let refused = edited("```{file=\"a\"}\nx\n```\n", |_| "<<x>>\n".to_owned()).unwrap_err();
    assert!(matches!(refused, SyncError::Reference { line: 1, .. }), "{refused}");
    edited("```{file=\"a\" refs=\"none\"}\nx\n```\n", |_| "<<x>>\n".to_owned()).unwrap();
}

#[test]
fn a_chunk_of_two_places_is_edited_in_both_or_refused() {
    let text = "```{file=\"a\"}\n1\n<<c>>\n2\n  <<c>>\n```\n```{chunk=\"c\"}\nx\n```\n";
    assert_eq!(edited(text, |s| s.replace('x', "y")).unwrap(), text.replace('x', "y"));
    let refused = edited(text, |s| s.replacen('x', "y", 1)).unwrap_err();
    let SyncError::Shared { chunk, edited, other } = refused else { panic!("{refused}") };
    assert_eq!((chunk.as_str(), edited.as_str(), other.as_str()), ("c", "a:2", "a:4"));
}

#[test]
fn both_sides_meet_at_different_places_and_clash_at_one() {
    let base = files(NESTED);
    let changed = NESTED.replace("let b = 2;", "let b = 4;");
    let document = Document::parse(&changed).unwrap();
    let source = |text: String| BTreeMap::from([(path("a"), text.into_bytes())]);
    let was = &base[&path("a")];
    let other = source(was.replace("fn f()", "fn g()"));
    let synced = sync(&document, &base, Side::Neither, &other, &BTreeMap::new()).unwrap();
    assert_eq!(synced.document, changed.replace("fn f()", "fn g()"));
    assert!(synced.files[&path("a")].contains("b = 4"));
    let same = source(was.replace("b = 2", "b = 5"));
    let refused = sync(&document, &base, Side::Neither, &same, &BTreeMap::new()).unwrap_err();
    let SyncError::Conflicts(clashes) = refused else { panic!("{refused}") };
    assert_eq!((clashes.len(), clashes[0].line, clashes[0].conflict.theirs.as_str()), (1, 13, "    let b = 5;\n"));
}

#[test]
fn without_a_record_nothing_is_chosen() {
    let document = Document::parse(NESTED).unwrap();
    let other = BTreeMap::from([(path("a"), b"x\n".to_vec())]);
    let take = |side| sync(&document, &Base::new(), side, &other, &BTreeMap::new());
    assert_eq!(take(Side::Neither), Err(SyncError::NoBase(path("a"))));
    assert_eq!(take(Side::Document).unwrap().document, NESTED);
    assert_eq!(take(Side::Sources).unwrap().files[&path("a")], "x\n");
    let none = BTreeMap::new();
    assert_eq!(sync(&document, &Base::new(), Side::Neither, &none, &none).unwrap().document, NESTED);
    let gone = sync(&document, &files(NESTED), Side::Neither, &none, &none);
    assert_eq!(gone, Err(SyncError::Missing(path("a"))));
}

#[test]
fn copies_of_the_library_are_renewed() {
    let text = "```rs {include=\"l.rs\" anchor=\"f\"}\nold\n```\n";
    let library = BTreeMap::from([(path("l.rs"), b"fn f() {}\nfn g() {}\n".to_vec())]);
    let synced = sync(&Document::parse(text).unwrap(), &Base::new(), Side::Neither, &BTreeMap::new(), &library);
    assert_eq!(synced.unwrap().document, text.replace("old", "fn f() {}"));
    let gone = sync(&Document::parse(text).unwrap(), &Base::new(), Side::Neither, &BTreeMap::new(), &BTreeMap::new());
    assert!(gone.unwrap_err().to_string().contains("line 1: there is no file \"l.rs\""));
}
