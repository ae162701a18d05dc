//! Replies as they come, and what a dropped connection, a second sending and a stop make of them.

use std::sync::Arc;

use carboy_control::serve::READERS_PER_TURN_MAX;
use carboy_core::chat::{ChatLimits, ChatSpec};
use serde_json::json;
use tokio::time::timeout;

use super::http::{PATIENCE, ask, chat, get, post};
use super::world::{Made, Play, World, spec};

fn gated(said: &str) -> Play {
    match said {
        "quick" => Play::say("Quick."),
        _ => Play::Gated(vec!["First sentence. ".into(), "Second sentence.".into()]),
    }
}

#[tokio::test]
async fn a_stream_has_events_with_ids_and_ends_with_the_whole_reply() {
    let world = World::scripted(|_| Play::say("One. Two.")).await;
    let mut events = chat("hello").streamed().open(world.address).await;
    let all = events.rest().await;
    let ids: Vec<_> = all.iter().map(|event| event.id.clone()).collect();
    assert_eq!(ids, (0..all.len()).map(|n| n.to_string()).collect::<Vec<_>>());
    let sentences: String =
        all.iter().filter(|event| event.name == "sentence").map(|event| event.data["text"].as_str().unwrap()).collect();
    assert_eq!(sentences, "One. Two.");
    let last = all.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["reply"], &last.data["turn"]), ("done", &json!("One. Two."), &json!(1)));
    let head = chat("again").streamed().send(world.address).await;
    assert_eq!(head.field("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(head.field("x-accel-buffering"), Some("no"));
}

#[tokio::test]
async fn the_same_request_sent_again_joins_its_turn_and_the_model_is_asked_once() {
    let world = World::scripted(gated).await;
    let to = world.address;
    let cookie = get("/api/state").send(to).await.cookie().unwrap();
    let body = json!({"message": "hello", "request": "r-1"});
    let first = post("/api/chat", &body).with("cookie", &cookie).streamed().open(to).await;
    world.model.at_gate(1).await;
    // The network drops.
    drop(first);
    let mut second = post("/api/chat", &body).with("cookie", &cookie).streamed().open(to).await;
    let whole = post("/api/chat", &body).with("cookie", &cookie);
    let whole = tokio::spawn(async move { whole.send(to).await });
    world.model.gate.add_permits(1);
    let last = second.rest().await.pop().unwrap();
    assert_eq!((last.name.as_str(), last.data["reply"].as_str()), ("done", Some("First sentence. Second sentence.")));
    assert_eq!(whole.await.unwrap().json()["reply"], "First sentence. Second sentence.");
    // And once more when all is over, from where the client stood.
    let again = post("/api/chat", &body).with("cookie", &cookie).streamed().with("last-event-id", &last.id);
    assert_eq!(again.open(to).await.rest().await, [last]);
    assert_eq!(world.asked(), 1);
    let seen = get("/api/transcript").with("cookie", &cookie).send(to).await.json();
    assert_eq!(seen["lines"].as_array().unwrap().len(), 2, "{seen}");
    // Another session's request of the same name is another's.
    let other = post("/api/chat", &json!({"message": "quick", "request": "r-1"})).send(to).await;
    assert_eq!(other.json()["reply"], "Quick.");
}

#[tokio::test]
async fn g46_so_many_read_one_turn_and_each_that_joins_is_counted_at_its_address() {
    // The one that begins it, all who have a place beside it, and one more.
    let limits = ChatLimits { requests_per_ip_per_minute: READERS_PER_TURN_MAX as u32 + 1, ..spec().limits };
    let made = Made { spec: ChatSpec { limits, ..spec() }, script: Arc::new(gated), ..Made::default() };
    let world = World::made(made).await;
    let to = world.address;
    let cookie = get("/api/state").send(to).await.cookie().unwrap();
    let body = json!({"message": "hello", "request": "r-1"});
    let join = post("/api/chat", &body).with("cookie", &cookie).streamed();
    let mut readers = Vec::new();
    for _ in 0..READERS_PER_TURN_MAX {
        let mut events = join.open(to).await;
        assert_eq!(events.next().await.unwrap().name, "sentence");
        readers.push(events);
    }
    let refused = join.send(to).await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_readers".into()));
    assert_eq!(refused.field("retry-after"), Some("2"));
    // Whoever goes leaves a place, and the next that takes it is the address's last for this minute.
    drop(readers.pop());
    let last = timeout(PATIENCE, async {
        loop {
            let mut events = join.open(to).await;
            if events.next().await.is_some() {
                break events;
            }
        }
    });
    readers.push(last.await.expect("the place is given back"));
    drop(readers.pop());
    let limited = timeout(PATIENCE, async {
        loop {
            let refused = join.send(to).await;
            if refused.code() != "too_many_readers" {
                break refused;
            }
        }
    });
    let limited = limited.await.expect("the place is given back");
    assert_eq!((limited.status, limited.code()), (429, "rate_limited".into()));
    world.model.gate.add_permits(1);
    assert_eq!(readers[0].rest().await.pop().unwrap().name, "done");
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn a_stop_ends_the_answer_at_once_and_the_session_goes_on() {
    let world = World::scripted(gated).await;
    let to = world.address;
    let cookie = get("/api/state").send(to).await.cookie().unwrap();
    let mut events = chat("hello").with("cookie", &cookie).streamed().open(to).await;
    world.model.at_gate(1).await;
    // Nobody else stops it.
    assert_eq!(post("/api/stop", &json!({})).send(to).await.json(), json!({"stopped": 0}));
    let stopped = post("/api/stop", &json!({})).with("cookie", &cookie).send(to).await;
    assert_eq!(stopped.json(), json!({"stopped": 1}));
    let last = events.rest().await.pop().unwrap();
    assert_eq!((last.name.as_str(), last.data["error"]["code"].as_str()), ("error", Some("stopped")));
    let next = chat("quick").with("cookie", &cookie).send(to).await;
    assert_eq!((next.status, next.json()["reply"].as_str()), (200, Some("Quick.")));
}

#[tokio::test]
async fn what_is_under_way_is_told_to_a_second_tab() {
    let world = World::scripted(gated).await;
    let to = world.address;
    let cookie = get("/api/state").send(to).await.cookie().unwrap();
    let body = json!({"message": "hello", "request": "r-tab"});
    let one = post("/api/chat", &body).with("cookie", &cookie);
    let one = tokio::spawn(async move { one.send(to).await });
    world.model.at_gate(1).await;
    let seen = get("/api/transcript").with("cookie", &cookie).send(to).await.json();
    assert_eq!(seen["under_way"], json!(["r-tab"]));
    world.model.gate.add_permits(1);
    assert_eq!(one.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_conversation_is_downloaded_as_text_and_forgotten() {
    let made = Made { offline: Some("offline model".into()), ..Made::default() };
    let world = World::made(made).await;
    let to = world.address;
    let cookie = chat("hello <b>there</b>").send(to).await.cookie().unwrap();
    let file = get("/api/transcript?download").with("cookie", &cookie).send(to).await;
    assert_eq!(file.field("content-disposition"), Some("attachment; filename=\"conversation.txt\""));
    assert_eq!(file.field("content-type"), Some("text/plain; charset=utf-8"));
    assert!(
        file.body.starts_with("Bookly\n(offline model)\n\n[2027-01-15T08:00:00.000Z] You:\nhello <b>there</b>\n"),
        "{}",
        file.body
    );
    let forgotten = ask("DELETE", "/api/transcript").with("cookie", &cookie).send(to).await;
    assert_eq!(forgotten.json(), json!({"forgotten": true}));
    let seen = get("/api/transcript").with("cookie", &cookie).send(to).await.json();
    assert_eq!(seen["lines"], json!([]));
}

#[tokio::test]
async fn u2_asking_for_a_person_is_answered_with_200() {
    let world = World::plain().await;
    let asked = post("/api/handoff", &json!({})).send(world.address).await;
    assert_eq!(asked.status, 200, "{asked:?}");
    assert_eq!(asked.json()["reply"], "A colleague will get in touch with you.");
    assert_eq!(asked.json()["handed_off"], "asked");
    let log = std::fs::read_to_string(&world.audit).unwrap();
    assert_eq!(log.matches("hand_off").count().min(1), 1, "it is in the audit log: {log}");
}

#[tokio::test]
async fn feedback_names_a_turn_a_judgement_and_a_reason_of_the_list() {
    let world = World::plain().await;
    let to = world.address;
    let cookie = chat("hello").send(to).await.cookie().unwrap();
    let say = |body| post("/api/feedback", &body).with("cookie", &cookie);
    let noted = say(json!({"turn": 1, "judgement": "not_helpful", "reason": "wrong"})).send(to).await;
    assert_eq!((noted.status, noted.json()), (200, json!({"noted": true})));
    for body in [
        json!({"turn": 1, "judgement": "splendid"}),
        json!({"judgement": "helpful"}),
        json!({"turn": -1, "judgement": "helpful"}),
        json!({"turn": 1, "judgement": "helpful", "reason": "because I say so"}),
    ] {
        assert_eq!(say(body.clone()).send(to).await.status, 400, "{body}");
    }
}
