//! One stage: zstd (RFC 8878), frames and skippable frames one after the other, no dictionaries.
//!
//! The decoder wants whole blocks, so header and blocks are gathered here (a block has at most 128 KiB) and given to
//! it one at a time: what it holds is one window and one block.

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Coding, InflateError, Step};

/// Largest window that is taken: what RFC 9659 asks of the content coding.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Largest block (RFC 8878 3.1.1.2.4).
const BLOCK_BYTES_MAX: usize = 128 * 1024;

const CORRUPT: InflateError = InflateError::Corrupt { coding: Coding::Zstd };

pub(super) struct ZstdStage {
    decoder: FrameDecoder,
    phase: Phase,
    /// Header or block as far as it has come.
    part: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before a frame; `frames` were there already.
    Between { frames: u64 },
    /// In a frame's header.
    Header { frames: u64 },
    /// In a skippable frame with this many bytes to go.
    Skip { frames: u64, left: u32 },
    /// In a block.
    Block { frames: u64, checksum: Checksum },
    /// All blocks are decoded; the window is still to be given out.
    Drain { frames: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checksum {
    Absent,
    Present,
}

impl Default for ZstdStage {
    fn default() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        ZstdStage { decoder, phase: Phase::Between { frames: 0 }, part: Vec::new() }
    }
}

impl ZstdStage {
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Between { .. })
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, InflateError> {
        let mut consumed = 0;
        loop {
            match self.phase {
                Phase::Between { frames } => {
                    if consumed == input.len() {
                        return Ok(Step { consumed, written: 0 });
                    }
                    self.phase = Phase::Header { frames };
                }
                Phase::Header { frames } => {
                    let Some(len) = header_len(&self.part, frames)? else {
                        if !self.take(input, &mut consumed, self.part.len() + 1) {
                            return Ok(Step { consumed, written: 0 });
                        }
                        continue;
                    };
                    if !self.take(input, &mut consumed, len) {
                        return Ok(Step { consumed, written: 0 });
                    }
                    self.begin(frames)?;
                }
                Phase::Skip { frames, left } => {
                    let skip = (input.len() - consumed).min(left as usize);
                    consumed += skip;
                    let left = left - skip as u32;
                    self.phase = if left == 0 { Phase::Between { frames } } else { Phase::Skip { frames, left } };
                    if left > 0 {
                        return Ok(Step { consumed, written: 0 });
                    }
                }
                Phase::Block { frames, checksum } => {
                    // What the last block has left over goes first, so that no more than one block waits.
                    let written = self.drain(out)?;
                    if written > 0 {
                        return Ok(Step { consumed, written });
                    }
                    if !self.block(input, &mut consumed, frames, checksum)? {
                        return Ok(Step { consumed, written: 0 });
                    }
                }
                Phase::Drain { frames } => {
                    let written = self.drain(out)?;
                    if written > 0 {
                        return Ok(Step { consumed, written });
                    }
                    // The decoder computes the checksum as it gives out, and leaves the comparison to its user.
                    let (said, is) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
                    if said.zip(is).is_some_and(|(said, is)| said != is) {
                        return Err(CORRUPT);
                    }
                    self.phase = Phase::Between { frames: frames + 1 };
                }
            }
        }
    }

    /// Gathers input until `part` has `len` bytes; true when it has.
    fn take(&mut self, input: &[u8], consumed: &mut usize, len: usize) -> bool {
        let want = len.saturating_sub(self.part.len()).min(input.len() - *consumed);
        self.part.extend_from_slice(&input[*consumed..*consumed + want]);
        *consumed += want;
        self.part.len() >= len
    }

    /// A whole header is there.
    fn begin(&mut self, frames: u64) -> Result<(), InflateError> {
        if is_skippable(&self.part) {
            let left = u32::from_le_bytes([self.part[4], self.part[5], self.part[6], self.part[7]]);
            self.phase = Phase::Skip { frames, left };
        } else {
            let checksum = if self.part[4] & 4 != 0 { Checksum::Present } else { Checksum::Absent };
            self.decoder.reset(&self.part[..]).map_err(|_| CORRUPT)?;
            self.phase = Phase::Block { frames, checksum };
        }
        self.part.clear();
        Ok(())
    }

    /// Gathers one block and decodes it; false when more input is needed.
    fn block(
        &mut self,
        input: &[u8],
        consumed: &mut usize,
        frames: u64,
        checksum: Checksum,
    ) -> Result<bool, InflateError> {
        if !self.take(input, consumed, 3) {
            return Ok(false);
        }
        let head = u32::from_le_bytes([self.part[0], self.part[1], self.part[2], 0]);
        let (last, kind, size) = (head & 1 == 1, head >> 1 & 3, (head >> 3) as usize);
        if size > BLOCK_BYTES_MAX || kind == 3 {
            return Err(CORRUPT);
        }
        let body = if kind == 1 { 1 } else { size };
        let tail = if last && checksum == Checksum::Present { 4 } else { 0 };
        if !self.take(input, consumed, 3 + body + tail) {
            return Ok(false);
        }
        self.decoder.decode_blocks(&self.part[..], BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| CORRUPT)?;
        self.part.clear();
        if last {
            self.phase = Phase::Drain { frames };
        }
        Ok(true)
    }

    fn drain(&mut self, out: &mut [u8]) -> Result<usize, InflateError> {
        std::io::Read::read(&mut self.decoder, out).map_err(|_| CORRUPT)
    }
}

fn is_skippable(part: &[u8]) -> bool {
    part[0] & 0xf0 == 0x50 && part[1..4] == [0x2a, 0x4d, 0x18]
}

/// The header's length once enough of it is there to tell.
fn header_len(part: &[u8], frames: u64) -> Result<Option<usize>, InflateError> {
    if part.len() < 5 {
        return Ok(None);
    }
    if is_skippable(part) {
        return Ok(Some(8));
    }
    if part[..4] != [0x28, 0xb5, 0x2f, 0xfd] {
        return Err(if frames == 0 { CORRUPT } else { InflateError::TrailingData { coding: Coding::Zstd } });
    }
    let descriptor = part[4];
    let single = descriptor & 0x20 != 0;
    let window = usize::from(!single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    Ok(Some(5 + window + dictionary + size))
}
