//! What a request may cost is held before a byte of it leaves, and what was granted stands in what leaves.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use carboy_core::audit::Outcome;
use carboy_core::budget::{Counted, Ending, Gate, Overrun};
use carboy_core::route::{PathMatch, RequestMatch, Route};
use carboy_core::upstream::Upstreams;
use carboy_egress::GatewayLimits;
use carboy_sim::{Config, Reply, Script};
use http::{Response, StatusCode};
use support::ledger::{Call, Memory, TRANCHE, usage};
use support::model::{Answered, Model, WAYS, Way, ask, config, route_of, within};
use support::{Bench, Kind, Origin, SECRET, detail, full, handler};

/// The name of each call, in order.
fn names(ledger: &Memory) -> Vec<&'static str> {
    let name = |call: &Call| match call {
        Call::Admit(_) => "admit",
        Call::Dispatch(_) => "dispatch",
        Call::Extend(..) => "extend",
        Call::Settle(..) => "settle",
        Call::Release(_) => "release",
    };
    ledger.calls().iter().map(name).collect()
}

#[tokio::test]
async fn the_output_that_was_granted_is_the_bound_that_the_provider_sees() {
    for way in WAYS {
        // The question is some hundred bytes: what is left of the cap is the output's.
        let ledger = Memory::capped(way.meter(), 3_000, |_| {});
        let model = Model::of(way, ledger.clone()).await;
        let mut client = model.client().await;
        for (own, most) in [(Some(64_000), 3_000), (None, 3_000), (Some(20), 20)] {
            let got = ask(&mut client, way, Answered::Whole, own).await;
            assert_eq!(got.status, StatusCode::OK, "{way:?} {own:?}: {}", got.text());
            model.settled().await;
            let body = model.last_body();
            let bound = way.bound_at().iter().find_map(|at| body.pointer(at)?.as_u64()).expect("no bound was sent");
            assert!(bound <= most && (own != Some(20) || bound == 20), "{way:?} {own:?}: {bound}");
        }
        assert!(ledger.total(way.meter()) <= 3_000);
    }
}

#[tokio::test]
async fn nothing_is_sent_before_the_hold_is_durable() {
    let (ledger, origin) = (Memory::unbound(), Arc::<Origin>::default());
    let seen = ledger.clone();
    // What the ledger had been asked when the request arrived is the answer.
    let answer = handler(move |_| {
        let calls = names(&seen).join(" ");
        async move { Response::builder().status(400).body(full(calls)).unwrap() }
    });
    let limits = GatewayLimits::default();
    let routes = vec![route_of(Way::Chat)];
    let kind = Kind::Tls(&["h2", "http/1.1"]);
    let bench = Bench::governed(ledger.clone(), Upstreams::default(), kind, routes, (origin, answer), limits).await;
    for alpn in ["h2", "http/1.1"] {
        let mut client = bench.client(&[alpn]).await;
        let got = ask(&mut client, Way::Chat, Answered::Whole, Some(5)).await;
        assert!(got.text().ends_with("admit dispatch"), "{}", got.text());
        assert_eq!(bench.gateway.settled(support::model::WAIT_MAX).await, 0);
    }
    assert_eq!(names(&ledger), ["admit", "dispatch", "settle", "admit", "dispatch", "settle"]);
}

#[tokio::test]
async fn a_ledger_that_is_away_lets_nothing_metered_pass_and_everything_else() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Anthropic, ledger.clone()).await;
    let mut client = model.client().await;
    ledger.away.store(true, Ordering::SeqCst);
    let got = ask(&mut client, Way::Anthropic, Answered::Whole, Some(5)).await;
    assert_eq!((got.status.as_u16(), got.reason()), (503, "ledger_unavailable"));
    assert_eq!(model.provider.requests(), 0);
    assert_eq!(client.get("/v1/models").await.status, StatusCode::OK);
    ledger.away.store(false, Ordering::SeqCst);
    assert_eq!(ask(&mut client, Way::Anthropic, Answered::Whole, Some(5)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_spent_refuses_for_good_and_what_is_held_for_a_while() {
    let ledger = Memory::capped("openai", 2_000, |set| set.terms.output_min = 1);
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut first = model.client().await;
    let mut request =
        Way::Chat.request(&first, Answered::Streamed, "", Way::Chat.body(Answered::Streamed, Some(5), "x"));
    request.headers_mut().insert("x-sim-fault", "pace-ms=200".parse().unwrap());
    let started = within(first.start(request)).await.unwrap();
    let mut second = model.client().await;
    let got = ask(&mut second, Way::Chat, Answered::Whole, Some(5)).await;
    assert_eq!((got.status.as_u16(), got.reason()), (429, "budget_held"));
    drop(started);
    model.settled().await;
    // The first was charged what was seen of it; what is left is too little for the worst case of another.
    let text = "x".repeat(2_000);
    let request = Way::Chat.request(&second, Answered::Whole, "", Way::Chat.body(Answered::Whole, Some(5), &text));
    let got = within(second.send(request)).await;
    assert_eq!(got.reason(), "budget_exhausted");
    assert!(got.text().contains("budget of host for openai"), "{}", got.text());
    assert_eq!(ledger.open(), 0);
}

#[tokio::test]
async fn near_a_cap_the_provider_counts_through_the_same_route_and_its_count_is_held() {
    for way in [Way::Anthropic, Way::Responses, Way::Gemini] {
        let ledger = Memory::unbound();
        let model = Model::of(way, ledger.clone()).await;
        ledger.counts_first.store(true, Ordering::SeqCst);
        let mut client = model.client().await;
        let got = ask(&mut client, way, Answered::Whole, Some(50)).await;
        assert_eq!(got.status, StatusCode::OK, "{way:?}: {}", got.text());
        model.settled().await;
        let received = model.provider.received();
        assert_eq!(received.len(), 2, "{way:?}");
        assert_eq!(model.provider.connections(), 1, "the count takes the request's own connection");
        assert!(received.iter().all(|request| request.contains(SECRET.as_bytes())), "{way:?}");
        let [Call::Admit(bound), Call::Admit(counted), ..] = &ledger.calls()[..] else { panic!() };
        assert_eq!((bound.counted, counted.counted), (Counted::Bound, Counted::Final));
        assert!(counted.input < bound.input, "{way:?}: {} of {}", counted.input, bound.input);
        let asked = model.bench.log.wait(|event| event.action == "count" && event.result == Outcome::Done).await;
        assert_eq!(detail(&asked, "tokens_input"), Some(counted.input.to_string()));
        assert_eq!(names(&ledger), ["admit", "admit", "dispatch", "settle"]);
    }
}

#[tokio::test]
async fn where_no_count_is_to_be_had_the_bound_stands() {
    // The first has no such endpoint, the second no route to it.
    let narrow = |way: Way| {
        let paths = vec![PathMatch::Exact(way.path(Answered::Whole).into())];
        Route { matches: vec![RequestMatch { paths, ..RequestMatch::default() }], ..route_of(way) }
    };
    for (way, route) in [(Way::Chat, route_of(Way::Chat)), (Way::Anthropic, narrow(Way::Anthropic))] {
        let ledger = Memory::unbound();
        let model = Model::start(ledger.clone(), route, config(), GatewayLimits::default()).await;
        ledger.counts_first.store(true, Ordering::SeqCst);
        let mut client = model.client().await;
        assert_eq!(ask(&mut client, way, Answered::Whole, Some(5)).await.status, StatusCode::OK);
        let [Call::Admit(bound), Call::Admit(counted), ..] = &ledger.calls()[..] else { panic!() };
        assert_eq!((counted.input, counted.counted), (bound.input, Counted::Final));
        assert_eq!(model.provider.requests(), 1);
    }
}

#[tokio::test]
async fn a_connection_that_cannot_be_had_costs_nothing() {
    let ledger = Memory::unbound();
    let unused = handler(|_| async { Response::new(full("")) });
    let (origin, limits) = (Arc::<Origin>::default(), GatewayLimits::default());
    let routes = vec![route_of(Way::Chat)];
    let bench =
        Bench::governed(ledger.clone(), Upstreams::default(), Kind::Gone, routes, (origin, unused), limits).await;
    let mut client = bench.client(&["http/1.1"]).await;
    let got = ask(&mut client, Way::Chat, Answered::Whole, Some(5)).await;
    assert_eq!(got.reason(), "upstream_unreachable");
    assert_eq!(bench.gateway.settled(support::model::WAIT_MAX).await, 0);
    assert_eq!(names(&ledger), ["admit", "release"]);
}

#[tokio::test]
async fn a_ledger_that_forgot_the_hold_is_asked_again_once() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut client = model.client().await;
    ledger.forgets.store(1, Ordering::SeqCst);
    assert_eq!(ask(&mut client, Way::Chat, Answered::Whole, Some(5)).await.status, StatusCode::OK);
    model.settled().await;
    assert_eq!(names(&ledger), ["admit", "dispatch", "admit", "dispatch", "settle"]);
    assert_eq!((ledger.open(), ledger.spent().len()), (0, 1));
    ledger.forgets.store(2, Ordering::SeqCst);
    let got = ask(&mut client, Way::Chat, Answered::Whole, Some(5)).await;
    assert_eq!(got.reason(), "ledger_unavailable");
    model.settled().await;
    assert_eq!((model.provider.requests(), ledger.open()), (1, 0));
}

#[tokio::test]
async fn observed_requests_go_as_they_were_written_until_the_cap_is_crossed() {
    let ledger = Memory::capped("anthropic", 100, |set| set.terms.gate = Gate::Observe);
    let model = Model::of(Way::Anthropic, ledger.clone()).await;
    let mut client = model.client().await;
    let body = Way::Anthropic.body(Answered::Whole, Some(64_000), &"x".repeat(600));
    let request = Way::Anthropic.request(&client, Answered::Whole, "", body.clone());
    assert_eq!(within(client.send(request)).await.status, StatusCode::OK);
    model.settled().await;
    assert_eq!(model.provider.received()[0].body, body.as_bytes());
    assert!(ledger.total("anthropic") > 100);
    assert_eq!(ask(&mut client, Way::Anthropic, Answered::Whole, Some(5)).await.reason(), "budget_exhausted");
}

/// An answer of about this many tokens, as the simulated provider counts.
fn long(tokens: usize) -> Config {
    let words = "word ".repeat(tokens * 4 / 5);
    Config { script: Script::default().on("", Reply::text(words)), ..config() }
}

#[tokio::test]
async fn a_bounded_stream_gets_more_as_it_goes_and_is_cut_where_nothing_is_left() {
    for way in WAYS {
        // All of it fits, though not at once.
        let ledger = Memory::capped(way.meter(), 20_000, |set| set.terms.overrun = Overrun::Bounded);
        let model = Model::start(ledger.clone(), route_of(way), long(1_000), GatewayLimits::default()).await;
        let mut client = model.client().await;
        let got = ask(&mut client, way, Answered::Streamed, Some(4_000)).await;
        model.settled().await;
        assert!(got.text().contains(way.end()), "{way:?}");
        let calls = ledger.calls();
        let extended: Vec<u64> =
            calls.iter().filter_map(|call| if let Call::Extend(_, to) = call { Some(*to) } else { None }).collect();
        assert!(extended.len() > 5 && extended.is_sorted(), "{way:?}: {extended:?}");
        assert!(matches!(calls.last(), Some(Call::Settle(_, Ending::Reported(_)))), "{way:?}");

        // And here it does not.
        let ledger = Memory::capped(way.meter(), 2_500, |set| set.terms.overrun = Overrun::Bounded);
        let mut slow = long(4_000);
        slow.faults.pace = std::time::Duration::from_millis(1);
        let model = Model::start(ledger.clone(), route_of(way), slow, GatewayLimits::default()).await;
        let mut client = model.client().await;
        let got = ask(&mut client, way, Answered::Streamed, Some(8_000)).await;
        model.settled().await;
        assert!(got.status == StatusCode::OK && got.complete, "{way:?}: a bare end");
        let blocked = model.bench.log.wait(|event| event.result == Outcome::Blocked).await;
        assert_eq!(detail(&blocked, "reason").as_deref(), Some("budget_exhausted"));
        let silent = matches!(way, Way::Chat | Way::Responses);
        assert_eq!(detail(&blocked, "charged").as_deref(), Some(if silent { "whole" } else { "estimated" }));
        let (spent, billed) = (ledger.total(way.meter()), model.bill().raw());
        assert!(billed <= 2_500 + 200 && spent >= billed, "{way:?}: billed {billed}, charged {spent}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_whole_is_held_whole_whatever_the_terms() {
    let ledger = Memory::capped("openai", 2_000, |set| set.terms.overrun = Overrun::Bounded);
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut client = model.client().await;
    // All of it is to be had.
    ask(&mut client, Way::Chat, Answered::Whole, Some(100)).await;
    assert_eq!(model.last_body()["max_tokens"], 100);
    // It is not: what is held is the bound.
    ask(&mut client, Way::Chat, Answered::Whole, Some(9_000)).await;
    let bound = model.last_body()["max_tokens"].as_u64().unwrap();
    assert!(bound > TRANCHE && bound < 2_000, "{bound}");
    assert!(ledger.total("openai") <= 2_000);
}

#[tokio::test]
async fn what_has_no_bound_is_refused_and_never_sent() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Responses, ledger.clone()).await;
    let mut client = model.client().await;
    for body in [
        r#"{"model":"gpt-4o","max_output_tokens":5,"max_output_tokens":50000,"input":"x"}"#,
        r#"{"model":"gpt-4o","max_output_tokens":5,"max\u005foutput_tokens":50000,"input":"x"}"#,
        r#"{"model":"gpt-4o","background":true,"input":"x"}"#,
        r#"{"model":"gpt-4o","max_output_tokens":-1,"input":"x"}"#,
        "not json",
        "",
    ] {
        let request = Way::Responses.request(&client, Answered::Whole, "", body);
        let got = within(client.send(request)).await;
        assert_eq!((got.status.as_u16(), got.reason()), (400, "request_unbounded"), "{body}");
    }
    assert_eq!((model.provider.requests(), ledger.calls().len()), (0, 0));
}

#[tokio::test]
async fn a_tool_that_the_provider_runs_is_held_with_all_that_it_may_read_or_refused_for_that() {
    let body = r#"{"model":"claude-haiku-4-5","max_tokens":50,"tools":[{"type":"web_search_20250305","name":"web_search"}],"messages":[{"role":"user","content":"x"}]}"#;
    for (cap, reason) in [(10_000_000, ""), (1_000_000, "request_unbounded")] {
        let ledger = Memory::capped("anthropic", cap, |_| {});
        let model = Model::of(Way::Anthropic, ledger.clone()).await;
        let mut client = model.client().await;
        let request = Way::Anthropic.request(&client, Answered::Whole, "", body);
        let got = within(client.send(request)).await;
        assert_eq!(got.reason(), reason, "{}", got.text());
        model.settled().await;
        let Some(Call::Admit(asked)) = ledger.calls().into_iter().next() else { panic!() };
        // The context once for the request, and once for each of eight calls.
        assert_eq!(asked.input, 9 * 200_000);
        assert_eq!(ledger.open(), 0);
    }
}

#[tokio::test]
async fn what_a_thread_goes_on_from_is_held_by_its_length_and_as_a_whole_context_where_that_is_not_known() {
    for answered in [Answered::Whole, Answered::Streamed] {
        let ledger = Memory::unbound();
        let model = Model::of(Way::Anthropic, ledger.clone()).await;
        let mut client = model.client().await;
        let body = Way::Anthropic.body(answered, Some(50), &"many words ".repeat(1_000));
        let first = within(client.send(Way::Anthropic.request(&client, answered, "", body))).await;
        let (_, from) = first.text().split_once("\"id\":\"msg_").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let name = format!("msg_{}", from.split('"').next().unwrap());
        model.settled().await;
        let had = ledger.total("anthropic");
        for (previous, least, most) in [(name.as_str(), had, 10_000), ("msg_unknown", 200_000, u64::MAX)] {
            let short = Way::Anthropic.body(answered, Some(5), "go on");
            let thread = format!("{{\"thread\":{{\"type\":\"continue\",\"previous_message_id\":\"{previous}\"}},");
            let body = short.replacen('{', &thread, 1);
            within(client.send(Way::Anthropic.request(&client, answered, "", body))).await;
            let asks = ledger
                .calls()
                .into_iter()
                .filter_map(|call| if let Call::Admit(ask) = call { Some(ask) } else { None });
            let held = asks.collect::<Vec<_>>().pop().unwrap().input;
            assert!((least..most).contains(&held), "{previous}: {held}, and it had {had}");
        }
        // Each of three other models reads and writes it once more.
        let shown = ledger.calls().len();
        let body = Way::Anthropic.body(answered, Some(50), "hi").replacen('{', "{\"fallbacks\":\"default\",", 1);
        let (length, one) = (body.len() as u64, 1_024);
        within(client.send(Way::Anthropic.request(&client, answered, "", body))).await;
        let Some(Call::Admit(asked)) = ledger.calls().into_iter().nth(shown) else { panic!() };
        let read = (length * 5).div_ceil(4) + one;
        assert_eq!(asked.input, read + 3 * (read + 50));
    }
}

#[tokio::test]
async fn a_bound_that_the_provider_would_not_take_is_a_spent_budget() {
    let ledger = Memory::capped("anthropic", 3_000, |_| {});
    let model = Model::of(Way::Anthropic, ledger.clone()).await;
    let mut client = model.client().await;
    let body = r#"{"model":"claude-sonnet-4-5","max_tokens":64000,"thinking":{"type":"enabled","budget_tokens":32000},"messages":[{"role":"user","content":"x"}]}"#;
    let request = Way::Anthropic.request(&client, Answered::Whole, "", body);
    let got = within(client.send(request)).await;
    assert_eq!(got.reason(), "budget_exhausted");
    assert!(got.text().contains("to think for 32000"), "{}", got.text());
    model.settled().await;
    assert!(model.provider.received().iter().all(|request| request.path == "/v1/messages/count_tokens"));
    assert_eq!((ledger.open(), ledger.total("anthropic")), (0, 0));
}

#[tokio::test]
async fn an_encoded_request_is_read_bounded_and_sent_plain() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Anthropic, ledger.clone()).await;
    let mut client = model.client().await;
    let body = Way::Anthropic.body(Answered::Whole, None, &"a long question ".repeat(100));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body.as_bytes()).unwrap();
    let mut request = Way::Anthropic.request(&client, Answered::Whole, "", gzip.finish().unwrap());
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let got = within(client.send(request)).await;
    assert_eq!(got.status, StatusCode::OK, "{}", got.text());
    let received = model.provider.received().remove(0);
    assert_eq!(received.header("content-encoding"), None);
    assert_eq!(received.header("content-length"), Some(&*received.body_len.to_string()));
    assert!(model.last_body()["max_tokens"].is_u64());
}

#[tokio::test]
async fn a_secret_in_a_metered_request_is_found_before_anything_is_held() {
    let ledger = Memory::unbound();
    let model = Model::of(Way::Chat, ledger.clone()).await;
    let mut client = model.client().await;
    let request = Way::Chat.request(&client, Answered::Whole, "", Way::Chat.body(Answered::Whole, None, SECRET));
    assert_eq!(within(client.send(request)).await.reason(), "secret_known");
    assert_eq!((model.provider.requests(), ledger.calls().len()), (0, 0));
}

#[tokio::test]
async fn b55_parallel_requests_at_the_limit_never_spend_beyond_it() {
    for way in WAYS {
        let ledger = Memory::capped(way.meter(), 12_000, |set| set.terms.hold_wait_ms = 10_000);
        let model = Model::start(ledger.clone(), route_of(way), long(400), GatewayLimits::default()).await;
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..24 {
            let mut client = model.client().await;
            let answered = if number % 2 == 0 { Answered::Whole } else { Answered::Streamed };
            asking.spawn(async move { ask(&mut client, way, answered, Some(900)).await.status });
        }
        let answers = within(asking.join_all()).await;
        model.settled().await;
        let (charged, billed) = (ledger.total(way.meter()), model.bill().raw());
        assert!(billed <= 12_000 && charged == billed, "{way:?}: billed {billed}, charged {charged}");
        assert!(answers.iter().filter(|status| **status == StatusCode::OK).count() >= 8, "{way:?}: {answers:?}");
    }
    // The sums of the usage are the ledger's own.
    assert_eq!(usage(1, 2, 3, 4).total(), Some(10));
}
