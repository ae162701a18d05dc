//! Returns (G11, I1, I2).

use std::collections::BTreeSet;

use carboy_agent::guard_state::GuardState;
use carboy_agent::{Authorization, Call};
use serde_json::json;

use super::{MARCUS, NOW, PRIYA, SARAH, Session, Shop, anonymous, back, of};
use crate::config::{ELIGIBLE_MS, OWNER_MS, RETURN_POLICY, ReturnPolicy, books_file};
use crate::data::{BookStore, DataError, NewReturn, OrderId, day};
use crate::tools::tools;

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
