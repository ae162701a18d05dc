//! Sees which streams of HTTP/2 the library ends by itself, because what came was no request: nobody else is told.
//!
//! A head with two `:authority` fields, a name with a line break, a frame of the wrong kind: the library answers such with
//! RST_STREAM or GOAWAY (RFC 9113, 6.4 and 6.8), and no request comes of it that could be refused and written down. So its
//! frames are read as they go out, their heads alone. *Must never* change a byte, or hold one back.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Octets of a frame's head.
const HEAD: usize = 9;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
/// Errors that are the client's (RFC 9113, 7): PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR,
/// ENHANCE_YOUR_CALM. Others tell of an end that somebody wanted.
const FAULTS: [u32; 5] = [1, 3, 6, 9, 11];

/// How many faults were answered that nobody has looked at yet.
#[derive(Default)]
pub(crate) struct Faults {
    pending: AtomicU32,
    any: AtomicBool,
    spoke: AtomicBool,
    told: Notify,
}

impl Faults {
    /// Waits for the next one.
    pub(crate) async fn next(&self) {
        self.told.notified().await;
    }

    /// So many since the last time.
    pub(crate) fn take(&self) -> u32 {
        self.pending.swap(0, Ordering::Relaxed)
    }

    /// Did its client say something, and was no fault of that answered?
    pub(crate) fn is_unanswered(&self) -> bool {
        self.spoke.load(Ordering::Relaxed) && !self.any.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.any.store(true, Ordering::Relaxed);
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.told.notify_one();
    }
}

/// A connection of HTTP/2 whose outgoing frames are looked at.
pub(crate) struct Watched<S> {
    stream: S,
    faults: Arc<Faults>,
    frames: Frames,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, faults: Arc<Faults>) -> Watched<S> {
        Watched { stream, faults, frames: Frames::default() }
    }

    fn saw(&mut self, bytes: &[u8]) {
        for _ in 0..self.frames.faults_in(bytes) {
            self.faults.add();
        }
    }
}

/// Where the reading of frames stands.
#[derive(Default)]
struct Frames {
    /// Of a frame: its head, and the first octets of what may hold an error's number.
    read: Vec<u8>,
    /// Octets of the frame that are still to come and say nothing.
    skip: usize,
}

impl Frames {
    /// How many frames that tell a fault end within these bytes.
    fn faults_in(&mut self, mut bytes: &[u8]) -> usize {
        let mut faults = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = self.wanted();
            let taken = wanted.saturating_sub(self.read.len()).min(bytes.len());
            self.read.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.skip == 0 && self.read.len() >= HEAD && self.read.len() >= self.wanted() {
                faults += usize::from(self.is_fault());
                self.skip = (HEAD + self.length()).saturating_sub(self.read.len());
                self.read.clear();
            }
        }
        faults
    }

    fn length(&self) -> usize {
        self.read.get(..3).map_or(0, |l| usize::from(l[0]) << 16 | usize::from(l[1]) << 8 | usize::from(l[2]))
    }

    /// How much of the frame has to be read: its head, and up to its error's number.
    fn wanted(&self) -> usize {
        match self.read.get(3) {
            Some(&RST_STREAM) => HEAD + self.length().min(4),
            Some(&GOAWAY) => HEAD + self.length().min(8),
            Some(_) | None => HEAD,
        }
    }

    fn is_fault(&self) -> bool {
        matches!(self.read.get(3), Some(&(RST_STREAM | GOAWAY)))
            && self.read[HEAD..].last_chunk::<4>().is_some_and(|code| FAULTS.contains(&u32::from_be_bytes(*code)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.faults.spoke.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.saw(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            self.saw(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        [&length.to_be_bytes()[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn b23_resets_for_a_fault_are_seen_however_the_frames_are_cut() {
        let all = [
            frame(4, &[]),
            frame(0, &[3; 70]),
            frame(RST_STREAM, &[0, 0, 0, 1]),
            frame(RST_STREAM, &[0, 0, 0, 0]),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(1, &[7; 5]),
            frame(GOAWAY, &[0, 0, 0, 1, 0, 0, 0, 11, b'x', b'y']),
            frame(GOAWAY, &[0, 0, 0, 1, 0, 0, 0, 0]),
            frame(RST_STREAM, &[]),
            frame(0, &[]),
            frame(RST_STREAM, &[0, 0, 0, 6]),
        ]
        .concat();
        for size in [1, 2, 5, 9, 13, 64, all.len()] {
            let mut frames = Frames::default();
            let seen: usize = all.chunks(size).map(|part| frames.faults_in(part)).sum();
            assert_eq!(seen, 3, "in pieces of {size}");
        }
    }
}
