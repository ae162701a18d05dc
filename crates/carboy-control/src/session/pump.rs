//! From the program's streams to everybody who looks on, at the pace of the slowest of them.
//!
//! *Must never* hold the program up when nobody looks on.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::frames::Kind;
use super::{CLIENT_STALL_MAX, FIRST_CLIENT_WAIT_MAX, Look, QUEUE_BYTES_MAX, Session};

/// Bytes taken at once.
pub const PIECE_BYTES: usize = 16 * 1024;

/// Copies until the stream ends. A terminal whose last user has gone says EIO, which is its end.
pub fn pump(session: &Session, kind: Kind, source: OwnedFd) {
    await_first(session);
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match rustix::io::read(&source, &mut buffer) {
            Ok(0) => break,
            Ok(n) => deliver(session, kind, &buffer[..n]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // An error of poll is seen by the next read.
                let _ = poll(&mut [PollFd::new(&source, PollFlags::IN)], None);
            }
            Err(_) => break,
        }
    }
    let mut inner = session.lock();
    inner.pumps -= 1;
    session.changed.notify_all();
}

fn await_first(session: &Session) {
    let deadline = Instant::now() + FIRST_CLIENT_WAIT_MAX;
    let mut inner = session.lock();
    while !inner.first_came {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            inner.first_came = true;
            return;
        }
        inner = session.wait(inner, left);
    }
}

fn deliver(session: &Session, kind: Kind, bytes: &[u8]) {
    let piece: Arc<[u8]> = bytes.into();
    let mut inner = session.lock();
    let calls = inner.follow.feed(bytes);
    if let Some(kept) = &mut inner.kept {
        kept.write(bytes);
    }
    loop {
        inner.drop_stalled();
        let full = |queued: usize| queued > 0 && queued + bytes.len() > QUEUE_BYTES_MAX;
        let mut waiting = inner.clients.iter().filter(|c| c.look != Look::Wait && full(c.queued_bytes)).peekable();
        if waiting.peek().is_none() {
            break;
        }
        let since = waiting.map(|client| client.progressed).min().unwrap_or_else(Instant::now);
        let left = CLIENT_STALL_MAX.saturating_sub(since.elapsed());
        inner = session.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    // In one step with the queues: a client that comes in between would have this piece twice, or never.
    inner.remember(bytes);
    for client in inner.clients.iter_mut().filter(|client| client.look != Look::Wait) {
        client.push(kind, piece.clone());
    }
    session.changed.notify_all();
    drop(inner);
    for call in calls {
        (session.hear)(call);
    }
}
