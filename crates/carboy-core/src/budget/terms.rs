//! How budgets are enforced: before a request or after it, to the token or nearly, and what happens at the end.

use serde::{Deserialize, Serialize};

/// When a request is measured against its caps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// Its worst case is held before it is sent.
    #[default]
    Reserve,
    /// Afterwards: what it cost is booked, and the request that crosses a cap is the last one. Requests under way at that
    /// moment overspend.
    Observe,
}

/// How much of the output is held before a request is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overrun {
    /// All that it may write, and the provider is told that bound: nothing is ever spent beyond a cap.
    #[default]
    Exact,
    /// A tranche of it; more is held while the answer flows, and where nothing is left the answer is cut. Beyond a cap goes
    /// at most what the provider writes between the last held token and the cut.
    Bounded,
}

/// What happens to the bottles that a spent cap binds, and what `stop` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shutdown {
    /// Every route is closed; its processes go on and are told why.
    #[default]
    Cutoff,
    /// Its processes stand still, and go on where they stood after `resume`.
    Pause,
    /// Its processes end, what it wrote is kept, and `resume` starts its program again.
    Freeze,
    /// Its processes end.
    Kill,
}

impl Shutdown {
    /// All of them, from the gentlest.
    pub const ALL: [Shutdown; 4] = [Shutdown::Cutoff, Shutdown::Pause, Shutdown::Freeze, Shutdown::Kill];

    /// As it is written in files, on the command line and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Shutdown::Cutoff => "cutoff",
            Shutdown::Pause => "pause",
            Shutdown::Freeze => "freeze",
            Shutdown::Kill => "kill",
        }
    }
}

/// Everything beside the caps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// When requests are measured.
    pub gate: Gate,
    /// How much is held.
    pub overrun: Overrun,
    /// What a spent cap does.
    pub shutdown: Shutdown,
    /// Parts of a cap, in percent and ascending, at whose crossing the person is told.
    pub warn_percent: Vec<u8>,
    /// How long a request waits while only holds are in its way, in milliseconds.
    pub hold_wait_ms: u64,
    /// Fewer tokens of output than this are of no use; a request that cannot have them is not sent.
    pub output_min: u64,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            gate: Gate::default(),
            overrun: Overrun::default(),
            shutdown: Shutdown::default(),
            warn_percent: vec![80, 95],
            hold_wait_ms: 30_000,
            output_min: 256,
        }
    }
}
