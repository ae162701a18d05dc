//! Connections of people: how many, how slow, how long; and the way out in order.
//!
//! ```text
//!  accept ─▶ room for it? for its address? ─▶ Guarded (writes that stall, answers that hyper writes itself) ─▶ http1 ─▶ router
//!  asked to stop ─▶ no new turns (503) ─▶ turns under way end, or their time does ─▶ connections end ─▶ back to the caller
//! ```
//!
//! *Must never* wait for a peer without a limit.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use carboy_agent::layers::limiter::address_key;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

use super::App;
use super::entry::routed;
use super::proxies::Network;

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 2_048;
/// Connections of one address (of IPv6: of one network of 64 bits) at once, unless it is a listed proxy's.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// How long a request's head may take, and how long a connection may be idle.
pub const HEAD_WAIT_MAX: Duration = Duration::from_secs(15);
/// Longest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Fields of one head.
pub const FIELDS_MAX: usize = 64;
/// How long a peer may refuse to read.
pub const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long connections may take to end once no turn is under way.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be accepted: descriptors have run out, most of all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections each address has, by the name that limits of requests count it by too.
#[derive(Default)]
struct Addresses(Mutex<HashMap<String, usize>>);

/// A place of one address.
struct Place {
    addresses: Arc<Addresses>,
    address: Option<String>,
}

impl Addresses {
    fn place(self: &Arc<Self>, address: IpAddr, trusted: &[Network]) -> Option<Place> {
        if trusted.iter().any(|network| network.contains(address)) {
            return Some(Place { addresses: self.clone(), address: None });
        }
        let address = address_key(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address.clone()).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), address: Some(address) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = &self.address else { return };
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(address);
            }
        }
    }
}

/// Serves until `stop` says so, and ends in order: within `grace` turns under way are answered.
pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: axum::Router,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut accepting = Accepting {
        listener,
        app: app.clone(),
        router,
        room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        addresses: Arc::default(),
        closing: closing.clone(),
    };
    tokio::select! {
        () = accepting.run(&mut connections) => {}
        // A caller that went away does not want it any more either.
        () = said(&mut stop) => {}
    }
    app.turns.close();
    app.journal.say("stopping", "no new turns; those under way are finished");
    // Who comes now is told 503, so that a balancer goes elsewhere.
    tokio::select! {
        () = accepting.run(&mut connections) => {}
        _ = timeout(grace, app.turns.idle()) => {}
    }
    drop(accepting);
    app.turns.stop_all();
    closing.send_replace(true);
    let ended = timeout(CLOSE_WAIT_MAX, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        connections.shutdown().await;
    }
    app.journal.say("stopped", "ended in order");
}

struct Accepting {
    listener: TcpListener,
    app: Arc<App>,
    router: axum::Router,
    room: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    closing: watch::Sender<bool>,
}

impl Accepting {
    async fn run(&mut self, connections: &mut JoinSet<()>) {
        loop {
            while connections.try_join_next().is_some() {}
            let Ok((stream, peer)) = self.listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let place = self.addresses.place(peer.ip(), &self.app.trusted);
            let (Some(place), Ok(permit)) = (place, self.room.clone().try_acquire_owned()) else {
                self.too_many(&stream);
                continue;
            };
            let serving = connection(stream, peer, self.app.clone(), self.router.clone(), self.closing.subscribe());
            connections.spawn(async move {
                serving.await;
                drop((place, permit));
            });
        }
    }

    /// One attempt, without waiting: whoever has too many connections is owed no more.
    fn too_many(&self, stream: &TcpStream) {
        let body = r#"{"error":{"code":"too_many_connections","message":"there are too many connections","next":"close some, and try again in a moment"}}"#;
        let head = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 5\r\nconnection: close\r\n{}\r\n",
            body.len(),
            self.app.walls.lines()
        );
        // It may be gone already.
        let _ = stream.try_write(format!("{head}{body}").as_bytes());
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    app: Arc<App>,
    router: axum::Router,
    mut closing: watch::Receiver<bool>,
) {
    // Sentences are small, and each is wanted at once.
    let _ = stream.set_nodelay(true);
    let serving = app.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, router) = (serving.clone(), router.clone());
        async move { Ok::<_, Infallible>(routed(&app, router, request.map(Body::new), Peer(peer)).await) }
    });
    let io = TokioIo::new(Guarded { stream, stalled: None, walls: app.walls.lines() });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(FIELDS_MAX)
        .serve_connection(io, service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = said(&mut closing) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    // Peers that go away, stall or speak no HTTP are every day's; their requests have lines of their own.
    drop(ended);
}

/// Ready when it says so, or cannot any more.
pub(super) async fn said(word: &mut watch::Receiver<bool>) {
    let _ = word.wait_for(|said| *said).await;
}

/// The other end of a request's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

/// A connection whose peer has to read, and on which answers that hyper makes itself (a head that is none, too long,
/// too many fields) carry the same fields as all others.
struct Guarded {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
    walls: String,
}

impl Guarded {
    /// What hyper wrote by itself ends its connection and has no field of ours.
    fn bare_refusal<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let head = bytes.strip_suffix(b"\r\n\r\n")?;
        let ours = head.windows(15).any(|window| window.eq_ignore_ascii_case(b"x-content-type-"));
        (head.starts_with(b"HTTP/1.1 4") && !ours).then_some(head)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(head) = self.bare_refusal(bytes) {
            let whole = [head, b"\r\n", self.walls.as_bytes(), b"\r\n"].concat();
            // It is small, it is the first that is written, and the connection ends after it: it fits, or goes unread.
            return Pin::new(&mut self.stream).poll_write(context, &whole).map_ok(|_| bytes.len());
        }
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(written) => {
                self.stalled = None;
                Poll::Ready(written)
            }
            Poll::Pending => {
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_WAIT_MAX)));
                match stalled.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g46_addresses_of_one_ipv6_network_share_their_connections() {
        let addresses = Arc::new(Addresses::default());
        let place = |text: &str| addresses.place(text.parse().unwrap(), &["10.0.0.0/8".parse().unwrap()]);
        let held: Vec<Place> = (0..CONNECTIONS_PER_ADDRESS_MAX)
            .map(|host| place(&format!("2001:db8:1:2::{host:x}")).expect("there is room"))
            .collect();
        assert!(place("2001:db8:1:2:ffff::1").is_none());
        assert!(place("2001:db8:1:3::1").is_some() && place("192.0.2.7").is_some());
        drop(held);
        assert!(place("2001:db8:1:2:ffff::1").is_some());
        // However a socket spells it; a listed proxy has no such limit.
        let four: Vec<_> = (0..CONNECTIONS_PER_ADDRESS_MAX).map(|_| place("192.0.2.7")).collect();
        assert!(four.iter().all(Option::is_some) && place("::ffff:192.0.2.7").is_none());
        let proxy: Vec<_> = (0..=CONNECTIONS_PER_ADDRESS_MAX).map(|_| place("10.0.0.1")).collect();
        assert!(proxy.iter().all(Option::is_some));
        drop((four, proxy));
        assert!(addresses.0.lock().unwrap().is_empty(), "nothing is kept of who is gone");
    }
}
