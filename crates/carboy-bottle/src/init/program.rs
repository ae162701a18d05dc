//! The program: its standard streams, its start, and the wait for its end.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Ready, SetupError, step};
use crate::sys::process::{self, Forked};
use crate::wire::{self, FromInit, InitSpec, Stdio, ToInit};

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

/// Waits for the word, starts the program, reaps until it ends. Gives init's own exit code; when init goes, the
/// kernel kills whatever the program left behind.
pub fn supervise(control: &OwnedFd, ready: Ready) -> i32 {
    let Ok(signals) = process::child_signals() else { return 1 };
    loop {
        match wire::receive::<ToInit>(control) {
            Ok(Some((ToInit::Start, _))) => break,
            Ok(Some((ToInit::Signal(_), _))) => {}
            Ok(None) | Err(_) => return 1,
        }
    }
    let program = match start(&ready.spec, &ready.streams) {
        Ok(program) => program,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let _ = wire::send(control, &FromInit::NotStarted { errno }, &[]);
            return 1;
        }
    };
    drop(ready);
    reap_until(control, &signals, program)
}

fn reap_until(control: &OwnedFd, signals: &OwnedFd, program: Pid) -> i32 {
    loop {
        let mut watched = [PollFd::new(control, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if poll(&mut watched, None).is_err() {
            continue;
        }
        let (asked, ended) = (!watched[0].revents().is_empty(), !watched[1].revents().is_empty());
        if ended {
            let mut drained = [0_u8; 1024];
            let _ = rustix::io::read(signals, &mut drained);
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                if pid == program {
                    let (code, signal) = (status.exit_status(), status.terminating_signal());
                    let _ = wire::send(control, &FromInit::Exited { code, signal }, &[]);
                    return 0;
                }
            }
        }
        if asked {
            match wire::receive::<ToInit>(control) {
                Ok(Some((ToInit::Signal(signal), _))) => {
                    let _ = process::kill(-program.as_raw_nonzero().get(), signal);
                }
                Ok(Some((ToInit::Start, _))) => {}
                // The supervisor is gone: so is the bottle.
                Ok(None) | Err(_) => return 1,
            }
        }
    }
}

fn start(spec: &InitSpec, streams: &Streams) -> io::Result<Pid> {
    let (failed, failing) = pipe_with(PipeFlags::CLOEXEC)?;
    match process::fork()? {
        Forked::Child => {
            let Err(error) = become_program(spec, streams);
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let _ = rustix::io::write(&failing, &errno.to_ne_bytes());
            process::exit_now(127)
        }
        Forked::Parent(pid) => {
            drop(failing);
            let mut errno = [0_u8; 4];
            match rustix::io::retry_on_intr(|| rustix::io::read(&failed, &mut errno)) {
                Ok(4) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
                Ok(_) => Ok(pid),
                Err(error) => Err(error.into()),
            }
        }
    }
}

fn become_program(spec: &InitSpec, streams: &Streams) -> io::Result<Infallible> {
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
    std::env::set_current_dir(&spec.workdir)?;
    process::reset_signals();
    exec_on_path(spec)
}

fn text(value: &str) -> io::Result<CString> {
    CString::new(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// As `execvpe`: the first that can be executed; a file without a known format is given to the shell.
fn exec_on_path(spec: &InitSpec) -> io::Result<Infallible> {
    let program = spec.command.first().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let arguments = spec.command.iter().map(|a| text(a)).collect::<io::Result<Vec<_>>>()?;
    let environment = spec.env.iter().map(|(k, v)| text(&format!("{k}={v}"))).collect::<io::Result<Vec<_>>>()?;
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        let path = spec.env.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_str());
        let path = path.unwrap_or("/usr/local/bin:/usr/bin:/bin");
        path.split(':').filter(|d| d.starts_with('/')).map(|d| PathBuf::from(d).join(program)).collect()
    };
    let mut last = libc::ENOENT;
    for candidate in candidates {
        let Some(path) = candidate.to_str() else { continue };
        let path = text(path)?;
        let Err(error) = process::exec(&path, &arguments, &environment);
        match error.raw_os_error() {
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
