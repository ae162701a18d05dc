//! What each language looks like. *Must never* name a language twice.

/// A language's signs and words.
pub(super) struct Language {
    names: &'static [&'static str],
    pub line_comments: &'static [&'static str],
    pub block_comment: Option<(&'static str, &'static str)>,
    /// `#` begins a comment only after a blank.
    pub hash_needs_blank: bool,
    pub quotes: &'static str,
    /// Quoted texts may go on over lines.
    pub long_strings: bool,
    pub triple_quotes: bool,
    /// Rust's `r#"…"#`, and `'` begins a character or a lifetime.
    pub raw_strings: bool,
    pub words: &'static [&'static str],
    pub any_case: bool,
    /// A word with a capital is a type.
    pub types: bool,
    /// Signs that begin a name: `@`, `$`.
    pub name_signs: &'static str,
    /// `#[…]`.
    pub attributes: bool,
    /// What stands first on a line, before `:` or `=`, is a key.
    pub keys: bool,
    /// Tags.
    pub markup: bool,
}

const NONE: Language = Language {
    names: &[],
    line_comments: &[],
    block_comment: None,
    hash_needs_blank: false,
    quotes: "\"",
    long_strings: false,
    triple_quotes: false,
    raw_strings: false,
    words: &[],
    any_case: false,
    types: false,
    name_signs: "",
    attributes: false,
    keys: false,
    markup: false,
};

const LANGUAGES: &[Language] = &[
    Language {
        names: &["rust", "rs"],
        line_comments: &["//"],
        block_comment: Some(("/*", "*/")),
        quotes: "\"'",
        long_strings: true,
        raw_strings: true,
        words: &[
            "as", "async", "await", "bool", "break", "char", "const", "continue", "crate", "dyn", "else", "enum", "extern",
            "f32", "f64", "false", "fn", "for", "i16", "i32", "i64", "i8", "if", "impl", "in", "isize", "let", "loop",
            "match", "mod", "move", "mut", "pub", "ref", "return", "self", "static", "str", "struct", "super", "trait",
            "true", "type", "u16", "u32", "u64", "u8", "unsafe", "use", "usize", "where", "while",
        ],
        types: true,
        attributes: true,
        ..NONE
    },
    Language {
        names: &["python", "py"],
        line_comments: &["#"],
        quotes: "\"'",
        triple_quotes: true,
        words: &[
            "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
            "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
            "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
        ],
        types: true,
        name_signs: "@",
        ..NONE
    },
    Language {
        names: &["javascript", "js", "mjs", "ts", "typescript"],
        line_comments: &["//"],
        block_comment: Some(("/*", "*/")),
        quotes: "\"'`",
        words: &[
            "async", "await", "break", "case", "catch", "class", "const", "continue", "default", "delete", "do", "else",
            "export", "extends", "false", "finally", "for", "function", "if", "import", "in", "instanceof", "interface",
            "let", "new", "null", "of", "return", "static", "super", "switch", "this", "throw", "true", "try", "type",
            "typeof", "undefined", "var", "void", "while", "yield",
        ],
        types: true,
        name_signs: "@",
        ..NONE
    },
    Language {
        names: &["sql"],
        line_comments: &["--"],
        block_comment: Some(("/*", "*/")),
        quotes: "\"'",
        long_strings: true,
        words: &[
            "add", "all", "alter", "and", "as", "asc", "begin", "between", "by", "case", "check", "commit", "constraint",
            "create", "cross", "default", "delete", "desc", "distinct", "drop", "else", "end", "exists", "foreign", "from",
            "group", "having", "if", "in", "index", "inner", "insert", "integer", "into", "is", "join", "key", "left", "like",
            "limit", "not", "null", "on", "or", "order", "outer", "primary", "real", "references", "rollback", "select",
            "set", "table", "text", "then", "trigger", "union", "unique", "update", "values", "view", "when", "where", "with",
        ],
        any_case: true,
        name_signs: "$:",
        ..NONE
    },
    Language { names: &["html", "xml", "svg"], block_comment: Some(("<!--", "-->")), markup: true, ..NONE },
    Language {
        names: &["css"],
        block_comment: Some(("/*", "*/")),
        quotes: "\"'",
        name_signs: "@.#",
        keys: true,
        words: &["and", "from", "important", "not", "only", "to", "var"],
        ..NONE
    },
    Language {
        names: &["yaml", "yml"],
        line_comments: &["#"],
        hash_needs_blank: true,
        quotes: "\"'",
        words: &["false", "no", "null", "true", "yes"],
        name_signs: "&*!",
        keys: true,
        ..NONE
    },
    Language {
        names: &["sh", "bash", "shell", "console", "zsh"],
        line_comments: &["#"],
        hash_needs_blank: true,
        quotes: "\"'`",
        long_strings: true,
        words: &[
            "case", "cd", "do", "done", "echo", "elif", "else", "esac", "eval", "exec", "exit", "export", "fi", "for",
            "function", "if", "in", "local", "printf", "read", "return", "set", "shift", "then", "trap", "unset", "until",
            "while",
        ],
        name_signs: "$",
        ..NONE
    },
    Language {
        names: &["toml"],
        line_comments: &["#"],
        quotes: "\"'",
        triple_quotes: true,
        words: &["false", "true"],
        keys: true,
        ..NONE
    },
    Language { names: &["json"], words: &["false", "null", "true"], ..NONE },
];

impl Language {
    /// The language of this name.
    pub fn of(name: &str) -> Option<&'static Language> {
        let name = name.to_ascii_lowercase();
        LANGUAGES.iter().find(|language| language.names.contains(&name.as_str()))
    }
}
