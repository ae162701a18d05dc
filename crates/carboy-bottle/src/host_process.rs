//! Processes on the host's side: a secret's command, and carboy itself started apart from its terminal. Not sandboxed, so
//! a command comes from the operator's settings alone, never from a bottle or a checked-out repository.
//!
//! *Must never* go through a shell: arguments are passed as they are. *Must never* start a program by its name alone, or in
//! the directory that somebody is in: see [`program`].

pub mod beside;
pub mod program;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use program::{Fence, Program};

/// Most output that is taken, in bytes.
pub const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// Most bytes of a line that is passed on.
pub const LINE_BYTES_MAX: usize = 1024;
/// How often a program that is listened to is asked whether it has ended.
const HEARD_POLL: Duration = Duration::from_millis(50);
/// Longest wait for a program that was asked to end, and for the last words of one that has.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a command that has closed its output is asked whether it has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// Why a command gave no output.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no program.
    #[error("has no program")]
    Empty,
    /// It is named by a path that begins nowhere.
    #[error(
        "is a relative path, and commands of the host run in /: give its absolute path, or its name alone when it is on PATH"
    )]
    Relative,
    /// It is there, and a bottle may write it.
    #[error("would be {program}, below {place}, where what runs in the bottle may have put it: keep it elsewhere")]
    Reached {
        /// Where it is found.
        program: PathBuf,
        /// The place that is the bottle's.
        place: PathBuf,
    },
    /// It cannot be started.
    #[error("cannot be started: {0}")]
    Start(std::io::Error),
    /// It took too long and was killed.
    #[error("did not end within {0:?} and was killed")]
    TooLong(Duration),
    /// Somebody wanted no more of it.
    #[error("was stopped")]
    Stopped,
    /// It printed too much.
    #[error("printed more than {OUTPUT_BYTES_MAX} bytes")]
    TooMuch,
    /// It failed.
    #[error("ended with {0}")]
    Failed(std::process::ExitStatus),
}

/// Runs a command to its end and gives its standard output. Standard input is empty; standard error goes to the
/// person, because password managers ask there. Its working directory is `/`.
///
/// # Errors
/// When it cannot be started, fails, takes too long or prints too much.
pub fn output(program: &Program, arguments: &[String], wait_max: Duration) -> Result<Vec<u8>, CommandError> {
    let child = program
        .command()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(CommandError::Start)?;
    collected(child, wait_max)
}

/// A program of the person's own that is asked about itself: its version, its configuration.
#[derive(Clone, Copy)]
pub struct Inquiry<'a> {
    /// Program, by its path, and arguments.
    pub argv: &'a [String],
    /// Where it is started. Many programs read a configuration from there, and some run what it names: never a
    /// directory that holds what somebody else has written, a checked-out repository above all.
    pub dir: &'a Path,
    /// Its whole environment.
    pub environment: &'a BTreeMap<OsString, OsString>,
    /// Longest time that it may take.
    pub wait_max: Duration,
}

/// Asks a program of the host and gives its standard output; what it says on standard error is dropped.
///
/// # Errors
/// When it cannot be started, fails, takes too long or prints too much.
pub fn inquire(inquiry: &Inquiry<'_>) -> Result<Vec<u8>, CommandError> {
    let (program, arguments) = inquiry.argv.split_first().ok_or(CommandError::Empty)?;
    let child = Command::new(program)
        .args(arguments)
        .current_dir(inquiry.dir)
        .env_clear()
        .envs(inquiry.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(CommandError::Start)?;
    collected(child, inquiry.wait_max)
}

/// The standard output of a process, to its end.
fn collected(mut child: Child, wait_max: Duration) -> Result<Vec<u8>, CommandError> {
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

/// A program that runs for a while and is listened to.
#[derive(Clone, Copy)]
pub struct Heard<'a> {
    /// Set by somebody else when it is to end.
    pub stop: &'a AtomicBool,
    /// Longest time that it may take.
    pub wait_max: Duration,
}

/// Runs a program of the person's own to its end; `hear` gets each line of what it prints on either stream, the first
/// [`LINE_BYTES_MAX`] bytes of it. Standard input is empty, the working directory is `/`.
///
/// # Errors
/// When it cannot be started, fails, takes too long or is stopped; it has ended in any case, its children perhaps not.
pub fn run_heard(
    program: &Program,
    arguments: &[String],
    how: &Heard<'_>,
    hear: impl Fn(&str) + Clone + Send + 'static,
) -> Result<(), CommandError> {
    let mut child = program
        .command()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(CommandError::Start)?;
    let outputs: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|out| Box::new(out) as _)];
    // A child of the program may hold the streams open; nobody waits for these threads then.
    let ears: Vec<_> = outputs
        .into_iter()
        .flatten()
        .map(|output| {
            let hear = hear.clone();
            std::thread::spawn(move || lines(output, hear))
        })
        .collect();
    let deadline = Instant::now() + how.wait_max;
    let ended = loop {
        match child.try_wait().map_err(CommandError::Start)? {
            Some(status) if status.success() => break Ok(()),
            Some(status) => break Err(CommandError::Failed(status)),
            None if how.stop.load(Ordering::Relaxed) => break Err(CommandError::Stopped),
            None if Instant::now() >= deadline => break Err(CommandError::TooLong(how.wait_max)),
            None => std::thread::sleep(HEARD_POLL),
        }
    };
    if ended.is_err() {
        // First as a person would: a build tool then puts away what it has begun.
        if let Ok(pid) = i32::try_from(child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
            && matches!(child.try_wait(), Ok(None))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let patience = Instant::now() + STOP_WAIT_MAX;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < patience {
                std::thread::sleep(HEARD_POLL);
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    } else {
        let patience = Instant::now() + STOP_WAIT_MAX;
        while ears.iter().any(|ear| !ear.is_finished()) && Instant::now() < patience {
            std::thread::sleep(EXIT_POLL);
        }
    }
    ended
}

fn lines(mut output: Box<dyn Read + Send>, hear: impl Fn(&str)) {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut chunk) {
        for byte in &chunk[..length] {
            match byte {
                b'\n' | b'\r' => {
                    if !line.is_empty() {
                        hear(&String::from_utf8_lossy(&line));
                    }
                    line.clear();
                }
                byte if line.len() < LINE_BYTES_MAX => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        hear(&String::from_utf8_lossy(&line));
    }
}

fn wait_until(child: &mut Child, deadline: Instant, wait_max: Duration) -> Result<(), CommandError> {
    loop {
        match child.try_wait().map_err(CommandError::Start)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(CommandError::Failed(status)),
            None if Instant::now() >= deadline => return Err(CommandError::TooLong(wait_max)),
            None => std::thread::sleep(EXIT_POLL),
        }
    }
}

/// This program, started once more.
#[derive(Debug)]
pub struct Apart {
    /// The process; it shares the terminal until it calls [`leave_terminal`].
    pub child: Child,
    /// Joined to what it gets from [`inherited_channel`].
    pub channel: UnixStream,
}

/// Starts this very program again with these arguments and, after them, the number of its end of a channel. Standard
/// input and standard error are shared, so that it can ask and complain before it leaves the terminal; standard output is
/// not. Environment and working directory are inherited.
pub fn start_apart(arguments: &[&str]) -> io::Result<Apart> {
    let (channel, theirs) = UnixStream::pair()?;
    // Only this end crosses the exec. No other process is started by this one at the same time.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let number = theirs.as_raw_fd().to_string();
    // The link leads to this program also when its file has been replaced or removed.
    let mut command = Command::new("/proc/self/exe");
    let child = command.arg0("carboy").args(arguments).arg(number).stdout(Stdio::null()).spawn()?;
    Ok(Apart { child, channel })
}

/// The channel that [`start_apart`] passed, by its number; `None` when nothing of that number is open. Once per process.
pub fn inherited_channel(number: i32) -> Option<UnixStream> {
    crate::sys::process::adopt(number).map(UnixStream::from)
}

/// Starts this very program again for good, apart from whoever starts it: in `/`, with this environment and no other, and
/// with a channel to this process as its standard input (see [`channel_at_stdin`]). What else it would say goes nowhere.
pub fn start_for_good(arguments: &[OsString], environment: &BTreeMap<OsString, OsString>) -> io::Result<Apart> {
    let (channel, theirs) = UnixStream::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg0("carboy")
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .envs(environment)
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Apart { child, channel })
}

/// The channel that [`start_for_good`] passed, before [`leave_terminal`] puts nothing in its place; an error where standard
/// input is no socket.
pub fn channel_at_stdin() -> io::Result<UnixStream> {
    let channel = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    channel.peer_addr()?;
    Ok(channel)
}

/// Leaves the terminal for good: a session of its own, without a controlling terminal, and `/dev/null` as standard input,
/// output and error. A window that is closed concerns this process no longer.
pub fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Program {
        Fence::new(&|_| None, &[]).find("sh").unwrap()
    }

    fn sh(script: &str, wait_ms: u64) -> Result<Vec<u8>, CommandError> {
        output(&shell(), &["-c".into(), script.into()], Duration::from_millis(wait_ms))
    }

    #[test]
    fn an_inquiry_sees_its_own_directory_and_environment_and_nothing_else() {
        let environment = BTreeMap::from([("ONLY".into(), "this".into())]);
        let argv = ["/bin/sh", "-c", "pwd; echo $ONLY-$PATH_OF_TEST; echo noise >&2"].map(String::from);
        let inquiry =
            Inquiry { argv: &argv, dir: Path::new("/"), environment: &environment, wait_max: Duration::from_secs(5) };
        assert_eq!(inquire(&inquiry).unwrap(), b"/\nthis-\n");
    }

    #[test]
    fn a_program_that_is_listened_to_is_heard_line_by_line_and_stopped() {
        let (said, heard) = mpsc::channel();
        let hear = move |line: &str| said.send(line.to_owned()).unwrap();
        let argv = |script: &str| ["-c", script].map(String::from);
        let stop = AtomicBool::new(false);
        let how = Heard { stop: &stop, wait_max: Duration::from_secs(10) };
        run_heard(&shell(), &argv("echo one; printf 'two' >&2; sleep 0.1"), &how, hear.clone()).unwrap();
        let mut lines: Vec<String> = heard.try_iter().collect();
        lines.sort();
        assert_eq!(lines, ["one", "two"]);
        assert!(matches!(run_heard(&shell(), &argv("exit 3"), &how, hear.clone()), Err(CommandError::Failed(_))));
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(run_heard(&shell(), &argv("sleep 60"), &how, hear), Err(CommandError::Stopped)));
    }

    #[test]
    fn output_failure_silence_and_flood_are_told_apart() {
        assert_eq!(sh("echo value; pwd", 5000).unwrap(), b"value\n/\n");
        assert!(matches!(sh("exit 3", 5000), Err(CommandError::Failed(_))));
        assert!(matches!(sh("sleep 60", 50), Err(CommandError::TooLong(_))));
        assert!(matches!(sh("exec >&-; sleep 60", 50), Err(CommandError::TooLong(_))));
        assert!(matches!(sh("yes | head -c 70000", 5000), Err(CommandError::TooMuch)));
    }
}
