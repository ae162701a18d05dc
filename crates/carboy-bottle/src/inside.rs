//! What is asked of a running bottle's init: further programs, and connections to ports inside.
//!
//! ```text
//! any thread ── number, request ──▶ init ── number, answer, descriptors ──▶ the bottle's thread ──▶ whoever asked
//! ```
//!
//! The bottle's own thread alone reads the control socket ([`Inside::until_the_end`]) and hands each answer to its asker.
//! *Must never* hold an answer without a bound: what nobody waits for any more is closed, and its program is killed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carboy_core::plan::StdioMode;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::launch::{ExitOutcome, Stdio};
use crate::wire::{
    self, CONNECT_WAIT_MAX, EXEC_BYTES_MAX, EXEC_WAIT_MAX, EXECS_MAX, ExecDocument, FromInit, PAUSE_WAIT_MAX, ToInit,
};

/// How much longer than init's own limit an answer is waited for: a bottle that is paused answers nothing.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// Longest wait for room in the control socket, with the same reason.
pub(crate) const SEND_WAIT_MAX: Duration = Duration::from_secs(5);

/// A program to run beside the first one, with the same rights and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments, looked up on the bottle's `PATH`; at most 1 MiB with the environment.
    pub command: Vec<String>,
    /// What its environment has besides, or instead of, the first program's.
    pub env: BTreeMap<String, String>,
    /// Where it starts; where the first program did, when absent.
    pub workdir: Option<PathBuf>,
    /// Its standard streams.
    pub stdio: StdioMode,
}

/// A way to ask a bottle that does not hold it: when the bottle is gone, every request says so.
#[derive(Clone, Debug)]
pub struct Inside {
    control: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    last: u32,
    asked: HashMap<u32, SyncSender<Result<Vec<OwnedFd>, i32>>>,
    execs: HashMap<u32, Arc<ExecEnd>>,
    /// While the bottle is paused: the signals that wait, by number, for the first program (`None`) and further ones.
    held_back: Option<BTreeMap<Option<u32>, u64>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Made,
    Started,
    Ended,
}

#[derive(Debug, Default)]
struct ExecEnd {
    outcome: Mutex<Option<ExitOutcome>>,
    told: Condvar,
}

impl ExecEnd {
    fn tell(&self, outcome: ExitOutcome) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        self.told.notify_all();
    }
}

/// A program that was started beside the first one. Dropping it leaves the program running (and one of the places taken)
/// until it ends, is signalled, or the bottle ends.
#[derive(Debug)]
pub struct Exec {
    id: u32,
    inside: Inside,
    stdio: Option<Stdio>,
    /// A second descriptor of the terminal, for its size.
    terminal: Option<OwnedFd>,
    end: Arc<ExecEnd>,
}

impl Exec {
    /// The standard streams, once.
    pub fn take_stdio(&mut self) -> Option<Stdio> {
        self.stdio.take()
    }

    /// Sends a signal, by its number, to the program's process group.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.inside.signal_to(Some(self.id), signal)
    }

    /// Tells the terminal its new size; without a terminal nothing happens.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })?)
    }

    /// Waits until the program has ended. Blocks; see [`Exec::waiter`].
    pub fn wait(&self) -> ExitOutcome {
        self.waiter().wait()
    }

    /// Something that waits, for another thread (`spawn_blocking`).
    pub fn waiter(&self) -> ExecWaiter {
        ExecWaiter { end: Arc::clone(&self.end) }
    }
}

/// Waits for the end of a further program without borrowing it.
#[derive(Clone, Debug)]
pub struct ExecWaiter {
    end: Arc<ExecEnd>,
}

impl ExecWaiter {
    /// Blocks until the program has ended; [`ExitOutcome::Killed`] when it ended with its bottle.
    pub fn wait(&self) -> ExitOutcome {
        let mut outcome = self.end.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = *outcome {
                return outcome;
            }
            outcome = self.end.told.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Inside {
    pub(crate) fn new(control: Arc<OwnedFd>) -> Self {
        Inside { control, state: Arc::default() }
    }

    /// Runs another program in the bottle, confined exactly as the first: same user, no capability, same filters and
    /// limits, nothing inherited but its streams. It is killed when the first program ends.
    ///
    /// An error with an operating system's number (`raw_os_error`) is what the exec said: `ENOENT`, `EACCES`…, as in
    /// [`ExitOutcome::NotStarted`]. One without: the bottle has not been started or has ended, too many run already
    /// (16), the request is too large, or init did not answer. Blocks for a few milliseconds, at most 6 seconds.
    pub fn exec(&self, request: &ExecRequest) -> io::Result<Exec> {
        self.unless_paused()?;
        let document = document(request)?;
        let end = Arc::new(ExecEnd::default());
        let asked =
            self.ask(EXEC_WAIT_MAX, Some(&end), |id| ToInit::Exec { id, stdio: request.stdio.into() }, Some(&document));
        let (id, descriptors) = asked?;
        let Some(stdio) = Stdio::of(descriptors) else {
            let _ = self.send(&ToInit::ExecSignal { id, signal: libc::SIGKILL });
            return Err(io::Error::other("no room for the program's streams: this process has too many files open"));
        };
        let terminal = match &stdio {
            Stdio::Terminal(master) => Some(master.try_clone()?),
            Stdio::Pipes { .. } => None,
        };
        Ok(Exec { id, inside: self.clone(), stdio: Some(stdio), terminal, end })
    }

    /// A TCP connection to `127.0.0.1:port` (or else `[::1]:port`) inside; blocking until told otherwise.
    ///
    /// `ECONNREFUSED` when nobody listens there, `ETIMEDOUT` when whoever does never accepts. Blocks at most 6 seconds.
    pub fn connect(&self, port: u16) -> io::Result<OwnedFd> {
        self.unless_paused()?;
        let (_, descriptors) = self.ask(CONNECT_WAIT_MAX, None, |id| ToInit::Connect { id, port }, None)?;
        let socket = descriptors.into_iter().next();
        let socket = socket
            .ok_or_else(|| io::Error::other("no room for the connection: this process has too many files open"))?;
        rustix::io::ioctl_fionbio(&socket, false)?;
        Ok(socket)
    }

    fn ask(
        &self,
        wait_max: Duration,
        end: Option<&Arc<ExecEnd>>,
        message: impl FnOnce(u32) -> ToInit,
        document: Option<&OwnedFd>,
    ) -> io::Result<(u32, Vec<OwnedFd>)> {
        let (answer, answered) = sync_channel(1);
        let id = self.register(answer, end)?;
        let descriptors: Vec<_> = document.iter().map(|d| d.as_fd()).collect();
        let sent = wire::send(self.control.as_fd(), &message(id), &descriptors);
        if let Err(error) = sent {
            let mut state = self.state();
            state.asked.remove(&id);
            state.execs.remove(&id);
            return Err(if error.kind() == io::ErrorKind::WouldBlock { silent() } else { ended() });
        }
        match answered.recv_timeout(wait_max + ANSWER_GRACE) {
            Ok(Ok(descriptors)) => Ok((id, descriptors)),
            Ok(Err(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
            Err(RecvTimeoutError::Timeout) => {
                // Should the answer still come, `hand_over` finds nobody who asked.
                self.state().asked.remove(&id);
                Err(silent())
            }
        }
    }

    fn register(&self, answer: SyncSender<Result<Vec<OwnedFd>, i32>>, end: Option<&Arc<ExecEnd>>) -> io::Result<u32> {
        let mut state = self.state();
        match state.stage {
            Stage::Made => return Err(not_started()),
            Stage::Ended => return Err(ended()),
            Stage::Started => {}
        }
        if end.is_some() && state.execs.len() >= EXECS_MAX {
            let text = format!("{EXECS_MAX} programs run beside the bottle's own already: end one of them first");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        state.last = state.last.wrapping_add(1);
        let id = state.last;
        state.asked.insert(id, answer);
        if let Some(end) = end {
            state.execs.insert(id, Arc::clone(end));
        }
        Ok(id)
    }

    fn send(&self, message: &ToInit) -> io::Result<()> {
        wire::send(self.control.as_fd(), message, &[])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the first program, with these variables over its own; programs beside it have them too.
    pub(crate) fn start(&self, env: &BTreeMap<String, String>) -> io::Result<()> {
        let document = (!env.is_empty()).then(|| in_memory(&[], env, None)).transpose()?;
        let descriptors: Vec<_> = document.iter().map(|d| d.as_fd()).collect();
        wire::send(self.control.as_fd(), &ToInit::Start, &descriptors)?;
        let mut state = self.state();
        if state.stage == Stage::Made {
            state.stage = Stage::Started;
        }
        Ok(())
    }

    /// Signals the first program's process group.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.signal_to(None, signal)
    }

    fn signal_to(&self, whom: Option<u32>, signal: i32) -> io::Result<()> {
        if let (Some(waiting), 1..=64) = (&mut self.state().held_back, signal) {
            *waiting.entry(whom).or_default() |= 1 << (signal - 1);
            return Ok(());
        }
        match whom {
            None => self.send(&ToInit::Signal(signal)),
            Some(id) => self.send(&ToInit::ExecSignal { id, signal }),
        }
    }

    fn unless_paused(&self) -> io::Result<()> {
        match self.state().held_back {
            None => Ok(()),
            Some(_) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "the bottle is paused; `carboy resume` lets it go on"))
            }
        }
    }

    /// From now on nothing is asked of init: signals wait, and everything else is refused.
    pub(crate) fn hold_back(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.stage {
            Stage::Started => {}
            Stage::Made => return Err(not_started()),
            Stage::Ended => return Err(ended()),
        }
        state.held_back.get_or_insert_default();
        Ok(())
    }

    /// The opposite: what waited is sent.
    pub(crate) fn go_on(&self) -> io::Result<()> {
        let waiting = self.state().held_back.take().unwrap_or_default();
        for (whom, signals) in waiting {
            for signal in (1..=64).filter(|signal| signals & (1 << (signal - 1)) != 0) {
                self.signal_to(whom, signal)?;
            }
        }
        Ok(())
    }

    /// Has init stop everything; false when something did not.
    pub(crate) fn pause(&self) -> io::Result<bool> {
        match self.ask(PAUSE_WAIT_MAX, None, |id| ToInit::Pause { id }, None) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has init let it go on.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.ask(PAUSE_WAIT_MAX, None, |id| ToInit::Thaw { id }, None).map(drop)
    }

    /// Hands out answers until the first program has ended, or init has.
    pub(crate) fn until_the_end(&self) -> ExitOutcome {
        let outcome = loop {
            // What init cannot have said ends the bottle, as its silence does.
            let Ok(Some((message, descriptors))) = wire::receive::<FromInit>(self.control.as_fd()) else {
                break ExitOutcome::Killed;
            };
            match message {
                FromInit::Exited { code, signal } => break ended_by(code, signal),
                FromInit::NotStarted { errno } => break ExitOutcome::NotStarted(errno),
                FromInit::ExecStarted { id } => {
                    if !self.hand_over(id, Ok(descriptors)) {
                        let _ = self.send(&ToInit::ExecSignal { id, signal: libc::SIGKILL });
                    }
                }
                FromInit::ExecNotStarted { id, errno } => {
                    self.state().execs.remove(&id);
                    self.hand_over(id, Err(errno));
                }
                FromInit::ExecExited { id, code, signal } => {
                    let end = self.state().execs.remove(&id);
                    if let Some(waiting) = &mut self.state().held_back {
                        waiting.remove(&Some(id));
                    }
                    if let Some(end) = end {
                        end.tell(ended_by(code, signal));
                    }
                }
                FromInit::Connected { id } => {
                    self.hand_over(id, Ok(descriptors));
                }
                FromInit::Paused { id, restless } => {
                    self.hand_over(id, if restless == 0 { Ok(Vec::new()) } else { Err(libc::EBUSY) });
                }
                FromInit::Thawed { id } => {
                    self.hand_over(id, Ok(Vec::new()));
                }
                FromInit::NotConnected { id, errno } => {
                    self.hand_over(id, Err(errno));
                }
                FromInit::Sockets { .. } | FromInit::Ready { .. } | FromInit::Failed { .. } => {
                    break ExitOutcome::Killed;
                }
            }
        };
        self.end();
        outcome
    }

    /// Gives an answer to whoever asked; false when nobody waits for it any more.
    fn hand_over(&self, id: u32, answer: Result<Vec<OwnedFd>, i32>) -> bool {
        let asker = self.state().asked.remove(&id);
        asker.is_some_and(|asker| asker.send(answer).is_ok())
    }

    /// Nothing is answered any more; what ran beside the first program dies with it.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.stage = Stage::Ended;
        state.asked.clear();
        for (_, end) in state.execs.drain() {
            end.tell(ExitOutcome::Killed);
        }
    }
}

fn ended_by(code: Option<i32>, signal: Option<i32>) -> ExitOutcome {
    match (code, signal) {
        (Some(code), _) => ExitOutcome::Code(code),
        (None, Some(signal)) => ExitOutcome::Signal(signal),
        (None, None) => ExitOutcome::Killed,
    }
}

fn not_started() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the bottle's program has not been started yet")
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the bottle's program has ended, and the bottle with it")
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the bottle does not answer: is it paused? `carboy ps` shows it")
}

/// The request as a memory file; whatever cannot stand in an environment is refused here.
fn document(request: &ExecRequest) -> io::Result<OwnedFd> {
    if request.command.is_empty() {
        return Err(invalid("no command to run in the bottle"));
    }
    in_memory(&request.command, &request.env, request.workdir.clone())
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_owned())
}

fn in_memory(command: &[String], env: &BTreeMap<String, String>, workdir: Option<PathBuf>) -> io::Result<OwnedFd> {
    use std::io::Write;
    if env.keys().any(|name| name.is_empty() || name.contains('=')) {
        return Err(invalid("a variable's name must not be empty or contain `=`"));
    }
    let document = ExecDocument { command: command.to_vec(), env: env.clone().into_iter().collect(), workdir };
    let json = serde_json::to_vec(&document)?;
    if json.len() > EXEC_BYTES_MAX {
        let text = format!("command and environment are {} octets long, {EXEC_BYTES_MAX} at most", json.len());
        return Err(invalid(&text));
    }
    // Without a number of its own: only the exec inside speaks in those.
    let outside = |error: io::Error| io::Error::other(format!("cannot describe the program: {error}"));
    let memory = memfd_create("carboy-exec", MemfdFlags::CLOEXEC).map_err(|e| outside(e.into()))?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&json).map_err(outside)?;
    Ok(file.into())
}
