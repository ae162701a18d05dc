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

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let given = String::deserialize(deserializer)?;
                Self::parse(&given).map_err(serde::de::Error::custom)
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

    /// A route that somebody opened for a while.
    pub fn granted(grant: &GrantId, host: &crate::host::HostPattern) -> Self {
        RouteId(format!("{grant}:{host}"))
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

/// Crockford's base 32 in lower case: no `i`, `l`, `o` and `u`, which are misread or make words.
const BASE_32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a short identifier behind its letter and hyphen: 30 bits.
const SHORT_CHARS: usize = 6;

/// Why a text is no short identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no id of a {kind}: those look like {example}, a letter and six of 0-9 a-z without i, l, o and u")]
pub struct ShortIdError {
    kind: &'static str,
    example: &'static str,
    given: String,
}

/// As people write it down: capitals, `o` for `0`, `i` and `l` for `1`.
fn short(text: &str) -> Option<String> {
    let plain = |c: char| match c.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        other => other,
    };
    let text: String = text.chars().map(plain).collect();
    let ok = text.len() == SHORT_CHARS && text.bytes().all(|b| BASE_32.contains(&b));
    ok.then_some(text)
}

macro_rules! short_id {
    ($(#[$doc:meta])* $type:ident, $prefix:literal, $kind:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// What each of them begins with.
            pub const PREFIX: &'static str = $prefix;

            /// From the lower 30 of random bits.
            pub fn from_bits(bits: u32) -> Self {
                let digit = |place: usize| char::from(BASE_32[(bits >> (5 * place) & 31) as usize]);
                $type(std::iter::once($prefix.to_owned()).chain((0..SHORT_CHARS).rev().map(|p| digit(p).into())).collect())
            }

            /// Reads one that a person typed: capitals, and `o`, `i`, `l` for the digits that they look like.
            pub fn parse(given: &str) -> Result<Self, ShortIdError> {
                let prefix = given.get(..$prefix.len()).filter(|start| start.eq_ignore_ascii_case($prefix));
                let text = prefix.and_then(|prefix| short(&given[prefix.len()..]));
                text.map(|text| $type(format!("{}{text}", $prefix))).ok_or_else(|| ShortIdError {
                    kind: $kind,
                    example: $example,
                    given: given.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
                })
            }

            /// The identifier as text.
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

short_id!(
    /// One refusal, `x-` and six characters: what the agent, the log and `carboy explain` all name. 30 random bits, chosen
    /// outside of the bottle: nobody inside chooses one, and to meet a given one takes half a billion refusals.
    RefusalId, "x-", "refusal", "x-4k7m2q"
);
short_id!(
    /// One grant: a route that is open in a run for a while.
    GrantId, "g-", "grant", "g-4k7m2q"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_id_comes_back_however_it_was_copied() {
        let id = RefusalId::from_bits(0xffff_ffff);
        assert_eq!(id.as_str(), "x-zzzzzz");
        assert_eq!(RefusalId::from_bits(1).as_str(), "x-000001");
        for bits in [0, 7, 0x1234_5678, 1 << 29] {
            let id = RefusalId::from_bits(bits);
            assert_eq!(RefusalId::parse(&id.as_str().to_uppercase()), Ok(id));
        }
        assert_eq!(RefusalId::parse("X-oOiIlL").unwrap().as_str(), "x-001111");
    }

    #[test]
    fn what_is_no_id_is_told_how_one_looks() {
        for text in ["", "x", "x-", "g-4k7m2q", "x-4k7m2", "x-4k7m2qq", "x-4k7m2u", "é-4k7m2", "x-4k7mé", "d-1234abcd"]
        {
            assert!(RefusalId::parse(text).unwrap_err().to_string().contains("x-4k7m2q"), "{text}");
        }
    }
}
