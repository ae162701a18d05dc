//! What carries a client's calls: one connection after the other, for as long as the client lives.
//!
//! ```text
//!  connect ─► hello ─► welcome ─► calls out, answers and pushes in ─► lost ─► pause ─┐
//!     ▲  └─ nobody listens: the controller is started, but not for ever              │
//!     └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! *Must never* take the silence of a connection for its health: a controller that answers nothing is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::super::dial::dial;
use super::super::events::EventsIn;
use super::super::frame::{self, FrameError};
use super::super::protocol::{Call, Hello, Push, Request, Role, Said, VERSION, Welcome, understands};
use super::calls::Calls;
use super::{HEARTBEAT_EVERY, Reach};

/// First pause after a connection was lost, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long the controller may take to greet.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may be silent: three heartbeats go unanswered.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often the controller is started in one outage: one that is dying may still be found listening the first time.
const STARTS_MAX: u32 = 3;
/// A connection that held so long has ended an outage: in the next one the controller is started again.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// Until endings that could not be written are told again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The number of heartbeats: no call has it.
const HEARTBEAT: u64 = u64::MAX;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Away {
    #[error("the controller cannot be reached: {0}")]
    Connect(#[source] std::io::Error),
    #[error("the controller does not greet within {} s", HELLO_WAIT_MAX.as_secs())]
    Mute,
    #[error("the controller is silent for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the controller closed the connection")]
    Closed,
    #[error("the controller says: {0}")]
    Refused(String),
    #[error(
        "the controller speaks version {0} of the protocol and this run version {VERSION}; start the newer of the two again"
    )]
    Version(u16),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Carries calls until it is aborted.
pub(super) async fn carry(calls: Arc<Calls>, reach: Arc<dyn Reach>, events: EventsIn) {
    let (mut pause, mut starts) = (PAUSE.0, 0);
    let mut acted = false;
    // What the last start said: more of use than that nobody listens, for as long as nobody does.
    let mut not_started: Option<String> = None;
    loop {
        let away = match connected(&calls, reach.as_ref()).await {
            Ok((stream, welcome)) => {
                greeted(&calls, &events, &welcome);
                let since = Instant::now();
                let away = converse(&calls, &events, stream, &mut acted).await;
                (pause, not_started) = (PAUSE.0, None);
                if since.elapsed() >= SETTLED_AFTER {
                    starts = 0;
                }
                // Whatever made it end: the first thing to try is to have it back.
                calls.lost(away.to_string());
                continue_at_once(&away).await;
                continue;
            }
            Err(away) => away,
        };
        let nobody = matches!(&away, Away::Connect(e) if nobody_listens(e));
        calls.lost(not_started.clone().filter(|_| nobody).unwrap_or_else(|| away.to_string()));
        if nobody && starts < STARTS_MAX {
            starts += 1;
            calls.reaching(true);
            match reach.start().await {
                Ok(()) => continue,
                Err(why) => {
                    let why = format!("the controller cannot be started: {why}");
                    calls.lost(why.clone());
                    not_started = Some(why);
                }
            }
        }
        calls.reaching(false);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// A controller that sends its clients away has a reason, which does not pass in an instant.
async fn continue_at_once(away: &Away) {
    if matches!(away, Away::Refused(_) | Away::Frame(_)) {
        tokio::time::sleep(PAUSE.0).await;
    }
}

/// The socket is gone, or the process that had it open is (unix(7)).
fn nobody_listens(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

fn greeted(calls: &Calls, events: &EventsIn, welcome: &Welcome) {
    calls.linked();
    if welcome.lapsed {
        let text = "this run was away from the controller for too long: its requests under way were charged in full";
        events.put(Push::Warn { text: text.into() });
    }
}

async fn connected(calls: &Calls, reach: &dyn Reach) -> Result<(UnixStream, Welcome), Away> {
    let mut stream = dial(reach.socket()).await.map_err(Away::Connect)?;
    let role = Role::Supervisor(Box::new(calls.supervised()));
    let hello = frame::encode(&Hello { version: VERSION, program: reach.program().to_owned(), role })?;
    let greeting = async {
        stream.write_all(&hello).await.map_err(FrameError::Io)?;
        frame::read::<Said>(&mut stream).await
    };
    match timeout(HELLO_WAIT_MAX, greeting).await.map_err(|_| Away::Mute)?? {
        Some(Said::Welcome(welcome)) if understands(VERSION, welcome.version) => Ok((stream, welcome)),
        Some(Said::Welcome(welcome)) => Err(Away::Version(welcome.version)),
        Some(Said::Goodbye(goodbye)) => Err(Away::Refused(goodbye.why)),
        Some(Said::Answer(..) | Said::Push(_)) | None => Err(Away::Closed),
    }
}

/// Everything over one connection, to its end.
async fn converse(calls: &Calls, events: &EventsIn, stream: UnixStream, acted: &mut bool) -> Away {
    let (read, write) = stream.into_split();
    let (beat, beats) = tokio::sync::mpsc::channel(1);
    tokio::select! {
        away = listen(calls, events, BufReader::new(read), acted) => away,
        away = speak(calls, write, beats) => away,
        () = tick(calls, beat) => Away::Closed,
    }
}

async fn listen(calls: &Calls, events: &EventsIn, mut read: BufReader<OwnedReadHalf>, acted: &mut bool) -> Away {
    loop {
        let said = match timeout(SILENCE_MAX, frame::read::<Said>(&mut read)).await {
            Ok(Ok(Some(said))) => said,
            Ok(Ok(None)) => return Away::Closed,
            Ok(Err(error)) => return error.into(),
            Err(_) => return Away::Silent,
        };
        match said {
            Said::Answer(HEARTBEAT, _) => {}
            Said::Answer(number, answer) => calls.answered(number, answer),
            // The controller says how it stands after each hello; what was never undone needs no undoing.
            Said::Push(Push::Restore { .. }) if !std::mem::take(acted) => {}
            Said::Push(push) => {
                *acted |= matches!(push, Push::Act { .. });
                events.put(push);
            }
            Said::Goodbye(goodbye) => return Away::Refused(goodbye.why),
            Said::Welcome(_) => return Away::Closed,
        }
    }
}

async fn speak(calls: &Calls, mut write: OwnedWriteHalf, mut beats: tokio::sync::mpsc::Receiver<()>) -> Away {
    loop {
        let frames = tokio::select! {
            frames = calls.next_frames() => frames,
            Some(()) = beats.recv() => frame::encode(&Request { number: HEARTBEAT, call: Call::Heartbeat }),
        };
        let frames = match frames {
            Ok(frames) => frames,
            Err(error) => return error.into(),
        };
        match timeout(SILENCE_MAX, write.write_all(&frames)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return FrameError::Io(error).into(),
            Err(_) => return Away::Silent,
        }
    }
}

/// Heartbeats, and endings that have to be told again.
async fn tick(calls: &Calls, beat: tokio::sync::mpsc::Sender<()>) {
    let (mut beats, mut again) = (interval(HEARTBEAT_EVERY), interval(AGAIN_AFTER));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // One that waits already is enough.
            _ = beats.tick() => drop(beat.try_send(())),
            _ = again.tick() => calls.again(),
        }
    }
}
