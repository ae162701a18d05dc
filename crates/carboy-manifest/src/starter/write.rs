//! Lines of a commented file, and texts that come from outside in the quotes that they need.

use std::fmt::Write as _;
use std::path::Path;

/// Widest line of a comment, in characters; a longer word stands in a line of its own.
const COMMENT_COLUMNS_MAX: usize = 110;
/// Longest comment, in characters; what is beyond is left out.
const COMMENT_CHARS_MAX: usize = 640;
/// Longest entry in a comment, in characters. It is in one line, so that taking its `#` away is all there is to do.
const ENTRY_CHARS_MAX: usize = 4096;

/// A file that grows line by line.
#[derive(Debug, Default)]
pub(super) struct Block(String);

impl Block {
    pub(super) fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    pub(super) fn blank(&mut self) {
        self.0.push('\n');
    }

    /// Several lines at once.
    pub(super) fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }

    pub(super) fn comment(&mut self, text: &str) {
        self.comment_in("", text);
    }

    /// A comment, indented; its text may come from outside.
    pub(super) fn comment_in(&mut self, indent: &str, text: &str) {
        // What a text is indented by stays, also where it goes on.
        let lead = text.len() - text.trim_start_matches(' ').len();
        let text: String = text.chars().take(COMMENT_CHARS_MAX).collect();
        let mut line = " ".repeat(lead);
        for word in text.split_whitespace() {
            let is_first = line.len() == lead;
            if !is_first && indent.len() + 3 + line.chars().count() + word.chars().count() > COMMENT_COLUMNS_MAX {
                self.line(&commented(indent, &line));
                line.truncate(lead);
            } else if !is_first {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(&commented(indent, &line));
    }

    pub(super) fn done(self) -> String {
        self.0
    }
}

/// In one line whatever the text holds: a newline in it would begin a key.
pub(super) fn commented(indent: &str, text: &str) -> String {
    let plain: String = text.chars().take(ENTRY_CHARS_MAX).map(|c| if is_plain(c) { c } else { '?' }).collect();
    format!("{indent}# {plain}")
}

/// Characters that stand for themselves in a file; the others (control, invisible, direction-changing, combining ones
/// included) are escaped.
fn is_plain(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || (c.is_alphanumeric() && !c.is_ascii())
}

/// In double quotes, with the escapes that the reader knows.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if is_plain(c) => out.push(c),
            // The reader has no spelling for it.
            '\0' => out.push('?'),
            c => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Plain where no reader could take it for something else, in quotes otherwise.
pub(super) fn word(text: &str) -> String {
    let begins = text.starts_with("~/") || text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '~' | '@' | '+');
    let is_word = matches!(text, "true" | "false" | "null");
    if begins && !is_word && text.chars().all(plain) && text.contains(['/', '.', '-', '_']) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// `~/x` for what is below the home.
pub(super) fn shown_path(path: &Path, home: &Path) -> String {
    match path.strip_prefix(home) {
        Ok(below) if home != Path::new("/") && !below.as_os_str().is_empty() => format!("~/{}", below.display()),
        Ok(_) | Err(_) => path.display().to_string(),
    }
}
