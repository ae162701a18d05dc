//! Connections: how many, how slow; and the way out.

use std::time::Duration;

use carboy_control::serve::{CONNECTIONS_PER_ADDRESS_MAX, HEAD_WAIT_MAX};
use carboy_core::chat::{ChatLimits, ChatSpec};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::http::{PATIENCE, ask, chat, get, raw};
use super::world::{Made, Play, World, spec};

#[tokio::test]
async fn a_head_that_drips_is_cut_off_and_so_is_a_connection_that_says_nothing() {
    let world = World::plain().await;
    let dripping = async {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
        let began = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let mut answer = Vec::new();
        loop {
            tick.tick().await;
            if stream.write_all(b"x").await.is_err() || began.elapsed() > HEAD_WAIT_MAX * 2 {
                break;
            }
            let mut chunk = [0; 256];
            match timeout(Duration::from_millis(1), stream.read(&mut chunk)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(length)) => answer.extend_from_slice(&chunk[..length]),
                Err(_) => {}
            }
        }
        began.elapsed()
    };
    let silent = async {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let began = Instant::now();
        let mut nothing = Vec::new();
        let _ = timeout(HEAD_WAIT_MAX * 2, stream.read_to_end(&mut nothing)).await;
        began.elapsed()
    };
    let idle = async {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let mut answer = Vec::new();
        let _ = timeout(HEAD_WAIT_MAX * 2, stream.read_to_end(&mut answer)).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        began.elapsed()
    };
    let (dripping, silent, idle) = tokio::join!(dripping, silent, idle);
    for (what, took) in [("dripping", dripping), ("silent", silent), ("idle", idle)] {
        assert!(took < HEAD_WAIT_MAX + Duration::from_secs(5), "{what}: {took:?}");
    }
    assert_eq!(get("/health").send(world.address).await.status, 200);
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_the_next_is_told() {
    let world = World::plain().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_ADDRESS_MAX {
        held.push(TcpStream::connect(world.address).await.unwrap());
    }
    let refused = raw(world.address, b"").await;
    assert_eq!((refused.status, refused.code()), (503, "too_many_connections".into()));
    assert!(refused.field("content-security-policy").is_some() && refused.field("retry-after").is_some());
    drop(held);
    let free = async {
        while raw(world.address, b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.status
            != 200
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, free).await.expect("places are given back");

    // A proxy speaks for many.
    let behind = World::made(Made { proxies: vec!["127.0.0.1"], ..Made::default() }).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_ADDRESS_MAX {
        held.push(TcpStream::connect(behind.address).await.unwrap());
    }
    assert_eq!(get("/health").send(behind.address).await.status, 200);
}

#[tokio::test]
async fn asked_to_stop_it_answers_what_is_under_way_and_takes_nothing_new() {
    let world = World::scripted(|_| Play::Gated(vec!["First. ".into(), "Last.".into()])).await;
    let to = world.address;
    let under_way = tokio::spawn(async move { chat("hello").send(to).await });
    world.model.at_gate(1).await;
    world.ask_to_stop();
    let stopping = async {
        while get("/health").send(to).await.status != 503 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, stopping).await.expect("it says that it is stopping");
    let late = chat("late").send(to).await;
    assert_eq!((late.status, late.code(), late.field("retry-after")), (503, "stopping".into(), Some("5")));
    world.model.gate.add_permits(1);
    let answered = under_way.await.unwrap();
    assert_eq!((answered.status, answered.json()["reply"].as_str()), (200, Some("First. Last.")));
    assert_eq!(world.asked(), 1);
    world.stopped().await;
}

#[tokio::test]
async fn past_its_grace_a_turn_is_stopped_and_its_stream_says_so() {
    let script = std::sync::Arc::new(|_: &str| Play::Gated(vec!["First. ".into(), "Last.".into()]));
    let world = World::made(Made { script, grace: Duration::from_millis(300), ..Made::default() }).await;
    let mut events = chat("hello").streamed().open(world.address).await;
    world.model.at_gate(1).await;
    world.ask_to_stop();
    let last = events.rest().await.pop().unwrap();
    assert_eq!((last.name.as_str(), last.data["error"]["code"].as_str()), ("error", Some("stopped")));
    world.stopped().await;
}

/// A world in which one address may ask so often in a minute.
async fn rated(requests_per_ip_per_minute: u32) -> World {
    let limits = ChatLimits { requests_per_ip_per_minute, ..spec().limits };
    World::made(Made { spec: ChatSpec { limits, ..spec() }, ..Made::default() }).await
}

fn entries(log: &std::path::Path, action: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|entry| entry["action"] == action).collect()
}

#[tokio::test]
async fn g80_a_flood_beyond_a_limit_is_two_entries_of_the_log_and_none_of_it_is_lost() {
    let world = rated(3).await;
    let (to, log) = (world.address, world.audit.clone());
    for sent in 0..43 {
        // Nobody keeps the cookie.
        assert_eq!(chat("hello").send(to).await.status, if sent < 3 { 200 } else { 429 });
    }
    assert_eq!((entries(&log, "rate_limit_exceeded").len(), entries(&log, "repeats").len()), (1, 0));
    let _dir = world.stopped().await;
    let (first, repeats) = (entries(&log, "rate_limit_exceeded"), entries(&log, "repeats"));
    assert_eq!((first.len(), repeats.len()), (1, 1));
    assert_eq!(first[0]["details"]["limit"], "requests_per_ip_per_minute");
    assert_eq!(
        (repeats[0]["event_type"].as_str(), repeats[0]["result"].as_str()),
        (Some("rate_limit"), Some("denied"))
    );
    let details = &repeats[0]["details"];
    assert_eq!((details["what"].as_str(), details["repeats"].as_u64()), (Some("rate_limit_exceeded"), Some(39)));
    assert_eq!(details["session"], first[0]["details"]["session"], "it says which entry they repeat");
}

#[tokio::test]
async fn g46_forgetting_is_counted_and_what_was_never_there_leaves_nothing_in_the_log() {
    let world = rated(4).await;
    let to = world.address;
    let forget = ask("DELETE", "/api/transcript");
    let cookie = chat("hello").send(to).await.cookie().unwrap();
    let before = std::fs::read_to_string(&world.audit).unwrap();
    assert_eq!(forget.send(to).await.status, 200);
    assert_eq!(std::fs::read_to_string(&world.audit).unwrap(), before, "there was no such conversation");
    let own = forget.with("cookie", &cookie);
    assert_eq!(own.send(to).await.status, 200);
    assert_eq!(own.send(to).await.status, 200, "and once more");
    assert_eq!(entries(&world.audit, "session_forgotten").len(), 1);
    let refused = own.send(to).await;
    assert_eq!((refused.status, refused.code()), (429, "rate_limited".into()));
    assert!(refused.field("retry-after").unwrap().parse::<u32>().unwrap() <= 60);
    assert_eq!(entries(&world.audit, "session_forgotten").len(), 1);
}
