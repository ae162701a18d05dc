//! A person, or a pipe, attached to a run that lives.
//!
//! ```text
//! terminal ── typed bytes, window, signals ──► supervisor      terminal ◄── output, words of carboy's, the end ── supervisor
//! ```
//!
//! *Must never* leave the terminal raw, in the modes of the program, or with somebody else's cursor: whatever ends this,
//! it is given back.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use carboy_control::session::End;
use carboy_control::session::escapes::Follow;
use carboy_control::session::frames::{self, ANSWER_BYTES_MAX, Kind};
use serde::{Deserialize, Serialize};

use crate::terminal::{self, RawMode, Waited, wait_for_input};

/// Bytes of input taken at once.
const INPUT_BYTES: usize = 16 * 1024;

/// The key that leaves a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DetachKey {
    /// The control key with this character (`@`, `A` to `Z`, `[`, `\`, `]`, `^`, `_`).
    Control(u8),
    /// There is none.
    Nothing,
}

impl Default for DetachKey {
    fn default() -> DetachKey {
        DetachKey::Control(b']')
    }
}

impl From<DetachKey> for String {
    fn from(key: DetachKey) -> String {
        match key {
            DetachKey::Control(key) => format!("ctrl-{}", char::from(key)),
            DetachKey::Nothing => "none".into(),
        }
    }
}

impl TryFrom<String> for DetachKey {
    type Error = String;

    fn try_from(text: String) -> Result<DetachKey, String> {
        text.parse()
    }
}

impl FromStr for DetachKey {
    type Err = String;

    fn from_str(text: &str) -> Result<DetachKey, String> {
        let lower = text.to_ascii_lowercase();
        if lower == "none" {
            return Ok(DetachKey::Nothing);
        }
        let key = lower.strip_prefix("ctrl-").or_else(|| lower.strip_prefix('^'));
        match key.map(str::as_bytes) {
            Some([key @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => {
                Ok(DetachKey::Control(key.to_ascii_uppercase()))
            }
            Some(_) | None => Err("`ctrl-]`, `ctrl-` with another character, or `none`".into()),
        }
    }
}

impl std::fmt::Display for DetachKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DetachKey::Control(key) => write!(f, "Ctrl-{}", char::from(*key)),
            DetachKey::Nothing => f.write_str("no key"),
        }
    }
}

impl DetachKey {
    /// Where the key stands in what was typed. A program may have asked the terminal to send keys as sequences (kitty's
    /// protocol, xterm's modifyOtherKeys); then the key is one of those.
    fn find(self, typed: &[u8]) -> Option<usize> {
        let DetachKey::Control(key) = self else { return None };
        let (code, lower) = (key & 0x1f, key.to_ascii_lowercase());
        let forms = [vec![code], format!("\x1b[{lower};5u").into_bytes(), format!("\x1b[27;5;{lower}~").into_bytes()];
        forms.iter().filter_map(|form| typed.windows(form.len()).position(|w| w == form)).min()
    }
}

/// Why a client is not attached any more.
#[derive(Debug, PartialEq)]
pub enum Left {
    /// The run, or the command, ended.
    Ended(End),
    /// The detach key, or a signal that asks to leave.
    ByHand,
    /// Our own terminal or reader has gone.
    Unread,
    /// The other side hung up without a word.
    HungUp,
}

/// What is done with standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The terminal is raw, and what is typed goes to the program.
    Terminal(DetachKey),
    /// Copied to its end.
    Pipe,
    /// Left alone.
    Nothing,
}

const STAYING: u8 = 0;
const BY_HAND: u8 = 1;
const LOST: u8 = 2;

/// The client's side of the socket, for whoever has something to say on it.
#[derive(Clone)]
pub struct Line {
    stream: Arc<UnixStream>,
    turn: Arc<Mutex<()>>,
    leaving: Arc<AtomicU8>,
}

impl Line {
    /// Of a conversation that has just been opened.
    pub fn new(stream: UnixStream) -> Line {
        Line { stream: Arc::new(stream), turn: Arc::default(), leaving: Arc::new(AtomicU8::new(STAYING)) }
    }

    /// Says something. A supervisor that is gone is noticed where its answers are read.
    pub fn say(&self, kind: Kind, payload: &[u8]) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = frames::write(self.stream.as_ref(), kind, payload);
    }

    /// Tells the program's terminal how large the window is now.
    pub fn resized(&self) {
        let (rows, cols) = terminal::window();
        self.say(Kind::Resize, &frames::window(rows, cols));
    }

    /// Leaves; the run goes on.
    pub fn leave(&self) {
        self.go(BY_HAND);
    }

    /// The same when the terminal has gone: there is nobody to say anything to.
    pub fn lose(&self) {
        self.go(LOST);
    }

    fn go(&self, why: u8) {
        self.leaving.store(why, Ordering::Release);
        // Wakes whoever reads; a socket that is closed already is left already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Stays until something ends it. Blocks.
pub fn stay(line: &Line, input: Input) -> io::Result<Left> {
    let raw = match input {
        Input::Terminal(_) => Some(RawMode::enter()?),
        Input::Pipe | Input::Nothing => None,
    };
    let (stopped, stop) = rustix::pipe::pipe()?;
    let typing = (input != Input::Nothing).then(|| {
        let line = line.clone();
        std::thread::spawn(move || take_input(&line, input, &stopped))
    });
    let mut follow = Follow::default();
    let left = show(line, &mut follow);
    drop(stop);
    if let (Some(typing), Input::Terminal(_)) = (typing, input) {
        // It waits for the terminal and for the stop alone. (A pipe's reader may be in the middle of a write.)
        let _ = typing.join();
    }
    if raw.is_some() {
        // Nothing can be done about a terminal that has gone away.
        let mut last = follow.leave();
        if matches!(left, Ok(Left::ByHand)) {
            last.extend(below_the_picture());
        }
        let _ = io::stdout().write_all(&last).and_then(|()| io::stdout().flush());
    }
    drop(raw);
    left
}

/// To where nothing of a program's picture stands: it goes on without this terminal, and its cursor may be anywhere.
fn below_the_picture() -> Vec<u8> {
    let (rows, _) = terminal::window();
    format!("\x1b[{rows};1H\r\n\x1b[J").into_bytes()
}

fn show(line: &Line, follow: &mut Follow) -> io::Result<Left> {
    loop {
        let frame = match frames::read(line.stream.as_ref(), ANSWER_BYTES_MAX) {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => {
                return Ok(match line.leaving.load(Ordering::Acquire) {
                    BY_HAND => Left::ByHand,
                    LOST => Left::Unread,
                    _ => Left::HungUp,
                });
            }
        };
        let written = match frame {
            (Kind::Output, bytes) => {
                follow.feed(&bytes);
                let mut out = io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush())
            }
            (Kind::Error, bytes) => io::stderr().write_all(&bytes),
            (Kind::Tell, words) => {
                let words = String::from_utf8_lossy(&words).replace('\n', "\r\n");
                // The terminal may be raw: a carriage return brings the cursor back.
                io::stderr().write_all(format!("\r\ncarboy: {words}\r\n").as_bytes())
            }
            (Kind::End, end) => return Ok(Left::Ended(serde_json::from_slice(&end)?)),
            (Kind::Input | Kind::Resize | Kind::Eof | Kind::Signal, _) => Ok(()),
        };
        if written.is_err() {
            return Ok(Left::Unread);
        }
    }
}

/// Until standard input ends, or the client does.
fn take_input(line: &Line, input: Input, stopped: &OwnedFd) {
    let stdin = io::stdin();
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let Waited::Input = wait_for_input(stopped) else { return };
        match (rustix::io::read(stdin.as_fd(), &mut buffer), input) {
            (Err(rustix::io::Errno::INTR), _) => {}
            (Ok(0) | Err(_), Input::Terminal(_)) => return line.lose(),
            (Ok(0) | Err(_), Input::Pipe | Input::Nothing) => return line.say(Kind::Eof, &[]),
            (Ok(n), Input::Terminal(key)) => {
                if let Some(at) = key.find(&buffer[..n]) {
                    line.say(Kind::Input, &buffer[..at]);
                    return line.leave();
                }
                line.say(Kind::Input, &buffer[..n]);
            }
            (Ok(n), Input::Pipe | Input::Nothing) => line.say(Kind::Input, &buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detach_key_is_found_however_the_terminal_sends_it() {
        let key: DetachKey = "ctrl-]".parse().unwrap();
        assert_eq!(key, DetachKey::Control(b']'));
        assert_eq!(key.find(b"ab\x1dc"), Some(2));
        assert_eq!(key.find(b"\x1b[93;5u"), Some(0));
        assert_eq!(key.find(b"x\x1b[27;5;93~"), Some(1));
        assert_eq!(key.find(b"]"), None);
        assert_eq!("none".parse::<DetachKey>().unwrap().find(b"\x1d"), None);
        assert_eq!("^Q".parse(), Ok(DetachKey::Control(b'Q')));
        assert!("ctrl-1".parse::<DetachKey>().is_err() && "x".parse::<DetachKey>().is_err());
    }
}
