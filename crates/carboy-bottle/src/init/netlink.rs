//! Netlink messages, built by hand: a buffer with nested attributes, and the exchange with acknowledgements.
//!
//! Talking to the kernel directly saves the two programs (`ip`, `nft`) that a host may not have, and their 8 ms.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, socket_with};

const ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// An answer to one batch is an acknowledgement per message; each is far smaller than this.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Flag: make it, it must not exist yet.
pub const CREATE: u16 = 0x400;
/// Flag: put it at the end of the list.
pub const APPEND: u16 = 0x800;

/// Does the kernel answer this message?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// With an acknowledgement or an error.
    Awaited,
    /// With nothing (the frame of a batch).
    None,
}

/// Messages on their way to the kernel.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
    awaited: usize,
}

impl Messages {
    /// Adds a message: its type, flags beyond request and ack, its fixed part, and its attributes.
    pub fn add(
        &mut self,
        kind: u16,
        flags: u16,
        answer: Answer,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Attributes),
    ) {
        let start = self.bytes.len();
        let flags = match answer {
            Answer::Awaited => {
                self.awaited += 1;
                flags | REQUEST | ACK
            }
            Answer::None => flags | REQUEST,
        };
        self.sequence += 1;
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(fixed);
        pad(&mut self.bytes);
        attributes(&mut Attributes { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends all of them at once and waits for each answer; the first error is given.
    pub fn exchange(self, socket: &OwnedFd) -> io::Result<()> {
        rustix::net::send(socket, &self.bytes, SendFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let mut awaited = self.awaited;
        while awaited > 0 {
            let (length, _) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, payload, next)) = split_message(rest) {
                rest = next;
                if kind != ERROR || payload.len() < 4 {
                    continue;
                }
                let code = i32::from_ne_bytes([payload[0], payload[1], payload[2], payload[3]]);
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
                awaited = awaited.saturating_sub(1);
            }
        }
        Ok(())
    }
}

fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header = bytes.get(..HEADER_BYTES)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let payload = bytes.get(HEADER_BYTES..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([header[4], header[5]]), payload, next))
}

/// Attributes of a message or of another attribute.
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// Raw octets.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        pad(self.bytes);
    }

    /// A NUL-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// A number in network order, as nf_tables wants them.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Attributes within an attribute.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes)) {
        const NESTED: u16 = 0x8000;
        let start = self.bytes.len();
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        inner(&mut Attributes { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A socket for addresses, links and routes.
pub fn route_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

/// A socket for nf_tables.
pub fn netfilter_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_its_length_and_padded_attributes() {
        let mut messages = Messages::default();
        messages.add(7, 0, Answer::Awaited, &[1, 2, 3], |a| a.nest(1, |a| a.text(2, "ab")));
        let bytes = &messages.bytes;
        assert_eq!(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize, bytes.len());
        assert_eq!(bytes.len(), 16 + 4 + 4 + 8);
        assert_eq!(&bytes[20..], &[12, 0, 1, 0x80, 7, 0, 2, 0, b'a', b'b', 0, 0]);
    }
}
