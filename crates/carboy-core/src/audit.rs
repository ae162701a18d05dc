//! The audit log's law: what an entry is, how entries are chained, and what verification says.
//!
//! Pure: bytes in, verdict out. `carboy-store` keeps the file; this module decides what stands in it.

mod chain;
mod event;

pub use chain::{ChainHead, ChainKey, Entry, GENESIS, LineError, Tampering, Verifier};
pub use event::{Detail, Event, EventType, Outcome, Subject};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// HMAC-SHA256 (RFC 2104) of `text` under `key`.
pub fn hmac_sha256(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// SHA-256 (FIPS 180-4).
pub fn sha256(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
