//! One stage: brotli (RFC 7932). The window is at most 16 MiB; the large-window extension is not accepted.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{Coding, InflateError, Step};

type State = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

pub(super) struct BrotliStage {
    state: State,
    phase: Phase,
}

enum Phase {
    Untouched,
    Open,
    Done,
}

impl Default for BrotliStage {
    fn default() -> Self {
        let state = State::new(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
        BrotliStage { state, phase: Phase::Untouched }
    }
}

impl BrotliStage {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub(super) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, InflateError> {
        match self.phase {
            Phase::Done if input.is_empty() => return Ok(Step { consumed: 0, written: 0 }),
            Phase::Done => return Err(InflateError::TrailingData { coding: Coding::Brotli }),
            Phase::Untouched if input.is_empty() => return Ok(Step { consumed: 0, written: 0 }),
            Phase::Untouched => self.phase = Phase::Open,
            Phase::Open => {}
        }
        let (mut left, mut consumed, mut room, mut written, mut total) = (input.len(), 0, out.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut consumed,
            input,
            &mut room,
            &mut written,
            out,
            &mut total,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultFailure => Err(InflateError::Corrupt { coding: Coding::Brotli }),
            BrotliResult::ResultSuccess => {
                self.phase = Phase::Done;
                Ok(Step { consumed, written })
            }
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(Step { consumed, written }),
        }
    }
}
