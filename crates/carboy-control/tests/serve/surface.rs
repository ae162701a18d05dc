//! Routes, walls and cookies.

use std::collections::{BTreeMap, BTreeSet};

use carboy_control::serve::Architecture;
use serde_json::json;

use super::http::{Answer, ask, chat, get, post, raw};
use super::world::{Made, World, spec};

/// What every answer has to carry.
fn walled(what: &str, answer: &Answer) {
    for name in [
        "content-security-policy",
        "x-content-type-options",
        "x-frame-options",
        "referrer-policy",
        "permissions-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
        "cache-control",
    ] {
        assert!(answer.field(name).is_some(), "{what} has no {name}: {answer:?}");
    }
    let policy = answer.field("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{what}: {policy}");
}

#[tokio::test]
async fn g43_the_routes_and_nothing_else_is_there() {
    let world = World::plain().await;
    let to = world.address;
    assert_eq!(get("/health").send(to).await.json(), json!({"status": "ok"}));
    let start = get("/").send(to).await;
    assert_eq!((start.status, start.field("location")), (307, Some("static/index.html")));
    let page = get("/static/index.html").send(to).await;
    assert_eq!((page.status, page.field("content-type")), (200, Some("text/html; charset=utf-8")));
    let reply = chat("hello").send(to).await;
    assert_eq!((reply.status, reply.json()["reply"].as_str()), (200, Some("You said: hello.")));
    for path in [
        "/docs",
        "/redoc",
        "/openapi.json",
        "/metrics",
        "/api",
        "/api/",
        "/api/chat/",
        "/static",
        "/static/",
        "/static/../x",
        "/static/%2e%2e/Cargo.toml",
        "/static/app.js.map",
        "/static/embed.js",
        "//",
        "/%00",
        "/favicon.ico",
        "/.env",
    ] {
        let answer = get(path).send(to).await;
        assert_eq!((answer.status, answer.field("set-cookie")), (404, None), "{path}");
        assert!(answer.json()["error"]["next"].is_string());
    }
}

#[tokio::test]
async fn g43_methods_that_an_address_has_not_are_told_and_head_and_options_are_sane() {
    let world = World::plain().await;
    let to = world.address;
    let wrong = get("/api/chat").send(to).await;
    assert_eq!((wrong.status, wrong.field("allow"), wrong.code()), (405, Some("POST"), "method_not_allowed".into()));
    let options = ask("OPTIONS", "/api/transcript").send(to).await;
    assert_eq!((options.status, options.field("allow")), (204, Some("GET,HEAD,DELETE")));
    assert_eq!(options.field("access-control-allow-origin"), None);
    let head = ask("HEAD", "/static/index.html").send(to).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    walled("OPTIONS", &options);
    walled("HEAD", &head);
}

#[tokio::test]
async fn g47_every_answer_has_its_walls_errors_and_rubbish_too() {
    let world = World::plain().await;
    let to = world.address;
    let asked = [
        get("/"),
        get("/health"),
        get("/static/index.html"),
        get("/static/app.js"),
        get("/nothing"),
        get("/architecture"),
        get("/api/state"),
        get("/api/transcript"),
        get("/api/transcript?download"),
        chat("hello"),
        chat("hello").streamed(),
        post("/api/chat", &json!({})),
        ask("POST", "/api/chat").saying("x"),
        ask("PUT", "/api/chat"),
        chat("hello").with("origin", "https://evil.example"),
        get("/").with("host", "evil.example"),
        chat(&"x".repeat(60_000)),
    ];
    for one in asked {
        walled(&format!("{one:?}"), &one.send(to).await);
    }
    // What hyper answers by itself, before there is a request.
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (octets, status) in [("rubbish\r\n\r\n", 400), (long.as_str(), 431), (many.as_str(), 431)] {
        let answer = raw(to, octets.as_bytes()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        walled(octets.get(..20).unwrap_or(octets), &answer);
    }
}

#[tokio::test]
async fn g48_the_page_of_the_source_is_served_with_its_files_or_said_to_be_missing() {
    let to = World::plain().await;
    let missing = get("/architecture").send(to.address).await;
    assert_eq!((missing.status, missing.code()), (404, "no_architecture".into()));
    assert!(missing.json()["error"]["next"].as_str().unwrap().contains("serve: {architecture: true}"));
    assert!(missing.json()["error"]["message"].as_str().unwrap().contains("shows no page of its source"));

    let files = BTreeMap::from([
        ("bookly.css".to_owned(), "p{}".into()),
        ("bookly-1.svg".to_owned(), "<svg/>".into()),
        ("bookly.html".to_owned(), "not served twice".into()),
    ]);
    let page = Architecture { page: "<!doctype html><p>a b".into(), files, policy: None };
    let world = World::made(Made { architecture: Some(page.clone()), ..Made::default() }).await;
    let woven = get("/architecture").send(world.address).await;
    assert_eq!((woven.status, woven.body.as_str()), (200, "<!doctype html><p>a b"));
    walled("/architecture", &woven);
    let css = get("/bookly.css").send(world.address).await;
    assert_eq!(
        (css.status, css.field("content-type"), css.body.as_str()),
        (200, Some("text/css; charset=utf-8"), "p{}")
    );
    assert_eq!(get("/bookly-1.svg").send(world.address).await.field("content-type"), Some("image/svg+xml"));
    for path in ["/bookly.html", "/other.css", "/../bookly.css"] {
        assert_eq!(get(path).send(world.address).await.status, 404, "{path}");
    }

    // A policy of its own is for this page alone.
    let policy = Some("default-src 'none'; style-src 'unsafe-inline'".to_owned());
    let own = Architecture { policy: policy.clone(), ..page };
    let world = World::made(Made { architecture: Some(own), ..Made::default() }).await;
    assert_eq!(get("/architecture").send(world.address).await.field("content-security-policy"), policy.as_deref());
    walled("another", &get("/").send(world.address).await);
}

#[tokio::test]
async fn g59_the_page_of_booklys_source_is_served_with_all_that_it_asks_for() {
    let [(_, page), files @ ..] = bookly::server::ARCHITECTURE else { panic!("no page") };
    let files = files.iter().map(|&(name, bytes)| (name.to_owned(), bytes.into())).collect();
    let page = Architecture { page: (*page).into(), files, policy: None };
    let world = World::made(Made { architecture: Some(page), ..Made::default() }).await;
    let woven = get("/architecture").send(world.address).await;
    assert_eq!(woven.status, 200);
    walled("/architecture", &woven);
    let names = ["href=\"", "src=\"", "srcset=\""].map(|opening| woven.body.split(opening).skip(1));
    let asked: BTreeSet<&str> = names
        .into_iter()
        .flatten()
        .filter_map(|rest| rest.split('"').next())
        .filter(|to| !to.starts_with('#'))
        .collect();
    assert_eq!(asked.len(), bookly::server::ARCHITECTURE.len() - 1);
    for name in asked {
        let file = get(&format!("/{name}")).send(world.address).await;
        assert_eq!(file.status, 200, "{name}");
        walled(name, &file);
    }
}

#[tokio::test]
async fn g51_files_are_part_of_the_program_and_known_by_their_content() {
    let world = World::plain().await;
    let script = get("/static/app.js").send(world.address).await;
    let tag = script.field("etag").unwrap();
    assert_eq!((script.status, script.field("cache-control")), (200, Some("no-cache")));
    let again = get("/static/app.js").with("if-none-match", tag).send(world.address).await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    walled("304", &again);
}

#[tokio::test]
async fn g45_the_cookie_is_minted_once_and_a_tampered_one_is_replaced() {
    let world = World::plain().await;
    let to = world.address;
    let first = get("/static/index.html").send(to).await;
    let set = first.field("set-cookie").unwrap();
    assert!(set.starts_with("carboy-bookly=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
    let cookie = first.cookie().unwrap();
    let told = chat("my first").with("cookie", &cookie).send(to).await;
    assert_eq!((told.status, told.field("set-cookie")), (200, None));
    let lines = |answer: Answer| answer.json()["lines"].as_array().unwrap().len();
    assert_eq!(lines(get("/api/transcript").with("cookie", &cookie).send(to).await), 2);
    for tampered in
        [cookie.replace('=', "=A"), format!("{cookie}x"), "carboy-bookly=".into(), "carboy-bookly=a.b".into()]
    {
        let answer = get("/api/transcript").with("cookie", &tampered).send(to).await;
        assert_eq!(answer.status, 200);
        assert!(answer.cookie().is_some_and(|new| new != cookie), "a new session");
        assert_eq!(lines(answer), 0);
    }
    // One that somebody else's page planted beside ours does not hide it.
    let both = format!("carboy-bookly=planted.x; other=1; {cookie}");
    assert_eq!(lines(get("/api/transcript").with("cookie", &both).send(to).await), 2);
}

#[tokio::test]
async fn g44_a_session_in_the_body_means_nothing() {
    let world = World::plain().await;
    let to = world.address;
    let victim = chat("a secret of mine").send(to).await.cookie().unwrap();
    let id = victim.split_once('=').unwrap().1;
    for id in [id, id.split_once('.').unwrap().0] {
        let body = json!({"message": "what did I say?", "session_id": id, "session": id, "cookie": victim});
        let other = post("/api/chat", &body).send(to).await.cookie().unwrap();
        let seen = get("/api/transcript").with("cookie", &other).send(to).await;
        assert!(!seen.body.contains("a secret of mine"), "{}", seen.body);
    }
}

#[tokio::test]
async fn other_sites_pages_and_forms_change_nothing() {
    let world = World::plain().await;
    let to = world.address;
    let cookie = chat("hello").send(to).await.cookie().unwrap();
    let mine = |one: super::http::Ask| one.with("cookie", &cookie);
    let told = json!({"message": "again", "token": "x", "turn": 1, "judgement": "helpful"});
    for path in ["/api/chat", "/api/confirm", "/api/decline", "/api/stop", "/api/handoff", "/api/feedback"] {
        let foreign = mine(post(path, &told)).with("origin", "https://evil.example").send(to).await;
        assert_eq!((foreign.status, foreign.code()), (403, "foreign_origin".into()), "{path}");
        let framed = mine(post(path, &told)).with("sec-fetch-site", "cross-site").send(to).await;
        assert_eq!(framed.status, 403, "{path}");
        let form = mine(post(path, &told)).with("content-type", "text/plain").send(to).await;
        assert_eq!((form.status, form.code()), (415, "not_json".into()), "{path}");
    }
    let foreign = mine(ask("DELETE", "/api/transcript")).with("origin", "null").send(to).await;
    assert_eq!(foreign.status, 403);
    assert_eq!(world.asked(), 1);
    let own = mine(post("/api/chat", &told)).with("origin", "http://localhost").send(to).await;
    assert_eq!(own.status, 200);
}

#[tokio::test]
async fn a_name_that_was_made_to_mean_this_machine_is_not_served() {
    let world = World::plain().await;
    let rebound = get("/api/state").with("host", "evil.example").send(world.address).await;
    assert_eq!((rebound.status, rebound.code()), (421, "foreign_name".into()));
}

#[tokio::test]
async fn the_state_tells_what_the_page_needs() {
    let made = Made { offline: Some("offline model".into()), metrics: true, ..Made::default() };
    let world = World::made(made).await;
    let state = get("/api/state").send(world.address).await.json();
    assert_eq!(state["title"], "Bookly");
    assert_eq!(state["greeting"], "Hello! Ask me about an order.");
    assert_eq!(state["offline"], "offline model");
    assert_eq!(state["signed_in"], false);
    assert_eq!(state["limits"]["message_chars_max"], 4000);
    let metrics = get("/metrics").send(world.address).await;
    assert!(metrics.body.contains("\ncarboy_chat_rate_limit_exceeded_total 0\n"), "{metrics:?}");
    assert_eq!(metrics.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
}

#[tokio::test]
async fn g90_only_listed_sites_frame_the_chat_and_get_its_script() {
    let framed = carboy_core::chat::ChatSpec { frame_ancestors: vec!["https://shop.example".into()], ..spec() };
    let world = World::made(Made { spec: framed, proxies: vec!["127.0.0.1"], ..Made::default() }).await;
    let secure = get("/static/index.html").with("x-forwarded-proto", "https").send(world.address).await;
    let policy = secure.field("content-security-policy").unwrap();
    assert!(policy.ends_with("frame-ancestors https://shop.example"), "{policy}");
    assert_eq!(secure.field("x-frame-options"), None);
    let set = secure.field("set-cookie").unwrap();
    assert!(set.starts_with("__Host-carboy-bookly="), "{set}");
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=None; Secure; Partitioned"), "{set}");
    let script = get("/static/embed.js").send(world.address).await;
    assert_eq!((script.status, script.field("cross-origin-resource-policy")), (200, Some("cross-origin")));
    assert_eq!(script.field("set-cookie"), None, "a shop's page gets no cookie of ours by its script alone");

    let closed = World::plain().await;
    let script = get("/static/embed.js").send(closed.address).await;
    assert_eq!((script.status, script.code()), (404, "not_embedded".into()));
}
