//! Bookly behind a real engine, real sessions, its real records and a real audit log. Only the model is scripted: it is the
//! adversary.
#![allow(dead_code)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bookly::config::{RETURN_POLICY, books_file};
use bookly::server::{GREETING, TITLE};
use carboy_agent::{
    Asker, Engine, Metrics, Model, ModelError, Parts, Principal, PrincipalKind, Reply, SessionId, TurnError, TurnEvent,
};
use carboy_core::audit::{ChainKey, Subject};
use carboy_core::chat::ChatSpec;
use carboy_core::ports::{Clock, Later};
use carboy_core::secret::Secret;
use carboy_store::audit::{AuditLog, Integrity, verify};
use carboy_store::sessions::{MemorySessions, SessionLimits};
use carboy_wire::chat::{Block, Completion, Delta, Message, Prompt, Stopped};
use serde_json::{Value, json};

pub const NOW: u64 = 1_780_000_000_000; // 2026-05-28
pub const SARAH: &str = "sarah.chen@example.com";
pub const MARCUS: &str = "marcus.webb@example.com";
pub const SECRET: &str = "a key of a test, and of nothing else";

/// A clock that tests turn.
pub struct Hands(pub AtomicU64);

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A model that does what it is told, and then says `ok`.
#[derive(Default)]
pub struct Script {
    says: Mutex<VecDeque<Vec<Block>>>,
    heard: Mutex<Vec<Vec<Message>>>,
    systems: Mutex<Vec<String>>,
}

impl Script {
    pub fn says(&self, says: impl IntoIterator<Item = Vec<Block>>) {
        self.says.lock().unwrap().extend(says);
    }

    /// Results of tools that it was ever given, as text, in order.
    pub fn results(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let result = |block: &Block| match block {
            Block::ToolResult { content, .. } => Some(content.clone()),
            Block::Text { .. } | Block::ToolUse { .. } | Block::Opaque { .. } => None,
        };
        let mut results: Vec<String> = Vec::new();
        for messages in heard.iter() {
            let all: Vec<String> =
                messages.iter().flat_map(|message| message.blocks.iter().filter_map(result)).collect();
            let known = results.len().min(all.len());
            if all[..known] == results[..known] {
                results = all;
            } else {
                results.extend(all);
            }
        }
        results
    }

    /// Everything it was ever asked with.
    pub fn all(&self) -> String {
        let heard = self.heard.lock().unwrap();
        let systems = self.systems.lock().unwrap().join("\n");
        heard.iter().map(|messages| serde_json::to_string(messages).unwrap()).chain([systems]).collect()
    }

    pub fn last(&self) -> String {
        serde_json::to_string(self.heard.lock().unwrap().last().unwrap()).unwrap()
    }
}

impl Model for Script {
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        self.heard.lock().unwrap().push(prompt.messages.to_vec());
        let asked = format!("{}{}", prompt.system, prompt.reminders.concat());
        self.systems.lock().unwrap().push(asked);
        let blocks = self.says.lock().unwrap().pop_front().unwrap_or_else(|| text("ok"));
        Box::pin(async move {
            for block in &blocks {
                if let Block::Text { text } = block {
                    listen(Delta::Text(text.clone()));
                }
            }
            Ok(Completion { blocks, stopped: Stopped::EndOfTurn })
        })
    }
}

pub fn text(text: &str) -> Vec<Block> {
    vec![Block::Text { text: text.to_owned() }]
}

pub fn call(name: &str, input: Value) -> Vec<Block> {
    vec![Block::ToolUse { id: "c1".into(), name: name.into(), input }]
}

pub fn look(order: &str, email: &str) -> Vec<Block> {
    call("lookup_order", json!({"order_id": order, "customer_email": email}))
}

pub fn check(order: &str, email: &str) -> Vec<Block> {
    call("check_return_eligibility", json!({"order_id": order, "customer_email": email}))
}

pub fn give_back(order: &str) -> Vec<Block> {
    call("initiate_return", json!({"order_id": order, "reason": "changed_mind"}))
}

/// Everything around one engine.
pub struct World {
    pub home: tempfile::TempDir,
    pub model: Arc<Script>,
    pub clock: Arc<Hands>,
    pub log: Arc<AuditLog>,
    pub engine: Engine,
}

impl World {
    /// Bookly as it is.
    pub fn new() -> World {
        World::with(|_| {})
    }

    /// Bookly without its first two layers: no prompt, no reminders (G2).
    pub fn bare() -> World {
        World::with(|spec| {
            spec.prompt.system = "Do whatever you like.".into();
            spec.prompt.reminder = String::new();
            spec.prompt.long_reminder = String::new();
        })
    }

    pub fn with(change: impl FnOnce(&mut ChatSpec)) -> World {
        let script = Arc::new(Script::default());
        World { model: script.clone(), ..World::of(script, change) }
    }

    /// Bookly with another model; its script stays unheard.
    pub fn of(model: Arc<dyn Model>, change: impl FnOnce(&mut ChatSpec)) -> World {
        let home = tempfile::tempdir().unwrap();
        let application = bookly::open(home.path(), NOW).unwrap();
        let mut spec = bookly::agent::spec(TITLE, GREETING, &RETURN_POLICY).unwrap();
        // A test is faster than a person.
        spec.limits.requests_per_hour = 100_000;
        spec.limits.requests_per_session_per_minute = 100_000;
        spec.limits.requests_per_ip_per_minute = 100_000;
        spec.limits.requests_per_ip_per_hour = 100_000;
        change(&mut spec);
        let clock = Arc::new(Hands(AtomicU64::new(NOW)));
        let log = AuditLog::open(&home.path().join("audit.jsonl"), ChainKey::Plain, clock.clone()).unwrap();
        let log = Arc::new(log);
        let engine = Engine::new(Parts {
            spec,
            tools: application.tools,
            model,
            sessions: Arc::new(MemorySessions::new(SessionLimits::default())),
            audit: log.clone(),
            clock: clock.clone(),
            secret: Arc::new(Secret::new(SECRET.into())),
            subject: Subject { agent: Some("bookly".into()), ..Subject::default() },
            metrics: Arc::new(Metrics::default()),
        })
        .unwrap();
        World { home, model: Arc::default(), clock, log, engine }
    }

    pub async fn turn(&self, asker: &Asker, message: &str) -> Result<Reply, TurnError> {
        self.engine.turn(asker, message, &|_| {}).await
    }

    /// A turn, and all that a person could have seen of it.
    pub async fn watched(&self, asker: &Asker, message: &str) -> (Result<Reply, TurnError>, Vec<TurnEvent>) {
        let events = Mutex::new(Vec::new());
        let reply = self.engine.turn(asker, message, &|event| events.lock().unwrap().push(event)).await;
        (reply, events.into_inner().unwrap())
    }

    /// Rows of `returns`: order, lines.
    pub fn returns(&self) -> Vec<(String, String)> {
        let records = rusqlite::Connection::open(books_file(self.home.path())).unwrap();
        let mut rows = records.prepare("SELECT order_id, lines FROM returns ORDER BY 1, 2").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    /// The log's text, whose chain verifies. Nothing is written after it.
    pub fn closed_log(&self) -> String {
        self.log.close().unwrap();
        let path = self.home.path().join("audit.jsonl");
        assert_eq!(verify(&path, &ChainKey::Plain, None).unwrap().result, Integrity::Valid, "I8: the chain verifies");
        std::fs::read_to_string(path).unwrap()
    }
}

/// Somebody on a web page.
pub fn visitor() -> Asker {
    let principal = Principal { id: "visitor".into(), kind: PrincipalKind::Anonymous, roles: BTreeSet::new() };
    Asker { session: SessionId::fresh().unwrap(), principal, address: Some([127, 0, 0, 1].into()) }
}
