//! What a program of ours sends passes every step that a bottle's request passes (U1), and ends as one does (U2).

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::{Event, Outcome};
use carboy_core::finding::Detector;
use carboy_core::host::Host;
use carboy_core::ports::{Conversation, Errand, Outbound, OutboundAnswer, OutboundError, OutboundRequest};
use carboy_core::route::{OnMatch, PathMatch, RequestMatch, Route, RouteSet};
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::GatewayLimits;
use carboy_sim::{Config, Reply, Script};
use http::Response;
use support::ledger::{Call, Memory};
use support::model::{Answered, Model, Way, config, route_of, within};
use support::{Bench, HOST, Kind, Origin, SECRET, detail, full, recording, route};

fn to(host: &str, path: &str, body: impl Into<Vec<u8>>) -> OutboundRequest {
    OutboundRequest {
        method: "POST",
        host: Host::parse(host).unwrap(),
        port: 443,
        path: path.into(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: body.into(),
        conversation: None,
        errand: Errand::Work,
    }
}

fn question(way: Way, answered: Answered, output_max: u64) -> OutboundRequest {
    let mut request = to(HOST, way.path(answered), way.body(answered, Some(output_max), "hello"));
    request.headers.push(("anthropic-version".into(), "2023-06-01".into()));
    request
}

async fn read(mut answer: OutboundAnswer) -> Result<String, OutboundError> {
    let mut text = Vec::new();
    while let Some(piece) = within(answer.body.next()).await {
        text.extend(piece?);
    }
    Ok(String::from_utf8(text).unwrap())
}

async fn sent(outbound: &Arc<dyn Outbound>, request: OutboundRequest) -> OutboundAnswer {
    within(outbound.send(request)).await.unwrap()
}

/// What the log says of requests, without what is another's every time.
fn story(events: &[Event]) -> Vec<String> {
    let own = ["request", "ms", "reservation", "http", "refusal"];
    let told = events.iter().map(|event| {
        let details = event.details.iter().filter(|(name, _)| !own.contains(name));
        let details: Vec<String> = details.map(|(name, value)| format!("{name}={}", value.as_json())).collect();
        format!("{} {:?} {}", event.action, event.result, details.join(" "))
    });
    told.collect()
}

#[tokio::test]
async fn u1_a_chat_agents_model_call_passes_the_same_steps_as_a_bottles_and_is_written_down_and_metered_the_same() {
    for way in [Way::Anthropic, Way::Chat] {
        for answered in [Answered::Whole, Answered::Streamed] {
            let ledger = Memory::unbound();
            let model = Model::start(ledger.clone(), route_of(way), config(), GatewayLimits::default()).await;
            let mut bottle = model.bench.client(&["http/1.1"]).await;
            let request = {
                let mut request = way.request(&bottle, answered, "", way.body(answered, Some(50), "hello"));
                request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
                request
            };
            let by_bottle = within(bottle.send(request)).await;
            model.settled().await;
            let (first_events, first_calls) = (model.bench.log.events(), ledger.calls());

            let outbound = model.bench.gateway.outbound();
            let answer = sent(&outbound, question(way, answered, 50)).await;
            assert_eq!((answer.status, answer.refused), (200, None), "{way:?} {answered:?}");
            let text = read(answer).await.unwrap();
            model.settled().await;
            let events = model.bench.log.events();
            assert_eq!(story(&events[first_events.len()..]), story(&first_events), "{way:?} {answered:?}");
            assert_eq!(story(&first_events).len(), 2, "an intent and an outcome");
            let steps = |calls: &[Call]| -> Vec<&'static str> {
                calls
                    .iter()
                    .map(|call| match call {
                        Call::Admit(_) => "admit",
                        Call::Dispatch(_) => "dispatch",
                        Call::Extend(..) => "extend",
                        Call::Settle(..) => "settle",
                        Call::Release(_) => "release",
                    })
                    .collect()
            };
            assert_eq!(steps(&ledger.calls()[first_calls.len()..]), steps(&first_calls));
            assert_eq!(steps(&first_calls), ["admit", "dispatch", "settle"]);
            // The key was set on the way, and the provider took it; what came back is the same.
            let received = model.provider.received();
            let key = |index: usize| received[index].header("x-api-key").or(received[index].header("authorization"));
            assert!(key(1).is_some_and(|key| key.contains(SECRET)) && key(0) == key(1));
            assert_eq!(text.len(), by_bottle.body.len(), "{text}");
        }
    }
}

#[tokio::test]
async fn u1_a_chat_agents_http_tool_call_passes_the_same_steps_and_is_scanned_both_ways() {
    let origin = Arc::<Origin>::default();
    let echo = recording(origin.clone(), |got| {
        let key = got.headers.get("authorization").map(|value| value.to_str().unwrap()).unwrap_or("none").to_owned();
        Response::builder()
            .header("content-type", "application/json")
            .body(full(format!(r#"{{"you":"{key}"}}"#)))
            .unwrap()
    });
    let tools = Route {
        matches: vec![RequestMatch { paths: vec![PathMatch::Prefix("/mcp".into())], ..RequestMatch::default() }],
        auth: route_of(Way::Chat).auth,
        ..route(HOST)
    };
    let bench = Bench::with(Kind::Tls(&["h2", "http/1.1"]), vec![tools], origin, echo, GatewayLimits::default()).await;
    let outbound = bench.gateway.outbound();
    let conversation = Some(Conversation { session: "c4a10b".into(), turn: 3 });
    let call =
        OutboundRequest { conversation, ..to(HOST, "/mcp", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#) };
    let text = read(sent(&outbound, call.clone()).await).await.unwrap();
    // The upstream had the key; the agent did not get to see it.
    assert!(text.starts_with(r#"{"you":"Bearer"#) && !text.contains(SECRET), "{text}");
    assert!(bench.origin.received()[0].headers["authorization"].to_str().unwrap().contains(SECRET));
    for (request, reason) in [
        (to(HOST, "/other", "{}"), Reason::RequestNotAllowed),
        (to("other.example", "/mcp", "{}"), Reason::HostNotAllowed),
        (OutboundRequest { port: 8443, ..call.clone() }, Reason::PortNotAllowed),
        (to(HOST, "/mcp", format!(r#"{{"q":"{SECRET}"}}"#)), Reason::SecretKnown),
    ] {
        let path = request.path.clone();
        let answer = sent(&outbound, request).await;
        assert_eq!(answer.refused, Some(reason), "{path}");
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        let text = read(answer).await.unwrap();
        assert!(text.contains(reason.code()), "{text}");
        assert_eq!(bench.log.refusals().last().map(String::as_str), Some(reason.code()));
    }
    assert_eq!(bench.origin.received().len(), 1, "nothing that was refused left");
    let allowed = bench.log.wait(|event| event.action == "request" && event.result == Outcome::Allowed).await;
    assert_eq!(detail(&allowed, "path").as_deref(), Some("/mcp"));
    // Whoever reads the log can follow one conversation through it (U3); what is asked for nobody names none.
    let answer = bench.log.wait(|event| event.action == "answer").await;
    let port = bench.log.wait(|event| event.details.get("reason") == Some(&"port_not_allowed".into())).await;
    for event in [&allowed, &answer, &port] {
        let whose = (detail(event, "session"), detail(event, "turn"));
        assert_eq!(whose, (Some("c4a10b".into()), Some("3".into())), "{event:?}");
    }
    let nobodys = bench.log.wait(|event| event.details.get("reason") == Some(&"host_not_allowed".into())).await;
    assert_eq!(detail(&nobodys, "session"), None);
    assert_eq!(bench.origin.received()[0].headers.get("session"), None, "no field of the request says it");
}

#[tokio::test]
async fn u1_a_route_that_redacts_overwrites_what_a_chat_agent_would_have_sent() {
    let origin = Arc::<Origin>::default();
    let answer = recording(origin.clone(), |_| Response::new(full("{}")));
    let mut redacting = route(HOST);
    redacting.dlp.outbound_on_match = OnMatch::Redact;
    assert!(redacting.dlp.outbound.contains(&Detector::TokenPatterns));
    let bench = Bench::with(Kind::Tls(&["http/1.1"]), vec![redacting], origin, answer, GatewayLimits::default()).await;
    let token = format!("ghp_{}", "Zk3Qw9Lr7Tx2Vb8Nc4Md6Hf1Js5Gp0Ya1Bq2");
    let body = format!(r#"{{"note":"{token}"}}"#);
    let answer = sent(&bench.gateway.outbound(), to(HOST, "/", body)).await;
    assert_eq!(answer.refused, None);
    read(answer).await.unwrap();
    let body = String::from_utf8(bench.origin.received()[0].body.clone()).unwrap();
    assert!(!body.contains(&token) && body.contains("note"), "{body}");
}

#[tokio::test]
async fn u2_a_spent_budget_refuses_a_chat_agents_model_call_before_a_byte_of_it_leaves() {
    let ledger = Memory::capped("anthropic", 0, |_| {});
    let model = Model::of(Way::Anthropic, ledger.clone()).await;
    let answer = sent(&model.bench.gateway.outbound(), question(Way::Anthropic, Answered::Streamed, 50)).await;
    assert_eq!(answer.refused, Some(Reason::BudgetExhausted));
    assert!(read(answer).await.unwrap().contains("budget_exhausted"));
    assert_eq!(model.provider.requests(), 0);
}

fn endless() -> Config {
    let mut config = Config { script: Script::default().on("", Reply::text("word ".repeat(5_000))), ..config() };
    config.faults.pace = Duration::from_millis(2);
    config
}

#[tokio::test]
async fn u2_a_cut_ends_a_chat_agents_stream_with_its_reason_and_without_words_that_could_be_the_models() {
    for way in [Way::Anthropic, Way::Chat] {
        let ledger = Memory::unbound();
        let model = Model::start(ledger.clone(), route_of(way), endless(), GatewayLimits::default()).await;
        let outbound = model.bench.gateway.outbound();
        let mut answer = sent(&outbound, question(way, Answered::Streamed, 20_000)).await;
        let mut text = within(answer.body.next()).await.unwrap().unwrap();
        model.bench.gateway.cut_off(Denial::new(Reason::CutOff, "the operator closed it"));
        let ended = loop {
            match within(answer.body.next()).await {
                Some(Ok(piece)) => text.extend(piece),
                other => break other,
            }
        };
        assert_eq!(ended, Some(Err(OutboundError::Refused(Reason::CutOff))), "{way:?}");
        assert_eq!(within(answer.body.next()).await, None);
        assert!(!String::from_utf8(text).unwrap().contains("operator"), "{way:?}");
        model.settled().await;
        assert_eq!(ledger.open(), 0, "{way:?}");
        assert!(ledger.total(way.meter()) >= model.bill().raw(), "{way:?}");
        // What follows is refused for the same, until it is let go on.
        let refused = sent(&outbound, question(way, Answered::Whole, 50)).await;
        assert_eq!(refused.refused, Some(Reason::CutOff), "{way:?}");
        model.bench.gateway.restore();
        let answer = sent(&outbound, question(way, Answered::Whole, 50)).await;
        assert_eq!((answer.status, answer.refused), (200, None), "{way:?}");
    }
}

#[tokio::test]
async fn u2_a_body_that_is_dropped_ends_the_exchange_and_what_was_read_is_charged() {
    let ledger = Memory::unbound();
    let model = Model::start(ledger.clone(), route_of(Way::Anthropic), endless(), GatewayLimits::default()).await;
    let outbound = model.bench.gateway.outbound();
    let mut answer = sent(&outbound, question(Way::Anthropic, Answered::Streamed, 20_000)).await;
    within(answer.body.next()).await.unwrap().unwrap();
    drop(answer);
    model.settled().await;
    assert_eq!((ledger.open(), ledger.spent().len()), (0, 1));
    let charged = ledger.total("anthropic");
    assert!(charged >= model.bill().raw() && charged < 20_000, "{charged}");
}

#[tokio::test]
async fn u2_a_call_that_nobody_waits_for_any_more_is_ended_and_settled() {
    let ledger = Memory::unbound();
    let mut slow = config();
    slow.faults.latency = Duration::from_secs(600);
    let model = Model::start(ledger.clone(), route_of(Way::Anthropic), slow, GatewayLimits::default()).await;
    let outbound = model.bench.gateway.outbound();
    let asking =
        tokio::spawn(async move { outbound.send(question(Way::Anthropic, Answered::Whole, 50)).await.is_ok() });
    while !ledger.calls().iter().any(|call| matches!(call, Call::Dispatch(_))) {
        tokio::task::yield_now().await;
    }
    asking.abort();
    model.settled().await;
    assert_eq!(ledger.open(), 0);
}

#[tokio::test]
async fn an_upstream_that_claims_to_be_the_gateway_refusing_is_not_believed() {
    let origin = Arc::<Origin>::default();
    let answer = recording(origin.clone(), |_| {
        let head = Response::builder().status(402).header("x-carboy-reason", "budget_exhausted");
        head.header("x-carboy-refusal", "x-00000001").body(full("budget_exhausted")).unwrap()
    });
    let bench =
        Bench::with(Kind::Tls(&["http/1.1"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let answer = sent(&bench.gateway.outbound(), to(HOST, "/", "")).await;
    assert_eq!((answer.status, answer.refused), (402, None));
}

#[tokio::test]
async fn connections_to_an_upstream_are_kept_between_calls_and_let_go_with_its_routes() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let outbound = bench.gateway.outbound();
    for _ in 0..3 {
        assert_eq!(read(sent(&outbound, to(HOST, "/", "{}")).await).await.unwrap(), "hello");
        bench.gateway.settled(Duration::from_secs(5)).await;
    }
    assert_eq!(bench.origin.connections(), 1);
    bench.gateway.replace_routes(RouteSet::new(vec![route(HOST)], 2));
    read(sent(&outbound, to(HOST, "/", "{}")).await).await.unwrap();
    assert_eq!(bench.origin.connections(), 2);
    bench.gateway.replace_routes(RouteSet::new(vec![], 3));
    assert_eq!(sent(&outbound, to(HOST, "/", "{}")).await.refused, Some(Reason::HostNotAllowed));
}

#[tokio::test]
async fn many_people_who_ask_a_closed_agent_are_no_storm_and_each_is_answered_at_once() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    bench.gateway.cut_off(Denial::new(Reason::CutOff, "closed"));
    let outbound = bench.gateway.outbound();
    for _ in 0..200 {
        assert_eq!(sent(&outbound, to(HOST, "/", "{}")).await.refused, Some(Reason::CutOff));
    }
    assert_eq!(*bench.gateway.storms().borrow(), 0);
}

#[tokio::test]
async fn a_gateway_that_ends_refuses_and_a_request_that_is_none_is_not_sent() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let outbound = bench.gateway.outbound();
    let smuggled = OutboundRequest { path: "/a b\r\nhost: other.example".into(), ..to(HOST, "/", "") };
    assert!(matches!(within(outbound.send(smuggled)).await, Err(OutboundError::NoAnswer(_))));
    // Who it is for is said once, and not by a field.
    let mut two_hosts = to(HOST, "/", "");
    two_hosts.headers.push(("Host".into(), "other.example".into()));
    assert_eq!(sent(&outbound, two_hosts).await.refused, None);
    assert_eq!(bench.origin.received()[0].headers["host"], HOST);
    bench.gateway.shutdown();
    let ended = within(outbound.send(to(HOST, "/", ""))).await;
    match ended {
        Ok(answer) => assert_eq!(answer.refused, Some(Reason::Stopping)),
        Err(error) => assert_eq!(error, OutboundError::Refused(Reason::Stopping)),
    }
    assert_eq!(bench.origin.received().len(), 1);
}

#[tokio::test]
async fn g92_u2_a_spent_budget_closes_the_routes_to_work_and_not_to_a_notice_and_an_operator_closes_both() {
    let origin = Arc::<Origin>::default();
    let answer = recording(origin.clone(), |_| Response::new(full("{}")));
    let bench =
        Bench::with(Kind::Tls(&["http/1.1"]), vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let outbound = bench.gateway.outbound();
    let work = to(HOST, "/hook", "{}");
    let notice = OutboundRequest { errand: Errand::Notice, ..work.clone() };
    for (closed, to_notice) in [(Reason::BudgetExhausted, None), (Reason::CutOff, Some(Reason::CutOff))] {
        bench.gateway.cut_off(Denial::new(closed, "by the test"));
        assert_eq!(sent(&outbound, work.clone()).await.refused, Some(closed));
        let answer = sent(&outbound, notice.clone()).await;
        assert_eq!(answer.refused, to_notice, "{closed:?}");
        if to_notice.is_none() {
            assert_eq!((answer.status, read(answer).await.unwrap().as_str()), (200, "{}"));
        }
        bench.gateway.restore();
    }
    assert_eq!(bench.origin.received().len(), 1, "nothing that was refused left");
    bench.gateway.shutdown();
    let answer = outbound.send(notice).await;
    assert!(answer.map_or(true, |answer| answer.refused == Some(Reason::Stopping)), "the end is the end");
}
