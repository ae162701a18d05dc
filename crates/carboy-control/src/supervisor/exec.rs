//! A command more in a bottle that lives, for a client of the control socket.
//!
//! ```text
//! client ── input, window, signals ──► command       client ◄── output ── command, at the client's pace
//! ```
//!
//! *Must never* outlive its client: when that one goes, the command is hung up and, after [`HANG_UP_GRACE`], killed.

use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carboy_bottle::{Bottle, Exec, ExecRequest, ExitOutcome, Stdio};
use carboy_core::plan::StdioMode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::registry::ExecAsked;
use crate::session::End;
use crate::session::frames::{self, INPUT_BYTES_MAX, Kind};

/// How long a command may take to end when its client has gone.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);
/// After the command's end: its output is over when nothing comes for this long, whoever still holds it open.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Bytes copied at once.
const PIECE_BYTES: usize = 16 * 1024;

/// Starts the command and stays with it until it has ended and its client knows.
pub(super) fn carry_on(bottle: &Bottle, asked: ExecAsked, stream: UnixStream) {
    let stdio = match asked.terminal {
        Some((rows, cols)) => StdioMode::Terminal { rows, cols },
        None => StdioMode::Pipes,
    };
    let request =
        ExecRequest { command: asked.command, env: asked.env.into_iter().collect(), workdir: asked.workdir, stdio };
    let end = match bottle.exec(&request) {
        Ok(exec) => follow(exec, &stream),
        Err(error) => match error.raw_os_error() {
            Some(errno) => End::NotStarted(shell_code(ExitOutcome::NotStarted(errno))),
            None => End::Failed { message: error.to_string() },
        },
    };
    // A client that has gone does not want to know.
    let _ = serde_json::to_vec(&end).map(|end| frames::write(&stream, Kind::End, &end));
    let _ = stream.shutdown(Shutdown::Write);
}

fn shell_code(outcome: ExitOutcome) -> u8 {
    u8::try_from(outcome.shell_code() & 0xff).unwrap_or(u8::MAX)
}

fn follow(mut exec: Exec, stream: &UnixStream) -> End {
    let (input, sources) = match exec.take_stdio() {
        Some(Stdio::Terminal(master)) => match master.try_clone() {
            Ok(input) => (input, vec![(Kind::Output, master)]),
            Err(error) => return failed(&exec, &error),
        },
        Some(Stdio::Pipes { stdin, stdout, stderr }) => (stdin, vec![(Kind::Output, stdout), (Kind::Error, stderr)]),
        None => return End::Failed { message: "the command has no streams".into() },
    };
    let (ended, turn) = (AtomicBool::new(false), Mutex::new(()));
    let exec = Arc::new(exec);
    let hears = match stream.try_clone() {
        Ok(hears) => hears,
        Err(error) => return failed(&exec, &error),
    };
    let hearing = exec.clone();
    // It ends with its client, which may be later than this function does.
    let heard = std::thread::Builder::new().name("exec in".into()).spawn(move || hear(&hearing, &hears, input));
    if let Err(error) = heard {
        return failed(&exec, &error);
    }
    let outcome = std::thread::scope(|scope| {
        for (kind, source) in sources {
            let (ended, turn) = (&ended, &turn);
            scope.spawn(move || copy(&source, kind, stream, turn, ended));
        }
        let outcome = exec.wait();
        ended.store(true, Ordering::Release);
        outcome
    });
    End::Command(shell_code(outcome))
}

fn failed(exec: &Exec, error: &std::io::Error) -> End {
    let _ = exec.signal(rustix::process::Signal::KILL.as_raw());
    End::Failed { message: format!("the command was started and could not be followed: {error}") }
}

/// Until the stream ends, or is quiet after the command's end. When nobody reads any more the output goes nowhere: the
/// command is being hung up, and may have something to say about it before it ends.
fn copy(source: &OwnedFd, kind: Kind, stream: &UnixStream, turn: &Mutex<()>, ended: &AtomicBool) {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut is_read = true;
    loop {
        match poll(&mut [PollFd::new(source, PollFlags::IN)], Some(&QUIET)) {
            Ok(0) if ended.load(Ordering::Acquire) => return,
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        match rustix::io::read(source, &mut buffer) {
            Ok(0) => return,
            Ok(n) if is_read => {
                // One frame at a time.
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                is_read = frames::write(stream, kind, &buffer[..n]).is_ok();
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Until the client goes; then the command is hung up.
fn hear(exec: &Exec, stream: &UnixStream, input: OwnedFd) {
    let mut input = Some(File::from(input));
    while let Ok(Some((kind, payload))) = frames::read(stream, INPUT_BYTES_MAX) {
        match kind {
            Kind::Input => {
                // A command that has closed its input is not disturbed by more of it.
                let taken = input.as_mut().is_some_and(|to| to.write_all(&payload).is_ok());
                if !taken {
                    input = None;
                }
            }
            Kind::Eof => input = None,
            Kind::Resize => {
                if let Some((rows, cols)) = frames::size(&payload) {
                    let _ = exec.resize(rows, cols);
                }
            }
            Kind::Signal => {
                if let [signal] = payload[..] {
                    let _ = exec.signal(i32::from(signal));
                }
            }
            Kind::Output | Kind::Error | Kind::Tell | Kind::End => {}
        }
    }
    // Ended already, for most.
    if exec.signal(rustix::process::Signal::HUP.as_raw()).is_ok() {
        std::thread::sleep(HANG_UP_GRACE);
        let _ = exec.signal(rustix::process::Signal::KILL.as_raw());
    }
}
