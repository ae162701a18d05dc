//! Diagrams: a part of mermaid's language, drawn as SVG, with a description in words.
//!
//! ```text
//!  source ─▶ flowchart::parse ─▶ layout ─┐
//!        └─▶ sequence::parse ─▶ rows ────┴─▶ Canvas ─▶ SVG in light, SVG in dark; words
//! ```
//!
//! *Must never* leave a line out that it does not understand: that is an error, with the line. The pictures carry
//! presentation attributes only (no style, no script, no link), so any content security policy lets them be.

mod canvas;
mod flowchart;
mod layout;
mod sequence;

use crate::fault::{Fault, Problem};
use crate::limits::{DIAGRAM_LABEL_CHARS_MAX, DIAGRAM_LINES_MAX};
use canvas::Canvas;

/// A drawn diagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// For light pages and paper.
    pub light: String,
    /// For dark pages.
    pub dark: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// What it is, in a sentence.
    pub title: String,
    /// What it shows, line by line.
    pub words: Vec<String>,
}

/// Draws; `line` is the line of the first line of `source`.
pub fn draw(source: &str, line: usize) -> Result<Drawing, Problem> {
    let lines: Vec<Line<'_>> = source
        .lines()
        .enumerate()
        .map(|(n, text)| Line { number: line + n, text: text.trim().trim_end_matches(';').trim_end() })
        .filter(|line| !line.text.is_empty() && !line.text.starts_with("%%"))
        .collect();
    let Some(first) = lines.first() else { return Err(told("it is empty").at(line)) };
    if lines.len() > DIAGRAM_LINES_MAX {
        return Err(told(format!("it has more than {DIAGRAM_LINES_MAX} lines; split it")).at(line));
    }
    let kind = first.text.split_whitespace().next().unwrap_or("");
    let (canvas, title, words) = match kind {
        "flowchart" | "graph" => {
            let chart = flowchart::parse(&lines)?;
            (layout::draw(&chart), chart.title(), chart.words())
        }
        "sequenceDiagram" => {
            let sequence = sequence::parse(&lines)?;
            (sequence.draw(), sequence.title(), sequence.words())
        }
        other => {
            let said = format!("`{other}` is no kind that is drawn; there are flowchart, graph and sequenceDiagram");
            return Err(told(said).at(first.number));
        }
    };
    Ok(finished(&canvas, title, words))
}

fn finished(canvas: &Canvas, title: String, words: Vec<String>) -> Drawing {
    let description = words.join(". ");
    let (light, dark) =
        (canvas.svg(&canvas::LIGHT, &title, &description), canvas.svg(&canvas::DARK, &title, &description));
    Drawing { light, dark, size: canvas.size(), title, words }
}

/// A line that says something.
#[derive(Clone, Copy)]
struct Line<'s> {
    number: usize,
    text: &'s str,
}

fn told(what: impl Into<String>) -> Fault {
    Fault::Diagram(what.into())
}

/// A label as lines: quotes taken away, `<br>` and `\n` end a line.
fn label(text: &str) -> Result<Vec<String>, Fault> {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    if text.chars().count() > DIAGRAM_LABEL_CHARS_MAX {
        return Err(told(format!("a label of more than {DIAGRAM_LABEL_CHARS_MAX} characters; shorten it")));
    }
    let text = text.replace("<br/>", "\n").replace("<br>", "\n").replace("<br />", "\n").replace("\\n", "\n");
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(source: &str) -> Drawing {
        draw(source, 10).unwrap_or_else(|problem| panic!("{}: {}", problem.line, problem.fault))
    }

    #[test]
    fn a_flowchart_is_drawn_and_told() {
        // G57
        let drawing = drawn(
            "flowchart TB\n  %% a comment\n  subgraph outer [The outside]\n    A[Browser] --> B(Server)\n  end\n  B -->|asks| C{OK?}\n  \
             C -- yes --> D[(Store)]\n  C -. no .-> A\n  A & B ==> E([End])\n",
        );
        assert_eq!(drawing.title, "Flowchart with 5 boxes and 6 arrows");
        assert_eq!(drawing.words[0], "Group The outside: Browser, Server");
        assert!(drawing.words.contains(&"Server → OK? (asks)".to_owned()), "{:?}", drawing.words);
        assert!(drawing.words.contains(&"OK? → Browser (no)".to_owned()));
        assert!(drawing.light.contains(">Browser</text>") && !drawing.light.contains("style="));
        assert_eq!(drawn("graph LR\nA-->B").light, drawn("graph LR\nA-->B").light);
    }

    #[test]
    fn a_sequence_is_drawn_and_told_with_numbers_and_loops() {
        let drawing = drawn(
            "sequenceDiagram\n  autonumber\n  participant U as User\n  participant S\n  U->>S: hello\n  loop until done\n    S-->>U: more\n  end\n  \
             Note over U,S: both\n  alt good\n  S->>S: keep\n  else bad\n  S-xU: lost\n  end\n",
        );
        assert_eq!(drawing.title, "Sequence diagram with 2 participants and 4 messages");
        assert_eq!(
            drawing.words,
            [
                "1. User to S: hello",
                "loop: until done",
                "2. S to User: more",
                "end of loop",
                "note over User, S: both",
                "alt: good",
                "3. S to S: keep",
                "else: bad",
                "4. S to User: lost",
                "end of alt",
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (source, line, said) in [
            ("pie\n\"a\": 1", 10, "no kind that is drawn"),
            ("", 10, "it is empty"),
            ("flowchart XY", 10, "no direction"),
            ("flowchart TB\nA --> B\nclassDef x fill:#fff", 12, "classDef"),
            ("flowchart TB\nA --> A", 11, "to itself"),
            ("flowchart TB\nA[b --> C", 11, "is not closed"),
            ("flowchart TB\nA --> ", 11, "a box is missing"),
            ("flowchart TB\nA ~~> B", 11, "`~~> B`"),
            ("flowchart TB\nsubgraph x", 11, "never ends"),
            ("flowchart TB\nend", 11, "ends nothing"),
            ("sequenceDiagram\nA->>+B: x", 11, "activation"),
            ("sequenceDiagram\nA->>B", 11, "has no text"),
            ("sequenceDiagram\nloop x\nA->>B: y", 11, "never ends"),
            ("sequenceDiagram\nrect rgb(0,0,0)", 11, "rect rgb"),
            ("sequenceDiagram\nelse x", 11, "`else` stands outside"),
        ] {
            let problem = draw(source, 10).unwrap_err();
            assert_eq!(problem.line, line, "{source}: {}", problem.fault);
            assert!(problem.fault.to_string().contains(said), "{source}: {}", problem.fault);
        }
        assert!(draw(&format!("graph LR\n{}", "A-->B\n".repeat(400)), 1).is_err());
    }

    #[test]
    fn a_label_is_never_markup() {
        let drawing = drawn("flowchart LR\nA[\"<script>&<br/>\"] --> B");
        assert!(drawing.light.contains("&lt;script&gt;&amp;") && !drawing.light.contains("<script"));
    }
}
