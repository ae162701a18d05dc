//! A program of the person's own that runs beside a proxy, at the same terminal: not sandboxed, and not captured.
//!
//! It is started as a shell would start it: looked up on `PATH`, in the directory that the person is in, with their streams,
//! and with some variables changed. *Must never* be a program that anybody but the person at the command line has named.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Its handle, for signals. The program goes on when this is dropped.
pub struct Beside {
    /// No other process is ever meant by it, as could be by its number.
    process: OwnedFd,
}

/// What is waited for, once.
pub struct Waiting(Child);

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(u8),
    /// By a signal.
    Signal(u8),
}

impl Waiting {
    /// Blocks until it has ended.
    ///
    /// # Errors
    /// When somebody else has taken its status.
    pub fn wait(mut self) -> io::Result<Exit> {
        let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
        let status = self.0.wait()?;
        Ok(match status.code() {
            Some(code) => Exit::Code(byte(code)),
            None => Exit::Signal(byte(status.signal().unwrap_or(0))),
        })
    }
}

impl Beside {
    /// Starts it; `set` and `unset` are what its environment has more and less than this process's.
    ///
    /// # Errors
    /// When there is no such program, or it cannot be executed.
    pub fn start(argv: &[String], set: &[(String, String)], unset: &[&str]) -> io::Result<(Beside, Waiting)> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments);
        for name in unset {
            command.env_remove(name);
        }
        let child = command.envs(set.iter().map(|(name, value)| (name, value))).spawn()?;
        // Nobody has waited for it yet, so the number is still its own.
        let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let process = pidfd_open(number, PidfdFlags::empty())?;
        Ok((Beside { process }, Waiting(child)))
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        // It may have ended by itself in the meantime.
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn it_has_the_variables_and_ends_with_its_own_code_or_when_it_is_asked() {
        let set = [("ONLY_HERE".to_owned(), "a".to_owned())];
        let script = "test \"$ONLY_HERE\" = a && test -z \"$HOME\" && exit 7";
        let (_, waiting) = Beside::start(&sh(script), &set, &["HOME"]).unwrap();
        assert_eq!(waiting.wait().unwrap(), Exit::Code(7));
        let (one, waiting) = Beside::start(&sh("exec sleep 60"), &[], &[]).unwrap();
        one.ask_to_end();
        assert_eq!(waiting.wait().unwrap(), Exit::Signal(15));
        // It has ended, and its number may be another's: nobody is killed.
        one.kill();
        assert_eq!(Beside::start(&["no-such-program".into()], &[], &[]).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
