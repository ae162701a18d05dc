//! Making a bottle from outside, holding it, and ending it.
//!
//! ```text
//! launch() ─▶ thread "bottle NAME" ── clone3 ─▶ init (process 1)        the thread lives as long as the bottle,
//!    ▲            │  id maps, cgroup, gate          │                    because the parent-death signal follows it
//!    └─ sockets ──┴──── control socket ◀────────────┘
//! ```
//!
//! *Architecture invariant:* the program starts only at [`Bottle::start`], after the captured sockets have been handed
//! out, so that no connection is made that nobody answers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use carboy_core::plan::BottleSpec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Signal, WaitIdOptions, pidfd_send_signal};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::cgroup::{Applied, Group};
use crate::describe::{Described, Runner, describe};
use crate::freezer::{Freezer, Freezing};
use crate::inside::{Exec, ExecRequest, Inside, SEND_WAIT_MAX};
use crate::protect::{Cleaned, Journal};
use crate::sockets::CapturedSockets;
use crate::stillness::Stilling;
use crate::sys::spawn::{Cloned, Groups, InitImage, STEPS, clone_init};
use crate::wire::{self, FromInit};

pub use crate::describe::LaunchError;

/// What a launch needs besides the spec.
#[derive(Clone, Debug)]
pub struct LaunchOptions {
    /// Directory of this bottle's state, outside of its home: the journal of stubs and the quarantine live in it.
    pub state: PathBuf,
    /// Directory that all bottles of this user share and no bottle sees: a lock in it makes the stubs of one workspace
    /// one bottle's business at a time.
    pub shared: PathBuf,
    /// The program that becomes init; it has to call [`run_init_if_asked`](crate::run_init_if_asked) first thing in its main.
    pub init: InitProgram,
}

/// See [`LaunchOptions::init`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InitProgram {
    /// This very program.
    #[default]
    Itself,
    /// Another file.
    At(PathBuf),
}

/// The program's standard streams, seen from outside.
#[derive(Debug)]
pub enum Stdio {
    /// The master side of the bottle's terminal.
    Terminal(OwnedFd),
    /// The other ends of three pipes.
    Pipes {
        /// Write to it.
        stdin: OwnedFd,
        /// Read from it.
        stdout: OwnedFd,
        /// Read from it.
        stderr: OwnedFd,
    },
}

impl Stdio {
    /// As they come out of init: a terminal's master, or the three pipes in their order.
    pub(crate) fn of(descriptors: Vec<OwnedFd>) -> Option<Stdio> {
        let mut descriptors = descriptors.into_iter();
        match (descriptors.next(), descriptors.next(), descriptors.next()) {
            (Some(master), None, None) => Some(Stdio::Terminal(master)),
            (Some(stdin), Some(stdout), Some(stderr)) => Some(Stdio::Pipes { stdin, stdout, stderr }),
            _ => None,
        }
    }
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitOutcome {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was never started: not found, not executable… (`errno`).
    NotStarted(i32),
    /// The bottle was killed, or its init died, before the program ended.
    Killed,
}

impl ExitOutcome {
    /// The code a shell would give: 128 + signal, 127 not found, 126 not executable, 137 killed.
    pub fn shell_code(self) -> i32 {
        match self {
            ExitOutcome::Code(code) => code,
            ExitOutcome::Signal(signal) => 128 + signal,
            ExitOutcome::NotStarted(libc::ENOENT) => 127,
            ExitOutcome::NotStarted(_) => 126,
            ExitOutcome::Killed => 128 + libc::SIGKILL,
        }
    }
}

/// What there is to say when a bottle has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReport {
    /// How the program ended.
    pub outcome: ExitOutcome,
    /// What was put back in order in the writable binds.
    pub cleaned: Cleaned,
}

/// What holds in this bottle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Landlock ABI in force, 0 for none.
    pub landlock_abi: u32,
    /// Which bound on resources applies.
    pub limits: Applied,
    /// Host uid and gid of the processes inside.
    pub host_ids: (u32, u32),
}

/// A made bottle. Dropping it kills everything inside; whoever ends the process calls [`Bottle::wait`] first, so that the
/// host's files are put in order now and not at the next start.
#[derive(Debug)]
pub struct Bottle {
    captured: Option<CapturedSockets>,
    stdio: Option<Stdio>,
    /// A second descriptor of the terminal, for its size.
    terminal: Option<OwnedFd>,
    inside: Inside,
    pub(crate) stilling: Stilling,
    pidfd: Arc<OwnedFd>,
    pid: i32,
    holds: Holds,
    ended: Arc<Ended>,
}

#[derive(Debug, Default)]
struct Ended {
    report: Mutex<Option<ExitReport>>,
    told: Condvar,
}

struct Made {
    captured: CapturedSockets,
    stdio: Stdio,
    inside: Inside,
    freezer: Option<Freezer>,
    pidfd: Arc<OwnedFd>,
    pid: i32,
    holds: Holds,
}

impl Bottle {
    /// Makes the bottle and waits (some milliseconds) until it stands; the program is not started yet.
    pub fn launch(spec: &BottleSpec, options: &LaunchOptions) -> Result<Bottle, LaunchError> {
        let ended = Arc::new(Ended::default());
        let (made, stands) = mpsc::sync_channel(1);
        let (spec, options, told) = (spec.clone(), options.clone(), Arc::clone(&ended));
        std::thread::Builder::new()
            .name(format!("bottle {}", spec.name.as_str()))
            .spawn(move || own(&spec, &options, &made, &told))
            .map_err(|source| LaunchError::Outside { step: "start the bottle's thread", source })?;
        let made: Made = stands.recv().unwrap_or(Err(LaunchError::InitDied))?;
        let terminal = match &made.stdio {
            Stdio::Terminal(master) => master.try_clone().ok(),
            Stdio::Pipes { .. } => None,
        };
        Ok(Bottle {
            captured: Some(made.captured),
            stdio: Some(made.stdio),
            terminal,
            stilling: Stilling::new(made.freezer, made.inside.clone()),
            inside: made.inside,
            pidfd: made.pidfd,
            pid: made.pid,
            holds: made.holds,
            ended,
        })
    }

    /// The captured sockets, once.
    pub fn take_captured(&mut self) -> Option<CapturedSockets> {
        self.captured.take()
    }

    /// The standard streams, once.
    pub fn take_stdio(&mut self) -> Option<Stdio> {
        self.stdio.take()
    }

    /// Starts the program. Call it when the captured sockets are being served.
    pub fn start(&self) -> io::Result<()> {
        self.start_with(&BTreeMap::new())
    }

    /// The same with variables over those of the spec: what was not known yet when the bottle was made.
    pub fn start_with(&self, env: &BTreeMap<String, String>) -> io::Result<()> {
        self.inside.start(env)
    }

    /// Sends a signal, by its number, to the program's process group.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.inside.signal(signal)
    }

    /// Runs another program in the bottle, beside the first one; see [`Inside::exec`].
    pub fn exec(&self, request: &ExecRequest) -> io::Result<Exec> {
        self.inside.exec(request)
    }

    /// A TCP connection to a port of the bottle's own loopback; see [`Inside::connect`].
    pub fn connect_inside(&self, port: u16) -> io::Result<OwnedFd> {
        self.inside.connect(port)
    }

    /// A way to ask for both that does not hold the bottle.
    pub fn inside(&self) -> Inside {
        self.inside.clone()
    }

    /// Tells the terminal its new size; without a terminal nothing happens.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })?)
    }

    /// Kills everything in the bottle at once, also when it is paused.
    pub fn kill(&self) -> io::Result<()> {
        kill(self.pidfd.as_fd())
    }

    /// Waits until the bottle is gone and the host's files are in order again. Blocks; see [`Bottle::watcher`].
    pub fn wait(&self) -> ExitReport {
        self.watcher().wait()
    }

    /// Something that waits, for another thread (`spawn_blocking`).
    pub fn watcher(&self) -> Watcher {
        Watcher { ended: Arc::clone(&self.ended) }
    }

    /// Host process id of init.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Becomes readable when init has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// What holds in this bottle.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }
}

impl Drop for Bottle {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Waits for the end of a bottle without borrowing it.
#[derive(Clone, Debug)]
pub struct Watcher {
    ended: Arc<Ended>,
}

impl Watcher {
    /// Blocks until the bottle is gone and the host's files are in order again.
    pub fn wait(&self) -> ExitReport {
        let mut report = self.ended.report.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(report) = report.as_ref() {
                return report.clone();
            }
            report = self.ended.told.wait(report).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The life of the bottle's own thread.
fn own(
    spec: &BottleSpec,
    options: &LaunchOptions,
    made: &mpsc::SyncSender<Result<Made, LaunchError>>,
    ended: &Arc<Ended>,
) {
    let outcome = match make(spec, options) {
        Err(error) => {
            let _ = made.send(Err(error));
            return;
        }
        Ok((bottle, keep)) => {
            let (inside, pidfd) = (bottle.inside.clone(), Arc::clone(&bottle.pidfd));
            let outcome = match made.send(Ok(bottle)) {
                Ok(()) => inside.until_the_end(),
                Err(_) => ExitOutcome::Killed,
            };
            let _ = kill(pidfd.as_fd());
            reap(pidfd.as_fd());
            (outcome, keep)
        }
    };
    let (outcome, keep) = outcome;
    if let Some(group) = keep.group {
        group.remove();
    }
    let cleaned = keep.journal.clean();
    let mut report = ended.report.lock().unwrap_or_else(PoisonError::into_inner);
    *report = Some(ExitReport { outcome, cleaned });
    ended.told.notify_all();
}

/// What is put in order at the end.
struct Keep {
    group: Option<Group>,
    journal: Journal,
}

fn make(spec: &BottleSpec, options: &LaunchOptions) -> Result<(Made, Keep), LaunchError> {
    let runner = Runner::here(spec.host_ids)?;
    let journal = Journal::open(&options.state, &options.shared, &spec.run)?;
    let group = Group::make(&spec.run, &spec.limits);
    let described = describe(spec, &runner, &journal, group.as_ref().map(Group::applied))?;
    let keep = Keep { group, journal };
    match stand(options, &runner, &described, keep.group.as_ref()) {
        Ok(made) => Ok((made, keep)),
        Err(error) => {
            if let Some(group) = keep.group {
                group.remove();
            }
            keep.journal.clean();
            Err(error)
        }
    }
}

fn stand(
    options: &LaunchOptions,
    runner: &Runner,
    described: &Described,
    group: Option<&Group>,
) -> Result<Made, LaunchError> {
    let outside = |step: &'static str| move |source: io::Error| LaunchError::Outside { step, source };
    let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| outside("make the control socket")(e.into()))?;
    let (gate, opener) = pipe().map_err(outside("make a pipe"))?;
    let (complaints, complaint) = pipe().map_err(outside("make a pipe"))?;
    let mut arguments = vec![crate::init::INIT_NAME.to_owned()];
    let mut keep = vec![theirs.as_raw_fd(), described.document.as_raw_fd()];
    keep.extend(described.mounts.iter().map(AsRawFd::as_raw_fd));
    arguments.extend(keep.iter().map(ToString::to_string));
    let birthplace = group.and_then(Group::birthplace);
    let mut freezing = if birthplace.is_some() { Freezing::Yes } else { Freezing::No };
    let mut image = InitImage {
        exe: open_exe(&options.init).map_err(outside("open the carboy binary"))?,
        arguments: arguments
            .into_iter()
            .map(std::ffi::CString::new)
            .collect::<Result<_, _>>()
            .map_err(|e| outside("name the descriptors")(e.into()))?,
        keep,
        null: open_null().map_err(outside("open /dev/null"))?,
        inside: (crate::INSIDE_ID, crate::INSIDE_ID),
        doors: match group {
            Some(group) => group.doors(freezing).map_err(outside("open the bottle's cgroup"))?,
            None => Vec::new(),
        },
        birthplace,
        groups: if runner.is_root() { Groups::Drop } else { Groups::Inherited },
        gate,
        opener: opener.as_raw_fd(),
        complaint,
        set_up: described.set_up,
    };
    let cloned = match (clone_init(&image), group) {
        (Err(_), Some(group)) if image.birthplace.is_some() => {
            // A group may be there and not let anybody in: then it is the old way, and signals stop what is inside.
            freezing = Freezing::No;
            image.birthplace = None;
            image.doors = group.doors(freezing).map_err(outside("open the bottle's cgroup"))?;
            clone_init(&image)
        }
        (cloned, _) => cloned,
    };
    let cloned = cloned.map_err(LaunchError::Namespaces)?;
    let pid = cloned.pid.as_raw_nonzero().get();
    drop(image);
    drop(theirs);
    let pidfd = Arc::new(cloned.pidfd);
    let cloned = Cloned { pid: cloned.pid, pidfd: pidfd.try_clone().map_err(outside("share the pidfd"))? };
    let made = (|| {
        runner.write_maps(cloned.pid).map_err(LaunchError::Maps)?;
        let mut applied = Applied::RLIMITS;
        if let Some(group) = group {
            applied = group.applied();
        }
        rustix::io::write(&opener, &[1]).map_err(|e| outside("open the gate")(e.into()))?;
        drop(opener);
        started(complaints)?;
        let captured = sockets(&control)?;
        let (stdio, landlock_abi) = ready(&control)?;
        let holds = Holds { landlock_abi, limits: applied, host_ids: runner.host_ids() };
        sockopt::set_socket_timeout(&control, sockopt::Timeout::Send, Some(SEND_WAIT_MAX))
            .map_err(|e| outside("bound the control socket's waits")(e.into()))?;
        let inside = Inside::new(Arc::new(control));
        let freezer = group.filter(|_| freezing == Freezing::Yes).and_then(Group::freezer);
        Ok(Made { captured, stdio, inside, freezer, pidfd: Arc::clone(&pidfd), pid, holds })
    })();
    if made.is_err() {
        let _ = kill(pidfd.as_fd());
        reap(pidfd.as_fd());
    }
    made
}

/// Reads the child's complaint; end of file means that the exec succeeded and closed it.
fn started(complaints: OwnedFd) -> Result<(), LaunchError> {
    let mut report = [0_u8; 5];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&complaints, &mut report))
        .map_err(|e| LaunchError::Outside { step: "hear from the bottle's init", source: e.into() })?;
    if length < report.len() {
        return Ok(());
    }
    let [step, errno @ ..] = report;
    let step = STEPS.get(usize::from(step)).copied().unwrap_or("start");
    Err(LaunchError::Outside { step, source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)) })
}

fn next(control: &OwnedFd) -> Result<(FromInit, Vec<OwnedFd>), LaunchError> {
    match wire::receive(control) {
        Ok(Some((FromInit::Failed { step, errno }, _))) => {
            Err(LaunchError::Inside { step, source: errno.map(io::Error::from_raw_os_error) })
        }
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(LaunchError::InitDied),
        Err(source) => Err(LaunchError::Outside { step: "hear from the bottle's init", source }),
    }
}

fn sockets(control: &OwnedFd) -> Result<CapturedSockets, LaunchError> {
    match next(control)? {
        (FromInit::Sockets { t1, sockets }, descriptors) if sockets.len() == descriptors.len() => {
            Ok(CapturedSockets::sort(t1, &sockets, descriptors))
        }
        _ => Err(LaunchError::InitDied),
    }
}

fn ready(control: &OwnedFd) -> Result<(Stdio, u32), LaunchError> {
    let (FromInit::Ready { landlock_abi }, descriptors) = next(control)? else { return Err(LaunchError::InitDied) };
    let stdio = Stdio::of(descriptors).ok_or(LaunchError::InitDied)?;
    Ok((stdio, landlock_abi))
}

fn reap(pidfd: BorrowedFd<'_>) {
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
    });
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn open_exe(init: &InitProgram) -> io::Result<OwnedFd> {
    let path = match init {
        InitProgram::Itself => std::path::Path::new("/proc/self/exe"),
        InitProgram::At(path) => path,
    };
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

fn open_null() -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?)
}
