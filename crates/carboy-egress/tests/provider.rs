//! A model's client through the gateway to the simulated provider: the fake key goes in, the real one goes out.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use carboy_core::host::Host;
use carboy_core::ids::MeterName;
use carboy_core::route::{AuthScheme, Route, RouteAuth};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::GatewayLimits;
use carboy_sim::{Config, Simulator};
use http::{Method, StatusCode};
use support::{Bench, Client, Got, HOST, Kind, Origin, SECRET, full, handler, route, secret_name};

fn model_route() -> Route {
    let mut model = route(HOST);
    model.meter = Some(MeterName::parse("anthropic").unwrap());
    model.auth =
        Some(RouteAuth { header: "x-api-key".into(), scheme: AuthScheme::AnthropicByToken, secret: secret_name() });
    model
}

async fn ask(client: &mut Client, prompt: &str) -> Got {
    let body = format!(
        r#"{{"model":"claude-sonnet-4-5","max_tokens":64,"stream":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    let request = client
        .request(Method::POST, "/v1/messages?beta=true")
        .header("x-api-key", "sk-ant-api03-carboy-placeholder-anthropic-api-key")
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .header("accept-encoding", "gzip, deflate, br, zstd");
    client.send(request.body(full(body)).unwrap()).await
}

#[tokio::test]
async fn a_streamed_answer_comes_through_and_a_refusal_speaks_the_clients_language() {
    let names = vec![HOST.to_owned()];
    let provider = Simulator::start(Config { anthropic_key: SECRET.into(), names, ..Config::default() }).await.unwrap();
    let mut upstreams = Upstreams::default();
    let upstream = Upstream {
        address: provider.tls_addr,
        transport: Transport::Tls,
        extra_ca_pem: Some(provider.ca_pem().to_owned()),
    };
    upstreams.insert(Host::parse(HOST).unwrap(), None, upstream);
    let unused = handler(|_| async { http::Response::new(full("")) });
    let origin = Arc::new(Origin::default());
    let limits = GatewayLimits::default();
    let bench = Bench::reaching(upstreams, Kind::Plain, vec![model_route()], origin, unused, limits).await;
    for alpn in [&["h2", "http/1.1"][..], &["http/1.1"]] {
        let mut client = bench.client(alpn).await;
        let got = tokio::time::timeout(Duration::from_secs(10), ask(&mut client, "hello")).await.unwrap();
        assert_eq!(got.status, StatusCode::OK, "{}", got.text());
        for event in ["message_start", "content_block_delta", "message_delta", "message_stop"] {
            assert!(got.text().contains(event), "{event} is missing in {}", got.text());
        }
        let got = ask(&mut client, SECRET).await;
        // A status at which the provider's client stops, in the shape that it shows.
        assert_eq!((got.status, got.reason()), (StatusCode::BAD_REQUEST, "secret_known"));
        assert!(got.text().starts_with(r#"{"type":"error","error":{"type":"#), "{}", got.text());
    }
    let received = provider.received();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|request| request.header("x-api-key") == Some(SECRET)));
    assert!(received.iter().all(|request| !request.contains(b"placeholder")));
    assert_eq!(received.iter().map(|request| &request.version[..]).collect::<Vec<_>>(), ["HTTP/2.0", "HTTP/1.1"]);
}
