//! What happens when something is not there, too much or wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use carboy_agent::ModelError;
use carboy_core::verdict::Reason;
use serde_json::json;

use super::browser::talk::with_card;
use super::http::{Answer, ask, chat, get, post};
use super::world::{Play, World};

fn failing(said: &str) -> Play {
    Play::Fail(match said {
        "rate" => ModelError::RateLimited { retry_after: Some(Duration::from_secs(7)) },
        "connection" => ModelError::Unreachable("model.example: connection refused".into()),
        "status" => ModelError::Status { status: 529 },
        "malformed" => ModelError::Malformed("no JSON".into()),
        "route" => ModelError::Refused(Reason::HostNotAllowed),
        "panic" => return Play::Panic,
        _ => return Play::say("fine"),
    })
}

#[tokio::test]
async fn g49_each_failure_has_its_status_and_a_line_of_its_own_in_the_log() {
    let world = World::scripted(failing).await;
    let to = world.address;
    let table = [
        ("rate", 503, "model_rate_limited", Some("7")),
        ("connection", 503, "model_unreachable", Some("10")),
        ("status", 502, "model_status", None),
        ("malformed", 502, "model_malformed", None),
        ("panic", 500, "internal", None),
    ];
    for (message, status, code, retry) in table {
        let answer = chat(message).send(to).await;
        assert_eq!(
            (answer.status, answer.code().as_str(), answer.field("retry-after")),
            (status, code, retry),
            "{message}"
        );
        let id = answer.field("x-request-id").unwrap().to_owned();
        let lines = world.lines();
        let line =
            lines.iter().find(|line| line["event"] == "request" && line["correlation_id"] == id.as_str()).unwrap();
        assert_eq!((line["status"].as_u64(), line["code"].as_str()), (Some(status.into()), Some(code)));
        assert!(!answer.body.contains("model.example") && !answer.body.contains("529"), "{}", answer.body);
    }
    let invalid = post("/api/chat", &json!({"message": 7})).send(to).await;
    assert_eq!((invalid.status, invalid.code()), (400, "invalid_request".into()));
    // The same as a stream: a refusal before the first word has its status too.
    let streamed = chat("status").streamed().send(to).await;
    assert_eq!((streamed.status, streamed.code()), (502, "model_status".into()));
}

#[tokio::test]
async fn g49_i5_a_card_that_was_used_or_declined_says_that_it_is_over_in_a_code_of_its_own() {
    let (world, done) = with_card().await;
    let to = world.address;
    let first = chat("hello").send(to).await;
    let cookie = first.cookie().unwrap();
    let over = |answer: &Answer| {
        assert_eq!((answer.status, answer.code().as_str()), (409, "card_over"), "{}", answer.body);
        assert!(answer.body.contains("it was used, declined, replaced or is too old"), "{}", answer.body);
        assert!(answer.body.contains("\"next\":\"ask for it again\""), "{}", answer.body);
    };
    for (path, times) in [("/api/confirm", 1), ("/api/decline", 1)] {
        chat("return it").with("cookie", &cookie).send(to).await;
        let kept = get("/api/transcript").with("cookie", &cookie).send(to).await;
        let kept: serde_json::Value = serde_json::from_str(&kept.body).unwrap();
        let token = json!({"token": kept["cards"][0]["token"]});
        assert_eq!(post(path, &token).with("cookie", &cookie).send(to).await.status, 200);
        for again in ["/api/confirm", "/api/decline"] {
            over(&post(again, &token).with("cookie", &cookie).send(to).await);
        }
        assert_eq!(done.load(Ordering::SeqCst), times);
    }
    over(&post("/api/confirm", &json!({"token": "none"})).with("cookie", &cookie).send(to).await);
}

#[tokio::test]
async fn g40_no_word_of_a_person_or_a_model_no_id_and_no_address_is_in_the_log() {
    let world = World::scripted(|said| match said {
        "canary-boom" => Play::Panic,
        _ => Play::say("canary-reply"),
    })
    .await;
    let to = world.address;
    let first = chat("canary-message").send(to).await;
    let cookie = first.cookie().unwrap();
    for one in [
        chat("canary-message").streamed(),
        chat("canary-boom"),
        get("/canary-path?canary-query=1"),
        get("/static/canary-file"),
        ask("CANARY", "/"),
        post("/api/confirm", &json!({"token": "canary-token"})),
        post("/api/feedback", &json!({"turn": 1, "judgement": "helpful", "reason": "canary-reason"})),
        post("/api/chat", &json!({"message": "x", "request": "canary-request"})),
        get("/").with("user-agent", "canary-agent"),
        get("/api/state").with("authorization", "Bearer canary-bearer"),
        get("/").with("x-forwarded-for", "203.0.113.77"),
    ] {
        one.with("cookie", &format!("{cookie}; canary=canary")).send(to).await;
    }
    let log = world.log.lock().unwrap().join("\n").to_ascii_lowercase();
    let id = cookie.split_once('=').unwrap().1.to_ascii_lowercase();
    assert!(log.contains("\"route\":\"-\"") && log.contains("\"session\":\""), "{log}");
    for secret in ["canary", "203.0.113", "127.0.0.1", &id, id.split_once('.').unwrap().0] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn g83_lines_of_a_request_and_its_turn_have_one_correlation_id_and_the_audit_logs_session_and_turn() {
    let world = World::scripted(|said| match said {
        "boom" => Play::Fail(ModelError::Status { status: 500 }),
        _ => Play::say("Hello."),
    })
    .await;
    let to = world.address;
    let first = chat("hello").send(to).await;
    let cookie = first.cookie().unwrap();
    let second = chat("again").with("cookie", &cookie).streamed().send(to).await;
    chat("boom").with("cookie", &cookie).send(to).await;
    // On disk with all before it when it is answered.
    let judged = json!({"turn": 1, "judgement": "helpful", "reason": ""});
    assert_eq!(post("/api/feedback", &judged).with("cookie", &cookie).send(to).await.status, 200);

    let lines = world.lines();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let (requests, turns) = (of("request"), of("turn"));
    for (request, answer) in requests.iter().zip([&first, &second]) {
        assert_eq!(request["correlation_id"].as_str(), answer.field("x-request-id"), "the client has it too");
    }
    let log = std::fs::read_to_string(&world.audit).unwrap();
    let entry: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let session = &entry["details"]["session"];
    assert!(session.as_str().is_some_and(|session| session.len() == 12), "{entry}");
    let told: Vec<_> = turns.iter().map(|line| (line["code"].as_str().unwrap(), line["turn"].as_u64())).collect();
    assert_eq!(told, [("done", Some(1)), ("done", Some(2)), ("model_status", None)]);
    for (request, turn) in requests.iter().zip(&turns) {
        assert_eq!((&request["session"], &turn["session"]), (session, session));
        assert_eq!(request["correlation_id"], turn["correlation_id"]);
        for name in ["timestamp", "level", "event"] {
            assert!(request[name].is_string() && turn[name].is_string(), "{name}");
        }
    }
}

#[tokio::test]
async fn bodies_have_a_limit_a_form_and_a_deadline() {
    let world = World::plain().await;
    let to = world.address;
    let long = chat(&"x".repeat(60_000)).send(to).await;
    assert_eq!((long.status, long.code()), (413, "too_large".into()));
    for body in ["", "{", "[]", "\"x\"", "{\"message\":", "\u{0}"] {
        let answer = ask("POST", "/api/chat").with("content-type", "application/json").saying(body).send(to).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request".into()), "{body:?}");
    }
    // The longest message, every character as long as JSON can write it, passes the border.
    let escaped = format!("{{\"message\":\"{}\"}}", "\\ud83d\\ude00".repeat(4_000));
    let whole = ask("POST", "/api/chat").with("content-type", "application/json").saying(&escaped).send(to).await;
    assert_eq!(whole.status, 200, "{whole:?}");
}
