//! What a scanner has at hand of its stream, and what it finds there.

use carboy_core::finding::Detector;

use crate::variants::Instead;
use crate::view::More;

/// The bytes at hand: those held back and the new ones.
pub(crate) struct Window<'a> {
    /// Position of the first byte in the stream.
    pub base: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// Whether more can follow.
    pub more: More,
    /// The byte before the first, if there was one.
    pub before: Option<u8>,
}

impl Window<'_> {
    /// Position behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.data.len() as u64
    }

    /// Index in `data` of a position in the stream, which is not before the window.
    pub(crate) fn index(&self, position: u64) -> usize {
        (position - self.base) as usize
    }
}

/// One match of one detector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub detector: Detector,
    /// Index of the rule in its detector.
    pub rule: usize,
    /// Span in the stream.
    pub start: u64,
    pub end: u64,
    /// How much of the stream had to be seen for the decision: it orders the matches whatever the chunks are.
    pub confirmed: u64,
    pub form: &'static str,
    /// The match goes on behind `end`, nobody knows how far: it cannot be overwritten.
    pub open_ended: bool,
    /// The span holds nothing but the match, so that all of it may be overwritten.
    pub exact: bool,
    /// What may stand in its place, as long as the match itself.
    pub instead: Option<Instead>,
}
