//! Processes on the host's side: a secret's command. Not sandboxed, so the command comes from the operator's settings
//! alone, never from a bottle or a checked-out repository.
//!
//! *Must never* go through a shell: arguments are passed as they are.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Most output that is taken, in bytes.
pub const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// How often a command that has closed its output is asked whether it has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// Why a command gave no output.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no program.
    #[error("has no program")]
    Empty,
    /// It cannot be started.
    #[error("cannot be started: {0}")]
    Start(std::io::Error),
    /// It took too long and was killed.
    #[error("did not end within {0:?} and was killed")]
    TooLong(Duration),
    /// It printed too much.
    #[error("printed more than {OUTPUT_BYTES_MAX} bytes")]
    TooMuch,
    /// It failed.
    #[error("ended with {0}")]
    Failed(std::process::ExitStatus),
}

/// Runs a command to its end and gives its standard output. Standard input is empty; standard error goes to the
/// person, because password managers ask there.
pub fn output(argv: &[String], wait_max: Duration) -> Result<Vec<u8>, CommandError> {
    let (program, arguments) = argv.split_first().ok_or(CommandError::Empty)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(CommandError::Start)?;
    let deadline = Instant::now() + wait_max;
    let stdout = child.stdout.take().expect("standard output was piped one line above");
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
        // The receiver has gone when the command took too long.
        let _ = sender.send(read.map(|_| bytes));
    });
    let ended = receiver
        .recv_timeout(wait_max)
        .map_err(|_| CommandError::TooLong(wait_max))
        .and_then(|bytes| bytes.map_err(CommandError::Start))
        .and_then(|bytes| if bytes.len() as u64 > OUTPUT_BYTES_MAX { Err(CommandError::TooMuch) } else { Ok(bytes) })
        .and_then(|bytes| wait_until(&mut child, deadline, wait_max).map(|()| bytes));
    if ended.is_err() {
        // It may have ended by itself in the meantime.
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

fn wait_until(child: &mut std::process::Child, deadline: Instant, wait_max: Duration) -> Result<(), CommandError> {
    loop {
        match child.try_wait().map_err(CommandError::Start)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(CommandError::Failed(status)),
            None if Instant::now() >= deadline => return Err(CommandError::TooLong(wait_max)),
            None => std::thread::sleep(EXIT_POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, wait_ms: u64) -> Result<Vec<u8>, CommandError> {
        output(&["sh".into(), "-c".into(), script.into()], Duration::from_millis(wait_ms))
    }

    #[test]
    fn output_failure_silence_and_flood_are_told_apart() {
        assert_eq!(sh("echo value", 5000).unwrap(), b"value\n");
        assert!(matches!(sh("exit 3", 5000), Err(CommandError::Failed(_))));
        assert!(matches!(sh("sleep 60", 50), Err(CommandError::TooLong(_))));
        assert!(matches!(sh("exec >&-; sleep 60", 50), Err(CommandError::TooLong(_))));
        assert!(matches!(sh("yes | head -c 70000", 5000), Err(CommandError::TooMuch)));
        assert!(matches!(output(&["/nonexistent/x".into()], Duration::ZERO), Err(CommandError::Start(_))));
    }
}
