//! Connections: how many, how slow; and the way out.

use std::time::Duration;

use carboy_control::serve::{CONNECTIONS_PER_ADDRESS_MAX, HEAD_WAIT_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::http::{PATIENCE, chat, get, raw};
use super::world::{Made, Play, World};

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
