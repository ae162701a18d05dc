//! What a person or a pipe reads: sentences as they are released, tools at work, cards, refusals.
//!
//! ```text
//!                 a person at a terminal                    between pipes
//!  stdout   `Agent: ` and sentences as they come      each reply, whole, and nothing else
//!  stderr   tools at work, dimmed                      tools at work, cards, the banner
//! ```
//!
//! Lines for a terminal are broken between words; what goes to a pipe stays as it was said.
//!
//! *Must never* print a character that moves a cursor, changes a colour or turns a line around: words of a model, of a tool
//! and of a server pass [`shown`] first. *Must never* let the offline model speak at a terminal without saying so.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use carboy_control::chat::{Card, Reply, StepPhase, TurnEvent};
use carboy_control::summary::Summary;
use carboy_core::chat::ChatSpec;

use super::banner::banner;
use super::input::{Source, YOU};
use super::words;
use crate::report::{Flow, Palette, columns, printable, width, wrapped};

/// Before what an agent says.
const AGENT: &str = "Agent: ";
/// Before what the offline model says at a terminal.
const OFFLINE: &str = "[offline model] ";
/// What is said once of it.
const OFFLINE_NOTE: &str = "offline model: answers come from rules on this machine, no provider is asked";

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Person,
    Pipe,
}

/// See the module.
pub struct Page {
    reader: Reader,
    offline: bool,
    /// What code says in the place of a model, sentence or not.
    codes: [String; 2],
    now: Mutex<Now>,
    gone: AtomicBool,
}

/// Where the page stands in a turn.
#[derive(Default)]
struct Now {
    /// A reply's line was begun and has no end yet.
    begun: bool,
    /// Where that line has come to.
    flow: Flow,
    /// For a pipe: what is printed before the reply.
    before: String,
}

/// Text of somebody else's, without what only a terminal reads. Lines stay; so do the joiners of scripts and pictures.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.replace("\r\n", "\n");
    rest.retain(|c| c != '\0');
    for c in rest.chars() {
        match c {
            '\n' | '\u{200c}' | '\u{200d}' => out.push(c),
            '\t' => out.push(' '),
            c => out.push_str(&printable(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out
}

/// For the window behind standard output, when there is one.
fn flowing(text: &str) -> String {
    Flow::whole(text, columns(std::io::stdout()))
}

impl Page {
    /// For whoever is at the other end.
    pub fn new(source: &Source, offline: bool, spec: &ChatSpec) -> Page {
        let reader = match source {
            Source::Person => Reader::Person,
            Source::Lines | Source::One(_) => Reader::Pipe,
        };
        let codes = [spec.prompt.hand_off.clone(), spec.prompt.fallback.clone()];
        Page { reader, offline, codes, now: Mutex::default(), gone: AtomicBool::new(false) }
    }

    /// Is somebody there who can be asked?
    pub fn is_person(&self) -> bool {
        self.reader == Reader::Person
    }

    /// Has whoever read it gone away?
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// The banner, and the greeting of a conversation that begins.
    pub fn opening(&self, spec: &ChatSpec, goes_on: bool) {
        match self.reader {
            Reader::Pipe => say_part!("{}", banner(spec, columns(std::io::stderr()))),
            Reader::Person => self.out(&banner(spec, columns(std::io::stdout()))),
        }
        if self.offline {
            self.note(OFFLINE_NOTE);
        }
        if self.is_person() && !goes_on && !spec.greeting.is_empty() {
            self.out(&flowing(&format!("{AGENT}{}\n", shown(&spec.greeting))));
        }
    }

    /// What happens while a turn runs.
    pub fn event(&self, event: TurnEvent) {
        match event {
            TurnEvent::Step { tool, phase } => match phase {
                StepPhase::Started => self.note(&format!("· {tool}")),
                StepPhase::Failed => self.note(&format!("· {tool}: not done")),
                StepPhase::Waits => self.note(&format!("· {tool}: waits for you")),
                StepPhase::WaitsForOperator => self.note(&format!("· {tool}: waits for the operator (carboy approve)")),
                StepPhase::Done => {}
            },
            TurnEvent::Invalid { tool: _, field, problem } => self.invalid(&field, &problem),
            TurnEvent::Sentence(text) => match self.reader {
                Reader::Person => self.sentence(&text),
                Reader::Pipe => {}
            },
            TurnEvent::Replace(text) => match self.reader {
                Reader::Person => {
                    self.note("what stands above is withdrawn: it did not pass a check");
                    self.sentence(&text);
                }
                Reader::Pipe => {}
            },
            // It is shown with its question, when the turn is over.
            TurnEvent::Card(_) => {}
        }
    }

    fn sentence(&self, text: &str) {
        let mut now = self.now();
        let text = if now.begun { text } else { text.trim_start() };
        let lead = match (now.begun, self.offline && !self.codes.iter().any(|code| code == text)) {
            (true, _) => String::new(),
            (false, true) => format!("{AGENT}{OFFLINE}"),
            (false, false) => AGENT.to_owned(),
        };
        now.begun = true;
        let piece = now.flow.piece(&format!("{lead}{}", shown(text)), columns(std::io::stdout()));
        self.out(&piece);
    }

    fn invalid(&self, field: &str, problem: &str) {
        let text = words::invalid_arguments(field, problem);
        match self.reader {
            Reader::Person => self.say(&text),
            Reader::Pipe => {
                let text = shown(&text);
                let before = &mut self.now().before;
                // A model that asks for the same again is refused the same again.
                if !before.contains(&text) {
                    before.push_str(&text);
                    before.push('\n');
                }
            }
        }
    }

    /// The end of a turn.
    pub fn reply(&self, reply: &Reply) {
        match self.reader {
            Reader::Person => {
                if self.now().begun {
                    self.end_line();
                } else {
                    // No sentence came: these are words of code's.
                    self.say(&reply.text);
                }
            }
            Reader::Pipe => {
                let before = std::mem::take(&mut self.now().before);
                self.out(&flowing(&format!("{before}{}\n", shown(&reply.text))));
            }
        }
    }

    /// Something that code says in the place of a reply.
    pub fn say(&self, text: &str) {
        self.end_line();
        let lead = if self.is_person() { AGENT } else { "" };
        let before = std::mem::take(&mut self.now().before);
        self.out(&flowing(&format!("{before}{lead}{}\n", shown(text))));
    }

    /// A line of a conversation that goes on.
    pub fn earlier(&self, who: &str, text: &str) {
        let text = flowing(&format!("{who}{}", shown(text)));
        self.out(&format!("{}\n", Palette::stdout().faint(&text)));
    }

    /// An action that waits, as code made it from its arguments.
    pub fn card(&self, card: &Card) {
        let mut text = format!("\n  {}\n", shown(&card.title));
        let longest = card.rows.iter().map(|(name, _)| width(&shown(name))).max().unwrap_or(0);
        for (name, value) in &card.rows {
            let name = shown(name);
            let value = shown(value).replace('\n', &format!("\n    {:longest$}  ", ""));
            text.push_str(&format!("    {name}{:1$}  {value}\n", "", longest - width(&name)));
        }
        match self.reader {
            Reader::Person => self.out(&wrapped(&text, columns(std::io::stdout()))),
            Reader::Pipe => say_part!("{}", wrapped(&text, columns(std::io::stderr()))),
        }
    }

    /// A word aside.
    pub fn note(&self, text: &str) {
        self.end_line();
        say!("{}", Palette::stderr().faint(&Flow::whole(&shown(text), columns(std::io::stderr()))));
    }

    /// Something that came without a question: whoever types goes on typing below it.
    pub fn aside(&self, text: &str) {
        match self.reader {
            Reader::Person => {
                let text = flowing(&format!("{AGENT}{}", shown(text)));
                self.out(&format!("\r\n{}\r\n{YOU}", text.replace('\n', "\r\n")));
            }
            Reader::Pipe => self.out(&flowing(&format!("{}\n", shown(text)))),
        }
    }

    /// What it came to.
    pub fn closing(&self, summary: &Summary) {
        if self.is_person() {
            let (requests, run) = (summary.requests, &summary.run);
            let times = if requests == 1 { "request" } else { "requests" };
            self.note(&format!("carboy: {run} ended after {requests} {times}; carboy logs {run}"));
        }
    }

    fn end_line(&self) {
        let mut now = self.now();
        if std::mem::take(&mut now.begun) {
            now.flow = Flow::default();
            self.out("\n");
        }
    }

    fn out(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            self.gone.store(true, Ordering::Relaxed);
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_move_no_cursor_and_turn_no_line_around() {
        for (said, want) in [
            ("plain, ünïcode, 👩‍💻", "plain, ünïcode, 👩‍💻"),
            ("two\r\nlines\tand", "two\nlines and"),
            ("\u{1b}[31mred\u{1b}]0;title\u{7}", "\\u{1b}[31mred\\u{1b}]0;title\\u{7}"),
            ("over\rwritten\u{8}", "over\\rwritten\\u{8}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("nul\0", "nul"),
        ] {
            assert_eq!(shown(said), want);
        }
    }
}
