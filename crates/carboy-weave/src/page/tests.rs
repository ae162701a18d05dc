//! What a page shows, and what it never carries.

use super::*;
use crate::TreePath;

fn woven(text: &str) -> Site {
    weave(&Document::parse(text).unwrap(), "doc", "", &BTreeMap::new()).unwrap_or_else(|faults| panic!("{faults}"))
}

fn page(text: &str) -> String {
    woven(text).files["doc.html"].clone()
}

fn fault(text: &str) -> String {
    weave(&Document::parse(text).unwrap(), "doc", "", &BTreeMap::new()).unwrap_err().to_string()
}

const TEXT: &str = "---\ntitle: \"A < B\"\n---\nIntro, see [body](#chunk:body).\n\n## One\n\n```rs {chunk=\"m\" file=\"a.rs\"}\nfn f() {\n    <<body>>\n}\n```\n\n### Two\n\n```rs {chunk=\"body\"}\nlet a = \"x\";\n```\n\n```rs {chunk=\"m\"}\n// end\n```\n\n```mermaid\nflowchart LR\nA --> B\n```\n";

#[test]
fn chunks_lead_to_each_other_and_lines_have_anchors() {
    // G59
    let html = page(TEXT);
    for part in [
        "<title>A &lt; B</title>",
        "<h1>A &lt; B</h1>",
        "<li><a href=\"#one\">One</a>\n<ol>\n<li><a href=\"#two\">Two</a>",
        "id=\"chunk:m\"",
        "<a class=\"ref\" href=\"#chunk:body\">&lt;&lt;body&gt;&gt;</a>",
        "used in <a href=\"#chunk:m\">m</a>",
        "part 1 of 2</span> <a href=\"#chunk:m:2\">next part</a>",
        "id=\"L17\"",
        "<span class=\"k\">let</span> a = <span class=\"s\">&quot;x&quot;</span>;",
        "<img src=\"doc-1.svg\"",
        "Diagram 1 in words",
        "<td><code>a.rs</code></td>",
    ] {
        assert!(html.contains(part), "{part}\n{html}");
    }
    let files: Vec<String> = woven(TEXT).files.into_keys().collect();
    assert_eq!(files, ["doc-1-dark.svg", "doc-1.svg", "doc.css", "doc.html"]);
    assert_eq!(woven(TEXT), woven(TEXT));
    assert!(woven(TEXT).files["doc.css"].contains("--ground: #f5f3ee"));
}

#[test]
fn nothing_of_somebody_elses_choice_gets_into_a_page() {
    let html = page(
        "# T\n\n<script>alert(1)</script>\n\na <b onclick=\"x\">c</b> `<i>`\n\n| a |\n|--:|\n| <u> |\n\n- [x] done\n\n```html\n<script>\n```\n\n    <script>\n",
    );
    for part in ["<script", "style=", "<b ", "<u>", "<input", "<i>", "javascript:"] {
        assert!(!html.contains(part), "{part}\n{html}");
    }
    for (text, said) in [
        ("[a](javascript:alert(1))", "line 1: the link"),
        ("\n[a](JavaScript&colon;x)", "line 2: the link"),
        ("[a](data:text/html,x)", "the link"),
        ("![a](https://x.example/a.png)", "the picture"),
        ("![a](//x.example/a.png)", "the picture"),
        ("[a](#nowhere)", "no heading, chunk or line \"#nowhere\""),
        ("```mermaid\npie\n```", "line 2: the diagram"),
        ("- ```mermaid\n  graph LR\n  ```", "line 1: the diagram"),
    ] {
        assert!(fault(text).contains(said), "{text}: {}", fault(text));
    }
}

#[test]
fn copies_of_the_library_are_shown_and_checked() {
    let text = "See [f](#library:l.rs:f).\n\n```rs {include=\"l.rs\" anchor=\"f\"}\nfn f() {}\n```\n";
    let document = Document::parse(text).unwrap();
    let library = |code: &str| BTreeMap::from([(TreePath::parse("l.rs").unwrap(), code.as_bytes().to_vec())]);
    let site = weave(&document, "doc", "<p>mine</p>", &library("fn f() {}\nfn g() {}\n")).unwrap();
    assert!(site.files["doc.html"].contains("from the library, read-only"));
    assert!(site.files["doc.html"].contains("<figure class=\"code library\" id=\"library:l.rs:f\">"));
    assert!(site.files["doc.html"].contains("<header>\n<p>mine</p>\n</header>"));
    let drift = weave(&document, "doc", "", &library("fn f() { x }\n")).unwrap_err();
    assert!(drift.to_string().contains("line 3: the copy of"), "{drift}");
}

#[test]
fn a_page_is_also_made_from_parts() {
    let mut page = Page::new("agent", "An agent").language("de");
    page.prose("Who it is.\n\n## Limits\n\nText.\n").unwrap();
    let anchor = page.heading(2, "Limits");
    assert_eq!(anchor, "limits-2");
    page.paragraph("a < b");
    page.list(&[Cell::code("x"), Cell::Place(anchor, "there".to_owned())]);
    page.table("Routes", &["Host"], &[vec![Cell::text("a&b")]]);
    page.code("Program", "sh", "echo $x\n", None);
    page.diagram("graph LR\nA --> B", 1).unwrap();
    let html = page.render().unwrap().files["agent.html"].clone();
    for part in [
        "lang=\"de\"",
        "<p>a &lt; b</p>",
        "<a href=\"#limits-2\">there</a>",
        "a&amp;b",
        "<caption>Routes</caption>",
        "agent-1.svg",
    ] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn a_carriage_return_is_no_end_of_a_line_in_a_page() {
    let html = page("```{file=\"a\"}\nx\r\ny\n```\n");
    assert!(html.contains("x</span>\n") && !html.contains('\r'));
}

#[test]
fn regions_of_one_page_have_names_of_their_own() {
    let html = page("| a |\n|--|\n| b |\n\n| c |\n|--|\n| d |\n\n```\nx\n```\n\n- ```\n  y\n  ```\n");
    let labels: Vec<&str> =
        html.split(" role=\"region\" aria-label=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(labels, ["Table on line 1", "Table on line 5", "Code on line 9", "Code on line 13"]);
}
