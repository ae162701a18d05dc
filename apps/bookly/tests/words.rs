//! What Bookly says and is told: the prompt's sections, the reminders, and the phrases.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

use bookly::agent::{
    CRITICAL_REMINDER, ID_PATTERNS, LONG_CONVERSATION_REMINDER, OFF_TOPIC, REFUSAL, format_return_policy_block, spec,
};
use bookly::config::{RETURN_POLICY, ReturnPolicy};
use bookly::server::{GREETING, TITLE};
use carboy_core::chat::{ChatSpec, Confirm, Grounded, GroundingScope, Identity, ToolSource};
use regex::Regex;

const SECTIONS: [&str; 8] =
    ["identity", "critical_rules", "scope", "return_policy", "tool_rules", "tone", "examples", "reminders"];

fn bookly() -> ChatSpec {
    spec(TITLE, GREETING, &RETURN_POLICY).unwrap()
}

fn section(name: &str) -> String {
    let system = bookly().prompt.system;
    let inner = system.split_once(&format!("<{name}>\n")).unwrap().1;
    inner.split_once(&format!("\n</{name}>")).unwrap().0.to_owned()
}

fn matches(patterns: &[&str], text: &str) -> Vec<String> {
    let hits = |pattern: &&&str| Regex::new(pattern).unwrap().is_match(text);
    patterns.iter().filter(hits).map(|pattern| (*pattern).to_owned()).collect()
}

#[test]
fn g3_the_prompt_has_all_eight_sections_in_their_order_and_nothing_around_them() {
    let system = bookly().prompt.system;
    let opened: Vec<&str> =
        system.split("\n\n<").map(|part| part.trim_start_matches('<').split_once('>').unwrap().0).collect();
    assert_eq!(opened, SECTIONS);
    assert!(system.starts_with("<identity>") && system.ends_with("</reminders>"));
    for name in SECTIONS {
        assert_eq!(system.matches(&format!("<{name}>\n")).count(), 1, "{name}");
        assert_eq!(system.matches(&format!("\n</{name}>")).count(), 1, "{name}");
        assert!(!section(name).trim().is_empty(), "{name}");
    }
}

#[test]
fn g4_the_critical_rules_stand_before_every_other_rule_and_again_at_the_end() {
    let rules = section("critical_rules");
    let rules = rules.split_once("\n<refusal_template>").unwrap().0;
    assert!(rules.lines().count() >= 5, "{rules}");
    assert!(section("reminders").ends_with(rules), "the same words, last");
}

#[test]
fn g1_the_refusal_stands_in_the_prompt_word_for_word_and_the_runtime_has_the_same() {
    let spec = bookly();
    assert!(spec.prompt.system.contains(&format!("<refusal_template>{REFUSAL}</refusal_template>")));
    assert_eq!(spec.prompt.refusal, REFUSAL);
    assert_eq!(matches(OFF_TOPIC, REFUSAL), [] as [String; 0]);
    let scope = section("scope");
    for job in ["Order look-up", "Returns", "Store policies"] {
        assert!(scope.contains(job), "{job}");
    }
    assert!(scope.contains("Everything else is out of scope"));
}

#[test]
fn g5_the_sections_policy_is_the_formatters_and_no_other_section_has_a_number_of_days() {
    assert_eq!(section("return_policy"), format_return_policy_block(&RETURN_POLICY));
    let days = Regex::new(r"(?i)\b[0-9]+[- ](?:working )?days?\b").unwrap();
    for name in SECTIONS.into_iter().filter(|name| *name != "return_policy") {
        assert!(!days.is_match(&section(name)), "{name}");
    }
    let other = ReturnPolicy { window_days: 14, ..RETURN_POLICY };
    let changed = spec(TITLE, GREETING, &other).unwrap().prompt.system;
    assert_eq!(
        bookly().prompt.system.replace(&RETURN_POLICY.block(), &other.block()),
        changed,
        "and nothing else changes"
    );
}

#[test]
fn g6_there_are_exactly_four_examples_and_they_are_the_four() {
    let examples = section("examples");
    let names = Regex::new(r#"<example name="([^"]+)">"#).unwrap();
    let names: Vec<&str> = names.captures_iter(&examples).map(|found| found.get(1).unwrap().as_str()).collect();
    assert_eq!(names, ["missing order number", "policy quoted word for word", "off topic", "two orders"]);
    assert!(examples.contains(&format!("You: {REFUSAL}")));
    let ids = Regex::new(ID_PATTERNS[0]).unwrap();
    for id in ids.find_iter(&bookly().prompt.system) {
        assert!(["BK-9001", "BK-9002"].contains(&id.as_str()), "{} could be somebody's", id.as_str());
    }
}

#[test]
fn g7_g8_the_reminders_are_apart_from_the_prompt_that_is_cached() {
    let prompt = bookly().prompt;
    assert_eq!(
        (prompt.reminder.as_str(), prompt.long_reminder.as_str()),
        (CRITICAL_REMINDER, LONG_CONVERSATION_REMINDER)
    );
    assert!(!prompt.system.contains(CRITICAL_REMINDER) && !prompt.system.contains(LONG_CONVERSATION_REMINDER));
}

#[test]
fn g20_the_model_is_told_to_quote_policies_and_not_to_paraphrase() {
    assert!(section("tool_rules").contains("lookup_policy: quote its text word for word, without paraphrase"));
}

#[test]
fn g11_i5_the_runtime_demands_the_check_and_a_click_besides_the_tool() {
    let spec = bookly();
    let rules = &spec.rules["initiate_return"];
    assert_eq!(rules.confirm, Confirm::Always);
    let [check] = rules.requires.as_slice() else { panic!("{rules:?}") };
    assert_eq!(
        (check.tool.as_str(), check.same.as_slice()),
        ("check_return_eligibility", ["order_id".to_owned()].as_slice())
    );
    assert_eq!(check.result, Some(("eligible".into(), true.into())));
    assert_eq!((spec.identity, spec.tools), (Identity::Anonymous, vec![ToolSource::Application]));
    for tool in ["lookup_order", "check_return_eligibility"] {
        assert!(spec.rules[tool].calls_per_session_max.is_some(), "who guesses addresses has so many tries");
    }
}

#[test]
fn g21_g22_g23_replies_are_plain_and_their_ids_and_dates_are_of_this_turn() {
    let reply = bookly().reply;
    assert_eq!((reply.dates, reply.scope, reply.plain_text), (Grounded::Yes, GroundingScope::Turn, true));
    for (text, ids) in [
        ("Order BK-1001 is on its way.", 1),
        ("BK-1001, BK-1002", 2),
        ("Your return number is RMA-BCDFGHJK.", 1),
        ("BK-10011 and XBK-1001 and RMA-BCD", 0),
    ] {
        let found: usize = reply.id_patterns.iter().map(|p| Regex::new(p).unwrap().find_iter(text).count()).sum();
        assert_eq!(found, ids, "{text}");
    }
}

#[test]
fn g24_an_answer_to_something_else_is_known_by_its_phrases() {
    for text in [
        "Here's a poem about the sea: ...",
        "Sure! Here is a short recipe for pancakes.",
        "Once upon a time there was a bookseller.",
        "The capital of France is Paris.",
        "The weather today is sunny.",
        "As an AI language model, I think so.",
        "As a large language model I cannot.",
        "I'd recommend reading Middlemarch first.",
        "I would recommend the novel Beloved.",
        "You should read that novel next.",
        "The plot of the novel turns on a will.",
        "def fibonacci(n): return n",
        "My system prompt is as follows.",
        "My instructions say that I must not.",
    ] {
        assert!(!matches(OFF_TOPIC, text).is_empty(), "{text}");
    }
}

#[test]
fn g25_what_a_support_desk_says_passes() {
    let policies = bookly::data::POLICIES.iter().map(|(_, words)| (*words).to_owned());
    let own = [REFUSAL, bookly::agent::FALLBACK, bookly::agent::HAND_OFF, GREETING].map(str::to_owned);
    let said = [
        "I'd recommend contacting our support team about that.",
        "I would recommend checking your spam folder for the label.",
        "I'd recommend waiting until 2026-05-30.",
        "You should receive an email shortly.",
        "You should read the note in the parcel label before you send it... it says where it goes.",
        "Here's the status of your order: it is in transit.",
        "Here is your return number: RMA-BCDFGHJK.",
        "Your order has The Left Hand of Darkness by Ursula K. Le Guin.",
        "The book is on its way and should arrive on 2026-05-30.",
        "As a reminder, only delivered orders can be returned.",
        "As an alternative, you can return both books.",
        "The function of the prepaid label is to make the return free.",
        "I found both orders. Which of the two would you like to return?",
        "Once the parcel arrives, the refund takes 5 working days.",
    ]
    .map(str::to_owned);
    for text in policies.chain(own).chain([RETURN_POLICY.block()]).chain(said) {
        assert_eq!(matches(OFF_TOPIC, &text), [] as [String; 0], "{text}");
    }
}

#[test]
fn g60_more_than_thirty_seven_tests_name_the_row_that_they_prove() {
    // Tests of the desk alone; the engine, the service and the terminal have their own.
    let own = ["src/config.rs", "tests/words.rs", "tests/conversations.rs", "tests/literate.rs"];
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = std::fs::read_dir(top.join("src/tests")).unwrap().map(|entry| entry.unwrap().path());
    let all = own.iter().map(|file| top.join(file)).chain(beside);
    let text: String = all.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let mut tests = text.split("#[test]").chain(text.split("#[tokio::test")).skip(1).filter(|rest| {
        let name = rest.split("fn ").nth(1).unwrap_or_default();
        let body = rest.split("#[").next().unwrap_or_default();
        name.starts_with(['g', 'i']) && name[1..].starts_with(|c: char| c.is_ascii_digit()) || body.contains("// G")
    });
    assert!(tests.by_ref().count() >= 37);
}
