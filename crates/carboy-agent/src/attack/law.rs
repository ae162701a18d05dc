//! What the laws are called, what they say, and what it is to break one.
//!
//! *Must never* lose a name: reports and tests cite them.

use serde::Serialize;

/// One of the laws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Law {
    /// No write without what it builds on.
    I1,
    /// Nothing twice.
    I2,
    /// No word of a record to who has not opened it.
    I3,
    /// "Not there" is "not yours".
    I4,
    /// No write without its click.
    I5,
    /// Caps hold.
    I6,
    /// One turn of a session at a time.
    I7,
    /// Every decision once in the log.
    I8,
    /// What was dropped stays dropped.
    I9,
    /// Nothing leaks, nothing unproven is said.
    I10,
    /// It ends.
    I11,
    /// It is bounded.
    I12,
    /// What nobody proved makes no difference.
    NonInterference,
}

impl Law {
    /// As it is cited.
    pub fn code(self) -> &'static str {
        match self {
            Law::I1 => "I1",
            Law::I2 => "I2",
            Law::I3 => "I3",
            Law::I4 => "I4",
            Law::I5 => "I5",
            Law::I6 => "I6",
            Law::I7 => "I7",
            Law::I8 => "I8",
            Law::I9 => "I9",
            Law::I10 => "I10",
            Law::I11 => "I11",
            Law::I12 => "I12",
            Law::NonInterference => "NI",
        }
    }

    /// What it says.
    pub fn says(self) -> &'static str {
        match self {
            Law::I1 => "no write without what it builds on, for the same id and in the same conversation",
            Law::I2 => "nothing is done twice",
            Law::I3 => "no word of a record to somebody who has not shown what opens it",
            Law::I4 => "what is not there and what is somebody else's look the same",
            Law::I5 => "no write without a click on the card of exactly these arguments",
            Law::I6 => "requests and questions to the model stay under their caps",
            Law::I7 => "turns of one conversation come one after the other",
            Law::I8 => "every decision is in the log once, and the chain verifies",
            Law::I9 => "a reply that was withheld is never sent to a model again",
            Law::I10 => "no secret, and no id, date or markup that no tool gave, is read by anybody",
            Law::I11 => "every turn ends within its deadline",
            Law::I12 => "what is kept is bounded",
            Law::NonInterference => "what nobody proved makes no difference to anything that can be seen",
        }
    }
}

/// A law that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// What was seen.
    pub what: String,
    /// In which step, from 1.
    pub step: usize,
    /// The tool that it is about, if it is about one.
    pub tool: Option<String>,
    /// What would close it.
    pub rule: String,
}
