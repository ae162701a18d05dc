//! Content codings undone within bounds, as a stream.
//!
//! A body that expands a thousandfold costs a loop, not memory: each call appends at most [`OUT_PER_CALL_MAX`] bytes,
//! what stands between two stacked codings is bounded by the same, and every stage's output counts against
//! [`DecodedMax`]. A body that ends early is an error, so that nobody passes on what was not scanned to its end.

mod brotli;
mod deflate;
mod zstd;

use self::brotli::BrotliStage;
pub(crate) use self::deflate::is_zlib_header;
use self::deflate::{DeflateStage, GzipStage};
use self::zstd::ZstdStage;

/// One content coding (RFC 9110 8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// `gzip`, `x-gzip`; several members one after the other are one text.
    Gzip,
    /// `deflate`: zlib, or raw as some clients send it.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`; several frames one after the other are one text.
    Zstd,
}

/// A `Content-Encoding` that cannot be undone, and so not be scanned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCoding {
    /// Not one of ours.
    #[error("content coding `{name}` is not supported: use gzip, deflate, br or zstd")]
    Name {
        /// At most 40 characters of it.
        name: String,
    },
    /// Too many on top of each other.
    #[error("more than {CODINGS_MAX} content codings on top of each other: use one")]
    TooMany,
}

/// Most codings on top of each other.
pub const CODINGS_MAX: usize = 3;

/// Most bytes that one [`Inflate::push`] or [`Inflate::finish`] appends.
pub const OUT_PER_CALL_MAX: usize = 64 * 1024;

impl Coding {
    /// Reads a `Content-Encoding` value into the order of application (`identity` and empty items are dropped).
    pub fn parse_list(value: &str) -> Result<Vec<Coding>, UnknownCoding> {
        let mut list = Vec::new();
        for item in value.split(',') {
            let name = item.trim().to_ascii_lowercase();
            list.push(match name.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "deflate" => Coding::Deflate,
                "br" => Coding::Brotli,
                "zstd" => Coding::Zstd,
                _ => return Err(UnknownCoding::Name { name: name.chars().take(40).collect() }),
            });
            if list.len() > CODINGS_MAX {
                return Err(UnknownCoding::TooMany);
            }
        }
        Ok(list)
    }
}

/// Most decoded bytes of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedMax(pub u64);

/// Why decoding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// More than [`DecodedMax`].
    #[error("the decoded body is larger than the limit of {max} bytes: send less at once")]
    TooLarge {
        /// The limit, in bytes.
        max: u64,
    },
    /// Not what the coding says.
    #[error("the body is not valid {coding:?} data")]
    Corrupt {
        /// Which coding failed.
        coding: Coding,
    },
    /// Bytes after the end that are no further member.
    #[error("bytes follow the end of the {coding:?} data")]
    TrailingData {
        /// Which coding had ended.
        coding: Coding,
    },
    /// The body ended in the middle.
    #[error("the {coding:?} data end too early")]
    Truncated {
        /// Which coding was open.
        coding: Coding,
    },
}

/// What one call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Pushed {
    /// Bytes of the input that were taken.
    pub consumed: usize,
    /// True when the call must be repeated with the rest of the input (which may be empty): it stopped because it
    /// had appended [`OUT_PER_CALL_MAX`] bytes.
    pub more: bool,
}

/// Undoes codings as a stream.
pub struct Inflate {
    /// Outermost coding first: the order in which they are undone.
    stages: Vec<Link>,
    max: u64,
    scratch: Box<[u8]>,
}

/// One stage with what the stage before it has produced and this one has not taken yet.
struct Link {
    stage: Stage,
    waiting: Vec<u8>,
    taken: usize,
    produced: u64,
}

enum Stage {
    Gzip(Box<GzipStage>),
    Deflate(Box<DeflateStage>),
    Brotli(Box<BrotliStage>),
    Zstd(Box<ZstdStage>),
}

/// What a stage did in one step.
struct Step {
    consumed: usize,
    written: usize,
}

impl Stage {
    fn new(coding: Coding) -> Stage {
        match coding {
            Coding::Gzip => Stage::Gzip(Box::default()),
            Coding::Deflate => Stage::Deflate(Box::default()),
            Coding::Brotli => Stage::Brotli(Box::default()),
            Coding::Zstd => Stage::Zstd(Box::default()),
        }
    }

    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, InflateError> {
        match self {
            Stage::Gzip(stage) => stage.step(input, out),
            Stage::Deflate(stage) => stage.step(input, out),
            Stage::Brotli(stage) => stage.step(input, out),
            Stage::Zstd(stage) => stage.step(input, out),
        }
    }

    /// The coding, if its data are open.
    fn open(&self) -> Option<Coding> {
        match self {
            Stage::Gzip(stage) => stage.is_open().then_some(Coding::Gzip),
            Stage::Deflate(stage) => stage.is_open().then_some(Coding::Deflate),
            Stage::Brotli(stage) => stage.is_open().then_some(Coding::Brotli),
            Stage::Zstd(stage) => stage.is_open().then_some(Coding::Zstd),
        }
    }

    fn coding(&self) -> Coding {
        match self {
            Stage::Gzip(_) => Coding::Gzip,
            Stage::Deflate(_) => Coding::Deflate,
            Stage::Brotli(_) => Coding::Brotli,
            Stage::Zstd(_) => Coding::Zstd,
        }
    }
}

/// Bytes that one stage may produce before the next one takes them.
const STEP_BYTES: usize = 16 * 1024;

impl Inflate {
    /// `codings` in the order of application, as [`Coding::parse_list`] gives them; none passes bytes as they are.
    pub fn new(codings: &[Coding], max: DecodedMax) -> Self {
        let stages = codings
            .iter()
            .rev()
            .map(|&coding| Link { stage: Stage::new(coding), waiting: Vec::new(), taken: 0, produced: 0 })
            .collect();
        Inflate { stages, max: max.0, scratch: vec![0; STEP_BYTES].into_boxed_slice() }
    }

    /// Decodes, appending at most [`OUT_PER_CALL_MAX`] bytes to `out`. Repeat while `more`:
    /// `loop { let step = inflate.push(rest, &mut out)?; rest = &rest[step.consumed..]; …; if !step.more { break } }`
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Pushed, InflateError> {
        let Some(last) = self.stages.len().checked_sub(1) else {
            let take = input.len().min(OUT_PER_CALL_MAX);
            out.extend_from_slice(&input[..take]);
            return Ok(Pushed { consumed: take, more: take < input.len() });
        };
        let start = out.len();
        let mut consumed = 0;
        loop {
            let mut moved = false;
            for i in 0..=last {
                let room = if i == last {
                    OUT_PER_CALL_MAX - (out.len() - start)
                } else if self.stages[i + 1].taken < self.stages[i + 1].waiting.len() {
                    0
                } else {
                    STEP_BYTES
                };
                if room == 0 {
                    continue;
                }
                let step = self.step(i, &input[consumed..], room)?;
                moved |= step.consumed > 0 || step.written > 0;
                if i == 0 {
                    consumed += step.consumed;
                }
                let produced = &self.scratch[..step.written];
                if i == last {
                    out.extend_from_slice(produced);
                } else if !produced.is_empty() {
                    let next = &mut self.stages[i + 1];
                    next.waiting.clear();
                    next.waiting.extend_from_slice(produced);
                    next.taken = 0;
                }
            }
            if out.len() - start == OUT_PER_CALL_MAX {
                return Ok(Pushed { consumed, more: true });
            }
            if !moved {
                if consumed < input.len() {
                    return Err(InflateError::Corrupt { coding: self.stages[0].stage.coding() });
                }
                return Ok(Pushed { consumed, more: false });
            }
        }
    }

    fn step(&mut self, i: usize, input: &[u8], room: usize) -> Result<Step, InflateError> {
        let link = &mut self.stages[i];
        let room = room.min(self.scratch.len());
        let source = if i == 0 { input } else { &link.waiting[link.taken..] };
        let step = link.stage.step(source, &mut self.scratch[..room])?;
        if i > 0 {
            link.taken += step.consumed;
        }
        link.produced += step.written as u64;
        if link.produced > self.max {
            return Err(InflateError::TooLarge { max: self.max });
        }
        Ok(step)
    }

    /// The input is complete; an open member is [`InflateError::Truncated`]. Call it after the last push said no
    /// `more`. A part of no bytes at all is complete.
    pub fn finish(&mut self) -> Result<(), InflateError> {
        match self.stages.iter().find_map(|link| link.stage.open()) {
            Some(coding) => Err(InflateError::Truncated { coding }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
