//! The retail desk over real records: its rules on a small shop, and the benchmark's tasks replayed where its files are.

// clippy.toml allows it in tests, but does not see the functions that tests share.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use carboy_agent::guard_state::GuardState;
use carboy_agent::{Call, Principal, PrincipalKind, Tool, ToolError};
use retail::policy::Pricing;
use retail::shop::Shop;
use retail::tools::tools;
use serde_json::{Value, json};

/// A directory with `db.json.gz` and `tasks.json.gz` of tau2-bench's retail domain.
const DATA: &str = "CARBOY_TAU2_RETAIL";

struct Session {
    tools: Vec<Arc<dyn Tool>>,
    guard: GuardState,
    runtime: tokio::runtime::Runtime,
}

impl Session {
    fn new(file: &Path, pricing: Pricing) -> Session {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Session { tools: tools(Shop::open(file, pricing).unwrap()), guard: GuardState::default(), runtime }
    }

    fn call(&mut self, name: &str, arguments: &Value, key: &str) -> Result<Value, String> {
        let tool = self.tools.iter().find(|tool| tool.spec().schema.name == name).unwrap();
        let arguments = tool.check(arguments).map_err(|error| format!("invalid_arguments {error}"))?;
        let principal = Principal { id: "somebody".into(), kind: PrincipalKind::Anonymous, roles: Default::default() };
        let guard = &mut self.guard;
        let call = Call { arguments: &arguments, principal: &principal, guard, now_ms: 1_000, idempotency_key: key };
        let done = self.runtime.block_on(tool.call(call));
        done.map(|output| output.value).map_err(|error| match error {
            ToolError::Refused { code, message } => format!("{code}: {message}"),
            ToolError::Failed { particulars } => panic!("{particulars}"),
        })
    }
}

fn small() -> Value {
    let address =
        json!({"address1": "1 Road", "address2": "", "city": "A", "country": "USA", "state": "CO", "zip": "80279"});
    let user = |id: &str, first: &str, order: &str| {
        json!({
            "user_id": id, "name": {"first_name": first, "last_name": "Doe"}, "address": address, "orders": [order],
            "email": format!("{first}@example.com"),
            "payment_methods": {"gift_card_0000001": {"source": "gift_card", "id": "gift_card_0000001", "balance": 5.0}},
        })
    };
    let order = |id: &str, user: &str, status: &str| {
        json!({
            "order_id": id, "user_id": user, "address": address, "status": status, "fulfillments": [],
            "items": [{"name": "Cup", "product_id": "1000000001", "item_id": "2000000001", "price": 3.1, "options": {}}],
            "payment_history": [{"transaction_type": "payment", "amount": 3.1, "payment_method_id": "gift_card_0000001"}],
        })
    };
    let variant = |id: &str, price: f64| json!({"item_id": id, "options": {}, "available": true, "price": price});
    json!({
        "products": {"1000000001": {"name": "Cup", "product_id": "1000000001", "variants": {
            "2000000001": variant("2000000001", 3.1), "2000000002": variant("2000000002", 9.2),
        }}},
        "users": {"ann_doe_0001": user("ann_doe_0001", "ann", "#W0000001"), "bob_doe_0002": user("bob_doe_0002", "bob", "#W0000002")},
        "orders": {
            "#W0000001": order("#W0000001", "ann_doe_0001", "pending"),
            "#W0000002": order("#W0000002", "bob_doe_0002", "delivered"),
        },
    })
}

fn imported(home: &Path, db: &[u8]) -> std::path::PathBuf {
    let (file, json) = (home.join("shop.sqlite"), home.join("db.json"));
    std::fs::write(&json, db).unwrap();
    Shop::import(&file, &json).unwrap();
    file
}

#[test]
fn i3_i4_nothing_before_a_customer_is_known_then_one_customer_and_nobody_elses_order() {
    let home = tempfile::tempdir().unwrap();
    let mut session = Session::new(&imported(home.path(), small().to_string().as_bytes()), Pricing::default());
    let order = |id: &str| json!({"order_id": id});
    assert!(session.call("get_order_details", &order("#W0000001"), "a").unwrap_err().starts_with("customer_not_known"));
    assert!(
        session
            .call("find_user_id_by_email", &json!({"email": "no@example.com"}), "b")
            .unwrap_err()
            .starts_with("user_not")
    );
    session.call("find_user_id_by_email", &json!({"email": "Ann@example.com"}), "c").unwrap();
    session.call("get_order_details", &order("W0000001"), "d").unwrap();
    let others = session.call("get_order_details", &order("#W0000002"), "e").unwrap_err();
    assert_eq!(others, session.call("get_order_details", &order("#W9999999"), "f").unwrap_err());
    let give = |id: &str| json!({"order_id": id, "item_ids": ["2000000001"], "payment_method_id": "gift_card_0000001"});
    assert_eq!(session.call("return_delivered_order_items", &give("#W0000002"), "g").unwrap_err(), others);
    let find = |email: &str| json!({"email": email});
    let other = session.call("find_user_id_by_email", &find("bob@example.com"), "h").unwrap_err();
    assert_eq!(other, session.call("find_user_id_by_email", &find("no@example.com"), "i").unwrap_err());
    assert!(session.call("get_user_details", &json!({"user_id": "bob_doe_0002"}), "j").is_err());
}

#[test]
fn i2_a_write_is_done_once_for_one_key_and_only_as_the_policy_has_it() {
    let home = tempfile::tempdir().unwrap();
    let file = imported(home.path(), small().to_string().as_bytes());
    let mut session = Session::new(&file, Pricing::default());
    session
        .call("find_user_id_by_name_zip", &json!({"first_name": "Ann", "last_name": "Doe", "zip": "80279"}), "a")
        .unwrap();
    let swap = json!({
        "order_id": "#W0000001", "item_ids": ["2000000001"], "new_item_ids": ["2000000002"],
        "payment_method_id": "gift_card_0000001",
    });
    let refused = session.call("modify_pending_order_items", &swap, "b").unwrap_err();
    assert_eq!(refused, "against_policy: the gift card's balance does not cover it");
    let cancel = json!({"order_id": "#W0000001", "reason": "ordered by mistake"});
    let first = session.call("cancel_pending_order", &cancel, "c").unwrap();
    assert_eq!(session.call("cancel_pending_order", &cancel, "c").unwrap(), first, "the same request again");
    assert!(
        session.call("cancel_pending_order", &cancel, "d").unwrap_err().starts_with("against_policy"),
        "another one"
    );
    let user = session.call("get_user_details", &json!({"user_id": "ann_doe_0001"}), "e").unwrap();
    assert_eq!(user["payment_methods"]["gift_card_0000001"]["balance"], 8.1, "given back once");
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).unwrap();
    flate2::read::GzDecoder::new(file).take(64 << 20).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Calls of the tasks that this desk refuses, and those that it is not asked for (sums are the calculator's).
fn replay(data: &Path, pricing: Pricing) -> (usize, Vec<String>) {
    let (db, tasks) = (unpacked(&data.join("db.json.gz")), unpacked(&data.join("tasks.json.gz")));
    let records: Value = serde_json::from_slice(&db).unwrap();
    let tasks: Vec<Value> = serde_json::from_slice(&tasks).unwrap();
    let home = tempfile::tempdir().unwrap();
    let fresh = imported(home.path(), &db);
    let (mut done, mut refused) = (0, Vec::new());
    for task in &tasks {
        let file = home.path().join("task.sqlite");
        std::fs::copy(&fresh, &file).unwrap();
        let mut session = Session::new(&file, pricing);
        let actions = task["evaluation_criteria"]["actions"].as_array().cloned().unwrap_or_default();
        // Where the reference leaves the look-up of the customer out, it is done first: the policy says so.
        let owner = actions.iter().find_map(|action| {
            let order = action["arguments"]["order_id"].as_str().map(|order| &records["orders"][order]["user_id"]);
            order.or(action["arguments"].get("user_id")).and_then(Value::as_str)
        });
        if let Some(owner) = owner {
            session
                .call("find_user_id_by_email", &json!({"email": records["users"][owner]["email"]}), "first")
                .unwrap();
        }
        for action in actions.iter().filter(|action| action["name"] != "calculate") {
            let (name, id) = (action["name"].as_str().unwrap(), action["action_id"].as_str().unwrap());
            match session.call(name, &action["arguments"], id) {
                Ok(_) => done += 1,
                Err(error) => refused.push(format!("{id} {name}: {error}")),
            }
        }
    }
    (done, refused)
}

#[test]
fn the_benchmarks_tasks_are_replayed_where_its_files_are() {
    let Some(data) = std::env::var_os(DATA) else {
        println!("skipped: {DATA} names no directory with db.json.gz and tasks.json.gz of tau2-bench's retail domain");
        return;
    };
    for pricing in [Pricing::EachLine, Pricing::LastItem] {
        let (done, refused) = replay(Path::new(&data), pricing);
        println!("{pricing:?}: {done} done, {} refused: {refused:#?}", refused.len());
        assert!(done > 10 * refused.len(), "{refused:#?}");
    }
}
