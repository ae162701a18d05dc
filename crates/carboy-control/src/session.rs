//! The session of a run: it holds the program's streams from start to end, whoever looks on.
//!
//! ```text
//!                   ┌─► scrollback (memory), output (file)
//! program ──► pump ─┤             ┌─► queue ─► client (a person's `carboy run` or `attach`)
//!    ▲              └─ fan out ───┼─► queue ─► client
//!    └────────── input, window ◄──┴── read ◄── each client
//! ```
//!
//! While somebody is attached, the slowest of them sets the program's pace and nothing of its output is lost to them; one
//! who reads nothing at all for [`CLIENT_STALL_MAX`] is let go. While nobody is attached, the program is never held up.
//!
//! *Must never* block the program for good, and never hand a descriptor of its streams to a client: all is copied.

mod client;
pub mod escapes;
pub mod frames;
pub mod kept;
mod pump;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use carboy_bottle::Stdio;
use serde::{Deserialize, Serialize};

use crate::summary::Summary;
use escapes::{Call, Follow};
use frames::Kind;
use kept::Kept;

/// Output that a later client is shown, in bytes.
pub const SCROLLBACK_BYTES_MAX: usize = 256 * 1024;
/// Output that waits for one client, in bytes; the scrollback comes on top of it once.
pub const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// Clients at once, those included who only wait for the end.
pub const CLIENTS_MAX: usize = 32;
/// A client that takes nothing for this long while there is something for it is let go.
pub const CLIENT_STALL_MAX: Duration = Duration::from_secs(15);
/// How long a program started for a person at a terminal is held at its first output until that person is attached.
pub const FIRST_CLIENT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between the two changes of size that make a full-screen program draw its screen anew.
const NUDGE: Duration = Duration::from_millis(80);

/// How a run ended, for whoever waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The program ended.
    Run(Box<Summary>),
    /// The program ended and carboy could not bring the run to its end.
    Failed {
        /// What went wrong.
        message: String,
    },
    /// A command that was executed in a bottle ended with this code.
    Command(u8),
    /// Such a command was not found, or cannot be executed; a shell shows this code.
    NotStarted(u8),
}

/// What is done with the program's streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// The caller takes them; nobody can attach.
    Direct,
    /// A session holds them.
    Session {
        /// Who looks on at the start.
        first: First,
        /// What is kept on disk.
        keep: Keep,
        /// The terminal it was started at: its bell is rung while nobody is attached.
        started_at: Option<PathBuf>,
    },
}

/// Who looks on at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// A person is about to attach: the first output waits for them, [`FIRST_CLIENT_WAIT_MAX`] at most.
    Awaited,
    /// Nobody.
    Nobody,
}

/// What of the output is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last [`kept::KEPT_BYTES_MAX`].
    Output,
    /// Nothing.
    Nothing,
}

/// How a client is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Sees output, types input, and has a window of this size.
    Terminal {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Sees output.
    Output,
    /// Hears of the end.
    Wait,
}

/// Why nobody can attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Too many.
    #[error("{CLIENTS_MAX} clients are attached, and that is the limit; detach one of them")]
    Full,
    /// Its streams are where it was started.
    #[error("its input and output are the pipes it was started with; `carboy exec` starts a shell in its bottle")]
    Direct,
    /// The system gives no thread.
    #[error("the system gives no thread for one more client")]
    NoThread,
}

/// Where typed bytes and window sizes go.
type Resize = Box<dyn Fn(u16, u16) + Send + Sync>;
type Hear = Box<dyn Fn(Call) + Send + Sync>;
type Pass = Box<dyn Fn(i32) + Send + Sync>;

/// See the module.
pub struct Session {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// The terminal, for input; a session of pipes takes none.
    input: Option<OwnedFd>,
    resize: Resize,
    signal: Pass,
    hear: Hear,
    direct: bool,
}

struct Inner {
    clients: Vec<Client>,
    next_client: u64,
    scrollback: VecDeque<u8>,
    /// The beginning of the output is not in the scrollback any more.
    cut: bool,
    follow: Follow,
    kept: Option<Kept>,
    size: (u16, u16),
    /// Pumps that have not come to their streams' end.
    pumps: usize,
    first_came: bool,
    end: Option<Arc<[u8]>>,
}

struct Client {
    id: u64,
    look: Look,
    queue: VecDeque<(Kind, Arc<[u8]>)>,
    queued_bytes: usize,
    progressed: Instant,
    /// To break off a write that nobody takes.
    stream: Arc<UnixStream>,
}

impl Client {
    fn push(&mut self, kind: Kind, bytes: Arc<[u8]>) {
        if self.queue.is_empty() {
            self.progressed = Instant::now();
        }
        self.queued_bytes += bytes.len();
        self.queue.push_back((kind, bytes));
    }

    fn is_stalled(&self) -> bool {
        !self.queue.is_empty() && self.progressed.elapsed() >= CLIENT_STALL_MAX
    }
}

/// What a session is made of.
pub struct Parts {
    /// The program's streams; `None` where the caller has them.
    pub stdio: Option<Stdio>,
    /// Who looks on at the start.
    pub first: First,
    /// Directory in which output is kept; `None` keeps none.
    pub keep_in: Option<PathBuf>,
    /// Tells the program's terminal its size.
    pub resize: Resize,
    /// Passes a signal to the program.
    pub signal: Pass,
    /// Hears the program call its person.
    pub hear: Hear,
    /// The size at the start.
    pub size: (u16, u16),
}

impl Session {
    /// Takes the streams and begins to read them.
    pub fn open(parts: Parts) -> std::io::Result<Arc<Session>> {
        let kept = parts.keep_in.as_deref().map(Kept::open).transpose()?;
        let (input, sources) = match parts.stdio {
            None => (None, vec![]),
            Some(Stdio::Terminal(master)) => {
                rustix::io::ioctl_fionbio(&master, true)?;
                (Some(master.try_clone()?), vec![(Kind::Output, master)])
            }
            // Standard input is dropped, which is its end.
            Some(Stdio::Pipes { stdin: _, stdout, stderr }) => {
                (None, vec![(Kind::Output, stdout), (Kind::Error, stderr)])
            }
        };
        let session = Arc::new(Session {
            inner: Mutex::new(Inner {
                clients: Vec::new(),
                next_client: 0,
                scrollback: VecDeque::new(),
                cut: false,
                follow: Follow::default(),
                kept,
                size: parts.size,
                pumps: sources.len(),
                first_came: parts.first == First::Nobody,
                end: None,
            }),
            changed: Condvar::new(),
            input,
            resize: parts.resize,
            signal: parts.signal,
            hear: parts.hear,
            direct: sources.is_empty(),
        });
        for (kind, source) in sources {
            let session = session.clone();
            std::thread::Builder::new().name("output".into()).spawn(move || pump::pump(&session, kind, source))?;
        }
        Ok(session)
    }

    /// Can somebody attach to it, or has the caller its streams?
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// How many look on.
    pub fn viewers(&self) -> usize {
        self.lock().clients.iter().filter(|client| client.look != Look::Wait).count()
    }

    /// Says something of carboy's own to everybody who looks on.
    pub fn tell(&self, words: &str) {
        let words: Arc<[u8]> = words.as_bytes().into();
        let mut inner = self.lock();
        for client in inner.clients.iter_mut().filter(|client| client.look != Look::Wait) {
            // Words are few; one who takes nothing is let go by the program's next output.
            client.push(Kind::Tell, words.clone());
        }
        self.changed.notify_all();
    }

    /// Would [`Session::attach`] take this client now?
    pub fn may_attach(&self, look: Look) -> Result<(), AttachError> {
        if self.direct && look != Look::Wait {
            return Err(AttachError::Direct);
        }
        if self.lock().clients.len() >= CLIENTS_MAX { Err(AttachError::Full) } else { Ok(()) }
    }

    /// Attaches a client whose first line has been answered.
    pub fn attach(self: &Arc<Self>, stream: UnixStream, look: Look) -> Result<(), AttachError> {
        self.may_attach(look)?;
        let stream = Arc::new(stream);
        let (id, is_first) = {
            let mut inner = self.lock();
            let id = inner.next_client;
            inner.next_client += 1;
            let mut client = Client {
                id,
                look,
                queue: VecDeque::new(),
                queued_bytes: 0,
                progressed: Instant::now(),
                stream: stream.clone(),
            };
            if look != Look::Wait {
                for piece in inner.replay().chunks(pump::PIECE_BYTES) {
                    client.push(Kind::Output, piece.into());
                }
            }
            if let Some(end) = &inner.end {
                client.push(Kind::End, end.clone());
            }
            inner.clients.push(client);
            let is_first = !inner.first_came;
            inner.first_came |= look != Look::Wait;
            (id, is_first)
        };
        self.changed.notify_all();
        if client::serve(self, id, stream).is_err() {
            self.remove(id);
            return Err(AttachError::NoThread);
        }
        if let Look::Terminal { rows, cols } = look {
            if is_first { self.resize(rows, cols) } else { self.redraw(rows, cols) }
        }
        Ok(())
    }

    fn resize(&self, rows: u16, cols: u16) {
        if rows == 0 || cols == 0 {
            return;
        }
        self.lock().size = (rows, cols);
        (self.resize)(rows, cols);
    }

    /// A program that draws the whole screen does so when its window changes. Some look whether it really did.
    fn redraw(self: &Arc<Self>, rows: u16, cols: u16) {
        if rows < 2 || self.input.is_none() {
            return self.resize(rows, cols);
        }
        self.resize(rows - 1, cols);
        let session = self.clone();
        let later = std::thread::Builder::new().name("redraw".into()).spawn(move || {
            std::thread::sleep(NUDGE);
            // Another client may have said its own size in the meantime.
            if session.lock().size == (rows - 1, cols) {
                session.resize(rows, cols);
            }
        });
        if later.is_err() {
            self.resize(rows, cols);
        }
    }

    /// Waits until all of the program's output has gone to whoever looked on. Call it when the bottle is gone.
    pub fn drained(&self) {
        let mut inner = self.lock();
        while inner.pumps > 0 {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(kept) = &mut inner.kept {
            kept.finish();
        }
    }

    /// Tells everybody the end and waits until they have heard it; one who does not listen is let go.
    pub fn close(&self, end: &End) {
        let end: Arc<[u8]> = serde_json::to_vec(end).unwrap_or_default().into();
        let mut inner = self.lock();
        inner.end = Some(end.clone());
        for client in &mut inner.clients {
            client.push(Kind::End, end.clone());
        }
        self.changed.notify_all();
        while !inner.clients.is_empty() {
            inner.drop_stalled();
            inner = self.wait(inner, CLIENT_STALL_MAX);
        }
    }

    fn remove(&self, id: u64) {
        let mut inner = self.lock();
        inner.clients.retain(|client| client.id != id);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>, wait_max: Duration) -> MutexGuard<'a, Inner> {
        self.changed.wait_timeout(inner, wait_max).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Inner {
    /// What a client that comes now is shown: the modes that were set, then the last of the output.
    fn replay(&self) -> Vec<u8> {
        if self.scrollback.is_empty() {
            return Vec::new();
        }
        let whole: Vec<u8> = self.scrollback.iter().copied().collect();
        // Cut anywhere, it may begin in the middle of a sequence or of a character; a line is a beginning.
        let start = match self.cut {
            true => whole.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1),
            false => 0,
        };
        let mut bytes = self.follow.enter();
        bytes.extend(escapes::again(&whole[start..]));
        // What the old output set and unset on its way ends where the program is now.
        bytes.extend(self.follow.enter());
        bytes
    }

    fn remember(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(SCROLLBACK_BYTES_MAX)..];
        let over = (self.scrollback.len() + bytes.len()).saturating_sub(SCROLLBACK_BYTES_MAX);
        self.cut |= over > 0;
        self.scrollback.drain(..over);
        self.scrollback.extend(bytes);
    }

    fn drop_stalled(&mut self) {
        for client in self.clients.extract_if(.., |client| client.is_stalled()) {
            // Its threads end on this; whoever reads there hears nothing more.
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
