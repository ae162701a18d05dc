//! How many tokens a request can have, before anybody has counted them.
//!
//! | question | answer | goes wrong |
//! |---|---|---|
//! | the most that it may read | [`input_bound`] | upwards only; a hold is made of it |
//! | the most that a model takes and writes | [`context_limit`], [`output_limit`] | upwards, for models that it knows |
//! | about how many it reads | [`count_tokens`] | both ways, by the errors that its tests state; gates and displays only |
//! | about how many were written so far | [`Calibration`] | upwards, once a model has been seen |
//!
//! *Must never* be charged to a budget where the provider said what it was, and a bound must never be below what the
//! provider will count.

mod calibration;
mod limits;
mod offline;

pub use calibration::{CALIBRATED_MAX, Calibration, Class};
pub use limits::{context_limit, output_limit};
pub use offline::count_tokens;

use crate::demand::{Beyond, Demand};
use crate::format::WireFormat;

/// Tokens for each four octets: the worst that was found in random text is 1.21 for each one (compatibility ligatures).
const TOKENS_PER_4_BYTES: u64 = 5;
/// What providers put around a request: the beginning, each message's frame (which is shorter than its JSON), and the
/// description of tool use (Anthropic's own table: 346 to 804 tokens).
const FRAME_TOKENS: u64 = 1024;
/// What a tool whose description the provider keeps may add (Anthropic's own table: 245 to 735 tokens).
const KEPT_TOOL_TOKENS: u64 = 1024;

/// The most tokens that a request reads. Octets of the body count as they are written: an escape has never fewer of them
/// than the character, and keys and brackets stand for the frames that the provider puts around messages and tools.
///
/// Empirical, and not proven (the tokenizers are not public): near a cap the provider is asked. Where the text does not
/// show the size ([`Beyond::Media`], [`Beyond::EarlierContext`], [`Beyond::Compaction`]) it is the model's whole context.
/// For what has no bound see [`unbounded`].
pub fn input_bound(format: WireFormat, body: &[u8], demand: &Demand) -> u64 {
    let bytes = body.len() as u64;
    let text = bytes.saturating_mul(TOKENS_PER_4_BYTES).div_ceil(4);
    let kept = u64::from(demand.kept_tools).saturating_mul(KEPT_TOOL_TOKENS);
    let shown = text.saturating_add(FRAME_TOKENS).saturating_add(kept);
    let context = context_limit(demand.model.as_deref(), format);
    let mut bound = shown;
    for beyond in &demand.beyond {
        bound = match beyond {
            Beyond::Media | Beyond::EarlierContext | Beyond::ProviderTool | Beyond::Background => bound.max(context),
            // Read once to be shortened, and once more.
            Beyond::Compaction => bound.max(context).saturating_add(context),
            // Each reads it by itself: that is its caller's to add.
            Beyond::Fallback => bound,
        };
    }
    bound
}

/// Why a request has no bound, whatever is held for it; `None` where [`input_bound`] is one. One clause.
pub fn unbounded(demand: &Demand) -> Option<&'static str> {
    demand.beyond.iter().find_map(|beyond| match beyond {
        Beyond::ProviderTool => {
            Some("a tool that the provider runs reads as much as it finds; use a tool of the client's own")
        }
        Beyond::Background => Some("it would go on when nobody listens any more; leave `background` out"),
        Beyond::Media | Beyond::EarlierContext | Beyond::Compaction | Beyond::Fallback => None,
    })
}

#[cfg(test)]
mod tests;
