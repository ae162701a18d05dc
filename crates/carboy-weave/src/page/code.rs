//! Code as lines with anchors. *Must never* leave a class open at the end of a line.

use std::fmt::Write as _;

use super::escape;
use crate::highlight::{Class, pieces};

/// Lines of code as HTML; `first` is the number of the first, `instead` may put something else in a line's place.
pub(super) fn lines(
    language: &str,
    text: &str,
    first: Option<usize>,
    instead: &dyn Fn(&str) -> Option<String>,
) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for (class, piece) in pieces(language, text) {
        for (n, part) in piece.split('\n').enumerate() {
            if n > 0 {
                lines.push(String::new());
            }
            let Some(line) = lines.last_mut().filter(|_| !part.is_empty()) else { continue };
            // A carriage return would end the line for whoever reads HTML.
            let part = escape(part.strip_suffix('\r').unwrap_or(part)).replace('\r', "&#13;");
            if class == Class::Plain {
                line.push_str(&part);
            } else {
                let _ = write!(line, "<span class=\"{}\">{part}</span>", class.css());
            }
        }
    }
    let plain: Vec<&str> = text.split('\n').collect();
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let mut out = String::new();
    for (n, line) in lines.iter().enumerate() {
        let line = plain.get(n).and_then(|plain| instead(plain)).unwrap_or_else(|| line.clone());
        let _ = match first.map(|first| first + n) {
            // The number is drawn by the stylesheet, so that nobody copies it.
            Some(number) => writeln!(
                out,
                "<span class=\"l\" id=\"L{number}\"><a class=\"no\" href=\"#L{number}\" data-n=\"{number}\" tabindex=\"-1\" \
                 aria-hidden=\"true\"></a>{line}</span>"
            ),
            None => writeln!(out, "<span class=\"l\">{line}</span>"),
        };
    }
    out
}

/// A block that scrolls by itself.
pub(super) fn block(label: &str, lines: &str) -> String {
    format!("<pre role=\"region\" aria-label=\"{}\" tabindex=\"0\"><code>{lines}</code></pre>", escape(label))
}
