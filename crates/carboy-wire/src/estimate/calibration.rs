//! What the answers so far have taught about a model's tokens.

use std::collections::BTreeMap;

/// Most (model, class) pairs that are remembered; a program can name as many models as it likes.
pub const CALIBRATED_MAX: usize = 256;

/// Longest name of a model that is told from others, in octets.
const NAME_BYTES_MAX: usize = 64;
/// Thousandths of a token for each octet while nothing was seen: above what English (309), JSON (357), Python (385) and
/// Rust (510) have in the tokenizer with the shortest tokens.
const START_MILLI: u64 = 600;
/// Nobody writes more than this for an octet.
const MOST_MILLI: u64 = 1_250;
/// What is held beyond the largest that was seen, in percent.
const MARGIN_PERCENT: u64 = 10;
/// Shorter texts say nothing: their frame outweighs them.
const BYTES_MIN: u64 = 256;

/// Which side of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// What is sent to the model: octets of the body.
    Read,
    /// What it writes: octets of text, reasoning and arguments.
    Written,
}

/// Largest ratio of tokens to octets seen, by model and class. Bounded, and without a clock: when it is full, what it has
/// not seen yet gets the ratio of a beginner.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    milli: BTreeMap<(String, Class), u64>,
}

impl Calibration {
    /// Knows nothing.
    pub fn new() -> Calibration {
        Calibration::default()
    }

    /// Learns from an answer whose provider said what it was: so many octets were so many tokens. Hidden reasoning has no
    /// octets: the ratio is kept within what text can have.
    pub fn learn(&mut self, model: Option<&str>, class: Class, bytes: u64, tokens: u64) {
        if bytes < BYTES_MIN {
            return;
        }
        let milli = (tokens.saturating_mul(1000)).div_ceil(bytes).min(MOST_MILLI);
        let key = (name(model), class);
        let full = self.milli.len() >= CALIBRATED_MAX;
        match self.milli.get_mut(&key) {
            Some(known) => *known = milli.max(*known),
            None if full => {}
            None => {
                self.milli.insert(key, milli);
            }
        }
    }

    /// About how many tokens so many octets are, with a margin: the running maximum of this model, or a careful beginning.
    pub fn tokens(&self, model: Option<&str>, class: Class, bytes: u64) -> u64 {
        let seen = self.milli.get(&(name(model), class)).copied();
        let milli = seen.map_or(START_MILLI, |milli| milli + milli * MARGIN_PERCENT / 100).min(MOST_MILLI);
        bytes.saturating_mul(milli).div_ceil(1000)
    }

    /// Tokens of an answer under way, from the octets that it wrote and in how many pieces they came: a provider sends no
    /// piece without a token.
    pub fn output(&self, model: Option<&str>, written_bytes: u64, deltas: u64) -> u64 {
        self.tokens(model, Class::Written, written_bytes).max(deltas)
    }

    /// How many pairs are remembered; at most [`CALIBRATED_MAX`].
    pub fn len(&self) -> usize {
        self.milli.len()
    }

    /// Nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.milli.is_empty()
    }
}

fn name(model: Option<&str>) -> String {
    let model = model.unwrap_or_default();
    let mut end = model.len().min(NAME_BYTES_MAX);
    while !model.is_char_boundary(end) {
        end -= 1;
    }
    model[..end].to_owned()
}
