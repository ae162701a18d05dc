//! One connection to the controller, from its hello to its end.
//!
//! ```text
//!  accept ─► whose process? ─► hello ─┬─ supervisor ─► requests, answered in any order; pushes
//!                                     └─ operator, observer ─► one request after the other; snapshots
//! ```
//!
//! Whatever is said that is not understood ends this connection with a word of why, and concerns no other one.
//!
//! *Must never* answer another user, or let one connection's silence or flood reach another one.

use std::sync::Arc;
use std::time::Duration;

use carboy_store::controller::frame::{self, FrameError};
use carboy_store::controller::protocol::{
    Goodbye, Hello, Push, Request, Role, Said, Supervised, VERSION, Welcome, understands,
};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answering::{Looking, May, Supervising};
use super::leases::{Attendance, Owner};
use super::process::Process;
use super::serving::{OBSERVERS_MAX, OPERATORS_MAX, Serving};
use super::start::Starter;

/// How long a client may take to greet.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(5);
/// Most messages that wait to be written to one client.
const OUT_MAX: usize = 64;
/// How long a client may take to read what is written to it.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long one that is sent away may take to hear why.
const GOODBYE_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long requests under way may take when the controller ends.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest name of a run or bottle that is taken.
const NAME_BYTES_MAX: usize = 256;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ends {
    /// It said goodbye by closing.
    #[error("it closed")]
    Closed,
    /// Nothing that is understood.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No hello in time.
    #[error("no hello within {} s", HELLO_WAIT_MAX.as_secs())]
    Mute,
    /// A version that is not spoken here.
    #[error(
        "carboy {program} speaks version {theirs} of the protocol and this controller (carboy {own}) version {VERSION}; {step}"
    )]
    Version {
        /// Its program.
        program: String,
        /// What it speaks.
        theirs: u16,
        /// This program.
        own: &'static str,
        /// What to do.
        step: &'static str,
    },
    /// Another user's process.
    #[error("user {0} may not speak to this controller")]
    Stranger(u32),
    /// A process whose number says nothing here.
    #[error("the supervisor's process cannot be seen from here; run it in the controller's PID namespace")]
    Unseen,
    /// It does not know the run.
    #[error("{0}")]
    Refused(String),
    /// Nothing was heard for longer than the lease.
    #[error("nothing was heard for longer than the lease; what was dispatched is charged in full")]
    Lapsed,
    /// Its owner is gone, or speaks over another connection.
    #[error("this supervisor is gone, or speaks over another connection")]
    Superseded,
    /// It takes no pushes.
    #[error("the supervisor does not take what is pushed to it")]
    Full,
    /// The controller ends.
    #[error("the controller is ending")]
    Ending,
}

/// Where answers and pushes go.
pub(super) type Out = mpsc::Sender<Vec<u8>>;

/// Where requests come from.
type Incoming = BufReader<OwnedReadHalf>;

/// Sends one message; `false` when nobody reads any more.
pub(super) async fn say(out: &Out, said: &Said) -> bool {
    match frame::encode(said) {
        Ok(frame) => out.send(frame).await.is_ok(),
        Err(_) => false,
    }
}

/// Serves a connection to its end. Why it ended is written down before the other side sees it closed.
pub(super) async fn serve(serving: &Arc<Serving>, stream: UnixStream) {
    let write_down = |ends: &Ends| {
        if !matches!(ends, Ends::Closed | Ends::Ending) {
            serving.keeper.journal().say(&format!("a connection was ended: {ends}"));
        }
    };
    let peer = match peer(&stream) {
        Ok(peer) => peer,
        Err(stranger) => return write_down(&stranger),
    };
    let (read, write) = stream.into_split();
    // A message is a length and a text, and often several come at once: that is one call of the system's, not one for each.
    let read = BufReader::new(read);
    let (out, frames) = mpsc::channel(OUT_MAX);
    let writer = tokio::spawn(write_on(write, frames));
    let ends = converse(serving, peer, read, &out).await;
    write_down(&ends);
    if !matches!(ends, Ends::Closed) {
        let program = Starter::version().to_owned();
        let goodbye = Said::Goodbye(Goodbye { version: VERSION, program, why: ends.to_string() });
        // Whoever does not read misses the last word.
        let _ = timeout(GOODBYE_WAIT_MAX, say(&out, &goodbye)).await;
    }
    drop(out);
    let abort = writer.abort_handle();
    if timeout(GOODBYE_WAIT_MAX, writer).await.is_err() {
        abort.abort();
    }
}

/// The process at the other end, of this user or of root.
fn peer(stream: &UnixStream) -> Result<u32, Ends> {
    let peer = stream.peer_cred().map_err(|e| Ends::Frame(e.into()))?;
    let own = rustix::process::getuid().as_raw();
    if peer.uid() != own && peer.uid() != 0 {
        return Err(Ends::Stranger(peer.uid()));
    }
    // Zero is what a process of another namespace looks like.
    peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0).ok_or(Ends::Unseen)
}

async fn write_on(mut write: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    let mut batch = Vec::new();
    while frames.recv_many(&mut batch, OUT_MAX).await > 0 {
        let bytes = batch.concat();
        batch.clear();
        if !matches!(timeout(WRITE_WAIT_MAX, write.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn converse(serving: &Arc<Serving>, pid: u32, mut read: Incoming, out: &Out) -> Ends {
    let hello = tokio::select! {
        hello = timeout(HELLO_WAIT_MAX, frame::read::<Hello>(&mut read)) => hello,
        () = serving.ended() => return Ends::Ending,
    };
    let hello = match hello {
        Ok(Ok(Some(hello))) => hello,
        Ok(Ok(None)) => return Ends::Closed,
        Ok(Err(error)) => return error.into(),
        Err(_) => return Ends::Mute,
    };
    if !understands(VERSION, hello.version) {
        let step = if hello.version > VERSION {
            "`carboy controller stop` ends it, and the next run starts the newer one"
        } else {
            "start the run again with the newer carboy"
        };
        let program = hello.program.chars().filter(|c| !c.is_control()).take(40).collect();
        return Ends::Version { program, theirs: hello.version, own: Starter::version(), step };
    }
    let welcome = |lapsed| {
        let (program, pid) = (Starter::version().to_owned(), std::process::id());
        Said::Welcome(Welcome { version: hello.version, program, pid, lapsed })
    };
    match hello.role {
        Role::Supervisor(supervised) => {
            let (attendance, pushes) = match attend(serving, pid, &supervised).await {
                Ok(attending) => attending,
                Err(ends) => return ends,
            };
            if !say(out, &welcome(attendance.lapsed)).await {
                return Ends::Closed;
            }
            supervise(serving, attendance, *supervised, pushes, read, out).await
        }
        Role::Operator => {
            let Ok(_seat) = serving.operators.try_acquire() else { return taken(OPERATORS_MAX, "commands") };
            if say(out, &welcome(false)).await { look(serving, May::Change, read, out).await } else { Ends::Closed }
        }
        Role::Observer => {
            let Ok(_seat) = serving.observers.try_acquire() else { return taken(OBSERVERS_MAX, "who look on") };
            if say(out, &welcome(false)).await { look(serving, May::Look, read, out).await } else { Ends::Closed }
        }
    }
}

fn taken(most: usize, whom: &str) -> Ends {
    Ends::Refused(format!(
        "{most} {whom} are connected, and that is the most; end some: `fuser` on its socket finds them"
    ))
}

/// Gives the supervisor its lease and the ledger its budgets.
async fn attend(
    serving: &Arc<Serving>,
    pid: u32,
    supervised: &Supervised,
) -> Result<(Attendance, mpsc::Receiver<Push>), Ends> {
    let names = [Some(&supervised.run), Some(&supervised.bottle), supervised.agent.as_ref()];
    if names.into_iter().flatten().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        return Err(Ends::Refused(format!("the names of a run have 1 to {NAME_BYTES_MAX} bytes")));
    }
    let process = Process::of(pid).ok_or(Ends::Unseen)?;
    let owner = Owner { process, run: supervised.run.clone() };
    let attendance = match serving.leases.back(&owner) {
        Some(attendance) => attendance,
        None => {
            let number = new_number().map_err(Ends::Refused)?;
            serving.leases.attend(&owner, number).map_err(|e| Ends::Refused(e.to_string()))?
        }
    };
    let pushes = serving.keeper.pushes_to(attendance.number);
    let hello = serving.keeper.hello(attendance.number, &owner, supervised).await;
    hello.map_err(|e| Ends::Refused(e.to_string()))?;
    serving.keeper.tell_standing(attendance.number).await;
    Ok((attendance, pushes))
}

/// Names of owners are never given twice, over all starts of the controller.
fn new_number() -> Result<u64, String> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(|e| format!("the system gives no random bytes: {e}"))?;
    // A database's whole numbers have a sign.
    Ok(u64::from_be_bytes(bits) >> 1)
}

async fn supervise(
    serving: &Arc<Serving>,
    attendance: Attendance,
    supervised: Supervised,
    mut pushes: mpsc::Receiver<Push>,
    mut read: Incoming,
    out: &Out,
) -> Ends {
    let mut requests =
        Supervising::new(serving.clone(), attendance.owner().clone(), attendance.number, supervised, out);
    let reading = async {
        loop {
            match timeout(attendance.lease(), frame::read::<Request>(&mut read)).await {
                Ok(Ok(Some(request))) => {
                    attendance.heard();
                    if let Err(ends) = requests.take(request).await {
                        return ends;
                    }
                }
                Ok(Ok(None)) => return Ends::Closed,
                Ok(Err(error)) => return error.into(),
                Err(_) => return Ends::Lapsed,
            }
        }
    };
    let pushing = async {
        while let Some(push) = pushes.recv().await {
            if !say(out, &Said::Push(push)).await {
                return Ends::Closed;
            }
        }
        Ends::Full
    };
    let ends = tokio::select! {
        ends = reading => ends,
        ends = pushing => ends,
        () = attendance.over() => Ends::Superseded,
        () = out.closed() => Ends::Closed,
        () = serving.ended() => Ends::Ending,
    };
    requests.close(DRAIN_WAIT_MAX).await;
    ends
}

async fn look(serving: &Arc<Serving>, may: May, mut read: Incoming, out: &Out) -> Ends {
    let mut looking = Looking::new(serving.clone(), may, out);
    loop {
        let request = tokio::select! {
            request = frame::read::<Request>(&mut read) => request,
            () = serving.ended() => return Ends::Ending,
        };
        let answered = match request {
            // Whoever does not read its answers does not hold up the end; what asks for the end is still answered.
            Ok(Some(request)) => tokio::select! {
                biased;
                answered = looking.answer(request) => answered,
                () = serving.ended() => return Ends::Ending,
            },
            Ok(None) => return Ends::Closed,
            Err(error) => return error.into(),
        };
        if !answered {
            return Ends::Closed;
        }
    }
}
