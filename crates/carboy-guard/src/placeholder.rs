//! The fake credentials that a bottle gets instead of real ones: they must never look like a leak.

use carboy_core::ids::SecretName;

/// What every fake credential contains; a token match around it is no finding.
pub const PLACEHOLDER_MARK: &str = "carboy-placeholder";

/// The fake value of a secret: `carboy-placeholder-anthropic-api-key`. The same name gives the same value, so that
/// the gateway can tell where it belongs.
pub fn placeholder_for(name: &SecretName) -> String {
    let tail: String = name.as_str().chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect();
    format!("{PLACEHOLDER_MARK}-{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_carries_the_mark_and_the_name() {
        let name = SecretName::parse("ANTHROPIC_API_KEY").unwrap();
        assert_eq!(placeholder_for(&name), "carboy-placeholder-anthropic-api-key");
    }
}
