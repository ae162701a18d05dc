use proptest::prelude::*;

use super::*;

/// The tree without places, in one line.
fn shape(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::Invalid => "!".into(),
        Value::List(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(" ")),
        Value::Map(entries) => {
            let entries: Vec<_> = entries.iter().map(|e| format!("{}:{}", e.key, shape(&e.value))).collect();
            format!("{{{}}}", entries.join(" "))
        }
    }
}

fn read(text: &str) -> String {
    let (root, errors) = parse(text, 1);
    let errors: Vec<_> = errors.iter().map(|e| format!(" {}:{} {e}", e.at.line, e.at.column)).collect();
    shape(&root) + &errors.join("")
}

#[test]
fn the_accepted_subset_is_read() {
    // M32
    for (text, want) in [
        ("", "null"),
        ("# only\n\n  # comments", "null"),
        ("---\na: 1", "{a:1}"),
        ("a: 1\nb: two words # c\nc: 'it''s'\nd: \"x\\ty\\u00e9\"\n", r#"{a:1 b:"two words" c:"it's" d:"x\tyé"}"#),
        ("a:\n  b:\n    c: true\n  d: false\ne: null\nf:", "{a:{b:{c:true} d:false} e:null f:null}"),
        ("a:\n- x\n- y\nb:\n  - 1\n  -\n    k: v\n", r#"{a:["x" "y"] b:[1 {k:"v"}]}"#),
        ("- host: a\n  ports: [1, 2]\n- host: b\n", r#"[{host:"a" ports:[1 2]} {host:"b"}]"#),
        ("- - a\n  - b\n- c: \n  - d\n", r#"[["a" "b"] {c:["d"]}]"#),
        ("a: {b: [c, {d: \"e, f\"}], g: -7,}\nh: []\ni: {}", r#"{a:{b:["c" {d:"e, f"}] g:-7} h:[] i:{}}"#),
        ("a:\n  text below\n", r#"{a:"text below"}"#),
        ("\"a b\": 1\n'c': 2\non: 3\n1: x\n", r#"{a b:1 c:2 on:3 1:"x"}"#),
        (
            "a: http://x.example/y#z\nb: c:d\nc: -x\nd: ?ask me\n",
            r#"{a:"http://x.example/y#z" b:"c:d" c:"-x" d:"?ask me"}"#,
        ),
        ("a: 1\r\nb:\r\n  - c\r\n", r#"{a:1 b:["c"]}"#),
        ("a: [\"::1\", 10.0.0.1]", r#"{a:["::1" "10.0.0.1"]}"#),
    ] {
        assert_eq!(read(text), want, "{text:?}");
    }
}

#[test]
fn what_other_versions_read_differently_is_text_as_written_or_an_error() {
    // M32
    for text in [
        "yes",
        "NO",
        "on",
        "Off",
        "y",
        "1:30",
        "12:30:45",
        "2001-12-14",
        "1.2.3",
        "0x",
        "0g1",
        "1_a",
        "e5",
        "=",
        "_1",
        "3rd",
    ] {
        assert_eq!(read(&format!("a: {text}")), format!("{{a:{text:?}}}"));
    }
    for text in [
        "0777", "1_000", "0x1F", "0o17", "0b1", "1.5", ".5", "1.", "1e3", "1.5E-3", "+5", "-0", "00", ".inf", "-.INF",
        ".NaN",
    ] {
        let want = format!("{{a:!}} 1:4 `{text}` is read as a number by some YAML readers and as text by others");
        assert_eq!(read(&format!("a: {text}")), want);
        assert!(read(&format!("a: [{text}]")).contains("as a number"), "{text}");
        assert_eq!(read(&format!("a: \"{text}\"")), format!("{{a:{text:?}}}"));
    }
    for text in ["True", "FALSE", "~", "Null", "NULL"] {
        assert!(read(&format!("a: {text}")).contains("by some YAML readers"), "{text}");
    }
    assert_eq!(read("a: 9223372036854775808"), "{a:!} 1:4 number `9223372036854775808` is out of range");
}

#[test]
fn what_is_outside_the_subset_is_refused_by_name_and_reading_goes_on() {
    // M32
    for (text, want) in [
        ("a: &x 1\nb: 2", "{a:! b:2} 1:4 anchors (`&name`) are not accepted"),
        ("a: *x\nb: 2", "{a:! b:2} 1:4 aliases (`*name`) are not accepted"),
        ("a: !!str 1\nb: 2", "{a:! b:2} 1:4 tags (`!name`) are not accepted"),
        ("b: 2\n<<: {c: 1}", "{b:2} 2:1 merge keys (`<<`) are not accepted"),
        ("<<: {c: 1}\nb: 2", "{b:2} 1:1 merge keys (`<<`) are not accepted"),
        ("a: |\n  x\n  y\nb: 2", "{a:! b:2} 1:4 text over several lines (`|`, `>`) is not accepted"),
        ("a: >-\n  x\nb: 2", "{a:! b:2} 1:4 text over several lines (`|`, `>`) is not accepted"),
        ("a: x\n  y\nb: 2", "{a:! b:2} 2:3 a value has to end on the line it begins on"),
        ("a: [1,\n  2]\nb: 2", "{a:! b:2} 1:7 the closing `]` is missing on this line"),
        ("a: [\n  1\n]\nb: 2", "{a:! b:2} 1:5 the closing `]` is missing on this line"),
        ("a: 1\n---\nb: 2", "{a:1} 2:1 more than one document in a file"),
        ("a: 1\n...", "{a:1} 2:1 more than one document in a file"),
        ("%YAML 1.1\na: 1", "{a:1} 1:1 directives (`%`) are not accepted"),
        ("a:\n\tb: 1\nc: 2", "{a:null c:2} 2:1 tab in the indentation"),
        ("a: 1\na: 2\n", "{a:1} 2:1 key `a` stands twice; first on line 1"),
        ("a: {b: 1, b: 2}", "{a:!} 1:11 key `b` stands twice; first on line 1"),
        ("? a\n: b", "{} 1:1 complex keys (`? `) are not accepted 2:1 plain text may not begin with `:`"),
        ("a: b: c", "{a:!} 1:5 `: ` inside plain text"),
        ("a: \"x", "{a:!} 1:4 the closing quote is missing"),
        ("a: \"\\q\"", "{a:!} 1:7 escape `\\q` is not known"),
        ("a: \"\\x00\"", "{a:!} 1:9 escape `\\x00` is not known"),
        ("a: 'x' y", "{a:!} 1:7 unexpected text after the value"),
        ("a: [b c: d]", "{a:!} 1:8 expected `,` or the closing bracket here"),
        ("a: [?b]", "{a:!} 1:5 plain text may not begin with `?`"),
        ("a: [::1]", "{a:!} 1:5 plain text may not begin with `:`"),
        ("a: @b", "{a:!} 1:4 plain text may not begin with `@`"),
        ("egress\nenv: {}", "{env:{}} 1:1 expected `key: value`"),
        ("a: 1\n- b", "{a:1} 2:1 list item among the keys of a map"),
        ("- a\nb: 1", "[\"a\"] 2:1 indentation fits no level above"),
        ("a:\n    b: 1\n  c: 2\nd: 3", "{a:{b:1} d:3} 3:3 indentation fits no level above"),
        ("é: \u{202e}x\nb: 1", "{b:1} 1:4 character U+202E that makes a text look like another one"),
        (
            "a: 1 # \u{2028}b: 2\n#\u{85}c: 1",
            "null 1:8 character U+2028 that makes a text look like another one 2:2 character U+0085 that makes a text look like another one",
        ),
    ] {
        assert_eq!(read(text), want, "{text:?}");
    }
}

#[test]
fn every_node_knows_its_place() {
    // M32
    let (root, errors) = parse("é:\n  - [x, {ü: y}]\n", 5);
    let place = |at: Position| (at.line, at.column);
    assert_eq!(errors, []);
    let Value::Map(entries) = root.value else { panic!("map") };
    assert_eq!((place(root.at), place(entries[0].key_at), place(entries[0].value.at)), ((5, 1), (5, 1), (6, 3)));
    let Value::List(items) = &entries[0].value.value else { panic!("list") };
    let Value::List(inner) = &items[0].value else { panic!("list") };
    let Value::Map(flow) = &inner[1].value else { panic!("map") };
    let places = [items[0].at, inner[0].at, inner[1].at, flow[0].key_at, flow[0].value.at].map(place);
    assert_eq!(places, [(6, 5), (6, 6), (6, 9), (6, 10), (6, 13)]);
}

#[test]
fn depth_nodes_and_errors_have_bounds() {
    // M32
    let nested: String = (0..DEPTH_MAX).map(|i| format!("{}k:\n", " ".repeat(i))).collect();
    assert!(!read(&nested).contains("deeper"));
    let deeper = format!("{nested}{}k: 1\nz: 2", " ".repeat(DEPTH_MAX));
    assert!(read(&deeper).ends_with("z:2} 17:17 nested deeper than 16 levels"), "{}", read(&deeper));
    assert!(read(&"[".repeat(100_000)).contains("nested deeper"));
    assert!(read(&"- ".repeat(100_000)).contains("nested deeper"));
    let many: String = (0..NODES_MAX).map(|i| format!("k{i}: 1\n")).collect();
    let (_, errors) = parse(&many, 1);
    assert_eq!(errors.iter().map(|e| e.kind.clone()).collect::<Vec<_>>(), [SyntaxErrorKind::TooManyNodes]);
    let wide = format!("a: [{}]\nb: 1", "1,".repeat(NODES_MAX));
    assert!(read(&wide).contains("more than 10000 values"));
    let (_, errors) = parse(&"a: @\n".repeat(1000), 1);
    assert_eq!(errors.len(), SYNTAX_ERRORS_MAX);
    assert_eq!(errors.last().map(|e| e.kind.clone()), Some(SyntaxErrorKind::TooManyErrors));
}

/// Every place in the tree.
fn places(node: &Node, out: &mut Vec<Position>) {
    out.push(node.at);
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| places(item, out)),
        Value::Map(entries) => entries.iter().for_each(|entry| {
            out.push(entry.key_at);
            places(&entry.value, out);
        }),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Invalid => {}
    }
}

/// A place lies on a line that exists, at most one behind its last character.
fn check_places(text: &str) {
    let (root, errors) = parse(text, 1);
    let mut all: Vec<Position> = errors.iter().map(|error| error.at).collect();
    places(&root, &mut all);
    let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    for at in all {
        let chars = lines.get(at.line as usize - 1).copied();
        let fits = chars.is_some_and(|chars| at.column >= 1 && at.column as usize <= chars + 1);
        assert!(fits, "{at:?} in {text:?}");
    }
}

#[test]
fn a_refused_rest_of_an_item_has_the_place_where_it_stands() {
    check_places("\r\n- \t\t\r");
    assert!(read("- \tx").contains("1:3"), "{}", read("- \tx"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_reader_panic_and_every_place_is_in_the_text(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_places(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_text_of_yaml_s_own_characters_does_either(text in "[-a1é:?,\\[\\]{}#&*!|>'\"%@~ \\n\\t\\r.\\\\x_]{0,80}") {
        check_places(&text);
    }

    #[test]
    fn lines_of_keys_and_items_do_not_either(
        lines in proptest::collection::vec((0usize..6, "(- ){0,3}(a|b|\"q\"|'r')?:? ?(x|\\[a, \\{b: c\\}\\]|\\{k: 1\\}|\\||&y)?( #c)?"), 0..20)
    ) {
        let text: Vec<String> = lines.iter().map(|(indent, line)| " ".repeat(*indent) + line).collect();
        check_places(&text.join("\n"));
    }

    #[test]
    fn any_text_in_double_quotes_comes_back(text in "[^\\p{C}\\p{Z}]{0,40}") {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        prop_assert_eq!(read(&format!("a: \"{quoted}\"")), format!("{{a:{text:?}}}"));
    }
}
