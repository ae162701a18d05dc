//! Whose an order is (G12, G13, I3, I4).

use std::path::Path;
use std::sync::Mutex;

use carboy_agent::ToolError;
use carboy_agent::guard_state::GuardState;
use serde_json::json;

use super::{MARCUS, NOW, PRIYA, SARAH, Session, Shop, back, of, sources};
use crate::config::{OWNER_MS, books_file};
use crate::data::{self, BookStore, OrderId, day};

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
