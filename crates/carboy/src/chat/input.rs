//! What is asked, and by whom: a person with a line editor, lines of a pipe, or one text of the command line.
//!
//! ```text
//!  talk ── Ask (a line, a yes or no) ──▶ a thread of its own, which may block ── Said ──▶ talk
//! ```
//!
//! *Must never* take an answer to a question from what was typed or pasted before it was asked, or from a pipe.

use std::io::{BufRead, Write as _};
use std::path::PathBuf;
use std::sync::mpsc as blocking;

use rustix::termios::{LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr};
use rustyline::config::{Behavior, BellStyle, ColorMode};
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};
use tokio::sync::mpsc;

use super::history::{History, LINES_MAX};

/// Before what a person types.
pub const YOU: &str = "You: ";
/// Longest line of a pipe that is kept, in octets; the engine refuses it by its own, smaller limit.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Characters of an answer to a question.
const ANSWER_CHARS_MAX: usize = 8;
/// Ends bracketed paste, which the editor has begun.
const PASTE_OFF: &str = "\u{1b}[?2004l";

/// Where messages come from.
pub enum Source {
    /// A person at a terminal.
    Person,
    /// Lines of standard input.
    Lines,
    /// One text.
    One(String),
}

/// What is wanted of whoever is there.
enum Ask {
    Line,
    YesNo(String),
}

/// What came.
pub enum Said {
    /// A message.
    Line(String),
    /// A yes to a question.
    Yes,
    /// Anything else, to a question.
    No,
    /// Nothing more comes.
    End,
}

/// See the module.
pub struct Input {
    asks: blocking::SyncSender<Ask>,
    said: mpsc::Receiver<Said>,
    /// An answer is due.
    due: bool,
    /// The terminal as it was.
    before: Option<Termios>,
}

impl Input {
    /// Starts to listen; what a person types is kept in `history`.
    pub fn open(source: Source, history: PathBuf) -> std::io::Result<Input> {
        let (asks, asked) = blocking::sync_channel(1);
        let (tell, said) = mpsc::channel(1);
        let before = match &source {
            Source::Person => Some(tcgetattr(std::io::stdin())?),
            Source::Lines | Source::One(_) => None,
        };
        std::thread::Builder::new().name("input".into()).spawn(move || match source {
            Source::Person => person(&asked, &tell, History::open(history)),
            Source::Lines => lines(&asked, &tell),
            Source::One(text) => one(text, &asked, &tell),
        })?;
        Ok(Input { asks, said, due: false, before })
    }

    /// The next message. Dropped before it is ready, it is the next one all the same.
    pub async fn line(&mut self) -> Said {
        self.next(Ask::Line).await
    }

    /// Asks a person.
    pub async fn yes_no(&mut self, question: String) -> Said {
        self.next(Ask::YesNo(question)).await
    }

    async fn next(&mut self, ask: Ask) -> Said {
        if !self.due {
            if self.asks.try_send(ask).is_err() {
                return Said::End;
            }
            self.due = true;
        }
        let said = self.said.recv().await.unwrap_or(Said::End);
        self.due = false;
        said
    }

    /// Leaves the terminal as it was, also while somebody is typing.
    pub fn give_back(&self) {
        if let Some(before) = &self.before {
            if self.due {
                show_part!("{PASTE_OFF}\r\n");
                let _ = std::io::stdout().flush();
            }
            // Nothing can be done about a terminal that has gone away.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn one(text: String, asked: &blocking::Receiver<Ask>, tell: &mpsc::Sender<Said>) {
    for said in [Said::Line(text), Said::End] {
        if asked.recv().is_err() || tell.blocking_send(said).is_err() {
            return;
        }
    }
}

fn lines(asked: &blocking::Receiver<Ask>, tell: &mpsc::Sender<Said>) {
    let mut stdin = std::io::stdin().lock();
    while let Ok(ask) = asked.recv() {
        let said = match ask {
            Ask::Line => line_of(&mut stdin).map_or(Said::End, Said::Line),
            // A pipe is nobody.
            Ask::YesNo(_) => Said::No,
        };
        if tell.blocking_send(said).is_err() {
            return;
        }
    }
}

/// The next line without its end; of one that is too long, its beginning.
fn line_of(from: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let chunk = match from.fill_buf() {
            Ok(chunk) => chunk,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        if chunk.is_empty() && line.is_empty() {
            return None;
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let taken = &chunk[..end.unwrap_or(chunk.len())];
        line.extend_from_slice(&taken[..taken.len().min(LINE_BYTES_MAX.saturating_sub(line.len()))]);
        let (used, over) = (end.map_or(chunk.len(), |end| end + 1), end.is_some() || chunk.is_empty());
        from.consume(used);
        if over {
            let text = String::from_utf8_lossy(&line);
            return Some(text.strip_suffix('\r').unwrap_or(&text).to_owned());
        }
    }
}

fn person(asked: &blocking::Receiver<Ask>, tell: &mpsc::Sender<Said>, mut history: History) {
    let Ok(mut editor) = editor(&history) else {
        let _ = asked.recv().map(|_| tell.blocking_send(Said::End));
        return;
    };
    while let Ok(ask) = asked.recv() {
        let said = match ask {
            Ask::YesNo(question) => yes_no(&question),
            Ask::Line => match editor.readline(YOU) {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        history.keep(&line);
                        let _ = editor.add_history_entry(&line);
                    }
                    Said::Line(line)
                }
                // Ctrl-C, Ctrl-D, or a terminal that has gone.
                Err(_) => Said::End,
            },
        };
        if tell.blocking_send(said).is_err() {
            return;
        }
    }
}

fn editor(history: &History) -> rustyline::Result<Editor<(), MemHistory>> {
    let config = Config::builder()
        .max_history_size(LINES_MAX)?
        .history_ignore_space(true)
        .auto_add_history(false)
        .bracketed_paste(true)
        .behavior(Behavior::Stdio)
        .bell_style(BellStyle::None)
        .color_mode(ColorMode::Disabled)
        .build();
    let kept = MemHistory::with_config(&config);
    let mut editor = Editor::with_history(config, kept)?;
    for line in history.lines() {
        editor.add_history_entry(line)?;
    }
    Ok(editor)
}

/// Single keys, not shown by the terminal, for as long as it lives.
struct Keys(Termios);

impl Keys {
    fn begin() -> std::io::Result<Keys> {
        let before = tcgetattr(std::io::stdin())?;
        let mut keys = before.clone();
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        // What came before the question goes with it.
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &keys)?;
        tcflush(std::io::stdin(), QueueSelector::IFlush)?;
        Ok(Keys(before))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Anything but a yes is a no.
fn yes_no(question: &str) -> Said {
    let Ok(_keys) = Keys::begin() else { return Said::No };
    let mut answer = String::new();
    let show = |text: &str| {
        show_part!("{text}");
        let _ = std::io::stdout().flush();
    };
    show(question);
    loop {
        let mut key = [0];
        match rustix::io::read(std::io::stdin(), &mut key) {
            Ok(1) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Ok(_) | Err(_) => return Said::No,
        }
        match key[0] {
            b'\r' | b'\n' => break,
            // Ctrl-C, Ctrl-D.
            3 | 4 => {
                answer.clear();
                break;
            }
            8 | 127 if answer.pop().is_some() => show("\u{8} \u{8}"),
            key if (key.is_ascii_graphic() || key == b' ') && answer.len() < ANSWER_CHARS_MAX => {
                answer.push(char::from(key));
                show(&char::from(key).to_string());
            }
            _ => {}
        }
    }
    show("\n");
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Said::Yes,
        _ => Said::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_pipe_are_bounded_and_the_next_one_is_whole() {
        let long = "x".repeat(LINE_BYTES_MAX + 100);
        let mut from = std::io::BufReader::with_capacity(7, std::io::Cursor::new(format!("one\r\n{long}\n\nlast")));
        assert_eq!(line_of(&mut from).as_deref(), Some("one"));
        assert_eq!(line_of(&mut from).map(|line| line.len()), Some(LINE_BYTES_MAX));
        assert_eq!(line_of(&mut from).as_deref(), Some(""));
        assert_eq!(line_of(&mut from).as_deref(), Some("last"));
        assert_eq!(line_of(&mut from), None);
    }
}
