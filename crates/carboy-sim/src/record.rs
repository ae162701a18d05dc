//! What reached the provider, kept for the tests: the last requests, each with the head of its body.
//!
//! An entry is made when a request's head is there and grows with its body, so that what left only in part shows too.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Requests that are kept; older ones fall out.
pub const REQUESTS_MAX: usize = 1024;
/// Bytes of a body that are kept.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all kept bodies together; the oldest requests fall out beyond.
pub const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// As sent.
    pub method: String,
    /// Path and query as sent.
    pub path: String,
    /// `Host` of HTTP/1.1, `:authority` of HTTP/2.
    pub authority: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// In order, lower-case names.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Bytes of the body that arrived.
    pub body_len: u64,
    /// The first [`BODY_BYTES_MAX`] of them, as sent (still encoded).
    pub body: Vec<u8>,
    /// SHA-256 of the whole body in hex, once it is complete.
    pub body_sha256: Option<String>,
    /// What ALPN agreed on; `None` without TLS or without ALPN.
    pub alpn: Option<String>,
    /// The server name of the TLS handshake.
    pub server_name: Option<String>,
    /// Who connected.
    pub peer: SocketAddr,
}

impl ReceivedRequest {
    /// The first field of this lower-case name, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(value).ok()
    }

    /// Does `needle` stand anywhere in what arrived: path, fields or the kept part of the body?
    pub fn contains(&self, needle: &[u8]) -> bool {
        let holds = |hay: &[u8]| !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle);
        holds(self.path.as_bytes())
            || holds(&self.body)
            || self.headers.iter().any(|(name, value)| holds(name.as_bytes()) || holds(value))
    }
}

type Entry = Arc<Mutex<ReceivedRequest>>;

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    total: u64,
    body_bytes: usize,
}

/// The record, shared by all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Kept>>);

/// One request's place in the record, while its body arrives.
pub(crate) struct Open {
    entry: Entry,
    recorder: Recorder,
}

impl Recorder {
    pub fn open(&self, request: ReceivedRequest) -> Open {
        let entry = Arc::new(Mutex::new(request));
        let mut kept = lock(&self.0);
        kept.total += 1;
        kept.entries.push_back(entry.clone());
        if kept.entries.len() > REQUESTS_MAX {
            kept.drop_oldest();
        }
        Open { entry, recorder: self.clone() }
    }

    pub fn received(&self) -> Vec<ReceivedRequest> {
        lock(&self.0).entries.iter().map(|entry| lock(entry).clone()).collect()
    }

    pub fn total(&self) -> u64 {
        lock(&self.0).total
    }

    pub fn clear(&self) {
        let mut kept = lock(&self.0);
        kept.entries.clear();
        kept.body_bytes = 0;
    }
}

impl Kept {
    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.body_bytes = self.body_bytes.saturating_sub(lock(&oldest).body.len());
        }
    }
}

impl Open {
    pub fn push(&self, bytes: &[u8]) {
        let added = {
            let mut request = lock(&self.entry);
            request.body_len += bytes.len() as u64;
            let room = BODY_BYTES_MAX - request.body.len();
            let part = &bytes[..bytes.len().min(room)];
            request.body.extend_from_slice(part);
            part.len()
        };
        let mut kept = lock(&self.recorder.0);
        kept.body_bytes += added;
        while kept.body_bytes > KEPT_BYTES_MAX && kept.entries.len() > 1 {
            kept.drop_oldest();
        }
    }

    pub fn complete(&self, sha256: String) {
        lock(&self.entry).body_sha256 = Some(sha256);
    }

    pub fn snapshot(&self) -> ReceivedRequest {
        lock(&self.entry).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
