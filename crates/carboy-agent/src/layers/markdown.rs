//! Markdown in a reply that is shown as plain text (G23): what a renderer would make something else of.
//!
//! Hyphens within a line, stars in arithmetic (`15 * 23`), `#1` and `snake_case` are no markdown.

use std::sync::{LazyLock, OnceLock};

use regex::Regex;
use regex::bytes::{RegexSet, RegexSetBuilder};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Markdown {
    /// `# Title`.
    Heading,
    /// `- item`, `1. item`.
    List,
    /// `**bold**`, `__bold__`.
    Bold,
    /// `*italic*`, `_italic_`.
    Italic,
    /// Backticks or tildes.
    Code,
    /// `[text](target)`, images.
    Link,
    /// Rows with bars.
    Table,
    /// `> quoted`.
    Quote,
    /// `---` alone.
    Rule,
}

const KINDS: [(Markdown, &str); 11] = [
    (Markdown::Heading, r"(?m)^[ \t]{0,3}#{1,6}[ \t]+\S"),
    (Markdown::List, r"(?m)^[ \t]{0,12}[-*+•][ \t]+\S"),
    (Markdown::List, r"(?m)^[ \t]{0,12}\d{1,3}[.)][ \t]+[^\s\d]"),
    (Markdown::Bold, r"\*\*[^\s*][^*\n]{0,500}\*\*|(?:^|[^\w])__[^\s_][^_\n]{0,500}__"),
    (Markdown::Italic, r"(?m)(?:^|[\s(])\*[^\s*](?:[^*\n]{0,200}[^\s*])?\*(?:[\s.,;:!?)]|\z)"),
    (Markdown::Italic, r"(?m)(?:^|[\s(])_[^\s_](?:[^_\n]{0,200}[^\s_])?_(?:[\s.,;:!?)]|\z)"),
    (Markdown::Code, r"```|~~~|`[^`\n]{1,500}`"),
    (Markdown::Link, r"\[[^\[\]\n]{1,300}\]\([^()\s]{1,2000}[^()\n]{0,200}\)"),
    (Markdown::Table, r"(?m)^[ \t]*\|[^|\n]{0,300}\||^[ \t]*\|?[ \t]*:?-{3,}:?[ \t]*\|"),
    (Markdown::Quote, r"(?m)^[ \t]{0,3}>[ \t]*[^\s=>]"),
    (Markdown::Rule, r"(?m)^[ \t]{0,3}(?:-{3,}|\*{3,}|_{3,})[ \t]*$"),
];

/// The same without limits, over octets: what a kind above matches, the one here at the same place does too. An octet beyond
/// ASCII is anything that a character may be. Together they are one small automaton, where those above are tens of thousands
/// of states, which nearly no reply needs.
const MAYBE: [&str; KINDS.len()] = [
    r"(?m)^[ \t]*#+[ \t]+\S",
    r"(?m)^[ \t]*(?:[-*+]|\xe2\x80\xa2)[ \t]+\S",
    r"(?m)^[ \t]*[\d\x80-\xff]+[.)][ \t]+\S",
    r"\*\*[^\s*][^*\n]*\*\*|__[^\s_][^_\n]*__",
    r"(?m)(?:^|[\s(\x80-\xff])\*[^\s*][^*\n]*\*(?:[\s.,;:!?)\x80-\xff]|\z)",
    r"(?m)(?:^|[\s(\x80-\xff])_[^\s_][^_\n]*_(?:[\s.,;:!?)\x80-\xff]|\z)",
    r"```|~~~|`[^`\n]+`",
    r"\[[^\[\]\n]+\]\([^()\s]+[^()\n]*\)",
    r"(?m)^[ \t]*\|[^|\n]*\||^[ \t]*\|?[ \t]*:?-{3,}:?[ \t]*\|",
    r"(?m)^[ \t]*>[ \t]*[^\s=>]",
    r"(?m)^[ \t]*(?:-{3,}|\*{3,}|_{3,})[ \t]*$",
];

static SET: LazyLock<RegexSet> = LazyLock::new(|| {
    let set = RegexSetBuilder::new(MAYBE).unicode(false).build();
    set.expect("the shapes of markdown are constant and tested")
});
static EACH: [OnceLock<Regex>; KINDS.len()] = [const { OnceLock::new() }; KINDS.len()];

/// Every kind of markdown in a text, once each, and where it first stands.
pub(super) fn find(text: &str) -> Vec<(Markdown, usize)> {
    let mut found: Vec<(Markdown, usize)> = Vec::new();
    for at in SET.matches(text.as_bytes()) {
        let (kind, shape) = KINDS[at];
        let exact = EACH[at].get_or_init(|| Regex::new(shape).expect("the shapes of markdown are constant and tested"));
        let Some(start) = exact.find(text).map(|found| found.start()) else { continue };
        match found.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, first)) => *first = start.min(*first),
            None => found.push((kind, start)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &str) -> Vec<Markdown> {
        find(text).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn g23_each_kind_of_markdown_is_found() {
        for (text, kind) in [
            ("# Your order", Markdown::Heading),
            ("Hello\n### Details", Markdown::Heading),
            ("Your orders:\n- BK-1001\n- BK-1002", Markdown::List),
            ("* first", Markdown::List),
            ("Steps:\n1. Open it\n2. Close it", Markdown::List),
            ("It is **very** important", Markdown::Bold),
            ("It is __very__ important", Markdown::Bold),
            ("It is *very* important.", Markdown::Italic),
            ("It is _very_ important.", Markdown::Italic),
            ("Use `code` here", Markdown::Code),
            ("```\nlet x;\n```", Markdown::Code),
            ("See [our shop](https://shop.example/a)", Markdown::Link),
            ("![x](data:image/png;base64,AA)", Markdown::Link),
            ("| Order | Status |\n|---|---|", Markdown::Table),
            ("> quoted", Markdown::Quote),
            ("one\n---\ntwo", Markdown::Rule),
        ] {
            assert!(kinds(text).contains(&kind), "{text}: {:?}", kinds(text));
        }
    }

    #[test]
    fn g23_plain_text_is_no_markdown() {
        for text in [
            "15 * 23 = 345, and 2*3*4 = 24, and 15 * 23 * 2 = 690",
            "You are customer #1, and #42 is next",
            "Two-day delivery - if you order today - is free",
            "The file is called my_long_file_name.txt, not __init",
            "It costs $5 (see BK-1001) [REDACTED_EMAIL] and \"that\" is 'it'.",
            "1 > 0 and a|b",
            "It weighs 3.\n5 days later it came.",
            "Temperatures of\n-5 degrees",
            "a --- b",
            "5 * x, y * 6",
        ] {
            assert_eq!(kinds(text), [], "{text}");
        }
    }

    /// Pieces of which markdown is made, and of which it is not.
    fn piece() -> impl Strategy<Value = String> {
        const PIECES: &[&str] = &[
            "#",
            "##",
            "*",
            "**",
            "***",
            "_",
            "__",
            "`",
            "```",
            "~~~",
            "[",
            "]",
            "(",
            ")",
            "|",
            "-",
            "---",
            ">",
            "1.",
            "2)",
            "\u{661}.",
            "\u{2022}",
            " ",
            "  ",
            "\t",
            "\n",
            "\r\n",
            "\u{a0}",
            "\u{2003}",
            "\u{85}",
            "\u{b}",
            "\u{c}",
            "a",
            "b c",
            "\u{e9}",
            "\u{53f7}",
            "\u{1f600}",
            ".",
            ",",
            "!",
            "=",
            ":",
            "x",
            "15",
        ];
        prop_oneof![
            12 => proptest::sample::select(PIECES).prop_map(str::to_owned),
            1 => (proptest::sample::select(PIECES), 150..260_usize).prop_map(|(piece, times)| piece.repeat(times)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

        /// G23: whatever a kind matches, the quick look lets through.
        #[test]
        fn g23_the_quick_look_leaves_nothing_out(pieces in proptest::collection::vec(piece(), 1..24)) {
            let text = pieces.concat();
            let maybe = SET.matches(text.as_bytes());
            for (at, (kind, shape)) in KINDS.iter().enumerate() {
                let exact = EACH[at].get_or_init(|| Regex::new(shape).unwrap());
                prop_assert!(!exact.is_match(&text) || maybe.matched(at), "{kind:?} in {text:?}");
            }
        }
    }
}
