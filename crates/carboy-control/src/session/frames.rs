//! What goes over the socket of an attached client, once its first line has been answered.
//!
//! ```text
//! [kind: 1 byte][length: 4 bytes, big endian][payload]
//! ```
//!
//! *Must never* make room for a length that was only announced: a frame above its maximum ends the conversation.

use std::io::{self, Read, Write};

/// Longest frame of a client, in bytes.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Longest frame of a supervisor, in bytes: the summary at the end is one.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes before a payload.
const HEAD_BYTES: usize = 5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the program: its terminal, or its standard output.
    Output,
    /// From the program: its standard error.
    Error,
    /// Of carboy itself to the person, in words.
    Tell,
    /// The end, as JSON of [`End`](super::End). Nothing follows.
    End,
    /// From the person: typed bytes, or standard input.
    Input,
    /// The person's window: rows and columns, two bytes each, big endian.
    Resize,
    /// Standard input has ended.
    Eof,
    /// A signal for the program, one byte.
    Signal,
}

const KINDS: [(Kind, u8); 8] = [
    (Kind::Output, b'o'),
    (Kind::Error, b'e'),
    (Kind::Tell, b't'),
    (Kind::End, b'x'),
    (Kind::Input, b'i'),
    (Kind::Resize, b'r'),
    (Kind::Eof, b'c'),
    (Kind::Signal, b's'),
];

impl Kind {
    fn letter(self) -> u8 {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, letter)| *letter)
    }

    fn of(letter: u8) -> Option<Kind> {
        KINDS.iter().find(|(_, of)| *of == letter).map(|(kind, _)| *kind)
    }
}

/// A frame as the bytes it is.
pub fn bytes(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.push(kind.letter());
    // Payloads are made here and far below 4 GiB; a longer one would be refused by the reader.
    frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(payload);
    frame
}

/// Writes one frame.
pub fn write(mut to: impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&bytes(kind, payload))
}

/// A window's size as a payload.
pub fn window(rows: u16, cols: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (rows.to_be_bytes(), cols.to_be_bytes());
    [a, b, c, d]
}

/// Rows and columns of a [`Kind::Resize`].
pub fn size(payload: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = payload else { return None };
    Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
}

/// Reads one frame; `None` at the end of the stream.
pub fn read(mut from: impl Read, payload_bytes_max: usize) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; HEAD_BYTES];
    match from.read_exact(&mut head) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let [letter, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let kind = Kind::of(letter).ok_or_else(|| wrong("a frame of no kind that is known"))?;
    if length > payload_bytes_max {
        return Err(wrong("a frame longer than its maximum"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_arrives_as_what_it_was() {
        for (kind, _) in KINDS {
            let sent = bytes(kind, b"payload");
            assert_eq!(read(&sent[..], INPUT_BYTES_MAX).unwrap(), Some((kind, b"payload".to_vec())));
        }
        assert_eq!(size(&window(30, 100)), Some((30, 100)));
        assert_eq!(read(&b""[..], 1).unwrap(), None);
    }

    #[test]
    fn an_announced_length_above_the_maximum_is_refused_before_room_is_made_for_it() {
        assert!(read(&b"i\xff\xff\xff\xff"[..], INPUT_BYTES_MAX).is_err());
        assert!(read(&b"?\x00\x00\x00\x00"[..], INPUT_BYTES_MAX).is_err());
    }
}
