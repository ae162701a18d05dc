//! What arrives on one leg of a WebSocket, counted against the memory that bodies which are read whole share.
//!
//! A message is put together before it is seen, and it may be as large as any body. So its octets are counted as they
//! arrive, and not when it is complete: clients that begin messages and never end them would fill the memory of everybody.
//! *Must never* give a share back while what it stands for is still held.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use carboy_core::verdict::Denial;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::body::Share;
use crate::gateway::Gateway;

/// The stream of one leg.
pub(super) struct Drawn<S> {
    io: S,
    account: Arc<Account>,
}

/// What has arrived of messages that are not complete.
pub(super) struct Account {
    gateway: Arc<Gateway>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    share: Share,
    /// There was no more room.
    full: Option<Denial>,
}

const UNPOISONED: &str = "no panic under this lock";

impl Account {
    pub(super) fn new(gateway: &Arc<Gateway>) -> Arc<Account> {
        Arc::new(Account { gateway: gateway.clone(), state: Mutex::default() })
    }

    /// The share of a message that is complete; the next one begins its own.
    pub(super) fn of_message(&self) -> Share {
        std::mem::take(&mut self.state.lock().expect(UNPOISONED).share)
    }

    /// Why nothing more was read, if that is why.
    pub(super) fn full(&self) -> Option<Denial> {
        self.state.lock().expect(UNPOISONED).full.clone()
    }

    fn draw(&self, octets: usize) -> io::Result<()> {
        let mut state = self.state.lock().expect(UNPOISONED);
        state.share.grow(&self.gateway, octets).map_err(|denial| {
            state.full = Some(denial);
            io::Error::from(io::ErrorKind::OutOfMemory)
        })
    }
}

impl<S> Drawn<S> {
    pub(super) fn new(io: S, account: Arc<Account>) -> Drawn<S> {
        Drawn { io, account }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Drawn<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        Poll::Ready(self.account.draw(buf.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Drawn<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
