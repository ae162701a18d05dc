//! HTTP/2 frames (RFC 9113) written by hand: for requests that a library would not send.

use std::net::SocketAddr;

use carboy_sim::probe::{Hello, Order, ServerNameField};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const STREAM: u32 = 1;

/// A frame of the one stream, or of the connection for settings.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let stream = if kind == SETTINGS { 0 } else { STREAM };
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header field as a literal without indexing and without Huffman coding (RFC 7541, 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "longer texts need another form of their length");
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// One request: the preface, its fields, and a DATA frame for each part of the body.
pub fn request(method: &str, authority: &str, path: &str, headers: &[(&str, &str)], body: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut block = Vec::new();
    for (name, value) in [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)] {
        block.extend(field(name, value));
    }
    headers.iter().for_each(|(name, value)| block.extend(field(name, value)));
    let end = if body.is_empty() { END_STREAM } else { 0 };
    let mut frames = vec![preface(), frame(HEADERS, END_HEADERS | end, &block)];
    frames.extend(data(body, 0));
    frames
}

/// The same, with the block of fields cut into frames of this many bytes.
pub fn request_in_continuations(authority: &str, path: &str, headers: &[(&str, &str)], size: usize) -> Vec<Vec<u8>> {
    let mut block = Vec::new();
    for (name, value) in [(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", path)] {
        block.extend(field(name, value));
    }
    headers.iter().for_each(|(name, value)| block.extend(field(name, value)));
    let mut parts: Vec<Vec<u8>> = block.chunks(size).map(|part| frame(CONTINUATION, 0, part)).collect();
    let first = parts.first_mut().unwrap();
    (first[3], first[4]) = (HEADERS, END_STREAM);
    let last = parts.last_mut().unwrap();
    last[4] |= END_HEADERS;
    [vec![preface()], parts].concat()
}

/// DATA frames with this much padding each; the last one ends the stream.
pub fn data(body: &[&[u8]], padding: u8) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (number, part) in body.iter().enumerate() {
        let end = if number + 1 == body.len() { END_STREAM } else { 0 };
        frames.push(match padding {
            0 => frame(DATA, end, part),
            _ => frame(DATA, end | PADDED, &[&[padding], *part, &vec![0; padding.into()][..]].concat()),
        });
    }
    frames
}

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, &[])].concat()
}

/// Sends them over TLS. The answer is not decoded: what came of it stands in the log.
pub fn over(address: SocketAddr, name: &str, pieces: Vec<Vec<u8>>) -> Order {
    let tls = Hello { name: name.to_owned(), server_name: ServerNameField::Sent, alpn: vec!["h2".into()] };
    Order::Raw { address, tls: Some(tls), pieces, pause_ms: 0, quiet_ms: 300 }
}
