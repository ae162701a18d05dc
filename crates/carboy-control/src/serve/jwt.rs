//! JSON Web Tokens (RFC 7519) of the shop's, verified with the keys of its JWKS (RFC 7517).
//!
//! ```text
//!  header.claims.signature ─▶ key by kid, of the header's algorithm ─▶ signature ─▶ exp, nbf, iss, aud ─▶ claims
//! ```
//!
//! A key has one algorithm, fixed when it was read: the header chooses among keys and never how one is used. *Must never*
//! take `none`, or a signature that whoever knows a public key could make (HS*).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Most keys of one set.
const KEYS_MAX: usize = 32;
/// How far two clocks may be apart, in seconds.
const LEEWAY_S: u64 = 30;

/// Why a token says nothing. For the log: who sent it learns only that it does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url that hold JSON, or too long.
    #[error("it is no JSON Web Token of at most {TOKEN_BYTES_MAX} octets")]
    Malformed,
    /// `none`, HS256, or another that no key here is for.
    #[error("its algorithm is not RS256, ES256 or EdDSA")]
    Algorithm,
    /// It has a critical extension.
    #[error("it demands extensions that are not known here")]
    Critical,
    /// No key of the set fits.
    #[error("no key of the set has its key id and algorithm")]
    UnknownKey,
    /// The signature is another's.
    #[error("its signature does not hold")]
    Signature,
    /// It has no `exp`, or that is past.
    #[error("it has expired, or has no `exp`")]
    Expired,
    /// `nbf` is ahead.
    #[error("it is not valid yet")]
    NotYet,
    /// `iss`.
    #[error("it is of another issuer")]
    Issuer,
    /// `aud`.
    #[error("it is for another audience")]
    Audience,
}

/// A set of keys that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is none.
    #[error("the key set is no JSON object with `keys`; see RFC 7517")]
    Malformed,
    /// Too many keys.
    #[error("the key set has {0} keys, the limit is {KEYS_MAX}")]
    TooMany(usize),
    /// None that is of use.
    #[error("the key set has no key for RS256, ES256 or EdDSA signatures")]
    Empty,
}

/// The algorithms that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    fn parse(name: &str) -> Option<Algorithm> {
        match name {
            "RS256" => Some(Algorithm::Rs256),
            "ES256" => Some(Algorithm::Es256),
            "EdDSA" => Some(Algorithm::EdDsa),
            _ => None,
        }
    }
}

enum Material {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Point(Vec<u8>),
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

/// The keys that a token's signature is tried with.
pub(super) struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JWKS; keys of other kinds and uses are left out.
    pub fn parse(jwks: &str) -> Result<KeySet, KeySetError> {
        let set: Value = serde_json::from_str(jwks).map_err(|_| KeySetError::Malformed)?;
        let keys = set["keys"].as_array().ok_or(KeySetError::Malformed)?;
        if keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany(keys.len()));
        }
        let keys: Vec<Key> = keys.iter().filter_map(key).collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(KeySet(keys)) }
    }

    /// The claims of a token that holds.
    pub fn verify(&self, token: &str, issuer: &str, audience: &str, now_s: u64) -> Result<Value, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = part(header)?;
        let algorithm = header["alg"].as_str().and_then(Algorithm::parse).ok_or(TokenError::Algorithm)?;
        if !header["crit"].is_null() {
            return Err(TokenError::Critical);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        self.signed(&header, algorithm, signed.as_bytes(), &signature)?;
        let claims = part(claims)?;
        in_force(&claims, issuer, audience, now_s)?;
        Ok(claims)
    }

    fn signed(&self, header: &Value, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        let wanted = header["kid"].as_str();
        let fits = |key: &&Key| {
            key.algorithm == algorithm && (wanted.is_none() || key.id.is_none() || key.id.as_deref() == wanted)
        };
        let mut tried = self.0.iter().filter(fits).peekable();
        if tried.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        if tried.any(|key| key.holds(message, signature)) { Ok(()) } else { Err(TokenError::Signature) }
    }
}

impl Key {
    fn holds(&self, message: &[u8], signature: &[u8]) -> bool {
        match (self.algorithm, &self.material) {
            (Algorithm::Rs256, Material::Rsa { modulus, exponent }) => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            (Algorithm::Es256, Material::Point(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (Algorithm::EdDsa, Material::Point(point)) => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, signature).is_ok()
            }
            (Algorithm::Rs256, Material::Point(_)) | (Algorithm::Es256 | Algorithm::EdDsa, Material::Rsa { .. }) => {
                false
            }
        }
    }
}

fn key(jwk: &Value) -> Option<Key> {
    if jwk["use"].as_str().is_some_and(|used| used != "sig") {
        return None;
    }
    let octets = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str()?).ok();
    let (algorithm, material) = match (jwk["kty"].as_str()?, jwk["crv"].as_str()) {
        ("RSA", _) => (Algorithm::Rs256, Material::Rsa { modulus: octets("n")?, exponent: octets("e")? }),
        ("EC", Some("P-256")) => {
            let (x, y) = (octets("x")?, octets("y")?);
            (Algorithm::Es256, Material::Point([vec![4], x, y].concat()))
        }
        ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, Material::Point(octets("x")?)),
        _ => return None,
    };
    let named = jwk["alg"].as_str();
    if named.is_some_and(|name| Algorithm::parse(name) != Some(algorithm)) {
        return None;
    }
    Some(Key { id: jwk["kid"].as_str().map(str::to_owned), algorithm, material })
}

fn part(text: &str) -> Result<Value, TokenError> {
    let octets = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
    let value: Value = serde_json::from_slice(&octets).map_err(|_| TokenError::Malformed)?;
    if value.is_object() { Ok(value) } else { Err(TokenError::Malformed) }
}

fn in_force(claims: &Value, issuer: &str, audience: &str, now_s: u64) -> Result<(), TokenError> {
    let seconds = |name: &str| claims[name].as_f64().filter(|s| s.is_finite() && *s >= 0.0).map(|s| s as u64);
    if seconds("exp").is_none_or(|exp| exp.saturating_add(LEEWAY_S) <= now_s) {
        return Err(TokenError::Expired);
    }
    if !claims["nbf"].is_null() && seconds("nbf").is_none_or(|nbf| nbf > now_s.saturating_add(LEEWAY_S)) {
        return Err(TokenError::NotYet);
    }
    if claims["iss"].as_str() != Some(issuer) {
        return Err(TokenError::Issuer);
    }
    let meant = match &claims["aud"] {
        Value::String(one) => one == audience,
        Value::Array(several) => several.iter().any(|one| one.as_str() == Some(audience)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    };
    if meant { Ok(()) } else { Err(TokenError::Audience) }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn text(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn claims() -> Value {
        json!({"iss": "https://shop.example", "aud": "chat", "sub": "sarah", "exp": NOW + 60})
    }

    struct Shop {
        ed: Ed25519KeyPair,
        ec: EcdsaKeyPair,
    }

    impl Shop {
        fn new() -> Shop {
            let random = SystemRandom::new();
            let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Shop {
                ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
                ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap(),
            }
        }

        fn jwks(&self) -> String {
            let point = self.ec.public_key().as_ref();
            json!({"keys": [
                {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": URL_SAFE_NO_PAD.encode(self.ed.public_key())},
                {"kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "use": "sig",
                 "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])},
                {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
                {"kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": "AA", "y": "AA"},
            ]})
            .to_string()
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let signed = format!("{}.{}", text(header), text(claims));
            let signature = match header["alg"].as_str() {
                Some("ES256") => self.ec.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
                _ => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
            };
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn verify(shop: &Shop, token: &str) -> Result<Value, TokenError> {
        KeySet::parse(&shop.jwks()).unwrap().verify(token, "https://shop.example", "chat", NOW)
    }

    #[test]
    fn g89_tokens_of_the_shops_keys_hold_with_and_without_a_key_id() {
        let shop = Shop::new();
        for header in
            [json!({"alg": "EdDSA", "kid": "ed"}), json!({"alg": "ES256", "kid": "ec"}), json!({"alg": "ES256"})]
        {
            assert_eq!(verify(&shop, &shop.token(&header, &claims())).unwrap()["sub"], "sarah", "{header}");
        }
    }

    // G89: RS256, the key and token of RFC 7515 A.2, whose claims have long expired.
    #[test]
    fn g89_the_rsa_example_of_rfc_7515_holds() {
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let keys = KeySet::parse(&json!({"keys": [{"kty": "RSA", "n": n, "e": "AQAB"}]}).to_string()).unwrap();
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        assert_eq!(keys.verify(token, "joe", "chat", 1_300_819_000), Err(TokenError::Audience), "all but `aud` holds");
        assert_eq!(keys.verify(token, "joe", "chat", NOW), Err(TokenError::Expired));
        let forged = token.replace(".cC4h", ".dC4h");
        assert_eq!(keys.verify(&forged, "joe", "chat", 1_300_819_000), Err(TokenError::Signature));
    }

    #[test]
    fn g89_none_hs256_and_a_key_of_another_algorithm_are_refused() {
        let shop = Shop::new();
        let unsigned = format!("{}.{}.", text(&json!({"alg": "none"})), text(&claims()));
        assert_eq!(verify(&shop, &unsigned), Err(TokenError::Algorithm));
        for header in [
            json!({"alg": "HS256", "kid": "shared"}),
            json!({"alg": "HS256", "kid": "ed"}),
            json!({"alg": "hs256"}),
            json!({}),
        ] {
            assert_eq!(verify(&shop, &shop.token(&header, &claims())), Err(TokenError::Algorithm), "{header}");
        }
        assert_eq!(
            verify(&shop, &shop.token(&json!({"alg": "EdDSA", "kid": "ec"}), &claims())),
            Err(TokenError::UnknownKey)
        );
        assert_eq!(verify(&shop, &shop.token(&json!({"alg": "RS256"}), &claims())), Err(TokenError::UnknownKey));
        let critical = shop.token(&json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}), &claims());
        assert_eq!(verify(&shop, &critical), Err(TokenError::Critical));
    }

    #[test]
    fn g89_time_issuer_and_audience_are_checked() {
        let shop = Shop::new();
        let header = json!({"alg": "EdDSA"});
        let table: &[(&str, Value, Option<TokenError>)] = &[
            ("exp", json!(NOW - 29), None),
            ("exp", json!(NOW - 30), Some(TokenError::Expired)),
            ("exp", Value::Null, Some(TokenError::Expired)),
            ("exp", json!("later"), Some(TokenError::Expired)),
            ("exp", json!(-1), Some(TokenError::Expired)),
            ("nbf", json!(NOW + 30), None),
            ("nbf", json!(NOW + 31), Some(TokenError::NotYet)),
            ("nbf", json!("soon"), Some(TokenError::NotYet)),
            ("iss", json!("https://other.example"), Some(TokenError::Issuer)),
            ("iss", Value::Null, Some(TokenError::Issuer)),
            ("aud", json!(["other", "chat"]), None),
            ("aud", json!("other"), Some(TokenError::Audience)),
            ("aud", Value::Null, Some(TokenError::Audience)),
        ];
        for (name, value, wanted) in table {
            let mut claims = claims();
            claims[*name] = value.clone();
            assert_eq!(verify(&shop, &shop.token(&header, &claims)).err(), *wanted, "{name} = {value}");
        }
    }

    #[test]
    fn g89_rubbish_is_no_token_and_no_key_set() {
        let shop = Shop::new();
        for rubbish in ["", ".", "..", "a.b.c", "....", "e30.e30.", &"x".repeat(9_000)] {
            assert!(verify(&shop, rubbish).is_err(), "{rubbish}");
        }
        assert_eq!(KeySet::parse("{}").err(), Some(KeySetError::Malformed));
        assert_eq!(KeySet::parse(r#"{"keys": [{"kty": "oct", "k": "AA"}]}"#).err(), Some(KeySetError::Empty));
        let many = json!({"keys": vec![json!({}); 33]}).to_string();
        assert_eq!(KeySet::parse(&many).err(), Some(KeySetError::TooMany(33)));
    }
}
