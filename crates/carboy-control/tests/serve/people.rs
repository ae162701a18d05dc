//! Whom the shop vouches for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carboy_core::chat::{ChatLimits, ChatSpec, Identity};
use carboy_core::ids::SecretName;
use hmac::{Hmac, KeyInit, Mac};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::Sha256;

use super::http::{chat, get};
use super::world::{Made, World, spec};

const NOW_S: u64 = 1_800_000_000;

struct Shop(Ed25519KeyPair);

impl Shop {
    fn new() -> Shop {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Shop(Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap())
    }

    fn spec(&self) -> ChatSpec {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(self.0.public_key())});
        let identity = Identity::Jwt {
            jwks: json!({"keys": [key]}).to_string(),
            issuer: "https://shop.example".into(),
            audience: "chat".into(),
            user_claim: "sub".into(),
            roles_claim: Some("roles".into()),
            cookie: Some("shop_token".into()),
        };
        ChatSpec { identity, ..spec() }
    }

    fn token(&self, header: &Value, user: &str) -> String {
        let claims =
            json!({"iss": "https://shop.example", "aud": "chat", "sub": user, "roles": ["admin"], "exp": NOW_S + 60});
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes())))
    }
}

#[tokio::test]
async fn g89_a_token_in_the_field_or_the_cookie_signs_in_and_a_broken_one_is_401() {
    let shop = Shop::new();
    let world = World::made(Made { spec: shop.spec(), ..Made::default() }).await;
    let to = world.address;
    let sarah = shop.token(&json!({"alg": "EdDSA"}), "sarah");
    let signed_in = |answer: super::http::Answer| answer.json()["signed_in"] == true;
    assert!(!signed_in(get("/api/state").send(to).await));
    assert!(signed_in(get("/api/state").with("authorization", &format!("Bearer {sarah}")).send(to).await));
    assert!(signed_in(get("/api/state").with("cookie", &format!("shop_token={sarah}")).send(to).await));
    let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), sarah.split('.').nth(1).unwrap());
    let shared = shop.token(&json!({"alg": "HS256"}), "sarah");
    for broken in [none.as_str(), shared.as_str(), "x", "a.b.c"] {
        let answer = chat("hello").with("authorization", &format!("Bearer {broken}")).send(to).await;
        assert_eq!((answer.status, answer.code()), (401, "not_recognised".into()), "{broken}");
        assert_eq!(answer.field("set-cookie"), None);
    }
    assert_eq!(world.asked(), 0);
}

#[tokio::test]
async fn g89_whoever_signs_in_or_out_gets_a_session_of_their_own() {
    let shop = Shop::new();
    let world = World::made(Made { spec: shop.spec(), ..Made::default() }).await;
    let to = world.address;
    let bearer = |user: &str| format!("Bearer {}", shop.token(&json!({"alg": "EdDSA"}), user));
    // A cookie that was planted before the victim signs in.
    let planted = get("/api/state").send(to).await.cookie().unwrap();
    let first = chat("my order BK-1").with("cookie", &planted).with("authorization", &bearer("sarah")).send(to).await;
    let sarahs = first.cookie().expect("a new session");
    for (cookie, authorization) in [(&planted, None), (&sarahs, None), (&sarahs, Some("peter"))] {
        let mut ask = get("/api/transcript").with("cookie", cookie);
        if let Some(user) = authorization {
            ask = ask.with("authorization", &bearer(user));
        }
        assert!(!ask.send(to).await.body.contains("BK-1"), "{authorization:?}");
    }
    let own = get("/api/transcript").with("cookie", &sarahs).with("authorization", &bearer("sarah")).send(to).await;
    assert!(own.body.contains("BK-1"));
}

/// What a shop's front that holds the key says of a person.
fn signed(said: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"shared key").unwrap();
    mac.update(said.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{said};{hex}")
}

fn fronted() -> ChatSpec {
    let identity = Identity::SignedHeader {
        header: "X-Shop-User".into(),
        secret: SecretName::parse("SHOP").unwrap(),
        max_age_s: 60,
    };
    ChatSpec { identity, ..spec() }
}

#[tokio::test]
async fn g89_a_signed_field_signs_in_and_an_unsigned_one_does_not() {
    let made = Made { spec: fronted(), identity_secret: Some("shared key"), ..Made::default() };
    let world = World::made(made).await;
    let said = format!("sarah;admin;{NOW_S}");
    let whole = signed(&said);
    let hex = whole.rsplit(';').next().unwrap();
    let ask = |field: &str| get("/api/state").with("x-shop-user", field);
    assert_eq!(ask(&whole).send(world.address).await.json()["signed_in"], true);
    for forged in [format!("peter;admin;{NOW_S};{hex}"), said, "sarah".into()] {
        assert_eq!(ask(&forged).send(world.address).await.status, 401, "{forged}");
    }
}

#[tokio::test]
async fn g46_g69_without_a_cookie_the_hour_of_an_address_holds_and_signed_in_people_have_their_own() {
    let limits = ChatLimits { requests_per_ip_per_hour: 3, ..spec().limits };
    let made = Made {
        spec: ChatSpec { limits, ..fronted() },
        identity_secret: Some("shared key"),
        proxies: vec!["127.0.0.1"],
        ..Made::default()
    };
    let world = World::made(made).await;
    let to = world.address;
    let from = |address: &str| chat("hello").with("x-forwarded-for", address);
    // Nobody keeps the cookie: each of them is somebody new, and all of them are one network.
    for host in 1..=3 {
        assert_eq!(from(&format!("2001:db8:1:2::{host}")).send(to).await.status, 200);
    }
    let more = from("2001:db8:1:2::4").send(to).await;
    assert_eq!((more.status, more.code()), (429, "rate_limited".into()));
    assert_eq!(
        more.json()["error"]["message"],
        "Rate limit exceeded: Rate limit exceeded. Max 3 requests per hour.",
        "{more:?}"
    );
    let wait: u32 = more.field("retry-after").unwrap().parse().unwrap();
    assert!((3_500..=3_600).contains(&wait), "{wait}");
    assert_eq!(from("2001:db8:1:3::1").send(to).await.status, 200, "another network");
    // Whom the shop vouches for is counted by who they are.
    for _ in 0..4 {
        let sarah = from("2001:db8:1:2::4").with("x-shop-user", &signed(&format!("sarah;;{NOW_S}")));
        assert_eq!(sarah.send(to).await.status, 200);
    }
    assert_eq!(from("2001:db8:1:2::4").send(to).await.status, 429);
}
