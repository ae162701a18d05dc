//! Names and identifiers, each its own type so that one is never passed for another.

use std::fmt;

use serde::Serialize;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name `{given}` is not valid: use {rule}")]
pub struct NameError {
    kind: &'static str,
    given: String,
    rule: &'static str,
}

const NAME_RULE: &str = "1 to 64 of a-z, 0-9, `-`, `_`, starting with a letter or digit";
const SECRET_RULE: &str = "1 to 128 of A-Z, a-z, 0-9, `_`, not starting with a digit";

/// Longest accepted name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

fn checked(kind: &'static str, given: &str) -> Result<String, NameError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ok = given.len() <= NAME_BYTES_MAX
        && given.bytes().next().is_some_and(plain)
        && given.bytes().all(|b| plain(b) || b == b'-' || b == b'_');
    if ok {
        Ok(given.to_owned())
    } else {
        Err(NameError { kind, given: given.chars().take(80).collect(), rule: NAME_RULE })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Checks the spelling (1–64 of `a-z 0-9 - _`, first a letter or digit).
            pub fn parse(given: &str) -> Result<Self, NameError> {
                checked($kind, given).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A bottle, by the stem of its file.
    BottleName, "bottle"
);
name!(
    /// An agent, by the stem of its file.
    AgentName, "agent"
);
name!(
    /// One run of a bottle: unique on this host, short enough to type.
    RunId, "run"
);
name!(
    /// What a route is metered as: `anthropic`, `openai`, `gemini`…
    MeterName, "meter"
);

/// A route within the plan it came from: its place and its host, for people and for the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RouteId(String);

impl RouteId {
    /// `index` counts from 1 in the order of the effective manifest.
    pub fn new(index: usize, host: &crate::host::HostPattern) -> Self {
        RouteId(format!("r{index}:{host}"))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a secret (spelled like an environment variable: `ANTHROPIC_API_KEY`), never its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SecretName(String);

impl SecretName {
    /// 1 to 128 of `A-Z a-z 0-9 _`, not starting with a digit.
    pub fn parse(given: &str) -> Result<Self, NameError> {
        let ok = (1..=128).contains(&given.len())
            && !given.as_bytes()[0].is_ascii_digit()
            && given.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if ok {
            Ok(SecretName(given.to_owned()))
        } else {
            Err(NameError { kind: "secret", given: given.chars().take(80).collect(), rule: SECRET_RULE })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A short identifier of one refusal, `d-` and eight hex digits: what the agent and the log both name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DenialId(String);

impl DenialId {
    /// From 32 random bits.
    pub fn from_bits(bits: u32) -> Self {
        DenialId(format!("d-{bits:08x}"))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DenialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
