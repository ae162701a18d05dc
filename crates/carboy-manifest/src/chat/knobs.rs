//! The table of thresholds: one row for each field of [`ChatLimits`] and each switch of [`Screening`].
//!
//! *Must never* hold a default: those are `ChatLimits::default` and `Screening::default`, and nowhere else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use carboy_core::chat::{ChatLimits, Screening};

use crate::diagnostic::{Code, Diagnostic, excerpt};
use crate::origin::Sourced;
use crate::schema::Scope;
use crate::yaml::{Entry, Node, Value};

/// What begins the variable of a knob that no reference system names.
const VARIABLE_PREFIX: &str = "CARBOY_CHAT_";

/// One threshold.
pub struct Knob {
    /// Its name: the field's.
    pub name: &'static str,
    /// Its names in the reference systems, as they spell them; upper and lower case are the same.
    pub aliases: &'static [&'static str],
    /// How its values are written.
    pub kind: KnobKind,
    /// The smallest and the largest value.
    pub range: (u32, u32),
    /// Which way is stricter.
    pub stricter: Stricter,
    /// What it counts.
    pub unit: &'static str,
    /// What it is, for the table of defaults.
    pub what: &'static str,
    get: fn(&ChatLimits, &Screening) -> u32,
    set: fn(&mut ChatLimits, &mut Screening, u32),
}

/// How values of a knob are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnobKind {
    /// A whole number.
    Count,
    /// Hundredths; as text also `0.5` or `50%`.
    Percent,
    /// `true` or `false`.
    Switch,
}

/// Which way a knob is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stricter {
    /// The lower value.
    Lower,
    /// The higher value (a switch that is on).
    Higher,
    /// Neither: it changes what is said, not what is allowed.
    Neither,
}

/// Values that one place says, by the knob's name.
pub(crate) type SaidKnobs = BTreeMap<&'static str, Sourced<u32>>;

macro_rules! limit {
    ($name:ident, $aliases:expr, $min:expr, $max:expr, $stricter:ident, $unit:literal, $what:literal) => {
        Knob {
            name: stringify!($name),
            aliases: &$aliases,
            kind: KnobKind::Count,
            range: ($min, $max),
            stricter: Stricter::$stricter,
            unit: $unit,
            what: $what,
            get: |limits, _| limits.$name,
            set: |limits, _, value| limits.$name = value,
        }
    };
}

macro_rules! switch {
    ($name:ident, $alias:literal, $what:literal) => {
        Knob {
            name: stringify!($name),
            aliases: &[$alias],
            kind: KnobKind::Switch,
            range: (0, 1),
            stricter: Stricter::Higher,
            unit: "",
            what: $what,
            get: |_, screening| u32::from(screening.$name),
            set: |_, screening, value| screening.$name = value != 0,
        }
    };
}

const PER_HOUR: [&str; 1] = ["MAX_REQUESTS_PER_HOUR"];
const PER_IP: [&str; 1] = ["rate_limit_per_ip_per_minute"];
const PER_SESSION: [&str; 1] = ["rate_limit_per_session_per_minute"];
const LONG: [&str; 1] = ["LONG_CONVERSATION_TURN_THRESHOLD"];

/// All of them, in the order of the documentation.
pub const KNOBS: &[Knob] = &[
    limit!(requests_per_hour, PER_HOUR, 1, 1_000_000, Lower, "requests", "of one person in any hour"),
    limit!(requests_per_ip_per_minute, PER_IP, 1, 1_000_000, Lower, "requests", "of one address in any minute"),
    limit!(
        requests_per_ip_per_hour,
        [],
        1,
        1_000_000,
        Lower,
        "requests",
        "of one address in any hour, of people who are not signed in"
    ),
    limit!(
        requests_per_session_per_minute,
        PER_SESSION,
        1,
        1_000_000,
        Lower,
        "requests",
        "of one session in any minute"
    ),
    limit!(
        limiter_keys_max,
        [],
        100,
        10_000_000,
        Lower,
        "keys",
        "that limiters remember; beyond it a new one is refused"
    ),
    limit!(message_chars_max, [], 1, 100_000, Lower, "characters", "of one message"),
    limit!(turns_max, [], 1, 10_000, Lower, "turns", "of one session"),
    limit!(long_conversation_turns, LONG, 1, 10_000, Neither, "turns", "after which the long reminder is said too"),
    limit!(tool_iterations_max, ["max_tool_use_iterations"], 1, 100, Lower, "questions", "to the model in one turn"),
    limit!(tool_calls_max, [], 1, 128, Lower, "calls", "of tools in one answer of the model"),
    limit!(tool_arguments_bytes_max, [], 64, 1_048_576, Lower, "bytes", "of one call's arguments"),
    limit!(tool_result_bytes_max, [], 64, 1_048_576, Lower, "bytes", "of one tool's result"),
    limit!(tool_wait_ms, [], 100, 600_000, Lower, "milliseconds", "that one tool may take"),
    limit!(model_wait_ms, [], 100, 600_000, Lower, "milliseconds", "that the model may be silent"),
    limit!(turn_wait_ms, [], 100, 3_600_000, Lower, "milliseconds", "that one turn may take"),
    limit!(reply_chars_max, [], 1, 100_000, Lower, "characters", "of one reply"),
    limit!(sessions_max, ["session_store_max_entries"], 1, 1_000_000, Lower, "sessions", "that are kept at once"),
    limit!(
        session_idle_s,
        ["session_idle_ttl_seconds"],
        1,
        31_536_000,
        Lower,
        "seconds",
        "that an idle session is kept"
    ),
    limit!(confirmation_s, [], 10, 86_400, Lower, "seconds", "that a confirmation card can be clicked"),
    Knob {
        name: "injection_percent",
        aliases: &["INJECTION_THRESHOLD"],
        kind: KnobKind::Percent,
        range: (1, 100),
        stricter: Stricter::Lower,
        unit: "percent",
        what: "of confidence from which an input counts as an attack",
        get: |_, screening| u32::from(screening.injection_percent),
        // The range is within an octet.
        set: |_, screening, value| screening.injection_percent = u8::try_from(value).unwrap_or(1),
    },
    switch!(block_suspicious_inputs, "BLOCK_SUSPICIOUS_INPUTS", "such an input is refused, not only written down"),
    switch!(filter_secrets, "FILTER_SECRETS", "credentials are overwritten in replies"),
    switch!(filter_pii, "FILTER_PII", "personal data is overwritten in replies"),
];

impl Knob {
    /// The knob of this name or alias; a canonical name is lower case, an alias any one case.
    pub fn named(name: &str) -> Option<&'static Knob> {
        KNOBS.iter().find(|knob| knob.name == name || knob.aliases.iter().any(|alias| one_case(alias, name)))
    }

    /// The knob that a variable of the environment or a `.env` sets.
    pub fn of_variable(variable: &str) -> Option<&'static Knob> {
        KNOBS.iter().find(|knob| knob.variables().iter().any(|name| name == variable))
    }

    /// The variables that set it; the first of them that is there decides.
    pub fn variables(&self) -> Vec<String> {
        let cases = |alias: &&str| [alias.to_ascii_uppercase(), alias.to_ascii_lowercase()];
        let own = format!("{VARIABLE_PREFIX}{}", self.name.to_ascii_uppercase());
        std::iter::once(own).chain(self.aliases.iter().flat_map(cases)).collect()
    }

    /// The value as it is now.
    pub fn get(&self, limits: &ChatLimits, screening: &Screening) -> u32 {
        (self.get)(limits, screening)
    }

    /// Sets it; a value out of its range is brought into it.
    pub fn set(&self, limits: &mut ChatLimits, screening: &mut Screening, value: u32) {
        (self.set)(limits, screening, value.clamp(self.range.0, self.range.1));
    }

    /// Is `value` looser than `than`?
    pub fn is_looser(&self, value: u32, than: u32) -> bool {
        match self.stricter {
            Stricter::Lower => value > than,
            Stricter::Higher => value < than,
            Stricter::Neither => false,
        }
    }

    /// A value as people and JSON read it.
    pub fn shown(&self, value: u32) -> serde_json::Value {
        match self.kind {
            KnobKind::Count | KnobKind::Percent => value.into(),
            KnobKind::Switch => (value != 0).into(),
        }
    }

    /// What to write, for errors.
    fn fix(&self) -> String {
        let (min, max) = self.range;
        match self.kind {
            KnobKind::Count => format!("write a whole number from {min} to {max} ({})", self.unit),
            KnobKind::Percent => "write a confidence as \"0.5\" or 50%; from 1% to 100%".into(),
            KnobKind::Switch => "write `true` or `false`".into(),
        }
    }

    /// A value of a variable, a `.env` or a flag. `name` is the one that it was given under.
    ///
    /// # Errors
    /// What is wrong and what to write.
    pub fn parse(&self, name: &str, text: &str) -> Result<u32, Diagnostic> {
        let text = text.trim();
        let own_name = name == self.name || name.starts_with(VARIABLE_PREFIX);
        let value = match self.kind {
            KnobKind::Count => text.parse::<u32>().ok(),
            // Under its own name a whole number is in hundredths; as a threshold `1` is certainty.
            KnobKind::Percent if own_name => text.parse::<u32>().ok().or_else(|| percent_of(text)),
            KnobKind::Percent => percent_of(text),
            KnobKind::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Some(1),
                "false" | "0" | "no" | "off" => Some(0),
                _ => None,
            },
        };
        let fits = value.filter(|value| (self.range.0..=self.range.1).contains(value));
        fits.ok_or_else(|| Diagnostic::error(Code::BadValue, format!("`{name}` is {}", excerpt(text)), self.fix()))
    }

    /// A value of a file.
    pub(crate) fn read(&self, scope: &mut Scope<'_>, key: &str, node: &Node) -> Option<u32> {
        let what = format!("`{key}`");
        match (self.kind, &node.value) {
            (_, Value::Invalid) => None,
            (KnobKind::Count, _) => scope.number(node, &what, self.range.0..=self.range.1),
            (KnobKind::Switch, _) => scope.boolean(node, &what).map(u32::from),
            (KnobKind::Percent, Value::Int(number)) => self.checked(scope, key, node, &number.to_string()),
            (KnobKind::Percent, Value::Text(text)) => self.checked(scope, key, node, text),
            (KnobKind::Percent, Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_)) => {
                let message = format!("{what} of {} is no number", scope.owner);
                scope.error(node.at, Code::WrongType, message, self.fix());
                None
            }
        }
    }

    fn checked(&self, scope: &mut Scope<'_>, key: &str, node: &Node, text: &str) -> Option<u32> {
        match self.parse(key, text) {
            Ok(value) => Some(value),
            Err(error) => {
                let message = format!("`{key}` of {} is {}", scope.owner, excerpt(text));
                scope.error(node.at, Code::BadValue, message, error.fix);
                None
            }
        }
    }
}

fn one_case(alias: &str, name: &str) -> bool {
    name == alias || name == alias.to_ascii_uppercase() || name == alias.to_ascii_lowercase()
}

/// `0.5`, `.5`, `1`, `1.0`, `0.05` or `50%` in hundredths: at most two digits behind the point.
pub(crate) fn percent_of(text: &str) -> Option<u32> {
    if let Some(digits) = text.strip_suffix('%') {
        return digits.parse().ok().filter(|value| *value <= 100);
    }
    let (whole, behind) = text.split_once('.').unwrap_or((text, ""));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(behind) || behind.len() > 2 || (whole.is_empty() && behind.is_empty()) {
        return None;
    }
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let behind: u32 = format!("{behind:0<2}").parse().ok()?;
    whole.checked_mul(100)?.checked_add(behind).filter(|value| *value <= 100)
}

/// Takes the knobs out of a map of a file; what is left are its other entries. Two names of one knob are an error.
pub(crate) fn take(scope: &mut Scope<'_>, entries: &[Entry], wanted: fn(&Knob) -> bool) -> (SaidKnobs, Vec<Entry>) {
    let (mut said, mut others) = (SaidKnobs::new(), Vec::new());
    for entry in entries {
        let Some(knob) = Knob::named(&entry.key).filter(|knob| wanted(knob)) else {
            others.push(entry.clone());
            continue;
        };
        let Some(value) = knob.read(scope, &entry.key, &entry.value) else { continue };
        let origin = scope.said(value, entry.key_at).origin();
        if said.insert(knob.name, Sourced { value, origin }).is_some() {
            let message = format!("`{}` of {} stands twice, under two of its names", knob.name, scope.owner);
            scope.error(entry.key_at, Code::DuplicateKey, message, "keep one of the two");
        }
    }
    (said, others)
}

/// Is it one of [`ChatLimits`]?
pub(crate) fn is_limit(knob: &Knob) -> bool {
    knob.kind == KnobKind::Count
}

/// Is it one of [`Screening`]?
pub(crate) fn is_screening(knob: &Knob) -> bool {
    knob.kind != KnobKind::Count
}

/// The table of `docs/defaults.md` (G42b): every knob, its default, its bounds and its other names.
pub fn defaults_table() -> String {
    let (limits, screening) = (ChatLimits::default(), Screening::default());
    let mut out = String::from("| name | default | from | to | what | also known as |\n|---|---|---|---|---|---|\n");
    for knob in KNOBS {
        let (value, aliases) = (knob.shown(knob.get(&limits, &screening)), knob.aliases.join("`, `"));
        let aliases = if aliases.is_empty() { String::from("–") } else { format!("`{aliases}`") };
        let (min, max) = (knob.shown(knob.range.0), knob.shown(knob.range.1));
        let what = format!("{} {}", knob.unit, knob.what);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| `{}` | {value} | {min} | {max} | {} | {aliases} |", knob.name, what.trim());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_one_row_and_its_default_is_within_its_bounds_g42b() {
        // G42b, U5: a field that is added to the struct does not compile here until it has a row
        let ChatLimits {
            requests_per_hour: _,
            requests_per_ip_per_minute: _,
            requests_per_ip_per_hour: _,
            requests_per_session_per_minute: _,
            limiter_keys_max: _,
            message_chars_max: _,
            turns_max: _,
            long_conversation_turns: _,
            tool_iterations_max: _,
            tool_calls_max: _,
            tool_arguments_bytes_max: _,
            tool_result_bytes_max: _,
            tool_wait_ms: _,
            model_wait_ms: _,
            turn_wait_ms: _,
            reply_chars_max: _,
            sessions_max: _,
            session_idle_s: _,
            confirmation_s: _,
        } = ChatLimits::default();
        assert_eq!(KNOBS.iter().filter(|knob| is_limit(knob)).count(), 19);
        assert_eq!(KNOBS.iter().filter(|knob| is_screening(knob)).count(), 4);
        let (mut limits, mut screening) = (ChatLimits::default(), Screening::default());
        for knob in KNOBS {
            let value = knob.get(&limits, &screening);
            assert!((knob.range.0..=knob.range.1).contains(&value), "{}", knob.name);
            let other = if value == knob.range.0 { knob.range.1 } else { knob.range.0 };
            knob.set(&mut limits, &mut screening, other);
            assert_eq!(knob.get(&limits, &screening), other, "{}", knob.name);
            for name in std::iter::once(knob.name).chain(knob.aliases.iter().copied()) {
                assert_eq!(Knob::named(name).map(|found| found.name), Some(knob.name));
            }
            for variable in knob.variables() {
                assert_eq!(Knob::of_variable(&variable).map(|found| found.name), Some(knob.name));
            }
        }
    }

    #[test]
    fn a_confidence_is_a_fraction_or_a_percentage() {
        for (text, percent) in [
            ("0.5", Some(50)),
            (".05", Some(5)),
            ("1", Some(100)),
            ("1.0", Some(100)),
            ("0.30", Some(30)),
            ("70%", Some(70)),
            ("0.505", None),
            ("50", None),
            ("1.01", None),
            ("-0.5", None),
            (".", None),
            ("", None),
            ("5e-1", None),
        ] {
            assert_eq!(percent_of(text), percent, "{text}");
        }
    }
}
