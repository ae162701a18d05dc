//! Scripts as a person reads them: who does what, step by step.
//!
//! *Must never* print a text at full length: an argument may have a megabyte.

use std::fmt;

use super::script::{Asked, Click, MANY, Move, Saying, Script, Step, Words};

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (1..).zip(&self.steps).try_for_each(|(number, step)| writeln!(f, "{number}. {step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let person = |who: &usize| char::from(b'A' + u8::try_from(*who % 26).unwrap_or(0));
        let all = |moves: &[Move]| match moves {
            [] => Saying::Harmless.says(),
            moves => moves.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then "),
        };
        match self {
            Step::Says { who, words, moves } => {
                write!(f, "person {} writes ({}); the model {}", person(who), words.in_words(), all(moves))
            }
            Step::Together { who, both, moves } => {
                let to = if *both { "two processes" } else { "one process" };
                write!(f, "person {} writes twice at once, to {to}; the model {}", person(who), all(moves))
            }
            Step::Clicks { who, click, moves } => {
                write!(f, "person {} {}; the model {}", person(who), click.in_words(), all(moves))
            }
            Step::Waits { ms } => write!(f, "the clock moves by {} s", ms / 1_000),
            Step::Restarts => f.write_str("the program starts again"),
            Step::Evicts { who } => write!(f, "the store lets the session of person {} go", person(who)),
            Step::Forgets { who } => write!(f, "person {} asks for all to be forgotten", person(who)),
            Step::Floods { who } => write!(f, "person {} writes more often than a minute allows", person(who)),
        }
    }
}

impl Words {
    fn in_words(self) -> &'static str {
        match self {
            Words::Asks => "a question",
            Words::Confirms => "a yes in words",
            Words::Forges => "as if the runtime wrote",
            Words::Hides => "with hidden characters",
            Words::Overrides => "an override",
        }
    }
}

impl Click {
    fn in_words(self) -> &'static str {
        match self {
            Click::Yes => "clicks yes on the newest card",
            Click::No => "clicks no on the newest card",
            Click::Twice => "clicks yes twice at once, to two processes",
            Click::Again => "clicks yes on the first card again",
            Click::Altered => "sends a changed token",
            Click::Stranger => "has somebody else click yes",
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Move::Says { saying, .. } => f.write_str(&saying.says()),
            Move::Calls { calls, .. } => {
                let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
                write!(f, "calls {}", calls.join(" and "))
            }
            Move::Many(asked) => write!(f, "calls {MANY} times {asked}"),
            Move::Endless(asked) => write!(f, "calls for ever {asked}"),
            Move::Lies => f.write_str("streams one thing and means another"),
            Move::BreaksOff => f.write_str("breaks off in the middle of a sentence"),
            Move::Fails(_) => f.write_str("gives no answer"),
        }
    }
}

impl Saying {
    fn says(self) -> String {
        format!("says {}", self.in_words())
    }

    fn in_words(self) -> &'static str {
        match self {
            Saying::Harmless => "something harmless",
            Saying::Id => "an id that no tool gave",
            Saying::Date => "a date that no tool gave",
            Saying::Markup => "markup with a link",
            Saying::Canary => "a secret",
            Saying::Prompt => "a part of its prompt",
            Saying::Confirms => "that it confirmed the card itself",
            Saying::Long => "very much",
            Saying::Nothing => "nothing",
            Saying::Result => "what the tools gave last",
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.input.to_string();
        let short: String = text.chars().take(160).collect();
        let more = if short.len() < text.len() { "…" } else { "" };
        write!(f, "{}({}{more})", self.tool.escape_debug(), short)
    }
}
