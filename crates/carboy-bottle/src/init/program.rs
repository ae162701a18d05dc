//! A program inside, the first or a further one: its standard streams and its start.
//!
//! *Must never* give one more than another: both go through [`start`], in a process that has already given everything up.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{SetupError, step};
use crate::sys::process::{self, Forked};
use crate::wire::{InitSpec, Stdio};

/// The inside ends.
pub enum Streams {
    /// A terminal's slave side.
    Terminal(OwnedFd),
    /// Standard input, output, error.
    Pipes([OwnedFd; 3]),
}

/// Makes the streams inside; gives the inside ends and, in order, the ends for the supervisor.
///
/// The terminal is of the bottle's own devpts, so that neither its name nor its descriptor leads to one of the host.
pub fn streams(mode: Stdio) -> Result<(Streams, Vec<OwnedFd>), SetupError> {
    match mode {
        Stdio::Terminal { rows, cols } => {
            let made = (|| -> rustix::io::Result<_> {
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
                let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
                rustix::pty::unlockpt(&master)?;
                let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
                tcsetwinsize(&master, size)?;
                let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
                let slave = ioctl_tiocgptpeer(&master, peer)?;
                Ok((Streams::Terminal(slave), vec![master]))
            })();
            step("make the terminal", made)
        }
        Stdio::Pipes => {
            let made = (|| -> rustix::io::Result<_> {
                let stdin = pipe_with(PipeFlags::CLOEXEC)?;
                let stdout = pipe_with(PipeFlags::CLOEXEC)?;
                let stderr = pipe_with(PipeFlags::CLOEXEC)?;
                let inside = Streams::Pipes([stdin.0, stdout.1, stderr.1]);
                Ok((inside, vec![stdin.1, stdout.0, stderr.0]))
            })();
            step("make the pipes", made)
        }
    }
}

/// What is executed, and where.
pub struct Program<'a> {
    /// Program and arguments.
    pub command: &'a [String],
    /// Its whole environment.
    pub env: &'a [(String, String)],
    /// Where it starts.
    pub workdir: &'a Path,
}

/// A process between its fork and its exec.
pub struct Starting {
    /// The process; its own session and group leader as soon as it has executed.
    pub pid: Pid,
    failed: OwnedFd,
}

impl Starting {
    /// `None` while it has neither executed nor failed. Never waits: a program inside could stop the process here.
    pub fn settled(&self) -> Option<io::Result<()>> {
        let mut errno = [0_u8; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.failed, &mut errno)) {
            Ok(4) => Some(Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))),
            // The exec closed the other end, or the process was killed before it: then its end tells.
            Ok(_) => Some(Ok(())),
            Err(Errno::AGAIN) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Becomes readable when [`Starting::settled`] has something to say.
    pub fn news(&self) -> &OwnedFd {
        &self.failed
    }
}

/// Forks; the child confines itself to what the program may use and executes it.
pub fn start(spec: &InitSpec, program: &Program<'_>, streams: &Streams) -> io::Result<Starting> {
    let (failed, failing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    match process::fork()? {
        Forked::Child => {
            let Err(error) = become_program(spec, program, streams);
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let _ = rustix::io::write(&failing, &errno.to_ne_bytes());
            process::exit_now(127)
        }
        Forked::Parent(pid) => Ok(Starting { pid, failed }),
    }
}

fn become_program(spec: &InitSpec, program: &Program<'_>, streams: &Streams) -> io::Result<Infallible> {
    setsid()?;
    match streams {
        Streams::Terminal(slave) => {
            rustix::process::ioctl_tiocsctty(slave)?;
            for target in 0..3 {
                process::become_stdio(slave.as_fd(), target)?;
            }
        }
        Streams::Pipes(ends) => {
            for (target, end) in ends.iter().enumerate() {
                process::become_stdio(end.as_fd(), target as i32)?;
            }
        }
    }
    process::close_on_exec_from(3)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    process::limit(libc::RLIMIT_NOFILE, spec.open_files_max)?;
    process::limit(libc::RLIMIT_NPROC, spec.processes_max)?;
    if let Some(bytes) = spec.data_bytes_max {
        process::limit(libc::RLIMIT_DATA, bytes)?;
    }
    std::env::set_current_dir(program.workdir)?;
    process::reset_signals();
    exec_on_path(program)
}

fn text(value: &str) -> io::Result<CString> {
    CString::new(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// As `execvpe`: the first that can be executed; a file without a known format is given to the shell.
fn exec_on_path(wanted: &Program<'_>) -> io::Result<Infallible> {
    let program = wanted.command.first().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let arguments = wanted.command.iter().map(|a| text(a)).collect::<io::Result<Vec<_>>>()?;
    let environment = wanted.env.iter().map(|(k, v)| text(&format!("{k}={v}"))).collect::<io::Result<Vec<_>>>()?;
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        let path = wanted.env.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_str());
        let path = path.unwrap_or("/usr/local/bin:/usr/bin:/bin");
        path.split(':').filter(|d| d.starts_with('/')).map(|d| PathBuf::from(d).join(program)).collect()
    };
    let mut last = libc::ENOENT;
    for candidate in candidates {
        let Some(path) = candidate.to_str() else { continue };
        let path = text(path)?;
        let Err(error) = process::exec(&path, &arguments, &environment);
        match error.raw_os_error() {
            // The kernel says the same of a file that is there and whose loader, or interpreter, is not.
            Some(libc::ENOENT) if candidate.exists() => last = libc::ELIBACC,
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::ENOEXEC) => {
                let mut script = vec![c"/bin/sh".to_owned(), path];
                script.extend(arguments.iter().skip(1).cloned());
                return process::exec(&c"/bin/sh".to_owned(), &script, &environment);
            }
            other => last = other.unwrap_or(libc::EACCES),
        }
    }
    Err(io::Error::from_raw_os_error(last))
}
