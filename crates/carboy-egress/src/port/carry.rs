//! Bytes through a joined port, both ways at once.
//!
//! What leaves the bottle goes through the streaming scanner, for known secrets alone: any protocol may run here, and
//! shapes of tokens and of injected text mean nothing in most of them. The scanner keeps back what may be the beginning
//! of a match only as long as more is there to be read; when the stream pauses, all is let go but for more than the
//! first few characters of a known secret. So nothing waits for a timer, and a dialogue goes on.
//!
//! *Must never* change a byte: a stream without a match arrives as it was sent, and one with a match ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use carboy_core::finding::{Detector, Finding, Location};
use carboy_core::verdict::Denial;
use carboy_guard::{Detectors, Mode, ScanPlan, Stopped, StreamScanner};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::{Port, cut};
use crate::gateway::Gateway;

/// Bytes that are read at a time, in each direction.
const CHUNK_BYTES: usize = 64 * 1024;

/// How a connection ended.
pub(super) enum Ending {
    /// Both sides had said all.
    Closed,
    /// One side was reset or went away.
    Broken,
    /// The run ended.
    RunEnds,
    /// Every way out was closed.
    CutOff(Box<Denial>),
    /// A known secret was about to leave.
    Secret(Box<Finding>),
}

impl Ending {
    /// As it stands in the log.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Ending::Closed => "closed",
            Ending::Broken => "broken",
            Ending::RunEnds => "run_ends",
            Ending::CutOff(_) => "cut_off",
            Ending::Secret(_) => "secret",
        }
    }
}

/// Bytes that went through.
pub(super) struct Carried {
    /// Out of the bottle.
    pub(super) out: u64,
    /// Into it.
    pub(super) into: u64,
}

/// Carries until both sides have said all, one of them is gone, or it is cut.
pub(super) async fn both_ways<R, W>(
    gateway: &Gateway,
    port: &Port,
    inside: TcpStream,
    outside: (R, W),
) -> (Ending, Carried)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (from_inside, to_inside) = inside.into_split();
    let (from_outside, to_outside) = outside;
    let (out, into) = (Count::new(&port.counts.bytes_out), Count::new(&port.counts.bytes_in));
    let mut law = gateway.watch_law();
    let ending = tokio::select! {
        biased;
        () = cut(&mut law) => Ending::RunEnds,
        denial = gateway.closing() => Ending::CutOff(Box::new(denial)),
        both = async { tokio::try_join!(scanned(gateway, from_inside, to_outside, &out), copied(from_outside, to_inside, &into)) } => {
            both.map_or_else(|ending| ending, |_| Ending::Closed)
        }
    };
    (ending, Carried { out: out.here(), into: into.here() })
}

/// Bytes of one direction of one connection, counted for the port as well.
struct Count<'a> {
    here: AtomicU64,
    all: &'a AtomicU64,
}

impl<'a> Count<'a> {
    fn new(all: &'a AtomicU64) -> Self {
        Count { here: AtomicU64::new(0), all }
    }

    fn add(&self, bytes: usize) {
        self.here.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn here(&self) -> u64 {
        self.here.load(Ordering::Relaxed)
    }
}

/// Out of the bottle. The end of what is sent is passed on; the other direction stays open.
async fn scanned<W>(gateway: &Gateway, from: OwnedReadHalf, mut to: W, count: &Count<'_>) -> Result<(), Ending>
where
    W: AsyncWrite + Unpin,
{
    let mut scan = Scan::new(gateway);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut cleared = Vec::new();
    loop {
        let mut ended = false;
        match from.try_read(&mut chunk) {
            Ok(0) => {
                scan.finish(&mut cleared)?;
                ended = true;
            }
            Ok(length) => {
                scan.push(gateway, &chunk[..length], &mut cleared)?;
                if length < CHUNK_BYTES {
                    scan.pause(&mut cleared)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                scan.pause(&mut cleared)?;
                if cleared.is_empty() {
                    from.readable().await.map_err(broken)?;
                }
            }
            Err(error) => return Err(broken(error)),
        }
        write(&mut to, &mut cleared, count).await?;
        if ended {
            return to.shutdown().await.map_err(broken);
        }
    }
}

/// Into the bottle, as it comes.
async fn copied<R, W>(mut from: R, mut to: W, count: &Count<'_>) -> Result<(), Ending>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    loop {
        if from.read_buf(&mut chunk).await.map_err(broken)? == 0 {
            return to.shutdown().await.map_err(broken);
        }
        write(&mut to, &mut chunk, count).await?;
    }
}

/// Writes all and empties the buffer. What a write took counts also when the next one fails.
async fn write<W: AsyncWrite + Unpin>(to: &mut W, bytes: &mut Vec<u8>, count: &Count<'_>) -> Result<(), Ending> {
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let written = to.write(rest).await.map_err(broken)?;
        if written == 0 {
            return Err(Ending::Broken);
        }
        count.add(written);
        rest = &rest[written..];
    }
    bytes.clear();
    Ok(())
}

fn broken(_: io::Error) -> Ending {
    Ending::Broken
}

/// The scanner of one direction. A secret that is renewed while a connection is open is looked for from then on.
struct Scan {
    detectors: Arc<Detectors>,
    scanner: StreamScanner,
}

impl Scan {
    fn new(gateway: &Gateway) -> Self {
        let detectors = gateway.detectors();
        let plan =
            ScanPlan { detectors: vec![Detector::KnownSecrets], mode: Mode::Block, location: Location::PortStream };
        Scan { scanner: StreamScanner::new(detectors.clone(), plan), detectors }
    }

    fn push(&mut self, gateway: &Gateway, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Ending> {
        if !Arc::ptr_eq(&self.detectors, &gateway.detectors()) {
            self.finish(out)?;
            *self = Scan::new(gateway);
        }
        self.scanner.push(bytes, out).map_err(secret)
    }

    fn pause(&mut self, out: &mut Vec<u8>) -> Result<(), Ending> {
        self.scanner.pause(out).map_err(secret)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Ending> {
        self.scanner.finish(out).map_err(secret)
    }
}

fn secret(stopped: Stopped) -> Ending {
    Ending::Secret(stopped.finding)
}
