//! Stages on DEFLATE (RFC 1951): gzip with several members (RFC 1952), zlib (RFC 1950), and raw as some clients
//! send under the name `deflate`.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{Coding, InflateError, Step};

/// Longest gzip header that is taken, in bytes (a file name or a comment; real ones stay far below).
const GZIP_HEADER_MAX: usize = 4 * 1024;

fn inflate(
    state: &mut Decompress,
    coding: Coding,
    input: &[u8],
    out: &mut [u8],
) -> Result<(Step, Status), InflateError> {
    let (consumed, written) = (state.total_in(), state.total_out());
    let status = match state.decompress(input, out, FlushDecompress::None) {
        Ok(status) => status,
        Err(_) => return Err(InflateError::Corrupt { coding }),
    };
    let step =
        Step { consumed: (state.total_in() - consumed) as usize, written: (state.total_out() - written) as usize };
    Ok((step, status))
}

/// gzip: header, DEFLATE data, checksum and length, then perhaps the next member.
pub(super) struct GzipStage {
    state: Decompress,
    crc: Crc,
    phase: Gzip,
    /// The header or the trailer as far as it has come.
    part: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gzip {
    /// Before the first member or after one.
    Between(Members),
    Header,
    Data,
    Trailer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Members {
    None,
    Some,
}

impl Default for GzipStage {
    fn default() -> Self {
        let phase = Gzip::Between(Members::None);
        GzipStage { state: Decompress::new(false), crc: Crc::new(), phase, part: Vec::new() }
    }
}

impl GzipStage {
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.phase, Gzip::Between(_))
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, InflateError> {
        let corrupt = InflateError::Corrupt { coding: Coding::Gzip };
        let mut consumed = 0;
        loop {
            match self.phase {
                Gzip::Data => {
                    let (step, status) = inflate(&mut self.state, Coding::Gzip, &input[consumed..], out)?;
                    self.crc.update(&out[..step.written]);
                    if status == Status::StreamEnd {
                        self.phase = Gzip::Trailer;
                    }
                    return Ok(Step { consumed: consumed + step.consumed, written: step.written });
                }
                Gzip::Between(members) => {
                    let Some(&first) = input.get(consumed) else { return Ok(Step { consumed, written: 0 }) };
                    if first != 0x1f {
                        return Err(match members {
                            Members::None => corrupt,
                            Members::Some => InflateError::TrailingData { coding: Coding::Gzip },
                        });
                    }
                    self.phase = Gzip::Header;
                }
                Gzip::Header => {
                    let Some(&byte) = input.get(consumed) else { return Ok(Step { consumed, written: 0 }) };
                    consumed += 1;
                    self.part.push(byte);
                    match header_len(&self.part) {
                        Header::Complete => {
                            self.part.clear();
                            self.state.reset(false);
                            self.crc.reset();
                            self.phase = Gzip::Data;
                        }
                        Header::Open if self.part.len() < GZIP_HEADER_MAX => {}
                        Header::Open | Header::Wrong => return Err(corrupt),
                    }
                }
                Gzip::Trailer => {
                    let Some(&byte) = input.get(consumed) else { return Ok(Step { consumed, written: 0 }) };
                    consumed += 1;
                    self.part.push(byte);
                    if self.part.len() == 8 {
                        let word = |at: usize| {
                            u32::from_le_bytes([self.part[at], self.part[at + 1], self.part[at + 2], self.part[at + 3]])
                        };
                        if word(0) != self.crc.sum() || word(4) != self.crc.amount() {
                            return Err(corrupt);
                        }
                        self.part.clear();
                        self.phase = Gzip::Between(Members::Some);
                    }
                }
            }
        }
    }
}

enum Header {
    Open,
    Complete,
    Wrong,
}

/// Whether `part` is a whole gzip header (RFC 1952 2.3). It is asked after each byte; [`GZIP_HEADER_MAX`] bounds
/// what that costs.
fn header_len(part: &[u8]) -> Header {
    const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
    let known = part.len().min(3);
    if part[..known] != MAGIC[..known] {
        return Header::Wrong;
    }
    if part.len() < 10 {
        return Header::Open;
    }
    let flags = part[3];
    if flags & 0xe0 != 0 {
        return Header::Wrong;
    }
    let mut at = 10;
    if flags & 4 != 0 {
        if part.len() < 12 {
            return Header::Open;
        }
        at = 12 + usize::from(u16::from_le_bytes([part[10], part[11]]));
        if part.len() < at {
            return Header::Open;
        }
    }
    // Name, then comment: each ends with a zero.
    let texts = (flags >> 3 & 1) + (flags >> 4 & 1);
    for _ in 0..texts {
        match memchr::memchr(0, &part[at..]) {
            Some(zero) => at += zero + 1,
            None => return Header::Open,
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    if part.len() < at { Header::Open } else { Header::Complete }
}

/// `deflate`: zlib if the first two bytes say so, else raw.
pub(super) struct DeflateStage {
    state: Decompress,
    phase: Deflate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deflate {
    /// Nothing yet.
    Untouched,
    /// The first byte is here; with the second it is clear which kind it is.
    First(u8),
    Data,
    Done,
}

impl Default for DeflateStage {
    fn default() -> Self {
        DeflateStage { state: Decompress::new(false), phase: Deflate::Untouched }
    }
}

/// RFC 1950: the first two bytes of zlib data.
pub(crate) fn is_zlib_header(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7 && second & 0x20 == 0 && u16::from_be_bytes([first, second]).is_multiple_of(31)
}

impl DeflateStage {
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.phase, Deflate::Untouched | Deflate::Done)
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, InflateError> {
        let Some(&byte) = input.first() else {
            return match self.phase {
                Deflate::Data => self.data(input, out),
                Deflate::Untouched | Deflate::First(_) | Deflate::Done => Ok(Step { consumed: 0, written: 0 }),
            };
        };
        match self.phase {
            Deflate::Untouched => {
                self.phase = Deflate::First(byte);
                Ok(Step { consumed: 1, written: 0 })
            }
            Deflate::First(first) => {
                self.state.reset(is_zlib_header(first, byte));
                self.start([first, byte], out)
            }
            Deflate::Data => self.data(input, out),
            Deflate::Done => Err(InflateError::TrailingData { coding: Coding::Deflate }),
        }
    }

    /// Two bytes of DEFLATE yield next to nothing, so they are taken at once or the data are wrong.
    fn start(&mut self, start: [u8; 2], out: &mut [u8]) -> Result<Step, InflateError> {
        let (step, status) = inflate(&mut self.state, Coding::Deflate, &start, out)?;
        self.phase = if status == Status::StreamEnd { Deflate::Done } else { Deflate::Data };
        if step.consumed != 2 {
            return Err(InflateError::Corrupt { coding: Coding::Deflate });
        }
        Ok(Step { consumed: 1, written: step.written })
    }

    fn data(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, InflateError> {
        let (step, status) = inflate(&mut self.state, Coding::Deflate, input, out)?;
        if status == Status::StreamEnd {
            self.phase = Deflate::Done;
        }
        Ok(step)
    }
}
