//! Placeholders of one run: random values in the shape of the real ones.
//!
//! A program that looks at its key before it sends it (a prefix, a length, an alphabet, the parts of a JWT) finds nothing
//! amiss, and nobody who sees the placeholder knows more of the key than its kind, its length and where its punctuation is.
//!
//! *Must never* give back the real value or one that reads the same to the scanners, nor keep more of it than the prefix
//! that all keys of its kind have.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carboy_core::audit::hmac_sha256;
use carboy_core::secret::SecretText;

use crate::tokens;
use crate::view::fold;

/// Prefixes of kinds of keys beside those of the token rules: longer forms of them, and kinds that are not looked for.
const PREFIXES: &[&str] = &[
    "sk-ant-api03-",
    "sk-ant-oat01-",
    "sk-ant-ort01-",
    "sk-ant-admin01-",
    "sk-or-v1-",
    "sk-lf-",
    "pk-lf-",
    "pk_live_",
    "pk_test_",
    "whsec_",
    "pypi-AgEIcHlwaS5vcmc",
    "ya29.",
    "GOCSPX-",
    "gsk_",
    "xai-",
    "r8_",
    "lin_api_",
    "figd_",
    "shpat_",
    "dckr_pat_",
    "glsa_",
    "nvapi-",
    "pplx-",
    "tvly-",
    "secret_",
    "ntn_",
    "key-",
    "phc_",
    "hvs.",
    "dapi",
    "PMAK-",
    "vercel_",
    "sbp_",
    "sntrys_",
];
/// Letters and digits behind a prefix without which none is kept: what is left would be too easy to guess.
const RANDOM_CHARS_MIN: usize = 12;
/// Bytes around the filling of a JWT's payload.
const PAYLOAD_FRAME: (&str, &str) = ("{\"placeholder\":\"", "\"}");
/// Tries until the result differs from the real value to a scanner.
const TRIES_MAX: u32 = 16;
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGITS: &str = "0123456789";

/// A placeholder for `real`. The same seed gives the same one; a fresh seed for each secret and run.
pub fn mint(real: &SecretText, seed: &[u8; 32]) -> String {
    let real = real.expose().as_bytes();
    let view = fold(real);
    let differs = |made: &String| fold(made.as_bytes()) != view && made.len() == real.len();
    let tries = (0..TRIES_MAX).map(|attempt| shaped(real, Random::new(seed, attempt)));
    // A value of punctuation has nothing to exchange: it gets letters.
    tries.into_iter().find(differs).unwrap_or_else(|| Random::new(seed, TRIES_MAX).text(LOWER, real.len()))
}

fn shaped(real: &[u8], mut random: Random) -> String {
    if let Some(jwt) = jwt(real, &mut random) {
        return jwt;
    }
    let prefix = prefix_of(real);
    let alphabet = alphabet_of(&real[prefix..]);
    let kept = real[..prefix].iter().map(|b| char::from(*b));
    let made = real[prefix..].iter().map(|b| match b {
        b if b.is_ascii() && !b.is_ascii_alphanumeric() => char::from(*b),
        _ => random.one_of(&alphabet),
    });
    kept.chain(made).collect()
}

/// How many bytes of it all keys of its kind begin with.
fn prefix_of(real: &[u8]) -> usize {
    let known = tokens::prefixes().chain(PREFIXES.iter().copied()).filter(|prefix| !prefix.contains(['/', ' ']));
    let fits = |prefix: &&str| {
        let rest = real.strip_prefix(prefix.as_bytes()).unwrap_or_default();
        rest.iter().filter(|b| b.is_ascii_alphanumeric()).count() >= RANDOM_CHARS_MIN
    };
    known.filter(fits).map(str::len).max().unwrap_or(0)
}

/// The letters and digits that it is made of, by kind.
fn alphabet_of(body: &[u8]) -> String {
    let plain = || body.iter().filter(|b| b.is_ascii_alphanumeric());
    let has = |is: fn(&u8) -> bool| plain().any(is);
    if plain().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)) && has(u8::is_ascii_lowercase) {
        return format!("{DIGITS}{}", &LOWER[..6]);
    }
    if plain().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(b)) && has(u8::is_ascii_uppercase) {
        return format!("{DIGITS}{}", &UPPER[..6]);
    }
    let mut found = String::new();
    for (is_there, letters) in
        [(has(u8::is_ascii_lowercase), LOWER), (has(u8::is_ascii_uppercase), UPPER), (has(u8::is_ascii_digit), DIGITS)]
    {
        if is_there {
            found.push_str(letters);
        }
    }
    if found.is_empty() { LOWER.to_owned() } else { found }
}

/// A JWT keeps its header, which says the algorithm and no secret; its claims are a person's and are not kept.
fn jwt(real: &[u8], random: &mut Random) -> Option<String> {
    let text = std::str::from_utf8(real).ok()?;
    let parts: Vec<&str> = text.split('.').collect();
    let [header, payload, signature] = parts[..] else { return None };
    let is_map = |part: &str| URL_SAFE_NO_PAD.decode(part).ok().filter(|b| b.starts_with(b"{") && b.ends_with(b"}"));
    let (_, claims) = (is_map(header)?, is_map(payload)?);
    let filling = claims.len().checked_sub(PAYLOAD_FRAME.0.len() + PAYLOAD_FRAME.1.len())?;
    let alphabet = format!("{LOWER}{UPPER}{DIGITS}");
    let payload = format!("{}{}{}", PAYLOAD_FRAME.0, random.text(&alphabet, filling), PAYLOAD_FRAME.1);
    let signature = random.text(&alphabet, signature.len());
    Some(format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(payload)))
}

/// Bytes that only the seed knows.
struct Random {
    seed: [u8; 32],
    block: u32,
    left: Vec<u8>,
}

impl Random {
    fn new(seed: &[u8; 32], attempt: u32) -> Random {
        Random { seed: hmac_sha256(seed, &attempt.to_be_bytes()), block: 0, left: Vec::new() }
    }

    fn byte(&mut self) -> u8 {
        loop {
            if let Some(byte) = self.left.pop() {
                return byte;
            }
            self.left = hmac_sha256(&self.seed, &self.block.to_be_bytes()).to_vec();
            self.block += 1;
        }
    }

    /// Each as likely as the others: a byte beyond the last whole multiple is passed over.
    fn one_of(&mut self, alphabet: &str) -> char {
        let bound = 256 / alphabet.len() * alphabet.len();
        loop {
            let byte = usize::from(self.byte());
            if byte < bound {
                return char::from(alphabet.as_bytes()[byte % alphabet.len()]);
            }
        }
    }

    fn text(&mut self, alphabet: &str, len: usize) -> String {
        (0..len).map(|_| self.one_of(alphabet)).collect()
    }
}

#[cfg(test)]
mod tests {
    use carboy_core::secret::Secret;
    use proptest::prelude::*;

    use super::*;

    fn minted(real: &str) -> String {
        mint(&Secret::new(real.to_owned()), &[7; 32])
    }

    #[test]
    fn b42_a_placeholder_has_the_shape_of_its_kind() {
        for (real, prefix) in [
            ("ghp_iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g", "ghp_"),
            ("sk-ant-api03-Zq8vTr3LmW5xKd0PyB7nHc2A_x9-QQAA", "sk-ant-api03-"),
            ("sk-proj-Zq8vTr3LmW5xKd0PyB7nHc2A", "sk-proj-"),
            ("AKIAIOSFODNN7EXAMPLE", "AKIA"),
            ("glpat-Zq8vTr3LmW5xKd0PyB7n", "glpat-"),
            ("0123456789abcdef0123456789abcdef", ""),
            ("correct-horse-battery-staple", ""),
            ("key-1", ""),
        ] {
            let made = minted(real);
            assert!(made != real && made.len() == real.len() && made.starts_with(prefix), "{real} {made}");
            let kind = |b: u8| if b.is_ascii_alphanumeric() { b'a' } else { b };
            let shape = |text: &str| text.bytes().map(kind).collect::<Vec<_>>();
            assert_eq!(shape(&made), shape(real), "{made}");
            let behind = &made[prefix.len()..];
            assert!(!real.contains(&behind[..behind.len().min(8)]), "{made}");
        }
        assert!(minted("0123456789abcdef0123456789abcdef").bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(minted("AKIAIOSFODNN7EXAMPLE").bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()));
    }

    #[test]
    fn b42_a_jwt_stays_one_and_keeps_none_of_its_claims() {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let (header, claims) =
            (part(r#"{"alg":"HS256","typ":"JWT"}"#), part(r#"{"sub":"ann@example.org","exp":1999999999}"#));
        let real = format!("{header}.{claims}.c2lnbmF0dXJlc2lnbmF0dXJl");
        let made = minted(&real);
        let parts: Vec<&str> = made.split('.').collect();
        assert_eq!((parts[0], made.len()), (header.as_str(), real.len()));
        let payload = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert!(payload.get("sub").is_none() && payload["placeholder"].is_string(), "{payload}");
        assert_ne!(parts[2], "c2lnbmF0dXJlc2lnbmF0dXJl");
    }

    #[test]
    fn b42_punctuation_alone_gets_letters() {
        assert!(minted("!!!!----????").bytes().all(|b| b.is_ascii_lowercase()));
    }

    proptest! {
        #[test]
        fn b42_no_placeholder_reads_like_its_secret(real in "[ -~]{8,80}", seed in any::<[u8; 32]>()) {
            let made = mint(&Secret::new(real.clone()), &seed);
            prop_assert_eq!(made.len(), real.len());
            prop_assert_ne!(fold(made.as_bytes()), fold(real.as_bytes()));
            prop_assert!(made.bytes().all(|b| (b' '..=b'~').contains(&b)));
            let again = mint(&Secret::new(real), &seed);
            prop_assert_eq!(made, again);
        }
    }
}
