//! Readers that end: with a byte limit and an ear for the person, decompression of what is met in archives.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use sha2::{Digest, Sha256};

/// Largest window of a zstd frame: what `zstd --ultra` makes, and the memory that it takes.
const WINDOW_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Most frames of one stream.
const FRAMES_MAX: u32 = 100_000;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Counts, and stops when it is too much or the person wants no more.
pub(super) struct Watched<'s, R> {
    inner: R,
    left: u64,
    max: u64,
    stop: &'s AtomicBool,
}

impl<'s, R> Watched<'s, R> {
    pub(super) fn new(inner: R, max: u64, stop: &'s AtomicBool) -> Self {
        Watched { inner, left: max, max, stop }
    }

    /// How many bytes went through.
    pub(super) fn read_bytes(&self) -> u64 {
        self.max - self.left
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let length = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::other(format!("it unpacks to more than {} bytes", self.max)))?;
        Ok(length)
    }
}

/// A part of a file.
pub(super) struct Part<'f> {
    pub(super) file: &'f File,
    pub(super) at: u64,
    pub(super) left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read_at(&mut buffer[..want], self.at)?;
        if length == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

/// Hashes what goes through.
pub(super) struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(inner: R) -> Self {
        Hashed { inner, hash: Sha256::new() }
    }

    /// Reads the rest and gives the digest of everything, in hex.
    pub(super) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(super::hex(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

/// A few bytes that were looked at, and the rest.
pub(super) struct Peeked<R> {
    front: [u8; 4],
    given: usize,
    length: usize,
    inner: R,
}

impl<R: Read> Peeked<R> {
    fn new(inner: R) -> Self {
        Peeked { front: [0; 4], given: 0, length: 0, inner }
    }

    /// The next bytes, up to four; they stay.
    fn peek(&mut self) -> io::Result<&[u8]> {
        if self.given == self.length {
            (self.given, self.length) = (0, 0);
            while self.length < self.front.len() {
                match self.inner.read(&mut self.front[self.length..])? {
                    0 => break,
                    length => self.length += length,
                }
            }
        }
        Ok(&self.front[self.given..self.length])
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.length {
            return self.inner.read(buffer);
        }
        let length = buffer.len().min(self.length - self.given);
        buffer[..length].copy_from_slice(&self.front[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}

/// Is it compressed?
pub(super) fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(&GZIP) || start.starts_with(&ZSTD)
}

/// The plain bytes, by what the stream begins with; what media types and names say does not matter.
pub(super) fn plain<'r, R: Read + 'r>(inner: R) -> io::Result<Box<dyn Read + 'r>> {
    let mut inner = Peeked::new(inner);
    let start = inner.peek()?;
    Ok(match start {
        start if start.starts_with(&GZIP) => Box::new(MultiGzDecoder::new(inner)),
        start if start.starts_with(&ZSTD) => Box::new(Frames { state: State::Between(inner), frames: 0 }),
        _ => Box::new(inner),
    })
}

/// zstd frames one after the other.
struct Frames<R: Read> {
    state: State<R>,
    frames: u32,
}

enum State<R: Read> {
    Between(Peeked<R>),
    In(Box<StreamingDecoder<Peeked<R>, FrameDecoder>>),
    Over,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Ok(0),
                State::In(mut decoder) => {
                    let length = decoder.read(buffer)?;
                    if length > 0 || buffer.is_empty() {
                        self.state = State::In(decoder);
                        return Ok(length);
                    }
                    State::Between(decoder.into_inner())
                }
                State::Between(mut source) => {
                    let start = source.peek()?;
                    if start.is_empty() {
                        return Ok(0);
                    }
                    self.frames += 1;
                    // Skippable frames (RFC 8878 3.1.2) hold nothing of the content.
                    let skippable = start.len() == 4 && start[0] & 0xf0 == 0x50 && start[1..] == [0x2a, 0x4d, 0x18];
                    match skippable {
                        _ if self.frames > FRAMES_MAX => return Err(io::Error::other("too many zstd frames")),
                        true => {
                            let mut header = [0; 8];
                            source.read_exact(&mut header)?;
                            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
                            io::copy(&mut (&mut source).take(length.into()), &mut io::sink())?;
                            State::Between(source)
                        }
                        false => State::In(Box::new(
                            StreamingDecoder::new_with_max_window_size(source, WINDOW_BYTES_MAX)
                                .map_err(|error| io::Error::other(error.to_string()))?,
                        )),
                    }
                }
            };
        }
    }
}
