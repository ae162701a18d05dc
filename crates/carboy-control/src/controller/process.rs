//! Which process it is, and when it has ended: by its number, its start and the boot, so that a number that is given again
//! is not taken for the same one.
//!
//! *Must never* say that a process has ended which may still send what it holds.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;

/// One process, now or in another boot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in the kernel's ticks since the boot.
    pub started: u64,
    /// Of which boot.
    pub boot: String,
}

/// Hears of a process's end.
pub struct EndOf {
    /// `None` where the kernel gives none: then only silence tells. It is no pipe, and never read: like one it becomes
    /// readable at the end, and that is all that is waited for.
    pidfd: Option<pipe::Receiver>,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Process> {
        let Stat { state, threads, started } = stat(pid)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        // The state is that of the first thread, which may have ended while others work.
        let lives = !matches!(state, 'Z' | 'X') || threads > 1;
        lives.then(|| Process { pid, started, boot: boot.trim().to_owned() })
    }

    /// Does it live?
    pub fn lives(&self) -> bool {
        Process::of(self.pid).is_some_and(|now| now == *self)
    }

    /// Listens for its end; `None` when that has come. In a runtime.
    pub fn end(&self) -> Option<EndOf> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw)?;
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => Some(pidfd),
            Err(rustix::io::Errno::SRCH) => return None,
            Err(_) => None,
        };
        // The number is this process's as long as the descriptor, opened before, says nothing of an end.
        if !self.lives() || pidfd.as_ref().is_some_and(ended) {
            return None;
        }
        Some(EndOf { pidfd: pidfd.and_then(|fd| pipe::Receiver::from_owned_fd_unchecked(fd).ok()) })
    }
}

impl EndOf {
    /// Ready when the process has ended.
    pub async fn come(&self) {
        match &self.pidfd {
            Some(pidfd) if pidfd.readable().await.is_ok() => {}
            Some(_) | None => std::future::pending().await,
        }
    }
}

/// No core dump, no `ptrace`, no `/proc/PID/mem` and `environ` by the same user.
pub fn undumpable() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Waits until nothing of a process is left, or so long: its connections end before its locks do, and its first thread before
/// the last.
pub fn wait_for_end(pid: u32, wait_max: Duration) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        ended_within(&pidfd, wait_max);
    }
}

fn ended(pidfd: &OwnedFd) -> bool {
    ended_within(pidfd, Duration::ZERO)
}

fn ended_within(pidfd: &OwnedFd, wait_max: Duration) -> bool {
    let mut watched = [PollFd::new(pidfd, PollFlags::IN)];
    let wait = Timespec::try_from(wait_max).ok();
    matches!(poll(&mut watched, wait.as_ref()), Ok(1..))
}

/// What the kernel says of a process (proc_pid_stat(5), fields 3, 20 and 22).
struct Stat {
    /// Of its first thread.
    state: char,
    /// How many it has, an ended first one included.
    threads: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name, in brackets, may have brackets and blanks of its own.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, threads, started: fields.nth(1)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_heard_before_anybody_has_reaped_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        let end = process.end().unwrap();
        assert!(process.lives());
        child.kill().unwrap();
        end.come().await;
        assert!(!process.lives() && process.end().is_none());
        child.wait().unwrap();
        assert!(Process::of(child.id()).is_none());
    }

    #[tokio::test]
    async fn a_process_whose_first_thread_has_ended_lives_until_its_last_one_has() {
        let script = "import ctypes, os, sys, threading\n\
                      threading.Thread(target=sys.stdin.buffer.read).start()\n\
                      exit = {'x86_64': 60, 'aarch64': 93}[os.uname().machine]\n\
                      ctypes.CDLL(None).syscall(exit, 0)\n";
        let mut command = Command::new("python3");
        let mut child = command.args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        let begun = std::time::Instant::now();
        while stat(child.id()).is_none_or(|stat| stat.state != 'Z') {
            assert!(begun.elapsed() < Duration::from_secs(10), "its first thread does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        let process = Process::of(child.id()).expect("a thread of it lives");
        let end = process.end().unwrap();
        child.kill().unwrap();
        end.come().await;
        assert!(!process.lives() && process.end().is_none());
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn another_start_or_another_boot_is_another_process() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.lives() && own.end().is_some());
        for other in [Process { started: own.started + 1, ..own.clone() }, Process { boot: "another".into(), ..own }] {
            assert!(!other.lives() && other.end().is_none());
        }
    }
}
