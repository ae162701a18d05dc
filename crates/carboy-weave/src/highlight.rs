//! Code, coloured by classes: comments, strings, numbers, words, types, names of attributes.
//!
//! A scanner and a table for each language, no grammar: what it does not know stays as it is. *Must never* lose or add a
//! character, or take more than one pass.

mod languages;

use languages::Language;

/// What a piece of code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing special.
    Plain,
    /// For people.
    Comment,
    /// A text.
    Text,
    /// A number.
    Number,
    /// A word of the language.
    Word,
    /// A type.
    Type,
    /// An attribute, a key, a variable.
    Name,
}

impl Class {
    /// Its name in the stylesheet.
    pub fn css(self) -> &'static str {
        match self {
            Class::Plain => "",
            Class::Comment => "c",
            Class::Text => "s",
            Class::Number => "n",
            Class::Word => "k",
            Class::Type => "t",
            Class::Name => "a",
        }
    }
}

/// A piece: its class and its bytes.
pub type Piece<'c> = (Class, &'c str);

/// Takes code apart; the pieces are the code again.
pub fn pieces<'c>(language: &str, code: &'c str) -> Vec<Piece<'c>> {
    let Some(language) = Language::of(language) else { return vec![(Class::Plain, code)] };
    let mut scanner = Scanner { language, code, at: 0, plain: 0, pieces: Vec::new(), in_tag: false, fresh: true };
    while scanner.at < code.len() {
        scanner.step();
    }
    scanner.flush();
    scanner.pieces
}

struct Scanner<'c> {
    language: &'static Language,
    code: &'c str,
    at: usize,
    /// From where on nothing special has been seen.
    plain: usize,
    pieces: Vec<Piece<'c>>,
    /// Between `<name` and `>`.
    in_tag: bool,
    /// Nothing but blanks and hyphens so far on this line.
    fresh: bool,
}

impl<'c> Scanner<'c> {
    fn rest(&self) -> &'c str {
        &self.code[self.at..]
    }

    fn flush(&mut self) {
        if self.plain < self.at {
            self.pieces.push((Class::Plain, &self.code[self.plain..self.at]));
        }
        self.plain = self.at;
    }

    fn take(&mut self, class: Class, length: usize) {
        self.flush();
        self.pieces.push((class, &self.code[self.at..self.at + length]));
        self.pass(length);
        self.plain = self.at;
    }

    /// Goes on.
    fn pass(&mut self, length: usize) {
        let passed = &self.code[self.at..self.at + length];
        let (line, ended) = passed.rsplit_once('\n').map_or((passed, false), |(_, line)| (line, true));
        self.fresh = (self.fresh || ended) && line.trim_start_matches([' ', '-']).is_empty();
        self.at += length;
    }

    fn step(&mut self) {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return };
        if let Some(length) = self.comment(rest) {
            return self.take(Class::Comment, length);
        }
        if self.language.markup {
            return self.markup(rest, first);
        }
        if let Some(length) = self.text(rest, first) {
            return self.take(Class::Text, length);
        }
        if let Some(length) = self.name(rest, first) {
            return self.take(Class::Name, length);
        }
        if first.is_ascii_digit() {
            // `0..9` is two numbers, `5.` ends a sentence, and `pair.0.name` goes on with a name.
            let inside = |at: usize, c: char| match c {
                '.' => rest[at + 1..].starts_with(|next: char| next.is_ascii_digit()),
                c => c.is_ascii_alphanumeric() || c == '_',
            };
            let end = rest.char_indices().find(|(at, c)| !inside(*at, *c)).map_or(rest.len(), |(at, _)| at);
            return self.take(Class::Number, end);
        }
        if first.is_alphabetic() || first == '_' {
            return self.word(rest);
        }
        self.pass(first.len_utf8());
    }

    fn comment(&self, rest: &str) -> Option<usize> {
        let line = self.language.line_comments.iter().any(|sign| rest.starts_with(sign));
        // In a shell and in YAML `#` begins a comment at the beginning of a word only.
        let before = self.code[..self.at].chars().next_back();
        if line && (!rest.starts_with('#') || before.is_none_or(char::is_whitespace) || !self.language.hash_needs_blank)
        {
            return Some(rest.find('\n').unwrap_or(rest.len()));
        }
        let (open, close) = self.language.block_comment.filter(|(open, _)| rest.starts_with(open))?;
        Some(rest[open.len()..].find(close).map_or(rest.len(), |at| open.len() + at + close.len()))
    }

    fn text(&self, rest: &str, first: char) -> Option<usize> {
        if self.language.raw_strings && matches!(first, 'r' | 'b') && !self.after_word() {
            let plain = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'));
            let hashes = plain.map_or(0, |inner| run(inner, |c| c == '#'));
            if let Some(inner) = plain.and_then(|inner| inner[hashes..].strip_prefix('"')) {
                let close = format!("\"{}", "#".repeat(hashes));
                let head = rest.len() - inner.len();
                return Some(inner.find(&close).map_or(rest.len(), |at| head + at + close.len()));
            }
        }
        for quote in ["\"\"\"", "'''"] {
            if self.language.triple_quotes && rest.starts_with(quote) {
                return Some(rest[3..].find(quote).map_or(rest.len(), |at| at + 6));
            }
        }
        if !self.language.quotes.contains(first) {
            return None;
        }
        // Rust's `'a` is no text; `'a'` and `'\n'` are.
        if first == '\'' && self.language.raw_strings {
            let mut chars = rest.char_indices().skip(1);
            let ((_, one), (at, two)) = (chars.next()?, chars.next()?);
            return match (one, two) {
                // The longest is `'\u{10ffff}'`.
                ('\\', _) => chars.take(10).find(|(_, c)| *c == '\'').map(|(at, _)| at + 1),
                (_, '\'') => Some(at + 1),
                _ => None,
            };
        }
        Some(quoted(rest, first, first == '`' || self.language.long_strings))
    }

    fn after_word(&self) -> bool {
        self.code[..self.at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
    }

    fn name(&self, rest: &str, first: char) -> Option<usize> {
        let sign = self.language.name_signs.contains(first);
        let length = sign.then(|| first.len_utf8() + run(&rest[first.len_utf8()..], is_word));
        if let Some(length) = length.filter(|length| *length > 1) {
            return Some(length);
        }
        if self.language.attributes && (rest.starts_with("#[") || rest.starts_with("#![")) {
            return Some(
                rest.find([']', '\n']).map_or(rest.len(), |at| if rest[at..].starts_with(']') { at + 1 } else { at }),
            );
        }
        let key = self.language.keys && self.fresh && is_word(first);
        let length = key.then(|| run(rest, |c| is_word(c) || matches!(c, '-' | '.' | '/')))?;
        rest[length..].trim_start_matches(' ').starts_with([':', '=']).then_some(length)
    }

    fn word(&mut self, rest: &str) {
        let length = run(rest, is_word);
        let word = &rest[..length];
        let known = self.language.words.contains(&word)
            || (self.language.any_case && self.language.words.contains(&word.to_ascii_lowercase().as_str()));
        let capital = self.language.types && word.starts_with(char::is_uppercase);
        match (known, capital) {
            (true, _) => self.take(Class::Word, length),
            (false, true) => self.take(Class::Type, length),
            (false, false) => self.pass(length),
        }
    }

    fn markup(&mut self, rest: &str, first: char) {
        if self.in_tag {
            return match first {
                '>' => {
                    self.in_tag = false;
                    self.pass(1);
                }
                '"' | '\'' => self.take(Class::Text, quoted(rest, first, true)),
                _ if is_word(first) => self.take(Class::Name, run(rest, |c| is_word(c) || matches!(c, '-' | ':'))),
                _ => self.pass(first.len_utf8()),
            };
        }
        let head = if rest.starts_with("</") || rest.starts_with("<!") { 2 } else { 1 };
        let named = rest.starts_with('<') && rest[head..].starts_with(|c: char| c.is_ascii_alphabetic());
        if named {
            self.in_tag = true;
            return self.take(Class::Word, head + run(&rest[head..], |c| is_word(c) || c == '-'));
        }
        self.pass(first.len_utf8());
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How many bytes of the beginning fit.
fn run(text: &str, fits: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !fits(c)).unwrap_or(text.len())
}

/// A text between two of the same sign; one that may not go on over a line ends with it.
fn quoted(rest: &str, quote: char, long: bool) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' if !long => return at,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(language: &str, code: &str) -> Vec<(&'static str, String)> {
        let pieces = pieces(language, code).into_iter().filter(|(class, _)| *class != Class::Plain);
        pieces.map(|(class, text)| (class.css(), text.to_owned())).collect()
    }

    #[test]
    fn each_language_is_coloured() {
        let rust = "#[test]\nfn a<'x>(b: &'x Str) -> char { '\\n' /* c */ + r#\"d\"e\"# } // 'f'";
        let expected = [
            ("a", "#[test]"),
            ("k", "fn"),
            ("t", "Str"),
            ("k", "char"),
            ("s", "'\\n'"),
            ("c", "/* c */"),
            ("s", "r#\"d\"e\"#"),
            ("c", "// 'f'"),
        ];
        assert_eq!(found("rust", rust), expected.map(|(class, text)| (class, text.to_owned())));
        for (language, code, class, text) in [
            ("python", "x = \"\"\"a\n'b\"\"\" # c", "s", "\"\"\"a\n'b\"\"\""),
            ("python", "@dataclass\nclass A: pass", "a", "@dataclass"),
            ("js", "const a = `b\n${c}`; // d", "s", "`b\n${c}`"),
            ("sql", "SELECT a FROM b -- c", "k", "SELECT"),
            ("html", "<a href=\"b\">c</a><!-- d -->", "a", "href"),
            ("css", "/* a */ .b { color: #fff }", "c", "/* a */"),
            ("yaml", "a-b: 'c' # d", "a", "a-b"),
            ("sh", "echo \"$a\" $b # c", "a", "$b"),
            ("sh", "x=${#a}", "k", ""),
            ("rust", "0..12", "n", "12"),
            ("rust", "pair.0.name(1.5)", "n", "0"),
            ("rust", "pair.0.name(1.5)", "n", "1.5"),
        ] {
            let found = found(language, code);
            assert!(text.is_empty() || found.contains(&(class, text.to_owned())), "{language}: {found:?}");
        }
    }

    #[test]
    fn a_character_that_is_cut_off_or_wide_is_no_end() {
        for code in ["'\\", "'\\é'", "'é'", "'", "'\\u{10ffff}'", "r#", "'\\é"] {
            let whole: String = pieces("rust", code).into_iter().map(|(_, text)| text).collect();
            assert_eq!(whole, code);
        }
    }

    proptest! {
        #[test]
        fn no_character_is_lost_or_added(code in "(\\PC|\n|[\"'`#r<>/*-]){0,80}", which in 0usize..12) {
            let language = ["rust", "python", "js", "sql", "html", "css", "yaml", "sh", "toml", "json", "text", "ts"][which];
            let whole: String = pieces(language, &code).into_iter().map(|(_, text)| text).collect();
            prop_assert_eq!(whole, code);
        }
    }
}
