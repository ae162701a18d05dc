//! The person's terminal: questions, raw mode, its window. And this process's pipes, joined to a program's.
//!
//! ```text
//! stdin ──► program's stdin      stdout/stderr ◄── program's
//! ```
//!
//! Raw mode is left again whatever happens, also on a panic. *Must never* hand a descriptor of the host into the
//! bottle: everything is copied.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Bytes copied at once.
const COPY_BYTES: usize = 64 * 1024;

/// Is there a person at both ends?
pub fn is_interactive() -> bool {
    rustix::termios::isatty(std::io::stdin()) && rustix::termios::isatty(std::io::stdout())
}

/// The path of this process's terminal, when standard error is one.
pub fn name() -> Option<PathBuf> {
    if !rustix::termios::isatty(std::io::stderr()) {
        return None;
    }
    let name = rustix::termios::ttyname(std::io::stderr(), Vec::new()).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(name.as_bytes())))
}

/// Rows and columns of the window; 24 × 80 where the terminal does not say.
pub fn window() -> (u16, u16) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        Ok(_) | Err(_) => (24, 80),
    }
}

/// Asks a question on the terminal; an error when there is none. The answer is not shown: it may be a secret.
pub fn ask(question: &str) -> std::io::Result<String> {
    if !rustix::termios::isatty(std::io::stdin()) {
        return Err(std::io::ErrorKind::NotConnected.into());
    }
    let before = tcgetattr(std::io::stdin())?;
    let mut silent = before.clone();
    silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
    tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent)?;
    // Only now: whoever sees the question may type at once, and nothing of it is shown.
    say_part!("{question}");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    tcsetattr(std::io::stdin(), OptionalActions::Flush, &before)?;
    say!("");
    match read? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer.trim_end_matches(['\n', '\r']).to_owned()),
    }
}

/// Asks yes or no on the terminal; an error when there is none. Anything but a yes is a no. The question stands on standard
/// error, so a person who does not see that is not asked.
pub fn confirm(question: &str) -> std::io::Result<bool> {
    if !rustix::termios::isatty(std::io::stdin()) || !rustix::termios::isatty(std::io::stderr()) {
        return Err(std::io::ErrorKind::NotConnected.into());
    }
    say_part!("{question}");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Keeps the terminal raw for as long as it lives.
pub struct RawMode(Termios);

impl RawMode {
    /// Switches standard input to raw mode.
    pub fn enter() -> std::io::Result<RawMode> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(RawMode(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that has gone away.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// The copying threads of one run.
pub struct Relay {
    outputs: Vec<JoinHandle<()>>,
    input_stop: OwnedFd,
}

impl Relay {
    /// Joins the standard streams to three pipes.
    pub fn pipes(stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> std::io::Result<Relay> {
        let (input_stop, stopped) = rustix::pipe::pipe()?.into_stop_pair();
        std::thread::spawn(move || copy_input(File::from(stdin), &stopped));
        let outputs = vec![
            std::thread::spawn(move || {
                copy(&mut File::from(stdout), std::io::stdout());
            }),
            std::thread::spawn(move || {
                copy(&mut File::from(stderr), std::io::stderr());
            }),
        ];
        Ok(Relay { outputs, input_stop })
    }

    /// Waits until the program's output is copied to its end.
    pub fn finish(self) {
        drop(self.input_stop);
        for output in self.outputs {
            // A panic in a copying thread has already been reported by the runtime.
            let _ = output.join();
        }
    }
}

trait IntoStopPair {
    fn into_stop_pair(self) -> (OwnedFd, OwnedFd);
}

impl IntoStopPair for (OwnedFd, OwnedFd) {
    /// The write end ends the wait of the read end when it is dropped.
    fn into_stop_pair(self) -> (OwnedFd, OwnedFd) {
        (self.1, self.0)
    }
}

/// Copies until one side ends. The pipe is closed when nobody reads (`| head`): the program then meets SIGPIPE, as it
/// would without a bottle around it.
fn copy(from: &mut File, mut to: impl Write) {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if to.write_all(&buffer[..n]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// What a wait for standard input ended with.
pub enum Waited {
    /// There is something to read, or its end.
    Input,
    /// Nothing more is wanted.
    Stopped,
}

/// Waits for standard input, until the other end of `stopped` is dropped. A poll, so that no read of the terminal is left
/// behind that would eat the shell's next line.
pub fn wait_for_input(stopped: &OwnedFd) -> Waited {
    let stdin = std::io::stdin();
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return Waited::Stopped,
            Ok(_) if !fds[0].revents().is_empty() => return Waited::Input,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Waited::Stopped,
        }
    }
}

/// Copies standard input until it ends or the run does.
fn copy_input(mut to: File, stopped: &OwnedFd) {
    let stdin = std::io::stdin();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let Waited::Input = wait_for_input(stopped) else { return };
        match rustix::io::read(stdin.as_fd(), &mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if to.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        }
    }
}
