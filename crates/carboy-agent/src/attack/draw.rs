//! Bytes as choices. The same bytes give the same script; behind their end every choice is the first one.
//!
//! *Must never* ask anything else than its bytes.

/// Octets of one script that comes from a seed.
const SCRIPT_BYTES: usize = 400;

/// Bytes that are being read.
pub(super) struct Draw<'a> {
    bytes: &'a [u8],
}

impl<'a> Draw<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Draw<'a> {
        Draw { bytes }
    }

    /// Below `n`, which is at most 256.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first) % n.max(1)
    }

    /// True in so many of a hundred.
    pub(super) fn percent(&mut self, share: usize) -> bool {
        !self.bytes.is_empty() && self.below(100) < share
    }

    pub(super) fn one_of<'t, T>(&mut self, all: &'t [T]) -> Option<&'t T> {
        if all.is_empty() { None } else { all.get(self.below(all.len())) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The bytes of script `number` of a seed (SplitMix64, Steele, Lea and Flood 2014).
pub(super) fn bytes(seed: u64, number: u64) -> Vec<u8> {
    let mut state = mixed(seed ^ mixed(number.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(state)
    };
    // Half of all scripts are short: what is found in them needs no shrinking.
    let len = SCRIPT_BYTES / (1 + (next() % 8) as usize);
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
