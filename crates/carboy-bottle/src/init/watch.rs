//! What init does while the bottle lives: it reaps, starts further programs, and connects to ports inside when asked.
//!
//! *Must never* wait for anything but all of it at once: a program inside may stop, starve or flood what it can reach,
//! and nothing of that may keep init from hearing the supervisor. Every table has a maximum, every wait an end.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions};

use super::Ready;
use super::connect::{Attempt, Connecting};
use super::program::{self, Program, Starting, Streams};
use super::still::{Settled, Still};
use crate::sys::process;
use crate::wire::{
    self, CONNECTS_MAX, EXEC_BYTES_MAX, EXEC_WAIT_MAX, EXECS_MAX, ExecDocument, FromInit, InitSpec, Stdio, ToInit,
};

/// Most dead processes taken in one turn. A program that forks without end keeps init busy, never deaf.
const REAPS_PER_TURN: usize = 256;

/// Watches until the first program ends or the supervisor is gone. Gives init's own exit code; when init goes, the
/// kernel kills whatever is left inside.
pub fn supervise(control: &OwnedFd, ready: Ready) -> i32 {
    let Ok(signals) = process::child_signals() else { return 1 };
    let Ready { spec, streams } = ready;
    let mut watch = Watch {
        control,
        signals,
        spec,
        first: First::Waits(streams),
        execs: Vec::new(),
        connects: Vec::new(),
        more_to_reap: false,
        still: Still::default(),
    };
    loop {
        if let Err(End(code)) = watch.turn() {
            return code;
        }
    }
}

/// Init's work is over, with this exit code.
struct End(i32);

enum First {
    /// Not started yet; its streams are ready.
    Waits(Streams),
    /// Runs.
    Runs(Pid),
}

/// A further program.
struct Exec {
    id: u32,
    pid: Pid,
    stage: Stage,
}

enum Stage {
    /// Forked; its outside ends go out when it has executed.
    Starting { starting: Starting, outside: Vec<OwnedFd>, until: Instant },
    /// Executed.
    Runs,
}

enum Passed {
    Yes,
    /// The kernel bounds the descriptors of one user that are in messages nobody has received yet, and a program inside
    /// can use that up.
    TooManyUnderWay,
}

fn pass(control: &OwnedFd, message: &FromInit, descriptors: &[BorrowedFd<'_>]) -> Result<Passed, End> {
    match wire::send(control, message, descriptors) {
        Ok(()) => Ok(Passed::Yes),
        Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => Ok(Passed::TooManyUnderWay),
        Err(_) => Err(End(1)),
    }
}

fn kill_group(pid: Pid) {
    let _ = process::kill(-pid.as_raw_nonzero().get(), libc::SIGKILL);
}

struct Watch<'a> {
    control: &'a OwnedFd,
    signals: OwnedFd,
    spec: InitSpec,
    first: First,
    execs: Vec<Exec>,
    connects: Vec<Connecting>,
    more_to_reap: bool,
    still: Still,
}

impl Watch<'_> {
    fn turn(&mut self) -> Result<(), End> {
        let asked = self.wait()?;
        // Before the dead are counted: who has executed and ended at once is told as started first.
        self.look_at_starts()?;
        self.reap()?;
        self.look_at_connects()?;
        if let Some(Settled { id, restless }) = self.still.round() {
            self.tell(&FromInit::Paused { id, restless })?;
        }
        if asked { self.hear() } else { Ok(()) }
    }

    /// Waits for the next thing of any kind; tells whether the supervisor is among them.
    fn wait(&self) -> Result<bool, End> {
        let mut watched = vec![PollFd::new(self.control, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let mut nearest: Option<Instant> = None;
        let mut bounded = |until: Instant| nearest = Some(nearest.map_or(until, |other| other.min(until)));
        for exec in &self.execs {
            if let Stage::Starting { starting, until, .. } = &exec.stage {
                watched.push(PollFd::new(starting.news(), PollFlags::IN));
                if !self.still.is_wanted() {
                    bounded(*until);
                }
            }
        }
        for connecting in &self.connects {
            watched.push(PollFd::new(connecting.news(), PollFlags::OUT));
            bounded(connecting.until);
        }
        if let Some(due) = self.still.due() {
            bounded(due);
        }
        let timeout = match (self.more_to_reap, nearest) {
            (true, _) => Some(Duration::ZERO),
            (false, Some(until)) => Some(until.saturating_duration_since(Instant::now())),
            (false, None) => None,
        };
        let timeout =
            timeout.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) => Ok(!watched[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(_) => Err(End(1)),
        }
    }

    fn tell(&self, message: &FromInit) -> Result<(), End> {
        // The supervisor is gone, or cannot be told: then so is the bottle.
        wire::send(self.control, message, &[]).map_err(|_| End(1))
    }

    fn reap(&mut self) -> Result<(), End> {
        let mut drained = [0_u8; 1024];
        let _ = rustix::io::read(&self.signals, &mut drained);
        self.more_to_reap = false;
        for _ in 0..REAPS_PER_TURN {
            let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) else { return Ok(()) };
            let (code, signal) = (status.exit_status(), status.terminating_signal());
            self.still.disturbed();
            if matches!(self.first, First::Runs(first) if first == pid) {
                self.tell(&FromInit::Exited { code, signal })?;
                return Err(End(0));
            }
            if let Some(at) = self.execs.iter().position(|exec| exec.pid == pid) {
                // It may have executed since the starts were looked at.
                self.look_at_start(at)?;
                if let Some(at) = self.execs.iter().position(|exec| exec.pid == pid) {
                    let exec = self.execs.swap_remove(at);
                    self.tell(&FromInit::ExecExited { id: exec.id, code, signal })?;
                }
            }
        }
        self.more_to_reap = true;
        Ok(())
    }

    fn look_at_starts(&mut self) -> Result<(), End> {
        // From the last to the first: one that failed is taken out.
        (0..self.execs.len()).rev().try_for_each(|at| self.look_at_start(at))
    }

    /// Tells the supervisor when the start has an outcome or took too long.
    fn look_at_start(&mut self, at: usize) -> Result<(), End> {
        let exec = &mut self.execs[at];
        let Stage::Starting { starting, outside, until } = &exec.stage else { return Ok(()) };
        let failed = match starting.settled() {
            Some(Ok(())) => {
                let ends: Vec<BorrowedFd<'_>> = outside.iter().map(AsFd::as_fd).collect();
                match pass(self.control, &FromInit::ExecStarted { id: exec.id }, &ends)? {
                    Passed::Yes => {
                        drop(ends);
                        exec.stage = Stage::Runs;
                        return Ok(());
                    }
                    Passed::TooManyUnderWay => kill_group(exec.pid),
                }
                libc::ETOOMANYREFS
            }
            Some(Err(error)) => error.raw_os_error().unwrap_or(libc::EIO),
            // While everything stands, so does its start.
            None if Instant::now() < *until || self.still.is_wanted() => return Ok(()),
            None => {
                let _ = process::kill(exec.pid.as_raw_nonzero().get(), libc::SIGKILL);
                libc::ETIMEDOUT
            }
        };
        let exec = self.execs.swap_remove(at);
        self.tell(&FromInit::ExecNotStarted { id: exec.id, errno: failed })
    }

    fn look_at_connects(&mut self) -> Result<(), End> {
        let now = Instant::now();
        for connecting in std::mem::take(&mut self.connects) {
            let mut watched = [PollFd::new(connecting.news(), PollFlags::OUT)];
            let ready = poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0);
            let id = connecting.id;
            let attempt = if ready {
                connecting.look()
            } else if connecting.until <= now {
                self.tell(&FromInit::NotConnected { id, errno: libc::ETIMEDOUT })?;
                continue;
            } else {
                Attempt::Waiting(connecting)
            };
            self.attempted(id, attempt)?;
        }
        Ok(())
    }

    fn attempted(&mut self, id: u32, attempt: Attempt) -> Result<(), End> {
        match attempt {
            Attempt::Done(socket) => match pass(self.control, &FromInit::Connected { id }, &[socket.as_fd()])? {
                Passed::Yes => Ok(()),
                Passed::TooManyUnderWay => self.tell(&FromInit::NotConnected { id, errno: libc::ETOOMANYREFS }),
            },
            Attempt::Failed(errno) => self.tell(&FromInit::NotConnected { id, errno }),
            Attempt::Waiting(connecting) => {
                self.connects.push(connecting);
                Ok(())
            }
        }
    }

    fn hear(&mut self) -> Result<(), End> {
        // The supervisor is gone, or speaks what nobody understands: so is the bottle.
        let Ok(Some((message, descriptors))) = wire::receive::<ToInit>(self.control) else { return Err(End(1)) };
        match message {
            ToInit::Start => self.start_first(descriptors),
            ToInit::Signal(signal) => {
                if let First::Runs(pid) = self.first {
                    let _ = process::kill(-pid.as_raw_nonzero().get(), signal);
                }
                Ok(())
            }
            ToInit::Exec { id, stdio } => self.exec(id, stdio, descriptors),
            ToInit::ExecSignal { id, signal } => {
                let running = self.execs.iter().find(|exec| exec.id == id && matches!(exec.stage, Stage::Runs));
                if let Some(exec) = running {
                    let _ = process::kill(-exec.pid.as_raw_nonzero().get(), signal);
                }
                Ok(())
            }
            ToInit::Connect { id, port } => {
                if self.connects.len() >= CONNECTS_MAX {
                    return self.tell(&FromInit::NotConnected { id, errno: libc::EAGAIN });
                }
                self.attempted(id, Connecting::begin(id, port))
            }
            ToInit::Pause { id } => {
                self.still.begin(id);
                Ok(())
            }
            ToInit::Thaw { id } => {
                self.still.thaw();
                for exec in &mut self.execs {
                    if let Stage::Starting { until, .. } = &mut exec.stage {
                        *until = Instant::now() + EXEC_WAIT_MAX;
                    }
                }
                self.tell(&FromInit::Thawed { id })
            }
        }
    }

    /// Starts the program that the bottle is for, and waits for its exec: nothing else is inside yet that could delay it.
    fn start_first(&mut self, descriptors: Vec<OwnedFd>) -> Result<(), End> {
        let First::Waits(streams) = &self.first else { return Ok(()) };
        if let Some(document) = descriptors.into_iter().next() {
            // A start that nobody understands is none.
            let ExecDocument { env, .. } = described(document).map_err(|_| End(1))?;
            self.spec.env = overlaid(&self.spec.env, env);
        }
        let spec = &self.spec;
        let program = Program { command: &spec.command, env: &spec.env, workdir: &spec.workdir };
        let started = program::start(spec, &program, streams).and_then(|starting| {
            loop {
                let _ = poll(&mut [PollFd::new(starting.news(), PollFlags::IN)], None);
                if let Some(outcome) = starting.settled() {
                    return outcome.map(|()| starting.pid);
                }
            }
        });
        match started {
            Ok(pid) => {
                // The streams' inside ends are the program's alone from now on.
                self.first = First::Runs(pid);
                Ok(())
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                self.tell(&FromInit::NotStarted { errno })?;
                Err(End(1))
            }
        }
    }

    fn exec(&mut self, id: u32, stdio: Stdio, descriptors: Vec<OwnedFd>) -> Result<(), End> {
        let begun = match self.first {
            First::Waits(_) => Err(libc::ESRCH),
            First::Runs(_) if self.execs.len() >= EXECS_MAX => Err(libc::EAGAIN),
            First::Runs(_) => self.begin_exec(stdio, descriptors).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)),
        };
        match begun {
            Ok((starting, outside)) => {
                let until = Instant::now() + EXEC_WAIT_MAX;
                self.execs.push(Exec { id, pid: starting.pid, stage: Stage::Starting { starting, outside, until } });
                Ok(())
            }
            Err(errno) => self.tell(&FromInit::ExecNotStarted { id, errno }),
        }
    }

    fn begin_exec(&self, stdio: Stdio, descriptors: Vec<OwnedFd>) -> io::Result<(Starting, Vec<OwnedFd>)> {
        let document = descriptors.into_iter().next().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let document = described(document)?;
        let env = overlaid(&self.spec.env, document.env);
        let workdir = document.workdir.as_deref().unwrap_or(&self.spec.workdir);
        let (streams, outside) = program::streams(stdio).map_err(|error| error.source)?;
        let program = Program { command: &document.command, env: &env, workdir };
        Ok((program::start(&self.spec, &program, &streams)?, outside))
    }
}

fn described(document: OwnedFd) -> io::Result<ExecDocument> {
    let mut bytes = Vec::new();
    rustix::fs::seek(&document, rustix::fs::SeekFrom::Start(0))?;
    std::fs::File::from(document).take(EXEC_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// One environment with another one over it.
fn overlaid(env: &[(String, String)], over: Vec<(String, String)>) -> Vec<(String, String)> {
    let kept = env.iter().filter(|(name, _)| over.iter().all(|(given, _)| given != name)).cloned();
    let kept: Vec<_> = kept.collect();
    kept.into_iter().chain(over).collect()
}
