//! A ClientHello (RFC 8446, 4.1.2), made by hand so that every octet of it can be another.

use super::support::HOST;

pub const ALERT: u8 = 0x15;
pub const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;

pub const SERVER_NAME: u16 = 0;
pub const GROUPS: u16 = 10;
pub const SIGNATURES: u16 = 13;
pub const ALPN: u16 = 16;
pub const PRE_SHARED_KEY: u16 = 41;
pub const EARLY_DATA: u16 = 42;
pub const VERSIONS: u16 = 43;
pub const PSK_MODES: u16 = 45;
pub const KEY_SHARE: u16 = 51;
pub const RENEGOTIATION: u16 = 0xff01;
const X25519: u16 = 29;

/// One that a server answers, until something in it is changed.
#[derive(Clone)]
pub struct Hello {
    pub record_version: u16,
    pub version: u16,
    pub session: Vec<u8>,
    pub suites: Vec<u8>,
    pub compressions: Vec<u8>,
    pub extensions: Vec<(u16, Vec<u8>)>,
    /// Behind the extensions, within the message.
    pub behind: Vec<u8>,
}

/// A length of one octet, and what it is the length of.
pub fn one(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

/// A length of two octets, and what it is the length of.
pub fn two(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A handshake message.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

pub fn record(kind: u8, version: u16, body: &[u8]) -> Vec<u8> {
    [&[kind], &version.to_be_bytes()[..], &two(body)].concat()
}

pub fn name(text: &[u8]) -> Vec<u8> {
    two(&[&[0], &two(text)[..]].concat())
}

pub fn share(group: u16, key: &[u8]) -> Vec<u8> {
    [&group.to_be_bytes()[..], &two(key)].concat()
}

/// A key that is a point: any 32 octets are one of X25519.
fn key() -> [u8; 32] {
    std::array::from_fn(|n| n as u8 + 9)
}

impl Hello {
    pub fn new() -> Hello {
        let suites = [0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2b, 0xc0, 0x2f];
        let extensions = vec![
            (SERVER_NAME, name(HOST.as_bytes())),
            (GROUPS, two(&[0, 29, 0, 23])),
            (SIGNATURES, two(&[4, 3, 8, 4, 8, 5, 8, 6, 8, 7])),
            (VERSIONS, one(&[3, 4, 3, 3])),
            (PSK_MODES, one(&[1])),
            (KEY_SHARE, two(&share(X25519, &key()))),
        ];
        Hello {
            record_version: 0x0301,
            version: 0x0303,
            session: vec![7; 32],
            suites: two(&suites),
            compressions: one(&[0]),
            extensions,
            behind: Vec::new(),
        }
    }

    /// One of TLS 1.2.
    pub fn older() -> Hello {
        Hello::new().without(VERSIONS).without(KEY_SHARE).without(PSK_MODES)
    }

    pub fn with(mut self, kind: u16, body: impl Into<Vec<u8>>) -> Hello {
        let body = body.into();
        match self.extensions.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, old)) => *old = body,
            None => self.extensions.push((kind, body)),
        }
        self
    }

    /// Once more, whatever is there.
    pub fn and(mut self, kind: u16, body: impl Into<Vec<u8>>) -> Hello {
        self.extensions.push((kind, body.into()));
        self
    }

    pub fn without(mut self, kind: u16) -> Hello {
        self.extensions.retain(|(other, _)| *other != kind);
        self
    }

    pub fn changed(mut self, change: impl FnOnce(&mut Hello)) -> Hello {
        change(&mut self);
        self
    }

    /// The message without its head.
    fn body(&self) -> Vec<u8> {
        let extensions: Vec<u8> =
            self.extensions.iter().flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &two(body)].concat()).collect();
        [
            &self.version.to_be_bytes()[..],
            &[5; 32],
            &one(&self.session),
            &self.suites,
            &self.compressions,
            &two(&extensions),
            &self.behind,
        ]
        .concat()
    }

    pub fn message(&self) -> Vec<u8> {
        message(CLIENT_HELLO, &self.body())
    }

    pub fn bytes(&self) -> Vec<u8> {
        record(HANDSHAKE, self.record_version, &self.message())
    }
}
