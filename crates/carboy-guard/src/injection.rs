//! Inbound prompt injection by two phrase lists (D10–D16): `naive_injection_detection`.

use carboy_core::finding::{Finding, Location};

/// D11: a disclosure and a jailbreak phrase at most this many characters (Unicode scalar values) apart block.
pub const PROXIMITY_CHARS: usize = 500;
/// D16: bytes of one part that are scanned; what follows is not.
pub const SCAN_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Scans one message part as it streams by. It holds nothing back: the caller gates on [`InjectionScanner::verdict`].
pub struct InjectionScanner {
    location: Location,
}

impl InjectionScanner {
    /// A scanner at the start of a part.
    pub fn new(location: Location) -> Self {
        InjectionScanner { location }
    }

    /// Takes a chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        let _ = (chunk, self.location);
    }

    /// The part is complete: decides about the last bytes.
    pub fn finish(&mut self) {}

    /// The worst so far: a block when the two kinds stand near each other, a warning for one of them, else none.
    /// The newest bytes (at most a phrase's length) count only with the next chunk or after [`Self::finish`].
    pub fn verdict(&self) -> Option<Finding> {
        None
    }

    /// True when the part was longer than [`SCAN_BYTES_MAX`] and its rest was not scanned.
    pub fn capped(&self) -> bool {
        false
    }
}
