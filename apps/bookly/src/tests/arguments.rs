//! Layer 3: the tools and what they take (G10, G14–G19).

use carboy_agent::Effect;
use serde_json::json;

use super::{SARAH, Session, Shop, sources};
use crate::config::RETURN_POLICY;
use crate::data::{self, OrderId, POLICIES};

#[test]
fn g10_there_are_exactly_four_tools_and_one_of_them_writes() {
    let shop = Shop::new();
    let names: Vec<(&str, Effect)> =
        shop.tools.iter().map(|tool| (tool.spec().schema.name.as_str(), tool.spec().effect)).collect();
    let expected = [
        ("lookup_order", Effect::Read),
        ("check_return_eligibility", Effect::Read),
        ("initiate_return", Effect::Write),
        ("lookup_policy", Effect::Read),
    ];
    assert_eq!(names, expected);
}

#[test]
fn g10_g19_each_schema_is_an_object_that_takes_nothing_else_and_says_what_each_argument_is() {
    for tool in &Shop::new().tools {
        let schema = &tool.spec().schema.input_schema;
        assert_eq!(schema["type"], "object", "{schema}");
        assert_eq!(schema["additionalProperties"], false, "{schema}");
        for (name, property) in schema["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{name} of {schema}");
        }
    }
    let shop = Shop::new();
    let schema = &shop.tool("initiate_return").spec().schema.input_schema;
    assert_eq!(schema["required"], json!(["order_id", "reason"]));
    assert_eq!(schema["properties"]["order_id"]["pattern"], "^BK-[0-9]{4}$");
}

#[test]
fn g14_control_characters_go_before_lengths_are_counted() {
    let shop = Shop::new();
    let tool = shop.tool("lookup_policy");
    // 40 characters are the limit; with what is taken out there would be 80.
    let padded: String =
        "ship".chars().flat_map(|c| [c, '\u{0}', '\u{7}', '\u{1b}']).chain(std::iter::repeat_n('\u{1}', 60)).collect();
    assert_eq!(tool.check(&json!({"topic": padded})).unwrap()["topic"], "ship");
    let hidden = "\u{0}".repeat(10);
    assert_eq!(tool.check(&json!({"topic": hidden})).unwrap_err().problem, "is empty");
    let long = "a".repeat(41);
    assert_eq!(tool.check(&json!({"topic": long})).unwrap_err().problem, "has 41 characters, the limit is 40");
}

#[test]
fn g15_ids_addresses_and_topics_fit_as_a_whole_or_not_at_all() {
    for (text, fits) in [
        ("BK-1001", true),
        ("bk-1001", true),
        ("BK-100", false),
        ("BK-10011", false),
        ("xBK-1001", false),
        ("BK-1001x", false),
        ("BK-1001 OR 1=1", false),
        ("BK-١٠٠١", false),
        ("ВK-1001", false), // Cyrillic
        ("BK\u{2011}1001", false),
        ("BK-1001\u{202e}", false),
        ("BK-1001\u{200b}", false),
        ("", false),
    ] {
        assert_eq!(OrderId::parse(text).is_some(), fits, "{text:?}");
    }
    let local = "a".repeat(65);
    for (text, fits) in [
        (SARAH, true),
        ("Sarah.Chen@Example.COM", true),
        ("a+b_c%d@sub.example.co", true),
        ("a@b", false),
        ("@example.com", false),
        ("a..b@example.com", false),
        ("a@-example.com", false),
        ("a@example.com, b@example.com", false),
        ("a@example.com' OR '1'='1", false),
        ("sаrah.chen@example.com", false), // Cyrillic
        (&format!("{local}@example.com"), false),
        (&format!("a@{}com", "b.".repeat(126)), false),
    ] {
        assert_eq!(data::Email::parse(text).is_some(), fits, "{text:?}");
    }
    let shop = Shop::new();
    for topic in ["../policies", "shipping; DROP TABLE policies", "a", "_x", "shipping_", "a1", "ship ping"] {
        assert!(shop.tool("lookup_policy").check(&json!({"topic": topic})).is_err(), "{topic}");
    }
    assert_eq!(shop.tool("lookup_policy").check(&json!({"topic": " Shipping\n"})).unwrap()["topic"], "shipping");
}

#[test]
fn g16_g19_arguments_that_are_none_are_told_by_field_and_never_repeated() {
    let shop = Shop::new();
    for (tool, arguments, field) in [
        ("lookup_order", json!({}), "arguments"),
        ("lookup_order", json!([]), "arguments"),
        ("lookup_order", json!("BK-1001"), "arguments"),
        ("lookup_order", json!({"order_id": 1001}), "arguments"),
        ("lookup_order", json!({"order_id": "BK-1001", "is_admin": true}), "arguments"),
        ("lookup_order", json!({"order_id": "EVIL-TEXT"}), "order_id"),
        ("lookup_order", json!({"order_id": "BK-1001", "customer_email": "EVIL-TEXT"}), "customer_email"),
        ("initiate_return", json!({"order_id": "BK-1001"}), "arguments"),
        ("initiate_return", json!({"order_id": "BK-1001", "reason": "EVIL-TEXT"}), "arguments"),
        ("initiate_return", json!({"order_id": "BK-1001", "reason": "other", "lines": [0]}), "lines"),
        ("initiate_return", json!({"order_id": "BK-1001", "reason": "other", "lines": [21]}), "lines"),
        ("initiate_return", json!({"order_id": "BK-1001", "reason": "other", "lines": [1.5]}), "arguments"),
        ("initiate_return", json!({"order_id": "BK-1001", "reason": "other", "lines": vec![1; 21]}), "lines"),
        ("initiate_return", json!({"order_id": "BK-1001", "reason": "other", "session": "x"}), "arguments"),
        ("lookup_policy", json!({"topic": "x".repeat(1_000_000)}), "topic"),
    ] {
        let error = shop.tool(tool).check(&arguments).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(!error.to_string().contains("EVIL") && error.to_string().len() < 300, "{error}");
    }
}

#[test]
fn g17_a_nul_in_an_argument_is_in_no_result() {
    let shop = Shop::new();
    let mut session = Session::new();
    let order = json!({"order_id": "BK\u{0}-1001\u{0}", "customer_email": "sarah\u{0}.chen@example.com"});
    let found = session.call(&shop, "lookup_order", order).unwrap();
    assert_eq!(found["order_id"], "BK-1001");
    let policy = session.call(&shop, "lookup_policy", json!({"topic": "ship\u{0}ping"})).unwrap();
    for text in [found.to_string(), policy.to_string()] {
        assert!(!text.contains('\u{0}') && !text.contains("\\u0000"), "{text}");
    }
}

#[test]
fn g18_no_check_is_one_of_debug_builds_alone() {
    for (name, text) in sources() {
        assert!(!text.contains("debug_assert") && !text.contains("debug_assertions"), "{name}");
    }
}

#[test]
fn g53_each_module_knows_only_those_before_it() {
    const ORDER: [&str; 5] = ["data", "config", "tools", "agent", "server"];
    let known = regex::Regex::new(r"\bcrate::(?:\{|(\w+))").unwrap();
    for (name, text) in sources().iter().filter(|(name, _)| name != "lib.rs") {
        let module = name.split(['/', '.']).next().unwrap();
        let rank = ORDER.iter().position(|known| *known == module).unwrap_or_else(|| panic!("{name} has no place"));
        let code = text.split("#[cfg(test)]").next().unwrap();
        for found in known.captures_iter(code) {
            let other =
                found.get(1).unwrap_or_else(|| panic!("{name}: name each module on a line of its own")).as_str();
            let place = ORDER.iter().position(|known| *known == other);
            assert!(place.is_some_and(|place| place < rank || other == module), "{name} knows {other}");
        }
    }
}

#[test]
fn i1_i2_one_line_starts_returns_and_it_spends_a_proof() {
    let calls: Vec<String> = sources()
        .iter()
        .flat_map(|(name, text)| text.lines().filter(|l| l.contains(".start_return(")).map(move |_| name.clone()))
        .collect();
    assert_eq!(calls, ["tools.rs"]);
}

#[test]
fn g20_a_policy_is_given_word_for_word() {
    let (shop, mut session) = (Shop::new(), Session::new());
    for (topic, words) in POLICIES {
        let given = session.call(&shop, "lookup_policy", json!({"topic": topic})).unwrap();
        assert_eq!(given, json!({"topic": topic, "text": words}));
        let description = &shop.tool("lookup_policy").spec().schema.description;
        assert!(description.contains(topic), "{topic} is not named to the model");
    }
    let returns = session.call(&shop, "lookup_policy", json!({"topic": "returns"})).unwrap();
    assert_eq!(returns["text"], RETURN_POLICY.block());
    assert_eq!(session.code(&shop, "lookup_policy", json!({"topic": "politics"})), "policy_not_found");
}
