//! The records (G28, G29).

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use carboy_agent::ToolError;
use jiff::civil::{Date, date};
use serde_json::json;

use super::{MARCUS, NOW, PRIYA, SARAH, Session, Shop, back, of};
use crate::config::books_file;
use crate::data::{BookStore, DataError, day};

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
