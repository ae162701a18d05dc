//! The two providers' formats over a real socket: golden transcripts, keys, figures, tools, faults.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

mod client;

use carboy_sim::{Bill, Config, Prompt, Reply, Running, Script, Simulator, tokens};
use client::{ANTHROPIC, Got, OPENAI, get, post};
use serde_json::{Value, json};

const MESSAGES: &str = r#"{"model":"claude-x","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;
const MESSAGES_STREAM: &str =
    r#"{"model":"claude-x","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const CHAT_STREAM: &str = r#"{"model":"gpt-x","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;
const RESPONSES_STREAM: &str = r#"{"model":"gpt-x","stream":true,"input":"hi"}"#;

async fn sim() -> Running {
    let script = Script::default().on("hi", Reply::text("Simulated: good day."));
    Simulator::start(Config { script, ..Config::default() }).await.unwrap()
}

/// One tool, called when asked about the weather, and words once it has answered.
async fn sim_with_tool() -> Running {
    let call = Reply { text: "Looking.".into(), ..Reply::tool("get_weather", json!({"city": "Żory"})) };
    let script = Script::default().on("weather", call).on_tool_result("12 °C", Reply::text("It is 12 °C."));
    Simulator::start(Config { script, ..Config::default() }).await.unwrap()
}

fn transcript(got: &Got) -> String {
    format!("{} {}\n\n{}", got.status, got.header("content-type"), got.text())
}

#[tokio::test]
async fn whole_answers_as_the_sdks_read_them() {
    let sim = sim().await;
    let chat = r#"{"model":"gpt-x","messages":[{"role":"user","content":"hi"}]}"#;
    let embeddings = r#"{"model":"e","input":"hi","dimensions":4}"#;
    let mut shown = Vec::new();
    for (path, headers, body) in [
        ("/v1/messages?beta=true", &ANTHROPIC[..], MESSAGES),
        ("/v1/messages/count_tokens", &ANTHROPIC[..], MESSAGES),
        ("/v1/chat/completions", &OPENAI[..], chat),
        ("/v1/responses", &OPENAI[..], r#"{"model":"gpt-x","input":"hi"}"#),
        ("/v1/embeddings", &OPENAI[..], embeddings),
    ] {
        let got = post(sim.addr, path, headers, body).await;
        assert_eq!((got.status, got.header("x-simulated")), (200, "carboy-sim"), "{path}");
        shown.push(format!("POST {path}\n{}", serde_json::to_string_pretty(&got.json()).unwrap()));
    }
    for headers in [&ANTHROPIC[..], &OPENAI[..]] {
        let got = get(sim.addr, "/v1/models", headers).await;
        shown.push(format!("GET /v1/models\n{}", serde_json::to_string_pretty(&got.json()).unwrap()));
    }
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[tokio::test]
async fn a_messages_stream() {
    insta::assert_snapshot!(transcript(&post(sim().await.addr, "/v1/messages", &ANTHROPIC, MESSAGES_STREAM).await));
}

#[tokio::test]
async fn a_chat_stream_with_usage() {
    insta::assert_snapshot!(transcript(&post(sim().await.addr, "/v1/chat/completions", &OPENAI, CHAT_STREAM).await));
}

#[tokio::test]
async fn a_responses_stream() {
    insta::assert_snapshot!(transcript(&post(sim().await.addr, "/v1/responses", &OPENAI, RESPONSES_STREAM).await));
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_is_answered_in_every_format() {
    let sim = sim_with_tool().await;
    let mut shown = String::new();
    for (path, headers, body) in [
        (
            "/v1/messages",
            &ANTHROPIC[..],
            json!({"model": "m", "max_tokens": 100, "stream": true, "tools": [{"name": "get_weather"}],
                "messages": [{"role": "user", "content": [{"type": "text", "text": "the weather?"}]}]}),
        ),
        (
            "/v1/chat/completions",
            &OPENAI[..],
            json!({"model": "m", "stream": true, "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                "messages": [{"role": "user", "content": "the weather?"}]}),
        ),
        (
            "/v1/responses",
            &OPENAI[..],
            json!({"model": "m", "stream": true, "tools": [{"type": "function", "name": "get_weather"}],
                "input": [{"role": "user", "content": [{"type": "input_text", "text": "the weather?"}]}]}),
        ),
    ] {
        shown += &format!("POST {path}\n{}\n", transcript(&post(sim.addr, path, headers, body.to_string()).await));
    }
    insta::assert_snapshot!(shown);

    let result = json!({"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "12 °C"}]}]}]});
    let got = post(sim.addr, "/v1/messages", &ANTHROPIC, result.to_string()).await;
    assert_eq!(got.json()["content"][0]["text"], "It is 12 °C.");
    let result = json!({"model": "m", "messages": [{"role": "tool", "tool_call_id": "t", "content": "12 °C"}]});
    let got = post(sim.addr, "/v1/chat/completions", &OPENAI, result.to_string()).await;
    assert_eq!(got.json()["choices"][0]["message"]["content"], "It is 12 °C.");
    let result = json!({"model": "m", "input": [{"type": "function_call_output", "call_id": "t", "output": "12 °C"}]});
    let got = post(sim.addr, "/v1/responses", &OPENAI, result.to_string()).await;
    assert_eq!(got.json()["output"][0]["content"][0]["text"], "It is 12 °C.");
}

#[tokio::test]
async fn every_key_but_the_real_one_is_refused_in_the_providers_own_words() {
    let sim = sim().await;
    let version = ("anthropic-version", "2023-06-01");
    for headers in
        [vec![version], vec![version, ("x-api-key", "fake")], vec![version, ("authorization", "Bearer fake")]]
    {
        let got = post(sim.addr, "/v1/messages", &headers, MESSAGES).await;
        assert_eq!((got.status, &got.json()["error"]["type"]), (401, &json!("authentication_error")), "{headers:?}");
        assert_eq!(got.json()["request_id"], got.header("request-id"));
        assert!(!got.text().contains("fake"), "a key is never repeated");
    }
    for headers in [vec![], vec![("authorization", "Bearer fake")], vec![("authorization", "sk-sim-real-key")]] {
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"] {
            let got = post(sim.addr, path, &headers, RESPONSES_STREAM).await;
            assert_eq!((got.status, &got.json()["error"]["code"]), (401, &json!("invalid_api_key")), "{path}");
        }
    }
    let bearer = [version, ("authorization", "Bearer sk-ant-sim-real-key")];
    assert_eq!(post(sim.addr, "/v1/messages", &bearer, MESSAGES).await.status, 200);
    // Both fields at once, as when a gateway sets one and the client sent the other: the api key decides.
    let both = [version, ("x-api-key", "fake"), ("authorization", "Bearer sk-ant-sim-real-key")];
    assert_eq!(post(sim.addr, "/v1/messages", &both, MESSAGES).await.status, 401);
    assert_eq!(sim.bill().requests, 1);
}

#[tokio::test]
async fn what_a_provider_would_refuse_is_refused() {
    let sim = sim().await;
    let no_version = [("x-api-key", "sk-ant-sim-real-key")];
    assert_eq!(post(sim.addr, "/v1/messages", &no_version, MESSAGES).await.status, 400);
    for body in ["", "[]", "{}", r#"{"model":"m","max_tokens":1,"messages":[]}"#, r#"{"model":"m","messages":[{}]}"#] {
        assert_eq!(post(sim.addr, "/v1/messages", &ANTHROPIC, body).await.status, 400, "{body}");
    }
    for body in ["{}", r#"{"model":"m"}"#, r#"{"model":"m","messages":[]}"#] {
        assert_eq!(post(sim.addr, "/v1/chat/completions", &OPENAI, body).await.status, 400, "{body}");
        assert_eq!(post(sim.addr, "/v1/responses", &OPENAI, body).await.status, 400, "{body}");
        assert_eq!(post(sim.addr, "/v1/embeddings", &OPENAI, body).await.status, 400, "{body}");
    }
    let websocket = [OPENAI[0], ("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(get(sim.addr, "/v1/responses", &websocket).await.status, 426);
    let lost = post(sim.addr, "/v1/messages/batches", &ANTHROPIC, "{}").await;
    assert_eq!((lost.status, &lost.json()["error"]["type"]), (404, &json!("not_found_error")));
    assert_eq!(sim.bill(), Bill::default());
}

#[tokio::test]
async fn whole_and_streamed_answers_cost_the_same_and_the_bill_has_both() {
    let sim = sim().await;
    let output = tokens("Simulated: good day.".len() as u64);
    let whole = post(sim.addr, "/v1/messages", &ANTHROPIC, MESSAGES).await.json();
    assert_eq!(whole["usage"]["input_tokens"], tokens(MESSAGES.len() as u64));
    assert_eq!(whole["usage"]["output_tokens"], output);
    post(sim.addr, "/v1/messages", &ANTHROPIC, MESSAGES_STREAM).await;
    let input = tokens(MESSAGES.len() as u64) + tokens(MESSAGES_STREAM.len() as u64);
    assert_eq!(sim.bill(), Bill { requests: 2, input, output: 2 * output, ..Bill::default() });
}

#[tokio::test]
async fn the_clients_cap_ends_the_answer() {
    let sim = sim().await;
    let body = MESSAGES.replace("100", "2");
    let got = post(sim.addr, "/v1/messages", &ANTHROPIC, body).await.json();
    assert_eq!((&got["content"][0]["text"], &got["stop_reason"]), (&json!("Simulate"), &json!("max_tokens")));
    assert_eq!(got["usage"]["output_tokens"], 2);
    let chat = r#"{"model":"m","max_tokens":2,"messages":[{"role":"user","content":"hi"}]}"#;
    let got = post(sim.addr, "/v1/chat/completions", &OPENAI, chat).await.json();
    assert_eq!(got["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_stream_that_breaks_is_charged_for_what_went_out() {
    let sim = sim().await;
    let faulty = |fault: &'static str| [ANTHROPIC[0], ANTHROPIC[1], ("x-sim-fault", fault)];
    // message_start, content_block_start, ping, then "Simulated: ".
    let dropped = post(sim.addr, "/v1/messages", &faulty("drop-after=4"), MESSAGES_STREAM).await;
    assert!(!dropped.whole && dropped.text().ends_with("\"Simulated: \"}}\n\n"), "{}", dropped.text());
    assert_eq!(sim.bill().output, tokens("Simulated: ".len() as u64));

    let ended = post(sim.addr, "/v1/messages", &faulty("end-after=4"), MESSAGES_STREAM).await;
    assert!(ended.whole && ended.body.len() == dropped.body.len(), "{}", ended.text());
    let malformed = post(sim.addr, "/v1/messages", &faulty("malformed-after=1, pace-ms=1"), MESSAGES_STREAM).await;
    assert!(
        malformed.text().contains("data: {\"type\": \"content_blo\n\n") && malformed.text().contains("message_stop")
    );
    let error = post(sim.addr, "/v1/messages", &faulty("error-after=3"), MESSAGES_STREAM).await;
    assert!(error.text().ends_with("\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"));
    let cut = post(sim.addr, "/v1/messages", &faulty("truncate-at=10"), MESSAGES).await;
    assert!(!cut.whole && cut.body.len() == 10 && cut.header("content-length").parse::<usize>().unwrap() > 10);
}

#[tokio::test]
async fn a_status_on_demand_has_the_providers_shape() {
    let sim = sim().await;
    for (status, kind) in
        [(429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error"), (402, "billing_error")]
    {
        let fault = format!("status={status}, retry-after=3");
        let headers = [ANTHROPIC[0], ANTHROPIC[1], ("x-sim-fault", &fault)];
        let got = post(sim.addr, "/v1/messages", &headers, MESSAGES).await;
        assert_eq!((got.status, &got.json()["error"]["type"]), (status, &json!(kind)));
        assert_eq!(got.header("retry-after"), "3");
    }
    let headers = [OPENAI[0], ("x-sim-fault", "status=429")];
    let got = post(sim.addr, "/v1/responses", &headers, RESPONSES_STREAM).await;
    assert_eq!(got.json()["error"]["code"], "rate_limit_exceeded");
    let unknown = post(sim.addr, "/v1/messages", &[("x-sim-fault", "explode=1")], MESSAGES).await;
    assert!(unknown.status == 400 && unknown.text().contains("explode=1"));
}

#[tokio::test]
async fn a_rule_sees_the_last_turn_and_the_tools_on_offer() {
    let wanted = |prompt: &Prompt| prompt.last == "b\nc" && !prompt.after_tool && prompt.tools == ["t"];
    let script = Script::default().when(wanted, Reply::text("seen"));
    let sim = Simulator::start(Config { script, ..Config::default() }).await.unwrap();
    let body = json!({"model": "m", "max_tokens": 9, "tools": [{"name": "t"}], "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}]});
    let got: Value = post(sim.addr, "/v1/messages", &ANTHROPIC, body.to_string()).await.json();
    assert_eq!(got["content"][0]["text"], "seen");
}

#[tokio::test]
async fn gemini_answers_in_its_own_shape_and_calls_functions() {
    let sim = sim_with_tool().await;
    let key = [("x-goog-api-key", "AIza-sim-real-key")];
    let ask = |text: &str| {
        json!({"contents": [{"role": "user", "parts": [{"text": text}]}],
               "tools": [{"functionDeclarations": [{"name": "get_weather"}]}]})
        .to_string()
    };
    let got = post(sim.addr, "/v1beta/models/g:generateContent", &key, ask("weather")).await.json();
    let parts = &got["candidates"][0]["content"]["parts"];
    assert_eq!((&parts[0]["text"], &parts[1]["functionCall"]["name"]), (&json!("Looking."), &json!("get_weather")));
    let result = json!({"functionResponse": {"name": "get_weather", "response": {"output": "12 °C"}}});
    let again = json!({"contents": [{"role": "user", "parts": [result]}]}).to_string();
    let got = post(sim.addr, "/v1beta/models/g:streamGenerateContent?alt=sse", &key, again).await;
    assert!(got.text().contains("12 ") && got.text().contains("\"finishReason\":\"STOP\""), "{}", got.text());
    let wrong = post(sim.addr, "/v1beta/models/g:generateContent", &[("x-goog-api-key", "x")], ask("hi")).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["status"]), (401_u16, &json!("UNAUTHENTICATED")));
}

#[tokio::test]
async fn a_subscription_is_served_for_its_own_account_and_calls_tools_of_free_text() {
    let script = Script::default().on("hi", Reply::tool("exec", json!("text(1)")));
    let sim = Simulator::start(Config { script, ..Config::default() }).await.unwrap();
    let own = [("authorization", "Bearer sim-real-chatgpt-token"), ("chatgpt-account-id", "sim-account")];
    let group = json!({"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "exec"}]});
    let body = json!({"model": "m", "input": [{"type": "additional_tools", "tools": [group]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]});
    let got = post(sim.addr, "/backend-api/codex/responses", &own, body.to_string()).await.json();
    let call = &got["output"][0];
    assert_eq!((&call["type"], &call["namespace"]), (&json!("custom_tool_call"), &json!("functions")));
    assert_eq!(call["input"], "text(1)");
    let accounts = get(sim.addr, "/backend-api/wham/accounts/check", &own).await.json();
    assert_eq!(accounts["default_account_id"], "sim-account");
    let other = [own[0], ("chatgpt-account-id", "another")];
    assert_eq!(get(sim.addr, "/backend-api/wham/accounts/check", &other).await.status, 401);
}
