//! What a model's answer cost, to the token: the ledger of the gateway against the simulated provider's own bill.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use carboy_core::audit::Outcome;
use carboy_core::budget::{Ending, Usage};
use carboy_core::ids::MeterName;
use carboy_core::ports::AuditSink;
use carboy_egress::GatewayLimits;
use carboy_sim::{Bill, Config, InputTokens, RandomUsage, Shown, Thinking, UsageMode};
use http::StatusCode;
use support::ledger::{Call, Memory};
use support::model::{Answered, Model, WAYS, Way, ask, config, route_of, within};
use support::{HOST, detail, route};

fn usage_of(bill: Bill) -> Usage {
    let Bill { input, cache_write, cache_read, output, .. } = bill;
    Usage { input, cache_write, cache_read, output }
}

/// The sum of all settlements, each of which the provider reported.
fn reported(ledger: &Memory) -> Usage {
    let mut sum = Usage::default();
    for spent in ledger.spent() {
        assert!(!spent.estimated, "{spent:?}");
        sum = Usage {
            input: sum.input + spent.usage.input,
            cache_write: sum.cache_write + spent.usage.cache_write,
            cache_read: sum.cache_read + spent.usage.cache_read,
            output: sum.output + spent.usage.output,
        };
    }
    sum
}

fn random(shown: Shown) -> Config {
    let random = RandomUsage {
        shown: vec![shown],
        thinking: Thinking::Hidden,
        input: InputTokens::Quarter,
        ..RandomUsage::seeded(7)
    };
    Config { usage: UsageMode::Random(random), ..config() }
}

#[tokio::test]
async fn c2_c3_c4_every_format_whole_and_streamed_over_both_protocols_is_charged_what_its_provider_bills() {
    for way in WAYS {
        for shown in [Shown::AtEnd, Shown::ZeroThenReal, Shown::Repeated] {
            let ledger = Memory::unbound();
            let model = Model::start(ledger.clone(), route_of(way), random(shown), GatewayLimits::default()).await;
            for alpn in [&["h2"][..], &["http/1.1"]] {
                let mut client = model.bench.client(alpn).await;
                for answered in [Answered::Whole, Answered::Streamed] {
                    let got = ask(&mut client, way, answered, Some(300)).await;
                    assert!(got.status == StatusCode::OK && got.complete, "{way:?} {answered:?}: {}", got.text());
                }
            }
            model.settled().await;
            assert_eq!(reported(&ledger), usage_of(model.bill()), "{way:?} {shown:?}");
            assert_eq!((ledger.spent().len(), ledger.open()), (4, 0), "{way:?} {shown:?}");
            assert!(ledger.spent().iter().all(|spent| spent.meter.as_str() == way.meter()));
        }
    }
}

#[tokio::test]
async fn c4_answers_in_every_content_coding_are_metered_whoever_decodes_them() {
    for way in WAYS {
        let ledger = Memory::unbound();
        let model = Model::of(way, ledger.clone()).await;
        let mut client = model.client().await;
        for coding in ["gzip", "deflate", "br", "zstd"] {
            for accepted in ["gzip, deflate, br, zstd", "identity"] {
                for answered in [Answered::Whole, Answered::Streamed] {
                    let body = way.body(answered, Some(50), "hello");
                    let mut request = way.request(&client, answered, &format!("encoding={coding}"), body);
                    request.headers_mut().insert("accept-encoding", accepted.parse().unwrap());
                    let got = within(client.send(request)).await;
                    assert!(got.status == StatusCode::OK && got.complete, "{way:?} {coding} {accepted}");
                }
            }
        }
        model.settled().await;
        assert_eq!(reported(&ledger), usage_of(model.bill()), "{way:?}");
        assert_eq!(ledger.spent().len(), 16);
        // Nobody is asked for a coding: what decoders buffer comes late.
        let asked: BTreeSet<Option<String>> =
            model.provider.received().iter().map(|r| r.header("accept-encoding").map(str::to_owned)).collect();
        assert_eq!(asked, [Some("identity".to_owned())].into());
    }
}

#[tokio::test]
async fn embeddings_are_metered_and_carry_no_bound_on_an_output_that_they_do_not_have() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut client = model.client().await;
    let body = r#"{"model":"text-embedding-3-small","input":["a text to be found again"]}"#;
    let request = client.request(http::Method::POST, "/v1/embeddings").header("content-type", "application/json");
    let got = within(client.send(request.body(support::full(body)).unwrap())).await;
    assert_eq!(got.status, StatusCode::OK, "{}", got.text());
    model.settled().await;
    assert_eq!(reported(&ledger), usage_of(model.bill()));
    assert!(reported(&ledger).input > 0);
    assert_eq!(model.provider.received()[0].body, body.as_bytes());
}

#[tokio::test]
async fn a_chat_that_did_not_ask_for_usage_is_made_to_say_it_and_its_client_sees_nothing_of_that() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut client = model.client().await;
    let got = ask(&mut client, Way::Chat, Answered::Streamed, Some(50)).await;
    model.settled().await;
    assert_eq!(model.last_body().pointer("/stream_options/include_usage"), Some(&true.into()));
    assert_eq!(reported(&ledger), usage_of(model.bill()));
    assert!(got.text().contains("[DONE]") && !got.text().contains("usage"), "{}", got.text());
    // One that asks gets it.
    let body = Way::Chat.body(Answered::Streamed, Some(50), "hello");
    let body = body.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    let request = Way::Chat.request(&client, Answered::Streamed, "", body);
    let got = within(client.send(request)).await;
    assert!(got.text().contains("usage"), "{}", got.text());
}

#[tokio::test]
async fn what_costs_nothing_passes_without_a_hold_and_a_count_like_any_request() {
    let ledger = Memory::capped("anthropic", 0, |_| {});
    let model = Model::of(Way::Anthropic, ledger.clone()).await;
    let mut client = model.client().await;
    assert_eq!(client.get("/v1/models").await.status, StatusCode::OK);
    let body = Way::Anthropic.body(Answered::Whole, None, "hello");
    let request = client
        .request(http::Method::POST, "/v1/messages/count_tokens")
        .header("anthropic-version", "2023-06-01")
        .body(support::full(body));
    assert_eq!(within(client.send(request.unwrap())).await.status, StatusCode::OK);
    assert_eq!(ledger.calls(), []);
}

#[tokio::test]
async fn a_host_that_nobody_knows_and_that_speaks_a_models_format_is_metered_as_unknown() {
    // C1
    let ledger = Memory::unbound();
    let route = carboy_core::route::Route { meter: None, ..route_of(Way::Anthropic) };
    let model = Model::start(ledger.clone(), route, config(), GatewayLimits::default()).await;
    let mut client = model.client().await;
    assert_eq!(ask(&mut client, Way::Anthropic, Answered::Whole, Some(50)).await.status, StatusCode::OK);
    model.settled().await;
    assert_eq!(ledger.spent()[0].meter, MeterName::parse("unknown").unwrap());
    assert_eq!(reported(&ledger), usage_of(model.bill()));
}

#[tokio::test]
async fn what_nobody_can_meter_is_refused_and_never_sent() {
    let ledger = Memory::unbound();
    let mut bedrock = route("bedrock-runtime.us-east-1.amazonaws.com");
    bedrock.meter = Some(MeterName::parse("bedrock").unwrap());
    for (host, meter, method, path, headers) in [
        ("bedrock-runtime.us-east-1.amazonaws.com", "bedrock", "POST", "/model/anthropic.claude/converse", None),
        (HOST, "anthropic", "POST", "/v1/messages/batches", None),
        (HOST, "openai", "POST", "/v1/images/generations", None),
        (HOST, "openai", "POST", "/v1/something/new", None),
        (HOST, "gemini", "GET", "/v1beta/models", Some("x-http-method-override")),
    ] {
        let mut route = route(host);
        route.meter = Some(MeterName::parse(meter).unwrap());
        let model = Model::start(ledger.clone(), route, config(), GatewayLimits::default()).await;
        let mut client = model.bench.client_of(host, 443, host, &["http/1.1"]).await;
        let mut request = http::Request::builder().method(method).uri(path).header("host", host);
        if let Some(name) = headers {
            request = request.header(name, "POST");
        }
        let got = within(client.send(request.body(support::full("{}")).unwrap())).await;
        assert_eq!((got.status, got.reason()), (StatusCode::BAD_REQUEST, "unmeterable"), "{path}");
        assert_eq!((model.provider.requests(), ledger.calls().len()), (0, 0), "{path}");
    }
}

#[tokio::test]
async fn the_log_says_what_was_held_and_charged_so_that_it_can_be_compared_with_the_ledger() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Anthropic, ledger.clone()).await;
    let mut client = model.client().await;
    ask(&mut client, Way::Anthropic, Answered::Streamed, Some(50)).await;
    model.settled().await;
    let answer = model.bench.log.wait(|event| event.action == "answer").await;
    let intent = model.bench.log.wait(|event| event.action == "request" && event.result == Outcome::Allowed).await;
    let spent = ledger.spent().remove(0);
    for event in [&intent, &answer] {
        assert_eq!(detail(event, "meter").as_deref(), Some("anthropic"));
        assert_eq!(detail(event, "model").as_deref(), Some("claude-sonnet-4-5"));
        assert_eq!(detail(event, "reservation"), Some(format!("{:032x}", spent.id.0)));
        assert_eq!(detail(event, "held_output").as_deref(), Some("50"));
    }
    assert_eq!(detail(&answer, "charged").as_deref(), Some("reported"));
    assert_eq!(detail(&answer, "tokens_input"), Some(spent.usage.input.to_string()));
    assert_eq!(detail(&answer, "tokens_output"), Some(spent.usage.output.to_string()));
    assert_eq!(detail(&intent, "charged"), None);
}

#[tokio::test]
async fn b55_an_answer_without_usage_is_charged_whole_and_an_error_costs_nothing() {
    let ledger = Memory::unbound();
    let model =
        Model::start(ledger.clone(), route_of(Way::Chat), random(Shown::Missing), GatewayLimits::default()).await;
    let mut client = model.client().await;
    let got = ask(&mut client, Way::Chat, Answered::Whole, Some(50)).await;
    assert_eq!(got.status, StatusCode::OK);
    model.settled().await;
    let endings: Vec<Ending> = endings(&ledger);
    assert!(matches!(endings[..], [Ending::Unknown(_)]), "{endings:?}");
    assert!(ledger.total("openai") >= model.bill().raw());
    for status in [400, 429, 500, 529] {
        let mut request =
            Way::Chat.request(&client, Answered::Streamed, "", Way::Chat.body(Answered::Streamed, None, "x"));
        request.headers_mut().insert("x-sim-fault", format!("status={status}").parse().unwrap());
        assert_eq!(within(client.send(request)).await.status.as_u16(), status);
    }
    model.settled().await;
    let before = endings.len();
    let endings = self::endings(&ledger);
    assert!(endings[before..].iter().all(|ending| *ending == Ending::Reported(Usage::default())), "{endings:?}");
    assert_eq!(endings.len(), before + 4);
}

#[tokio::test]
async fn b55_a_log_that_fills_up_between_hold_and_sending_gives_the_hold_back() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut client = model.client().await;
    model.bench.log.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let got = ask(&mut client, Way::Chat, Answered::Whole, Some(50)).await;
    assert_eq!(got.reason(), "audit_unavailable");
    model.settled().await;
    assert!(matches!(ledger.calls()[..], [Call::Admit(_), Call::Release(_)]), "{:?}", ledger.calls());
    assert_eq!(model.provider.requests(), 0);
    assert!(
        model
            .bench
            .log
            .append(carboy_core::audit::Event::new(
                carboy_core::audit::EventType::Egress,
                Default::default(),
                "x",
                Outcome::Done,
            ))
            .is_err()
    );
}

fn endings(ledger: &Memory) -> Vec<Ending> {
    let calls = ledger.calls().into_iter();
    calls.filter_map(|call| if let Call::Settle(_, ending) = call { Some(ending) } else { None }).collect()
}
