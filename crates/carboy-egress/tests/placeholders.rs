//! Placeholders over real sockets: real at their own host and place, refused everywhere else, and never shown in an answer.
#![allow(clippy::unwrap_used)]

#[path = "placeholders/form_data.rs"]
mod form_data;
mod support;
#[path = "placeholders/websocket.rs"]
mod websocket;

use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use carboy_core::audit::{EventType, Outcome};
use carboy_core::host::Host;
use carboy_core::ids::{MeterName, SecretName};
use carboy_core::route::{BasicPart, DlpPolicy, OnMatch, PlaceholderAuth, PlaceholderIn, Route};
use carboy_core::secret::Secret;
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::GatewayLimits;
use carboy_guard::{Detectors, mint};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Response, StatusCode};
use proptest::prelude::*;
use sha1::{Digest, Sha1};
use support::{
    Bench, Client, Got, HOST, Kind, Origin, Received, SECRET, detail, full, recording, route, secret_name, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

const OTHER: &str = "other.example";
const REASON: &str = "placeholder_misplaced";

/// A bound host and one that is not, each with a record of what reached it.
struct Pair {
    bench: Bench,
    other: Arc<Origin>,
    fake: String,
}

fn fake_of(real: &str) -> String {
    mint(&Secret::new(real.to_owned()), &[5; 32])
}

fn bound(places: &[PlaceholderIn]) -> Route {
    let one = |place: &PlaceholderIn| PlaceholderAuth {
        place: place.clone(),
        secret: secret_name(),
        variable: secret_name().to_string(),
    };
    Route { credentials: places.iter().map(one).collect(), ..route(HOST) }
}

fn header(name: &str) -> PlaceholderIn {
    PlaceholderIn::Header(name.to_owned())
}

fn query(name: &str) -> PlaceholderIn {
    PlaceholderIn::Query(name.to_owned())
}

fn body(name: &str) -> PlaceholderIn {
    PlaceholderIn::Body(Some(name.to_owned()))
}

/// Answers with what came, as an echo service does.
fn echo(got: &Received) -> Response<support::Body> {
    let mut text = format!("{} {}\n", got.method, got.target);
    for (name, value) in &got.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text.push_str(&String::from_utf8_lossy(&got.body));
    let mut response = Response::new(full(text));
    if let Some(value) = got.headers.get("authorization") {
        response.headers_mut().insert("x-echo", value.clone());
    }
    response
}

impl Pair {
    async fn start(kind: Kind, routes: Vec<Route>) -> Pair {
        let (origin, other) = (Arc::new(Origin::default()), Arc::new(Origin::default()));
        let address = serve(None, other.clone(), recording(other.clone(), echo)).await;
        let mut given = Upstreams::default();
        let upstream = Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
        given.insert(Host::parse(OTHER).unwrap(), None, upstream);
        let answer = recording(origin.clone(), echo);
        let bench = Bench::reaching(given, kind, routes, origin, answer, GatewayLimits::default()).await;
        let fake = fake_of(SECRET);
        let real = Secret::new(SECRET.to_owned());
        let built = Detectors::builder([7; 32]).known_secret(&secret_name(), &real).placeholder(&secret_name(), &fake);
        bench.gateway.replace_detectors(Arc::new(built.build().unwrap()));
        Pair { bench, other, fake }
    }

    async fn plain(places: &[PlaceholderIn]) -> Pair {
        Pair::start(Kind::Plain, vec![bound(places), route(OTHER)]).await
    }

    async fn client(&self) -> Client {
        self.bench.plain(HOST, 80).await
    }

    fn last(&self) -> Received {
        self.bench.origin.received().pop().unwrap()
    }

    /// Nothing real and nothing of the placeholder went to a host that it is not for.
    fn nothing_went_astray(&self) {
        let seen = format!("{:?}", self.other.received());
        assert!(!seen.contains(SECRET) && !seen.contains(&self.fake), "{seen}");
        assert!(!format!("{:?}", self.bench.log.events()).contains(SECRET));
    }
}

async fn send(
    client: &mut Client,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
    body: impl Into<bytes::Bytes>,
) -> Got {
    let mut request = client.request(method, path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client.send(request.body(full(body)).unwrap()).await
}

const BOUNDARY: &str = "----QkZr3LmW5xKd0PyB7nHc2A";
const FORM_DATA: &str = "multipart/form-data; boundary=----QkZr3LmW5xKd0PyB7nHc2A";

/// A body of parts: what stands behind `form-data; ` and the content of each.
fn multipart(parts: &[(&str, &str)]) -> Vec<u8> {
    let of = |(disposition, content): &(&str, &str)| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
    };
    let parts: String = parts.iter().map(of).collect();
    format!("{parts}--{BOUNDARY}--\r\n").into_bytes()
}

fn percent_all(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn b42_in_a_header_the_placeholder_becomes_real_over_http_1_and_2_and_the_echo_shows_the_placeholder() {
    // B16, B41
    let pair =
        Pair::start(Kind::Tls(&["h2", "http/1.1"]), vec![bound(&[header("authorization"), header("x-api-key")])]).await;
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let mut client = pair.bench.client(alpn).await;
        for (name, before) in [("authorization", "Bearer "), ("authorization", "token "), ("x-api-key", "")] {
            let value = format!("{before}{}", pair.fake);
            let got = send(&mut client, Method::GET, "/x?a=%41+b", &[(name, &value), ("x-kept", "1")], "").await;
            assert_eq!(got.status, StatusCode::OK, "{}", got.text());
            let received = pair.last();
            assert_eq!(received.headers[name], format!("{before}{SECRET}"));
            assert!(received.target.ends_with("/x?a=%41+b") && received.headers["x-kept"] == "1");
            assert!(got.text().contains(&value) && !got.text().contains(SECRET), "{}", got.text());
            if name == "authorization" {
                assert_eq!(got.headers["x-echo"], value);
            }
        }
    }
    assert_eq!(pair.bench.log.refusals(), [""; 0]);
    assert!(!format!("{:?}", pair.bench.log.events()).contains(SECRET));
}

#[tokio::test]
async fn b42_in_the_query_the_placeholder_becomes_real_and_is_escaped() {
    let pair = Pair::plain(&[query("access_key")]).await;
    let mut client = pair.client().await;
    let fake = pair.fake.clone();
    for (asked, sent) in [
        (format!("/a?x=1&access_key={fake}&y=%2F"), format!("/a?x=1&access_key={SECRET}&y=%2F")),
        (format!("/a?access_key={}", percent_all(&fake)), format!("/a?access_key={SECRET}")),
        (format!("/a?%61ccess_key=pre{fake}"), format!("/a?%61ccess_key=pre{SECRET}")),
    ] {
        let got = send(&mut client, Method::GET, &asked, &[], "").await;
        assert_eq!((got.status, pair.last().target), (StatusCode::OK, sent));
        assert!(got.text().contains(&fake) && !got.text().contains(SECRET), "{}", got.text());
    }
    // Another parameter is another place, and so is the path; a key of somebody else's does not go along.
    for asked in [format!("/a?other={fake}"), format!("/{fake}?access_key=x"), format!("/a?{fake}=1")] {
        let got = send(&mut client, Method::GET, &asked, &[], "").await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "{asked}");
    }
    send(&mut client, Method::GET, "/a?access_key=theirs&b=1", &[], "").await;
    assert_eq!(pair.last().target, "/a?b=1");
}

#[tokio::test]
async fn b42_in_basic_credentials_the_placeholder_becomes_real_in_the_part_that_is_named() {
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let fake = fake_of(SECRET);
    let (as_password, as_user) = (format!("x-access-token:{fake}"), format!("{fake}:x-oauth-basic"));
    for (part, passes) in
        [(BasicPart::Password, [true, false]), (BasicPart::User, [false, true]), (BasicPart::Either, [true, true])]
    {
        let pair = Pair::plain(&[PlaceholderIn::Basic(part)]).await;
        let mut client = pair.client().await;
        for (text, passes) in [&as_password, &as_user].into_iter().zip(passes) {
            for scheme in ["Basic ", "basic "] {
                let value = format!("{scheme}{}", STANDARD.encode(text));
                let got = send(&mut client, Method::GET, "/x", &[("authorization", &value)], "").await;
                if !passes {
                    assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "{text} {part:?}");
                    continue;
                }
                assert_eq!(got.status, StatusCode::OK);
                let real = basic(&text.replace(&fake, SECRET));
                assert_eq!(pair.last().headers["authorization"].to_str().unwrap()[6..], real[6..]);
                // B41: the echo in base64 reads as what was sent.
                assert_eq!(got.headers["x-echo"], value);
                assert!(got.text().contains(&value), "{}", got.text());
            }
        }
        // A Bearer is not Basic.
        let bearer = format!("Bearer {fake}");
        let got = send(&mut client, Method::GET, "/x", &[("authorization", &bearer)], "").await;
        assert_eq!(got.reason(), REASON);
    }
}

#[tokio::test]
async fn b42_in_a_body_the_placeholder_becomes_real_and_every_other_byte_stays() {
    let pair = Pair::plain(&[body("client_secret")]).await;
    let mut client = pair.client().await;
    let fake = pair.fake.clone();
    let form = "application/x-www-form-urlencoded";
    let written = |text: &str| {
        [
            (form, format!("grant_type=client_credentials&client_secret={text}&scope=a%20b")),
            ("application/json", format!("{{ \"client_secret\" :\t\"{text}\", \"n\": 1.50 }}\n")),
            ("application/json; charset=utf-8", format!("[{{\"a\":{{\"client_secret\":\"{text}\"}}}}]")),
        ]
    };
    for ((kind, asked), (_, sent)) in written(&fake).into_iter().zip(written(SECRET)) {
        for coding in ["", "gzip", "stored"] {
            let (bytes, mut fields) = match coding {
                "gzip" => (gzip(asked.as_bytes()), vec![("content-encoding", "gzip")]),
                "stored" => (stored(asked.as_bytes()), vec![("content-encoding", "gzip")]),
                _ => (asked.clone().into_bytes(), vec![]),
            };
            fields.push(("content-type", kind));
            let got = send(&mut client, Method::POST, "/token", &fields, bytes).await;
            assert_eq!(got.status, StatusCode::OK, "{}", got.text());
            let received = pair.last();
            assert_eq!(String::from_utf8(received.body).unwrap(), sent);
            assert_eq!(received.headers["content-length"].to_str().unwrap(), sent.len().to_string());
            assert!(!received.headers.contains_key("content-encoding"));
            assert!(got.text().contains(&fake) && !got.text().contains(SECRET), "{}", got.text());
        }
    }
    // Another key is another place.
    let elsewhere = format!("{{\"note\":\"{fake}\"}}");
    let got = send(&mut client, Method::POST, "/token", &[("content-type", "application/json")], elsewhere).await;
    assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON));
    let got = send(&mut client, Method::POST, "/token", &[("content-type", "text/plain")], fake.clone()).await;
    assert_eq!(got.reason(), REASON);
    // So is a field.
    let got = send(&mut client, Method::POST, "/token", &[("x-key", &fake)], "").await;
    assert_eq!(got.reason(), REASON);
}

#[tokio::test]
async fn b42_a_body_in_pieces_is_one_body_at_every_split() {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    let pair = Pair::plain(&[body("k")]).await;
    let json = |value: &str| format!("{{\"k\":\"{value}\"}}").into_bytes();
    let form = |value: &str| multipart(&[("name=\"f\"; filename=\"a\"", "\r\n\0"), ("name=\"k\"", value)]);
    let mut client = pair.client().await;
    for (kind, text, wanted) in
        [("application/json", json(&pair.fake), json(SECRET)), (FORM_DATA, form(&pair.fake), form(SECRET))]
    {
        for cut in 1..text.len() {
            let (one, two) = text.split_at(cut);
            let frames = [one.to_vec(), two.to_vec()].map(|piece| Ok(Frame::data(bytes::Bytes::from(piece))));
            let pieces = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
            let request = client.request(Method::POST, "/x").header("content-type", kind);
            assert_eq!(client.send(request.body(pieces).unwrap()).await.status, StatusCode::OK);
            assert_eq!(pair.last().body, wanted);
        }
    }
}

#[tokio::test]
async fn b42_a_body_that_is_too_large_to_be_read_whole_is_refused() {
    let limits = GatewayLimits { whole_body_bytes_max: 1024, ..GatewayLimits::default() };
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), echo);
    let bench = Bench::with(Kind::Plain, vec![bound(&[body("k")])], origin, answer, limits).await;
    let real = Secret::new(SECRET.to_owned());
    let built = Detectors::builder([7; 32]).known_secret(&secret_name(), &real);
    let built = built.placeholder(&secret_name(), &fake_of(SECRET)).build().unwrap();
    bench.gateway.replace_detectors(Arc::new(built));
    let mut client = bench.plain(HOST, 80).await;
    let json = [("content-type", "application/json")];
    assert_eq!(send(&mut client, Method::POST, "/", &json, vec![b' '; 1024]).await.status, StatusCode::OK);
    for (fields, body) in [
        (json.to_vec(), vec![b' '; 1025]),
        ([&json[..], &[("content-encoding", "gzip")]].concat(), gzip(&[b' '; 1025])),
    ] {
        let mut client = bench.plain(HOST, 80).await;
        let got = send(&mut client, Method::POST, "/", &fields, body).await;
        assert_eq!((got.status, got.reason()), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
    }
}

/// Method, target, fields and body.
type Order<'a> = (Method, String, Vec<(&'a str, &'a str)>, Vec<u8>);

/// The disguises in which a placeholder may be tried elsewhere.
fn disguises(fake: &str) -> Vec<String> {
    vec![
        fake.to_owned(),
        STANDARD.encode(fake),
        STANDARD.encode(format!("me:{fake}")),
        percent_all(fake),
        fake.bytes().rev().map(char::from).collect(),
        fake.bytes().map(|b| format!("{b:02x}")).collect(),
    ]
}

#[tokio::test]
async fn b42_towards_another_host_it_is_refused_in_every_place_and_disguise_with_a_warning() {
    let redacting =
        Route { dlp: DlpPolicy { outbound_on_match: OnMatch::Redact, ..DlpPolicy::default() }, ..route(OTHER) };
    let unscanned = Route { dlp: DlpPolicy { outbound: Vec::new(), ..DlpPolicy::default() }, ..route(OTHER) };
    for elsewhere in [route(OTHER), redacting, unscanned] {
        let pair = Pair::start(Kind::Plain, vec![bound(&[header("authorization")]), elsewhere]).await;
        let mut tried = 0;
        for text in disguises(&pair.fake) {
            let bearer = format!("Bearer {text}");
            let json = format!("{{\"note\":\"{text}\"}}");
            let orders: Vec<Order<'_>> = vec![
                (Method::GET, "/".into(), vec![("authorization", &bearer)], vec![]),
                (Method::GET, "/".into(), vec![("x-anything", &text)], vec![]),
                (Method::GET, "/".into(), vec![("cookie", &text)], vec![]),
                (Method::GET, format!("/p/{text}/q"), vec![], vec![]),
                (Method::GET, format!("/?q={text}"), vec![], vec![]),
                (Method::POST, "/".into(), vec![("content-type", "application/json")], json.clone().into_bytes()),
                (Method::POST, "/".into(), vec![], text.clone().into_bytes()),
                (Method::POST, "/".into(), vec![("content-encoding", "gzip")], gzip(json.as_bytes())),
            ];
            for (method, path, fields, body) in orders {
                let mut client = pair.bench.plain(OTHER, 80).await;
                let Client::H1(_) = client else { panic!("plain is HTTP/1.1") };
                let mut request = http::Request::builder().method(method).uri(&path).header("host", OTHER);
                for (name, value) in &fields {
                    request = request.header(*name, *value);
                }
                let got = client.send(request.body(full(body)).unwrap()).await;
                assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "{path} {fields:?}");
                tried += 1;
            }
        }
        pair.nothing_went_astray();
        assert_eq!(pair.other.received().len(), 0);
        let events = pair.bench.log.events();
        let warned = events.iter().filter(|e| e.event_type == EventType::Security && e.result == Outcome::Warned);
        assert_eq!((warned.clone().count(), pair.bench.log.refusals()), (tried, vec![REASON.to_owned(); tried]));
        let one = warned.clone().next().unwrap();
        assert_eq!((one.action, detail(one, "host").unwrap().as_str()), (REASON, OTHER));
        assert!(detail(one, "detail").unwrap().starts_with("placeholder:API_KEY in the request "));
        assert!(!format!("{events:?}").contains(&pair.fake));
    }
}

#[tokio::test]
async fn b42_a_body_towards_another_host_is_refused_at_every_split() {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    let pair = Pair::plain(&[header("authorization")]).await;
    let text = format!("{{\"note\":\"{}\"}}", pair.fake);
    for cut in 1..text.len() {
        let (one, two) = text.as_bytes().split_at(cut);
        let frames = [one.to_vec(), two.to_vec()].map(|piece| Ok(Frame::data(bytes::Bytes::from(piece))));
        let pieces = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
        let mut client = pair.bench.plain(OTHER, 80).await;
        let request = http::Request::builder().method(Method::POST).uri("/").header("host", OTHER);
        let got = client.send(request.body(pieces).unwrap()).await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "at {cut}");
    }
    pair.nothing_went_astray();
}

#[tokio::test]
async fn b33_b42_a_placeholder_that_follows_a_redirect_is_refused_at_its_end() {
    let pair = Pair::plain(&[header("authorization")]).await;
    let bearer = format!("Bearer {}", pair.fake);
    // What `curl --location-trusted` does: the same field to where the answer points.
    let got = send(&mut pair.client().await, Method::GET, "/", &[("authorization", &bearer)], "").await;
    assert_eq!(got.status, StatusCode::OK);
    let mut client = pair.bench.plain(OTHER, 80).await;
    let request = http::Request::builder().uri("/").header("host", OTHER).header("authorization", &bearer);
    let got = client.send(request.body(full("")).unwrap()).await;
    assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON));
    // A host that no route names is not scanned, and the try is told all the same.
    let mut client = pair.bench.plain("evil.example", 80).await;
    let request = http::Request::builder().uri("/").header("host", "evil.example").header("authorization", &bearer);
    let got = client.send(request.body(full("")).unwrap()).await;
    assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON));
    pair.nothing_went_astray();
}

#[tokio::test]
async fn b16_b42_a_host_that_is_only_claimed_gets_nothing() {
    let pair = Pair::plain(&[header("authorization")]).await;
    let bearer = format!("Bearer {}", pair.fake);
    // Dialled is the other one; the bound host stands in `Host`.
    let mut client = pair.bench.plain(OTHER, 80).await;
    let request = http::Request::builder().uri("/").header("host", HOST).header("authorization", &bearer);
    assert_eq!(client.send(request.body(full("")).unwrap()).await.reason(), "name_mismatch");
    pair.nothing_went_astray();
    assert_eq!(pair.bench.origin.received().len(), 0);
}

#[tokio::test]
async fn b42_without_tls_and_without_the_operators_word_it_is_not_sent() {
    let pair = Pair::start(
        Kind::Tls(&["http/1.1"]),
        vec![Route {
            host: carboy_core::host::HostPattern::parse("plain.example").unwrap(),
            ..bound(&[header("authorization")])
        }],
    )
    .await;
    let mut client = pair.bench.plain("plain.example", 80).await;
    let bearer = format!("Bearer {}", pair.fake);
    let request = http::Request::builder().uri("/").header("host", "plain.example").header("authorization", &bearer);
    let got = client.send(request.body(full("")).unwrap()).await;
    assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, "plain_text_credential"));
}

#[tokio::test]
async fn b42_the_placeholder_of_one_secret_is_not_that_of_another() {
    // A route with `token_env` drops what stands in its credential's place, but not somebody else's placeholder.
    let mut keyed = route(OTHER);
    let auth = carboy_core::route::RouteAuth {
        header: "authorization".into(),
        scheme: carboy_core::route::AuthScheme::Bearer,
        secret: SecretName::parse("NOT_THERE").unwrap(),
    };
    keyed.auth = Some(auth);
    let pair = Pair::start(Kind::Plain, vec![bound(&[header("x-api-key")]), keyed]).await;
    for name in ["authorization", "x-api-key"] {
        let mut client = pair.bench.plain(OTHER, 80).await;
        let request = http::Request::builder().uri("/").header("host", OTHER).header(name, &pair.fake);
        let got = client.send(request.body(full("")).unwrap()).await;
        assert_eq!((got.status, got.reason()), (StatusCode::FORBIDDEN, REASON), "{name}");
    }
    // On its own route: what another account's key would be is dropped, and a place that is not its own is refused.
    let mut client = pair.client().await;
    let fields = [("x-api-key", pair.fake.as_str()), ("authorization", "Bearer another-account")];
    assert_eq!(send(&mut client, Method::GET, "/", &fields, "").await.status, StatusCode::OK);
    let received = pair.last();
    assert_eq!(
        (received.headers["x-api-key"].to_str().unwrap(), received.headers.contains_key("authorization")),
        (SECRET, false)
    );
    let fields = [("authorization", pair.fake.as_str())];
    assert_eq!(send(&mut client, Method::GET, "/", &fields, "").await.reason(), REASON);
    let crowd = [pair.fake.as_str(); 33].join(" ");
    assert_eq!(send(&mut client, Method::GET, "/", &[("x-api-key", &crowd)], "").await.reason(), REASON);
}

#[tokio::test]
async fn b42_a_metered_request_carries_the_real_value_in_its_body_and_its_bound() {
    let mut model = bound(&[header("x-api-key"), body("user")]);
    model.meter = Some(MeterName::parse("openai").unwrap());
    let pair = Pair::start(Kind::Plain, vec![model]).await;
    let mut client = pair.client().await;
    let text =
        format!(r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"hi"}}],"user":"{}"}}"#, pair.fake);
    let fields = [("content-type", "application/json"), ("x-api-key", pair.fake.as_str())];
    let got = send(&mut client, Method::POST, "/v1/chat/completions", &fields, text).await;
    assert_eq!(got.status, StatusCode::OK, "{}", got.text());
    let received = pair.last();
    let sent: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!((sent["user"].as_str(), received.headers["x-api-key"].to_str().unwrap()), (Some(SECRET), SECRET));
    assert!(sent.to_string().contains("max_"), "{sent}");
    assert_eq!(received.headers["content-length"].to_str().unwrap(), received.body.len().to_string());
}

#[tokio::test]
async fn b42_an_upstream_that_refuses_the_value_has_it_read_anew() {
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::builder().status(401).body(full("no")).unwrap());
    let bench =
        Bench::with(Kind::Plain, vec![bound(&[header("authorization")])], origin, answer, GatewayLimits::default())
            .await;
    let (real, fake) = (Secret::new(SECRET.to_owned()), fake_of(SECRET));
    let built = Detectors::builder([7; 32]).known_secret(&secret_name(), &real).placeholder(&secret_name(), &fake);
    bench.gateway.replace_detectors(Arc::new(built.build().unwrap()));
    let mut client = bench.plain(HOST, 80).await;
    send(&mut client, Method::GET, "/", &[], "").await;
    assert_eq!(bench.secrets.refreshed.load(std::sync::atomic::Ordering::SeqCst), 0, "it carried none");
    send(&mut client, Method::GET, "/", &[("authorization", &fake)], "").await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.secrets.refreshed.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn b42_a_route_whose_secret_has_no_placeholder_is_refused() {
    let bench = Bench::start(Kind::Plain, vec![bound(&[header("authorization")])]).await;
    let got = bench.plain(HOST, 80).await.get("/").await;
    assert_eq!((got.status, got.reason()), (StatusCode::BAD_GATEWAY, "secret_missing"));
}

#[tokio::test]
async fn b41_an_echo_in_pieces_and_events_shows_the_placeholder_at_every_split() {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    let origin = Arc::new(Origin::default());
    let text = format!("data: {{\"key\":\"{SECRET}\",\"b\":\"{}\"}}\n\n", STANDARD.encode(format!("ann:{SECRET}")));
    let answer = {
        let text = text.clone();
        recording(origin.clone(), move |got| {
            let cut: usize = got.target[1..].parse().unwrap();
            let (one, two) = text.as_bytes().split_at(cut);
            let frames = [one.to_vec(), two.to_vec()].map(|piece| Ok(Frame::data(bytes::Bytes::from(piece))));
            let kind = if cut.is_multiple_of(2) { "text/event-stream" } else { "application/json" };
            let body = StreamBody::new(futures_util::stream::iter(frames));
            Response::builder().header("content-type", kind).body(BodyExt::boxed(body)).unwrap()
        })
    };
    let bench =
        Bench::with(Kind::Plain, vec![bound(&[header("authorization")])], origin, answer, GatewayLimits::default())
            .await;
    let (real, fake) = (Secret::new(SECRET.to_owned()), fake_of(SECRET));
    let built = Detectors::builder([7; 32]).known_secret(&secret_name(), &real).placeholder(&secret_name(), &fake);
    bench.gateway.replace_detectors(Arc::new(built.build().unwrap()));
    let wanted = format!("data: {{\"key\":\"{fake}\",\"b\":\"{}\"}}\n\n", STANDARD.encode(format!("ann:{fake}")));
    let mut client = bench.plain(HOST, 80).await;
    for cut in 0..=text.len() {
        let got = client.get(&format!("/{cut}")).await;
        assert_eq!(got.text(), wanted, "at {cut}");
    }
}

#[tokio::test]
async fn b41_the_credential_of_a_route_with_token_env_comes_back_in_no_writing() {
    let mut keyed = route(HOST);
    keyed.auth = Some(carboy_core::route::RouteAuth {
        header: "authorization".into(),
        scheme: carboy_core::route::AuthScheme::Bearer,
        secret: secret_name(),
    });
    let hex: String = SECRET.bytes().map(|b| format!("{b:02x}")).collect();
    let writings = [
        SECRET.to_owned(),
        format!("Basic {}", STANDARD.encode(format!("user:{SECRET}"))),
        STANDARD.encode(SECRET),
        hex.clone(),
        hex.to_uppercase(),
        percent_all(SECRET),
        SECRET.bytes().map(|b| format!("\\u{b:04x}")).collect(),
    ];
    for writing in writings {
        let origin = Arc::new(Origin::default());
        let echoed = writing.clone();
        let answer = recording(origin.clone(), move |_| {
            Response::builder().header("x-echo", &echoed).body(full(format!("<{echoed}>"))).unwrap()
        });
        let bench = Bench::with(Kind::Plain, vec![keyed.clone()], origin, answer, GatewayLimits::default()).await;
        let got = bench.plain(HOST, 80).await.get("/").await;
        let half = &writing[writing.len() / 2..];
        assert!(!got.text().contains(half) && !format!("{:?}", got.headers).contains(half), "{writing}: {got:?}");
        assert!(got.text().starts_with('<') && got.text().ends_with('>'), "{}", got.text());
    }
}

/// One request of the law below.
#[derive(Clone, Debug)]
enum At {
    Header,
    Bearer,
    Query,
    Password,
    Json,
    Form,
    Part,
    Path,
    Cookie,
}

fn order(at: &At, text: &str) -> (Method, String, HeaderMap, Vec<u8>) {
    let mut fields = HeaderMap::new();
    let mut add = |name: &'static str, value: String| fields.insert(name, value.parse().unwrap());
    let (mut path, mut body) = ("/x".to_owned(), Vec::new());
    let escaped = percent_all(text);
    match at {
        At::Header => drop(add("x-api-key", text.to_owned())),
        At::Bearer => drop(add("authorization", format!("Bearer {text}"))),
        At::Query => path = format!("/x?key={escaped}"),
        At::Password => drop(add("authorization", format!("Basic {}", STANDARD.encode(format!("u:{text}"))))),
        At::Json => {
            add("content-type", "application/json".into());
            body = serde_json::json!({ "secret": text }).to_string().into_bytes();
        }
        At::Form => {
            add("content-type", "application/x-www-form-urlencoded".into());
            body = format!("secret={escaped}").into_bytes();
        }
        At::Part => {
            add("content-type", FORM_DATA.into());
            body = multipart(&[("name=\"secret\"", text)]);
        }
        At::Path => path = format!("/x/{escaped}"),
        At::Cookie => drop(add("cookie", text.to_owned())),
    }
    let method = if body.is_empty() { Method::GET } else { Method::POST };
    (method, path, fields, body)
}

/// What the bound host reads there.
fn read_back(at: &At, got: &Received) -> String {
    let field = |name: &str| got.headers[name].to_str().unwrap().to_owned();
    let decoded = |text: &str| {
        let mut bytes = text.bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            let mut digit = || (bytes.next().unwrap() as char).to_digit(16).unwrap() as u8;
            out.push(if byte == b'%' { digit() << 4 | digit() } else { byte });
        }
        String::from_utf8(out).unwrap()
    };
    match at {
        At::Header => field("x-api-key"),
        At::Bearer => field("authorization")["Bearer ".len()..].to_owned(),
        At::Query => decoded(&got.target["/x?key=".len()..]),
        At::Password => {
            let text = STANDARD.decode(&field("authorization")["Basic ".len()..]).unwrap();
            String::from_utf8(text).unwrap()[2..].to_owned()
        }
        At::Json => {
            let value: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
            value["secret"].as_str().unwrap().to_owned()
        }
        At::Form => decoded(std::str::from_utf8(&got.body[b"secret=".len()..]).unwrap()),
        At::Part => {
            let around = multipart(&[("name=\"secret\"", "")]);
            let end = format!("\r\n--{BOUNDARY}--\r\n").len();
            let text = &got.body[around.len() - end..got.body.len() - end];
            String::from_utf8(text.to_vec()).unwrap()
        }
        At::Path | At::Cookie => unreachable!("never let through"),
    }
}

fn places() -> Vec<PlaceholderIn> {
    vec![
        header("x-api-key"),
        header("authorization"),
        query("key"),
        PlaceholderIn::Basic(BasicPart::Password),
        body("secret"),
    ]
}

fn ats() -> impl Strategy<Value = At> {
    proptest::sample::select(vec![
        At::Header,
        At::Bearer,
        At::Query,
        At::Password,
        At::Json,
        At::Form,
        At::Part,
        At::Path,
        At::Cookie,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn b42_the_bound_host_gets_exactly_the_real_value_and_another_one_never(
        real in "[a-zA-Z0-9]{6}[!-~]{10,50}[a-zA-Z0-9]",
        seed in any::<[u8; 32]>(),
        at in ats(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome: Result<(), TestCaseError> = runtime.block_on(async {
            let pair = Pair::plain(&places()).await;
            let fake = mint(&Secret::new(real.clone()), &seed);
            let built = Detectors::builder([7; 32]).known_secret(&secret_name(), &Secret::new(real.clone()));
            pair.bench.gateway.replace_detectors(Arc::new(built.placeholder(&secret_name(), &fake).build().unwrap()));
            pair.bench.secrets.set(&secret_name(), &real);
            let (method, path, fields, body) = order(&at, &fake);
            for host in [HOST, OTHER] {
                let mut request = http::Request::builder().method(method.clone()).uri(&path).header("host", host);
                request.headers_mut().unwrap().extend(fields.clone());
                let mut client = pair.bench.plain(host, 80).await;
                let got = client.send(request.body(full(body.clone())).unwrap()).await;
                let never = matches!(at, At::Path | At::Cookie);
                if host == HOST && !never {
                    prop_assert_eq!(got.status, StatusCode::OK, "{}", got.reason());
                    prop_assert_eq!(read_back(&at, &pair.last()), real.clone());
                    prop_assert!(!got.text().contains(&real), "{}", got.text());
                } else {
                    // A path that cannot be judged is refused for that, before anybody scans it.
                    let unjudged = matches!(at, At::Path) && host == HOST && got.reason() == "request_not_allowed";
                    prop_assert!(unjudged || got.reason() == REASON, "{}", got.reason());
                    prop_assert_eq!(got.status, StatusCode::FORBIDDEN);
                }
            }
            prop_assert!(pair.other.received().is_empty());
            Ok(())
        });
        outcome?;
    }
}
