//! Bookly's own guarantees, over its real records and without any model.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use carboy_agent::guard_state::GuardState;
use carboy_agent::{Authorization, Call, Effect, Principal, PrincipalKind, Tool, ToolError};
use jiff::civil::{Date, date};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::config::{ELIGIBLE_MS, OWNER_MS, RETURN_POLICY, ReturnPolicy, books_file};
use crate::data::{self, BookStore, DataError, Format, Line, NewReturn, Order, OrderId, POLICIES, Status, day};
use crate::tools::{Ineligible, Judged, judge, tools};
use crate::{agent, server};

const NOW: u64 = 1_780_000_000_000; // 2026-05-28
const DAY_MS: u64 = 86_400_000;
const SARAH: &str = "sarah.chen@example.com";
const MARCUS: &str = "marcus.webb@example.com";
const PRIYA: &str = "priya.raman@example.com";

/// A shop with its records in a directory of its own.
struct Shop {
    home: tempfile::TempDir,
    tools: Vec<Arc<dyn Tool>>,
    runtime: tokio::runtime::Runtime,
}

/// One conversation.
struct Session {
    guard: GuardState,
    now_ms: u64,
    calls: u32,
}

impl Shop {
    fn new() -> Shop {
        Shop::with(RETURN_POLICY)
    }

    fn with(policy: ReturnPolicy) -> Shop {
        let home = tempfile::tempdir().unwrap();
        let tools = tools(BookStore::open(&books_file(home.path()), day(NOW)).unwrap(), policy);
        Shop { home, tools, runtime: tokio::runtime::Builder::new_current_thread().build().unwrap() }
    }

    fn tool(&self, name: &str) -> &Arc<dyn Tool> {
        self.tools.iter().find(|tool| tool.spec().schema.name == name).unwrap()
    }

    /// The records, by a connection of its own.
    fn records(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(books_file(self.home.path())).unwrap()
    }

    fn returns(&self) -> i64 {
        self.records().query_row("SELECT count(*) FROM returns", [], |row| row.get(0)).unwrap()
    }
}

impl Session {
    fn new() -> Session {
        Session { guard: GuardState::default(), now_ms: NOW, calls: 0 }
    }

    fn call(&mut self, shop: &Shop, name: &str, arguments: Value) -> Result<Value, ToolError> {
        self.calls += 1;
        let key = format!("key-{:p}-{}", self, self.calls);
        self.call_with(shop, name, arguments, &key)
    }

    fn call_with(&mut self, shop: &Shop, name: &str, arguments: Value, key: &str) -> Result<Value, ToolError> {
        let tool = shop.tool(name);
        let arguments = tool
            .check(&arguments)
            .map_err(|error| ToolError::Refused { code: "invalid_arguments", message: error.to_string() })?;
        let principal = anonymous();
        let (guard, now_ms) = (&mut self.guard, self.now_ms);
        let call = Call { arguments: &arguments, principal: &principal, guard, now_ms, idempotency_key: key };
        tool.precheck(&call)?;
        let guard = &mut *call.guard;
        let call = Call { guard, ..call };
        shop.runtime.block_on(tool.call(call)).map(|output| output.value)
    }

    fn code(&mut self, shop: &Shop, name: &str, arguments: Value) -> String {
        match self.call(shop, name, arguments) {
            Err(ToolError::Refused { code, .. }) => code.to_owned(),
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn anonymous() -> Principal {
    Principal { id: "somebody".into(), kind: PrincipalKind::Anonymous, roles: BTreeSet::new() }
}

fn of(order: &str, email: &str) -> Value {
    json!({"order_id": order, "customer_email": email})
}

fn back(order: &str) -> Value {
    json!({"order_id": order, "reason": "changed_mind"})
}

// Layer 3: the tools and what they take (G10, G14–G19).

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

/// Every source of this crate but this one: path below `src`, and text.
fn sources() -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut open, mut found) = (vec![top.clone()], Vec::new());
    while let Some(place) = open.pop() {
        for entry in std::fs::read_dir(place).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.path().strip_prefix(&top).unwrap().display().to_string());
            match entry.file_type().unwrap().is_dir() {
                true => open.push(path),
                false if name == "tests.rs" => {}
                false => found.push((name, std::fs::read_to_string(path).unwrap())),
            }
        }
    }
    assert!(found.len() >= 8, "{found:?}");
    found
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

// Whose an order is (G12, G13, I3, I4).

#[test]
fn g12_i4_a_wrong_address_and_a_missing_order_are_one_answer_to_the_octet() {
    let shop = Shop::new();
    for tool in ["lookup_order", "check_return_eligibility"] {
        let ask = |order: &str, email: &str| Session::new().call(&shop, tool, of(order, email)).unwrap_err();
        let (wrong, missing) = (ask("BK-1001", MARCUS), ask("BK-9999", MARCUS));
        assert_eq!(format!("{wrong:?}"), format!("{missing:?}"));
        assert!(matches!(wrong, ToolError::Refused { code: "order_not_found", .. }));
        let ask = |order: &str| Session::new().call(&shop, tool, json!({"order_id": order})).unwrap_err();
        assert_eq!(format!("{:?}", ask("BK-1001")), format!("{:?}", ask("BK-9999")));
    }
}

#[test]
fn g12_the_same_statements_run_whether_the_order_is_there_or_not() {
    static STATEMENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    fn note(event: rusqlite::trace::TraceEvent<'_>) {
        if let rusqlite::trace::TraceEvent::Stmt(_, text) = event {
            STATEMENTS.lock().unwrap().push(text.to_owned());
        }
    }
    let home = tempfile::tempdir().unwrap();
    let books = BookStore::open(&books_file(home.path()), day(NOW)).unwrap();
    books.database().trace_v2(rusqlite::trace::TraceEventCodes::SQLITE_TRACE_STMT, Some(note)).unwrap();
    let statements = |id: &str| {
        STATEMENTS.lock().unwrap().clear();
        let sealed = books.order(&OrderId::parse(id).unwrap()).unwrap();
        let email = data::Email::parse(MARCUS).unwrap();
        assert!(sealed.open_with(&email, &mut GuardState::default(), NOW, NOW + 1).is_none());
        STATEMENTS.lock().unwrap().clone()
    };
    let there = statements("BK-1001");
    assert_eq!(there.len(), 3, "{there:?}");
    assert_eq!(there, statements("BK-9999"));
}

#[test]
fn g13_addresses_are_compared_by_digests_in_constant_time_and_never_by_eq() {
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data.rs")).unwrap();
    let comparison =
        source.split_once("fn is(&self, other: &str) -> bool {").unwrap().1.split_once("\n    }").unwrap().0;
    assert!(comparison.contains("ct_eq"), "{comparison}");
    assert!(!comparison.contains("=="), "{comparison}");
    let email = source.split_once("pub struct Email(String);").unwrap().0;
    let derives = email.rsplit_once("#[derive(").unwrap().1;
    assert!(!derives.contains("PartialEq"), "no other comparison can be written by accident: {derives}");
    for (name, text) in sources() {
        assert!(!text.contains("WHERE email") && !text.contains("c.email ="), "nor by the database: {name}");
    }
}

#[test]
fn i3_nothing_of_an_order_is_given_before_its_address_is_shown_and_then_it_is_remembered() {
    let (shop, mut session) = (Shop::new(), Session::new());
    let bare = json!({"order_id": "BK-1001"});
    for tool in ["lookup_order", "check_return_eligibility"] {
        assert_eq!(session.code(&shop, tool, bare.clone()), "customer_email_required");
    }
    assert_eq!(session.code(&shop, "lookup_order", of("BK-1001", MARCUS)), "order_not_found");
    assert_eq!(
        session.code(&shop, "lookup_order", bare.clone()),
        "customer_email_required",
        "a wrong one shows nothing"
    );
    session.call(&shop, "lookup_order", of("BK-1001", "Sarah.Chen@example.com")).unwrap();
    session.call(&shop, "lookup_order", bare.clone()).unwrap();
    session.call(&shop, "check_return_eligibility", bare.clone()).unwrap();
    let other = json!({"order_id": "BK-1002"});
    assert_eq!(session.code(&shop, "lookup_order", other), "customer_email_required", "for that order alone");
    assert_eq!(
        Session::new().code(&shop, "lookup_order", bare.clone()),
        "customer_email_required",
        "in that session alone"
    );
    session.now_ms += OWNER_MS;
    assert_eq!(session.code(&shop, "lookup_order", bare), "customer_email_required", "for its time alone");
}

#[test]
fn i3_whose_an_order_is_stands_in_no_result() {
    let (shop, mut session) = (Shop::new(), Session::new());
    for (order, email) in [("BK-1001", SARAH), ("BK-1002", SARAH), ("BK-1003", MARCUS), ("BK-1004", PRIYA)] {
        let texts = ["lookup_order", "check_return_eligibility"]
            .map(|tool| session.call(&shop, tool, of(order, email)).unwrap().to_string().to_lowercase());
        for text in texts {
            for word in ["@", "sarah", "chen", "marcus", "webb", "priya", "raman"] {
                assert!(!text.contains(word), "{word} in {text}");
            }
        }
    }
}

#[test]
fn i3_the_records_of_others_change_nothing_that_a_session_sees() {
    let (one, two) = (Shop::new(), Shop::new());
    two.records()
        .execute_batch(
            "PRAGMA foreign_keys = OFF; DELETE FROM orders WHERE id = 'BK-1003'; DELETE FROM items WHERE order_id = 'BK-1003';
             UPDATE orders SET status = 'processing', delivered_on = NULL, placed_on = '2001-01-01' WHERE id = 'BK-1004';
             UPDATE customers SET email = 'other@example.net' WHERE id = 3;",
        )
        .unwrap();
    let script = [
        ("lookup_order", of("BK-1001", SARAH)),
        ("lookup_order", of("BK-1003", SARAH)),
        ("lookup_order", of("BK-1004", SARAH)),
        ("check_return_eligibility", of("BK-1004", MARCUS)),
        ("check_return_eligibility", json!({"order_id": "BK-1003"})),
        ("initiate_return", back("BK-1004")),
        ("check_return_eligibility", of("BK-1001", SARAH)),
        ("initiate_return", back("BK-1001")),
    ];
    let (mut first, mut second) = (Session::new(), Session::new());
    for (n, (tool, arguments)) in script.into_iter().enumerate() {
        let key = format!("key {n}");
        let seen = [(&one, &mut first), (&two, &mut second)]
            .map(|(shop, session)| format!("{:?}", session.call_with(shop, tool, arguments.clone(), &key)));
        assert_eq!(seen[0], seen[1], "call {n}");
    }
}

// Returns (G11, I1, I2).

#[test]
fn g11_i1_a_return_needs_a_check_that_succeeded_for_this_order_in_this_session_under_this_policy_and_in_time() {
    let shop = Shop::new();
    let checked = || {
        let mut session = Session::new();
        assert_eq!(session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap()["eligible"], true);
        session
    };
    let mut nothing = Session::new();
    assert_eq!(nothing.code(&shop, "initiate_return", back("BK-1001")), "customer_email_required");
    nothing.call(&shop, "lookup_order", of("BK-1001", SARAH)).unwrap();
    assert_eq!(nothing.code(&shop, "initiate_return", back("BK-1001")), "eligibility_not_checked");

    let mut other_order = checked();
    other_order.call(&shop, "lookup_order", of("BK-1002", SARAH)).unwrap();
    assert_eq!(other_order.code(&shop, "initiate_return", back("BK-1002")), "eligibility_not_checked");

    let _elsewhere = checked();
    assert_eq!(Session::new().code(&shop, "initiate_return", back("BK-1001")), "customer_email_required");

    let mut failed = checked();
    assert_eq!(failed.code(&shop, "check_return_eligibility", of("BK-1001", MARCUS)), "order_not_found");
    assert_eq!(failed.code(&shop, "initiate_return", back("BK-1001")), "eligibility_not_checked", "a later no");

    let mut reset = checked();
    reset.guard = GuardState::default();
    assert_eq!(reset.code(&shop, "initiate_return", back("BK-1001")), "customer_email_required");

    let mut late = checked();
    late.now_ms += ELIGIBLE_MS;
    assert_eq!(late.code(&shop, "initiate_return", back("BK-1001")), "eligibility_not_checked");

    // The same records and the same session under a policy that was changed since.
    let mut changed = checked();
    let books = BookStore::open(&books_file(shop.home.path()), day(NOW)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let home = tempfile::tempdir().unwrap();
    let shorter = Shop { home, tools: tools(books, ReturnPolicy { window_days: 29, ..RETURN_POLICY }), runtime };
    assert_eq!(changed.code(&shorter, "initiate_return", back("BK-1001")), "eligibility_not_checked");
    assert_eq!(shop.returns(), 0);

    let started = checked().call(&shop, "initiate_return", back("BK-1001")).unwrap();
    assert_eq!(
        started["items"],
        json!([{"line": 1, "title": "Middlemarch"}, {"line": 2, "title": "The Left Hand of Darkness"}])
    );
    assert_eq!(shop.returns(), 1);
}

#[test]
fn g11_a_check_that_says_no_proves_nothing() {
    let shop = Shop::new();
    for (order, email, why) in
        [("BK-1002", SARAH, "not_delivered"), ("BK-1003", MARCUS, "not_delivered"), ("BK-1004", PRIYA, "window_closed")]
    {
        let mut session = Session::new();
        let said = session.call(&shop, "check_return_eligibility", of(order, email)).unwrap();
        assert_eq!((&said["eligible"], &said["reason"]), (&json!(false), &json!(why)));
        assert_eq!(session.code(&shop, "initiate_return", back(order)), "eligibility_not_checked");
    }
    assert_eq!(shop.returns(), 0);
}

#[test]
fn i1_what_was_true_when_it_was_checked_is_judged_again_when_it_is_done() {
    let (shop, mut session) = (Shop::new(), Session::new());
    session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
    shop.records().execute("UPDATE orders SET delivered_on = '2001-01-01' WHERE id = 'BK-1001'", []).unwrap();
    assert_eq!(session.code(&shop, "initiate_return", back("BK-1001")), "eligibility_not_checked");
    assert_eq!(shop.returns(), 0);
}

#[test]
fn i2_a_proof_is_spent_by_the_return_and_a_book_goes_back_once() {
    let (shop, mut session, mut faster) = (Shop::new(), Session::new(), Session::new());
    for session in [&mut session, &mut faster] {
        session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
    }
    let one = json!({"order_id": "BK-1001", "reason": "damaged", "lines": [2]});
    faster.call(&shop, "initiate_return", one.clone()).unwrap();
    assert_eq!(faster.code(&shop, "initiate_return", one.clone()), "eligibility_not_checked", "the proof is spent");
    assert_eq!(session.code(&shop, "initiate_return", one), "lines_not_returnable", "another session was faster");
    session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
    let rest = session.call(&shop, "initiate_return", back("BK-1001")).unwrap();
    assert_eq!(rest["items"], json!([{"line": 1, "title": "Middlemarch"}]), "what is left of it");
    let again = session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
    assert_eq!((&again["eligible"], &again["reason"]), (&json!(false), &json!("already_returned")));
    assert_eq!(shop.returns(), 2);
}

#[test]
fn i2_the_database_itself_refuses_a_second_return_of_a_line() {
    let home = tempfile::tempdir().unwrap();
    let books = BookStore::open(&books_file(home.path()), day(NOW)).unwrap();
    let order = OrderId::parse("BK-1001").unwrap();
    let start = |lines: &[u8], key| {
        let lines = lines.iter().copied().collect();
        books.start_return(&NewReturn { order: &order, lines: &lines, reason: "other", key, on: day(NOW) })
    };
    let first = start(&[1, 2], "a").unwrap();
    assert_eq!(start(&[1, 2], "a").unwrap(), first, "the same request again is the same return");
    assert!(matches!(start(&[1], "a"), Err(DataError::KeyReused)));
    assert!(matches!(start(&[1, 2], "b"), Err(DataError::ReturnedBefore)));
    assert!(matches!(start(&[2, 3], "c"), Err(DataError::ReturnedBefore)), "nor a part of it");
    assert!(matches!(start(&[9], "d"), Err(DataError::ReturnedBefore)), "nor a line that is not there");
    assert_eq!(books.return_by_key("a").unwrap(), Some(first));
    assert_eq!(books.return_by_key("b").unwrap(), None, "nothing of a refused one stays");
}

#[test]
fn i2_a_confirmed_request_that_comes_again_gives_the_return_that_it_started() {
    let (shop, mut session) = (Shop::new(), Session::new());
    session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
    let arguments = shop.tool("initiate_return").check(&back("BK-1001")).unwrap();
    let principal = anonymous();
    let mut run = |now_ms| {
        let call = Call {
            arguments: &arguments,
            principal: &principal,
            guard: &mut session.guard,
            now_ms,
            idempotency_key: "confirmed once",
        };
        shop.runtime.block_on(shop.tool("initiate_return").call(call)).unwrap().value
    };
    let first = run(NOW);
    assert_eq!(run(NOW), first);
    assert_eq!(run(NOW + OWNER_MS), first, "though nothing is proven any more");
    assert_eq!(shop.returns(), 1);
}

#[test]
fn i2_two_who_return_the_same_book_at_once_get_one_return() {
    let home = tempfile::tempdir().unwrap();
    let path = books_file(home.path());
    BookStore::open(&path, day(NOW)).unwrap();
    let gate = std::sync::Barrier::new(4);
    let started: Vec<bool> = std::thread::scope(|scope| {
        let one = |n: usize| {
            let (path, gate) = (&path, &gate);
            scope.spawn(move || {
                let books = BookStore::open(path, day(NOW)).unwrap();
                let (order, lines, key) = (OrderId::parse("BK-1001").unwrap(), BTreeSet::from([1]), format!("key {n}"));
                gate.wait();
                books
                    .start_return(&NewReturn { order: &order, lines: &lines, reason: "other", key: &key, on: day(NOW) })
                    .is_ok()
            })
        };
        let threads: Vec<_> = (0..4).map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(started.iter().filter(|ok| **ok).count(), 1);
}

#[test]
fn i5_the_card_is_made_of_the_arguments_and_everybody_may_ask_because_the_proofs_decide() {
    let shop = Shop::new();
    let tool = shop.tool("initiate_return");
    let arguments = tool.check(&json!({"order_id": "bk-1001", "lines": [2, 1, 2], "reason": "damaged"})).unwrap();
    assert_eq!(arguments["lines"], json!([1, 2]), "one spelling of one request");
    let card = tool.card(&arguments).unwrap();
    assert_eq!(card.title, "Return order BK-1001?");
    let rows = [("Order", "BK-1001"), ("Books", "Lines 1, 2"), ("Reason", "Arrived damaged")];
    assert_eq!(card.rows, rows.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(tool.authorize(&anonymous(), &arguments), Authorization::Allowed);
}

// The records (G28, G29).

#[test]
fn g28_the_four_orders_are_of_four_kinds_and_sarah_chen_has_two() {
    let (shop, mut session) = (Shop::new(), Session::new());
    let mut kind = |order: &str, email: &str| {
        let said = session.call(&shop, "check_return_eligibility", of(order, email)).unwrap();
        let found = session.call(&shop, "lookup_order", json!({"order_id": order})).unwrap();
        (found["status"].as_str().unwrap().to_owned(), said["reason"].as_str().unwrap_or("eligible").to_owned())
    };
    let kinds =
        [("BK-1001", SARAH), ("BK-1002", SARAH), ("BK-1003", MARCUS), ("BK-1004", PRIYA)].map(|(o, e)| kind(o, e));
    let expected = [
        ("delivered", "eligible"),
        ("in_transit", "not_delivered"),
        ("processing", "not_delivered"),
        ("delivered", "window_closed"),
    ];
    assert_eq!(kinds, expected.map(|(status, why)| (status.to_owned(), why.to_owned())));
    let orders = shop.records();
    let count = |sql: &str| orders.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM orders"), 4);
    let sarahs = "SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer WHERE c.name = 'Sarah Chen'";
    assert_eq!(count(sarahs), 2);
}

#[test]
fn g28_titles_dates_and_sums_are_those_of_the_records() {
    let (shop, mut session) = (Shop::new(), Session::new());
    let found = session.call(&shop, "lookup_order", of("BK-1002", SARAH)).unwrap();
    let expected = json!({
        "order_id": "BK-1002", "status": "in_transit", "placed_on": "2026-05-25", "delivered_on": null,
        "expected_on": "2026-05-30", "total": "29.00 USD",
        "items": [{
            "line": 1, "title": "Invisible Cities", "author": "Italo Calvino", "format": "paperback", "quantity": 2,
            "price": "14.50 USD", "return_started": false,
        }],
    });
    assert_eq!(found, expected);
}

#[test]
fn g28_opening_again_changes_nothing_but_the_days() {
    let home = tempfile::tempdir().unwrap();
    let path = books_file(home.path());
    let dump = |today: Date| {
        drop(BookStore::open(&path, today).unwrap());
        tables(&path)
    };
    let first = dump(date(2026, 5, 28));
    assert_eq!(dump(date(2026, 5, 28)), first);
    let later = dump(date(2026, 6, 1));
    assert!(later["orders"].contains("2026-05-20"), "twelve days before: {}", later["orders"]);
    for table in ["customers", "books", "items", "policies", "returns", "return_lines"] {
        assert_eq!(later[table], first[table], "{table}");
    }
}

#[test]
fn g29_returns_are_all_that_changes_and_each_leaves_one_record() {
    let (shop, mut session) = (Shop::new(), Session::new());
    let path = books_file(shop.home.path());
    let before = tables(&path);
    session.call(&shop, "lookup_order", of("BK-1001", SARAH)).unwrap();
    session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
    session.call(&shop, "lookup_policy", json!({"topic": "shipping"})).unwrap();
    assert_eq!(tables(&path), before, "looking changes nothing");
    let started = session.call(&shop, "initiate_return", back("BK-1001")).unwrap();
    let after = tables(&path);
    for table in ["customers", "books", "orders", "items", "policies"] {
        assert_eq!(after[table], before[table], "{table}");
    }
    assert_eq!(shop.returns(), 1);
    assert!(after["returns"].contains(started["rma"].as_str().unwrap()));
    let shape = regex::Regex::new(r"\ARMA-[A-Z]{8}\z").unwrap();
    assert!(shape.is_match(started["rma"].as_str().unwrap()), "{started}");
}

#[test]
fn the_file_is_this_users_alone_and_another_is_not_used() {
    let home = tempfile::tempdir().unwrap();
    let path = books_file(home.path());
    BookStore::open(&path, day(NOW)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(BookStore::open(&path, day(NOW)), Err(DataError::Loose { mode: 0o644, .. })));
    let link = home.path().join("link.sqlite");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(BookStore::open(&link, day(NOW)), Err(DataError::File { .. })));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    assert!(matches!(BookStore::open(&path, day(NOW)), Err(DataError::Layout { found: 7, .. })));
}

#[test]
fn a_record_that_means_nothing_is_an_error_and_no_default() {
    let (shop, mut session) = (Shop::new(), Session::new());
    shop.records().execute("UPDATE orders SET status = 'lost' WHERE id = 'BK-1001'", []).unwrap();
    let error = session.call(&shop, "lookup_order", of("BK-1001", SARAH)).unwrap_err();
    let ToolError::Failed { particulars } = error else { panic!("{error:?}") };
    assert!(!particulars.contains("lost") && !particulars.contains('@'), "{particulars}");
}

/// Every table, row by row.
fn tables(path: &Path) -> BTreeMap<&'static str, String> {
    let records = rusqlite::Connection::open(path).unwrap();
    let table = |name: &'static str| {
        let mut rows = records.prepare(&format!("SELECT * FROM {name} ORDER BY 1, 2")).unwrap();
        let width = rows.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let text = |at| row.get::<_, rusqlite::types::Value>(at).map(|value| format!("{value:?}"));
            Ok((0..width).map(text).collect::<Result<Vec<_>, _>>()?.join("|"))
        };
        let rows: Vec<String> = rows.query_map([], row).unwrap().map(Result::unwrap).collect();
        (name, rows.join("\n"))
    };
    ["customers", "books", "orders", "items", "policies", "returns", "return_lines"].map(table).into()
}

// The one policy (G5).

#[test]
fn g5_one_number_changes_the_prompt_the_check_its_words_and_the_policy_that_is_quoted() {
    for days in [11, 12, 30, 45] {
        let policy = ReturnPolicy { window_days: days, ..RETURN_POLICY };
        let words = format!("within {days} days of delivery");
        let prompt = agent::spec(server::TITLE, server::GREETING, &policy).unwrap().prompt.system;
        assert!(prompt.contains(&words), "{days}");
        let (shop, mut session) = (Shop::with(policy), Session::new());
        let said = session.call(&shop, "check_return_eligibility", of("BK-1001", SARAH)).unwrap();
        assert_eq!(
            (&said["eligible"], &said["window_days"]),
            (&json!(days >= 12), &json!(days)),
            "delivered 12 days ago"
        );
        let quoted = session.call(&shop, "lookup_policy", json!({"topic": "returns"})).unwrap();
        assert!(quoted["text"].as_str().unwrap().contains(&words));
    }
}

fn order(status: Status, delivered_on: Option<Date>, formats: &[Format], returned: BTreeSet<u8>) -> Order {
    let line = |(number, format): (u8, &Format)| Line {
        number,
        title: "A book".into(),
        author: "Somebody".into(),
        format: *format,
        quantity: 1,
        price_cents: 100,
    };
    Order {
        id: OrderId::parse("BK-0001").unwrap(),
        status,
        placed_on: date(2020, 1, 1),
        delivered_on,
        expected_on: None,
        lines: (1..).zip(formats).map(line).collect(),
        returned,
    }
}

#[test]
fn g5_the_last_day_of_the_window_counts_and_the_next_does_not() {
    let delivered = date(2026, 1, 31);
    let order = order(Status::Delivered, Some(delivered), &[Format::Paperback], BTreeSet::new());
    let judged = |day| judge(&order, day, &RETURN_POLICY);
    let eligible = Judged::Eligible { lines: BTreeSet::from([1]), until: date(2026, 3, 2) };
    assert_eq!(judged(delivered), eligible);
    assert_eq!(judged(date(2026, 3, 2)), eligible);
    assert_eq!(judged(date(2026, 3, 3)), Judged::Not(Ineligible::WindowClosed(date(2026, 3, 2))));
    assert_eq!(judged(date(2026, 1, 30)), Judged::Not(Ineligible::NotDelivered), "a clock that was set back");
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![Format::Paperback, Format::Hardcover, Format::Ebook, Format::GiftCard])
}

proptest! {
    #[test]
    fn g5_eligibility_is_decided_by_order_day_and_policy_alone(
        status in prop::sample::select(vec![Status::Processing, Status::InTransit, Status::Delivered]),
        ago in prop::option::of(-40i32..400),
        window in 0u16..400,
        formats in prop::collection::vec(any_format(), 0..6),
        returned in prop::collection::btree_set(1u8..7, 0..6),
    ) {
        let today = date(2026, 5, 28);
        let delivered = ago.map(|days| today - jiff::Span::new().days(days));
        let policy = ReturnPolicy { window_days: window, ..RETURN_POLICY };
        let order = order(status, delivered, &formats, returned.clone());
        let judged = judge(&order, today, &policy);
        prop_assert_eq!(&judged, &judge(&order.clone(), today, &policy));

        let open = status == Status::Delivered && ago.is_some_and(|days| (0..=i32::from(window)).contains(&days));
        let expected: BTreeSet<u8> = (1..).zip(&formats)
            .filter(|(number, format)| !policy.excluded.contains(format) && !returned.contains(number))
            .map(|(number, _)| number)
            .collect();
        match judged {
            Judged::Eligible { lines, until } => {
                prop_assert!(open && !expected.is_empty() && until >= today);
                prop_assert_eq!(lines, expected);
            }
            Judged::Not(_) => prop_assert!(!open || expected.is_empty()),
        }
        // A longer window never takes a right away.
        let longer = ReturnPolicy { window_days: window + 1, ..policy };
        if matches!(judge(&order, today, &policy), Judged::Eligible { .. }) {
            let still = matches!(judge(&order, today, &longer), Judged::Eligible { .. });
            prop_assert!(still);
        }
    }

    #[test]
    fn g14_g15_whatever_is_given_a_check_ends_and_what_it_gives_passes_again(text in any::<String>(), email in any::<String>()) {
        let shop = SHOP.with(Arc::clone);
        for (tool, arguments) in [
            ("lookup_order", json!({"order_id": text, "customer_email": email})),
            ("lookup_policy", json!({"topic": text})),
        ] {
            let tool = shop.tool(tool);
            if let Ok(checked) = tool.check(&arguments) {
                prop_assert_eq!(tool.check(&Value::Object(checked.clone())).unwrap(), checked);
            }
        }
    }
}

thread_local! {
    static SHOP: Arc<Shop> = Arc::new(Shop::new());
}

#[test]
fn the_day_of_the_shop_is_that_of_universal_time() {
    assert_eq!(day(NOW), date(2026, 5, 28));
    assert_eq!(day(NOW / DAY_MS * DAY_MS - 1), date(2026, 5, 27));
    assert_eq!(day(u64::MAX), jiff::Timestamp::MAX.to_zoned(jiff::tz::TimeZone::UTC).date(), "no panic");
}
