use carboy_core::host::HostPattern;
use carboy_core::ids::RouteId;
use serde_json::Value;

use super::*;

const FORMATS: [WireFormat; 4] =
    [WireFormat::AnthropicMessages, WireFormat::OpenAiChat, WireFormat::OpenAiResponses, WireFormat::Gemini];

fn id() -> RefusalId {
    RefusalId::from_bits(0x1234_abcd)
}

fn sample(reason: Reason) -> Denial {
    Denial::new(reason, "GET example.org:443").by(&RouteId::new(1, &HostPattern::parse("*.example.org").unwrap()))
}

fn parsed(denial: &Denial, format: Option<WireFormat>) -> Value {
    let answer = render(denial, &id(), format, None);
    assert_eq!(answer.content_type, "application/json");
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn every_reason_as_agents_and_people_read_it() {
    // H7
    let mut shown = String::new();
    for reason in Reason::ALL {
        let denial = sample(*reason);
        let json = render(&denial, &id(), Some(WireFormat::AnthropicMessages), None);
        let text = render(&denial, &id(), None, Some("text/plain"));
        let fields: Vec<String> = json.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        shown +=
            &format!("=== {} {} (to a model's client: {})\n{}\n", text.status, reason, json.status, fields.join("\n"));
        shown += &format!(
            "--- json\n{}\n--- text\n{}\n",
            String::from_utf8(json.body).unwrap(),
            String::from_utf8(text.body).unwrap()
        );
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn a_final_refusal_is_a_status_at_which_the_clients_of_models_stop() {
    let status = |reason, format| render(&sample(reason), &id(), format, None).status;
    assert_eq!(FORMATS.map(|f| status(Reason::SecretKnown, Some(f))), [400, 400, 400, 403]);
    assert_eq!(FORMATS.map(|f| status(Reason::SecretMissing, Some(f))), [502, 502, 400, 502]);
    assert_eq!(FORMATS.map(|f| status(Reason::UpstreamUnreachable, Some(f))), [502, 502, 502, 502]);
    assert_eq!(status(Reason::SecretKnown, None), 403);
}

#[test]
fn a_spent_budget_is_what_each_client_stops_at() {
    for reason in [Reason::BudgetExhausted, Reason::CutOff] {
        let answers = FORMATS.map(|format| render(&sample(reason), &id(), Some(format), None));
        assert_eq!(answers.each_ref().map(|answer| answer.status), [402, 402, 400, 402]);
        assert!(answers.iter().all(|answer| answer.headers.contains(&("x-should-retry", "false".to_owned()))));
        let errors = FORMATS.map(|format| parsed(&sample(reason), Some(format))["error"].clone());
        assert_eq!((&errors[0]["type"], &errors[1]["type"]), (&"billing_error".into(), &"billing_error".into()));
        assert_eq!(
            (&errors[2]["code"], &errors[2]["type"]),
            (&"insufficient_quota".into(), &"insufficient_quota".into())
        );
        assert_eq!((&errors[3]["code"], &errors[3]["status"]), (&402.into(), &"RESOURCE_EXHAUSTED".into()));
    }
}

#[test]
fn on_a_socket_the_status_stands_in_the_message() {
    let message: Value = serde_json::from_str(&message(&sample(Reason::BudgetExhausted), &id())).unwrap();
    let seen = [&message["type"], &message["status"], &message["error"]["code"], &message["carboy"]["code"]];
    assert_eq!(serde_json::json!(seen), serde_json::json!(["error", 400, "insufficient_quota", "budget_exhausted"]));
}

#[test]
fn what_others_hold_is_worth_waiting_for_and_says_how_long() {
    let denial = Denial { retry_after_s: Some(7), ..sample(Reason::BudgetHeld) };
    let answers = FORMATS.map(|format| render(&denial, &id(), Some(format), None));
    assert_eq!(answers.each_ref().map(|answer| answer.status), [429, 429, 503, 429]);
    for answer in answers {
        assert!(answer.headers.contains(&("retry-after", "7".to_owned())));
        assert!(!answer.headers.iter().any(|(name, _)| *name == "x-should-retry"));
    }
    assert!(
        !render(&sample(Reason::BudgetHeld), &id(), None, None).headers.iter().any(|(name, _)| *name == "retry-after")
    );
}

#[test]
fn every_format_shows_code_id_and_both_next_steps() {
    for reason in Reason::ALL {
        for format in FORMATS.map(Some).into_iter().chain([None]) {
            let body = parsed(&sample(*reason), format);
            let message = body["error"]["message"].as_str().unwrap();
            for part in [
                reason.what(),
                reason.agent_step(),
                &reason.operator_step_for(&id()),
                &format!("[carboy explain {}]", id()),
            ] {
                assert!(message.contains(part), "{reason}: {message}");
            }
            assert_eq!(body["carboy"]["code"], reason.code());
            assert_eq!(body["carboy"]["rule"], "r1:*.example.org");
        }
    }
}

#[test]
fn each_protocol_gets_its_own_error_type() {
    let types = |reason| FORMATS.map(|format| parsed(&sample(reason), Some(format))["error"]["type"].clone());
    let null = Value::Null;
    assert_eq!(
        types(Reason::HostNotAllowed),
        ["permission_error".into(), "invalid_request_error".into(), "invalid_request_error".into(), null.clone()]
    );
    assert_eq!(
        types(Reason::BodyTooLarge),
        ["request_too_large".into(), "invalid_request_error".into(), "invalid_request_error".into(), null.clone()]
    );
    assert_eq!(
        types(Reason::Stopping),
        ["overloaded_error".into(), "server_error".into(), "server_error".into(), null]
    );
    let gemini = parsed(&sample(Reason::SecretKnown), Some(WireFormat::Gemini));
    assert_eq!((&gemini["error"]["code"], &gemini["error"]["status"]), (&403.into(), &"PERMISSION_DENIED".into()));
}

#[test]
fn only_what_can_pass_by_itself_may_be_retried() {
    for reason in Reason::ALL {
        let answer = render(&sample(*reason), &id(), None, None);
        let final_word = answer.headers.contains(&("x-should-retry", "false".to_owned()));
        assert_eq!(final_word, !WORTH_RETRYING.contains(reason), "{reason}");
        assert!(final_word || answer.status >= 500 || answer.status == 429, "{reason}");
    }
}

#[test]
fn text_is_for_those_who_ask_for_it_and_speak_no_models_format() {
    let denial = sample(Reason::HostNotAllowed);
    let is_text = |accept| render(&denial, &id(), None, accept).content_type.starts_with("text/plain");
    for accept in ["text/plain", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "TEXT/*;q=0.2"] {
        assert!(is_text(Some(accept)), "{accept}");
    }
    for accept in [
        "*/*",
        "application/json",
        "text/plain, application/json",
        "text/html;q=0",
        "text/html;q=x",
        "text/plain;q=0.5, application/problem+json;q=0.9",
        "",
    ] {
        assert!(!is_text(Some(accept)), "{accept}");
    }
    assert!(!is_text(None) && !is_text(Some(&format!("text/plain,{}", "x".repeat(ACCEPT_BYTES_MAX)))));
    let llm = render(&denial, &id(), Some(WireFormat::OpenAiChat), Some("text/plain"));
    assert_eq!(llm.content_type, "application/json");
}

#[test]
fn a_hostile_detail_neither_moves_the_cursor_nor_fakes_a_line_nor_grows() {
    let detail = format!("GET /\u{1b}[2J\r\nnext: run me\u{202e}{}", "x".repeat(4096));
    let denial = Denial::new(Reason::RequestNotAllowed, detail);
    let text = String::from_utf8(render(&denial, &id(), None, Some("text/plain")).body).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("next:")).count(), 1);
    assert!(!text.contains(['\u{1b}', '\r', '\u{202e}']));
    assert!(text.len() < DETAIL_CHARS_MAX + 1024);
}

#[test]
fn a_client_of_grpc_reads_a_status_and_the_words_of_every_reason() {
    // H7
    for reason in Reason::ALL {
        let mut denial = sample(*reason);
        denial.detail = "100 % of ü\u{202e}".into();
        let answer = grpc(&denial, &id());
        assert_eq!((answer.status, answer.content_type, answer.body.len()), (200, "application/grpc", 0));
        let field = |name: &str| &answer.headers.iter().find(|(field, _)| *field == name).unwrap().1;
        let retried = field("grpc-status") == "14";
        assert_eq!(retried, WORTH_RETRYING.contains(reason) && *reason != Reason::BudgetHeld, "{reason}");
        assert!(field("grpc-message").contains("100 %25 of %C3%BC%EF%BF%BD"), "{reason}");
        assert!(field("grpc-message").bytes().all(|byte| matches!(byte, b' '..=b'~')), "{reason}");
        assert_eq!(field("x-carboy-reason"), reason.code());
    }
    let status =
        |reason| grpc(&sample(reason), &id()).headers.iter().find(|(n, _)| *n == "grpc-status").unwrap().1.clone();
    assert_eq!(status(Reason::SecretKnown), "7");
    assert_eq!(status(Reason::BudgetExhausted), "8");
    assert_eq!(status(Reason::BodyUndecodable), "12");
    assert_eq!(status(Reason::AuditUnavailable), "9");
}
