//! Bookly's own guarantees, over its real records and without any model.

mod arguments;
mod orders;
mod policy;
mod records;
mod returns;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use carboy_agent::guard_state::GuardState;
use carboy_agent::{Call, Principal, PrincipalKind, Tool, ToolError};
use serde_json::{Value, json};

use crate::config::{RETURN_POLICY, ReturnPolicy, books_file};
use crate::data::{BookStore, day};
use crate::tools::tools;

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

/// Every source of this crate but its tests: path below `src`, and text.
fn sources() -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut open, mut found) = (vec![top.clone()], Vec::new());
    while let Some(place) = open.pop() {
        for entry in std::fs::read_dir(place).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.path().strip_prefix(&top).unwrap().display().to_string());
            match entry.file_type().unwrap().is_dir() {
                true if name == "tests" => {}
                true => open.push(path),
                false if name == "tests.rs" => {}
                false => found.push((name, std::fs::read_to_string(path).unwrap())),
            }
        }
    }
    assert!(found.len() >= 8, "{found:?}");
    found
}
