use carboy_core::chat::Grounded;

use super::*;

const REFUSAL: &str = "I can only help with orders, returns and our policies.";

fn spec() -> ReplySpec {
    ReplySpec {
        id_patterns: vec![r"BK-\d{4}".into(), r"RMA-[0-9A-F]{6}".into()],
        dates: Grounded::Yes,
        scope: GroundingScope::Turn,
        plain_text: true,
        off_topic: vec!["I'd recommend the (?:book|film)".into(), "here is a poem".into(), "the weather is".into()],
    }
}

fn checker() -> Checker {
    Checker::new(&spec(), REFUSAL).unwrap()
}

fn grounds(values: &[&str]) -> Grounds {
    let mut grounds = Grounds::default();
    values.iter().for_each(|value| grounds.release(value));
    grounds
}

fn codes(reply: &str, grounds: &Grounds) -> Vec<&'static str> {
    checker().check(reply, grounds).violations().iter().map(Violation::code).collect()
}

#[test]
fn g21_every_id_of_a_reply_stands_in_a_result_of_this_turn() {
    let known = grounds(&["Order BK-1001 (RMA-00AB12), placed for Sarah Chen"]);
    assert!(codes("Your order BK-1001 has return RMA-00AB12.", &known).is_empty());
    assert_eq!(codes("Your order BK-1002 is fine.", &known), ["ungrounded_id"]);
    assert_eq!(codes("BK-1001, BK-1002 and RMA-00AB13", &known), ["ungrounded_id", "ungrounded_id"]);
    assert_eq!(codes("BK-1001", &Grounds::default()), ["ungrounded_id"]);
}

#[test]
fn g21_the_next_turn_does_not_know_the_ids_of_the_last_unless_the_session_counts() {
    let mut known = grounds(&["BK-1001"]);
    known.begin_turn();
    assert_eq!(codes("BK-1001", &known), ["ungrounded_id"]);
    let spec = ReplySpec { scope: GroundingScope::Session, ..spec() };
    assert!(Checker::new(&spec, REFUSAL).unwrap().check("BK-1001", &known).is_valid());
}

#[test]
fn g21_a_disguised_id_is_an_id() {
    let known = grounds(&["BK-1001"]);
    for disguise in ["BK-1\u{200b}002", "ＢＫ－１００２", "bk-1002", "ВК-1002", "BK\u{2011}1002", "BK-١٠٠٢", "BK-10012"]
    {
        assert_eq!(codes(&format!("It is {disguise}."), &known), ["ungrounded_id"], "{disguise}");
    }
    for same in ["BK-1\u{200b}001", "ＢＫ－１００１", "bk-1001", "BK\u{2011}1001", "BK-1001です", "(BK-1001)"]
    {
        assert!(codes(&format!("It is {same}."), &known).is_empty(), "{same}");
    }
}

#[test]
fn g22_every_date_of_a_reply_stands_in_a_result() {
    let known = grounds(&["delivered 2025-03-03T10:00:00Z"]);
    for reply in ["It came on 2025-03-03.", "It came on March 3, 2025.", "Within 30 days.", "Call 2025 or 03-03."] {
        assert!(codes(reply, &known).is_empty(), "{reply}");
    }
    for reply in ["It came on 2025-03-04.", "It came on April 3rd, 2025.", "２０２５-０３-０４", "until 2026-03-03!"]
    {
        assert_eq!(codes(reply, &known), ["ungrounded_date"], "{reply}");
    }
    let no_dates = Checker::new(&ReplySpec { dates: Grounded::No, ..spec() }, REFUSAL).unwrap();
    assert!(no_dates.check("It came on 2025-03-04.", &known).is_valid());
}

#[test]
fn g23_markdown_is_a_violation_where_plain_text_is_asked_for() {
    assert_eq!(codes("It is **done**.", &Grounds::default()), ["markdown"]);
    let any = Checker::new(&ReplySpec { plain_text: false, ..spec() }, REFUSAL).unwrap();
    assert!(any.check("It is **done**.", &Grounds::default()).is_valid());
}

#[test]
fn g24_an_off_topic_phrase_asks_for_the_refusal_word_for_word() {
    let none = Grounds::default();
    assert_eq!(codes("I’d  recommend the\nfilm Alien.", &none), ["off_topic"]);
    assert!(codes(&format!("I'd recommend the film Alien, but {REFUSAL}"), &none).is_empty());
    assert!(codes(&format!("The weather is not my business. {}", REFUSAL.replace(' ', "\n")), &none).is_empty());
    assert_eq!(codes("The weather is fine. I can only help with orders.", &none), ["off_topic"]);
}

#[test]
fn g25_phrases_stand_at_the_edges_of_words() {
    let none = Grounds::default();
    for reply in [
        "I'd recommend contacting the carrier.",
        "I'd recommend the bookshelf",
        "There is a poem in this book.",
        "Whether is one, the weather isn't: both fine",
        "Adhere is a poem's title",
    ] {
        assert!(codes(reply, &none).is_empty(), "{reply}: {:?}", codes(reply, &none));
    }
}

#[test]
fn g26_all_violations_are_in_one_result_and_say_no_word_of_the_reply() {
    let reply = "# Order BK-7777\nSent on 2025-01-01 **today**. The weather is fine.";
    let result = checker().check(reply, &Grounds::default());
    let codes: Vec<&str> = result.violations().iter().map(Violation::code).collect();
    assert_eq!(codes, ["ungrounded_id", "ungrounded_date", "markdown", "markdown", "off_topic"]);
    assert_eq!(result.codes(), ["markdown", "off_topic", "ungrounded_date", "ungrounded_id"]);
    for violation in result.violations() {
        let text = format!("{violation} {violation:?}");
        assert!(!text.contains("7777") && !text.contains("2025"), "{text}");
    }
    assert!(!result.is_valid());
}

#[test]
fn g85_bad_patterns_are_errors_that_name_them() {
    let bad = |spec: &ReplySpec| Checker::new(spec, REFUSAL).err().unwrap().to_string();
    assert_eq!(
        bad(&ReplySpec { id_patterns: vec!["BK-[".into()], ..spec() }),
        "pattern `BK-[` cannot be used: unclosed character class"
    );
    assert!(bad(&ReplySpec { off_topic: vec!["a(".into()], ..spec() }).starts_with("pattern `a(` cannot be used: "));
    assert!(bad(&ReplySpec { off_topic: vec!["x".into(); 65], ..spec() }).starts_with("there are 65 patterns"));
}
