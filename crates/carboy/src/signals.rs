//! Signals of the system, and what they mean for a run.
//!
//! *Must never* take a signal that the caller had ignored: `nohup` and a script's `&` mean that it stays so.

use carboy_control::registry::{self, Question, RunRecord};
use carboy_control::session::frames::Kind;
use carboy_control::supervisor::Control;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::Line;

/// The signals that concern a run; `None` is one that stays ignored.
pub struct Heard {
    pub resized: Option<Signal>,
    pub interrupt: Option<Signal>,
    pub terminate: Option<Signal>,
    pub hangup: Option<Signal>,
}

impl Heard {
    /// Starts to listen.
    pub fn from_now_on() -> Heard {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hear = |kind| {
            let heard = !ignored(&status, kind);
            heard.then(|| signal(kind).expect("a signal handler can be set for every signal named here"))
        };
        Heard {
            resized: hear(SignalKind::window_change()),
            interrupt: hear(SignalKind::interrupt()),
            terminate: hear(SignalKind::terminate()),
            hangup: hear(SignalKind::hangup()),
        }
    }

    /// Until the first that asks for an end.
    pub async fn ending(&mut self) {
        tokio::select! {
            () = next(&mut self.interrupt) => {}
            () = next(&mut self.terminate) => {}
            () = next(&mut self.hangup) => {}
        }
    }
}

/// Passes on what reaches a run between pipes, until it is aborted.
pub async fn pass_to(mut heard: Heard, control: Control) {
    let mut asked = false;
    loop {
        tokio::select! {
            () = next(&mut heard.resized) => {}
            () = next(&mut heard.interrupt) => {
                if asked { control.kill() } else { control.signal(rustix::process::Signal::INT.as_raw()) }
                asked = true;
            }
            () = next(&mut heard.terminate) => {
                if asked { control.kill() } else { control.stop() }
                asked = true;
            }
            () = next(&mut heard.hangup) => control.stop(),
        }
    }
}

/// The same for a run with a session: no terminal's hang-up concerns it.
pub async fn pass_to_session(mut heard: Heard, control: Control) {
    let mut asked = false;
    loop {
        tokio::select! {
            () = next(&mut heard.resized) => {}
            () = next(&mut heard.hangup) => {}
            () = next(&mut heard.interrupt) => {
                if asked { control.kill() } else { control.signal(rustix::process::Signal::INT.as_raw()) }
                asked = true;
            }
            () = next(&mut heard.terminate) => {
                if asked { control.kill() } else { control.stop() }
                asked = true;
            }
        }
    }
}

/// What a client does about its own signals, until it is aborted.
pub async fn pass_to_client(mut heard: Heard, line: Line, whose: Whose) {
    let mut asked = false;
    loop {
        tokio::select! {
            () = next(&mut heard.resized) => line.resized(),
            // The window has gone: the run goes on without it.
            () = next(&mut heard.hangup) => line.lose(),
            // In raw mode Ctrl-C is a byte that the program's own terminal turns into a signal; this one was sent.
            () = next(&mut heard.interrupt) => line.say(Kind::Signal, &[2]),
            () = next(&mut heard.terminate) => match &whose {
                Whose::Looker => line.leave(),
                Whose::Owner(record) => {
                    let (record, question) = (record.clone(), if asked { Question::Kill } else { Question::Stop });
                    asked = true;
                    // A run that does not answer is seen where its output ends.
                    let _ = tokio::task::spawn_blocking(move || registry::ask(&record, &question)).await;
                }
            },
        }
    }
}

/// Whose end a client's end is.
#[derive(Clone)]
pub enum Whose {
    /// It came to look.
    Looker,
    /// It has started this run: asked to end, it ends the run.
    Owner(Box<RunRecord>),
}

/// Was carboy started with this signal ignored? `nohup` and a script's `&` mean that it stays so.
fn ignored(status: &str, kind: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (kind.as_raw_value() - 1) != 0
}

/// The next one; never, where it is ignored.
pub async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
