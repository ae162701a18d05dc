//! What stands between the engine and its tools, sessions, clock and log, and writes down what passes.
//!
//! *Must never* change what passes: a call, its result and its refusal are those of the tool.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use carboy_core::audit::{ChainHead, ChainKey, Entry, Event, Verifier};
use carboy_core::ports::{
    AuditError, AuditSink, Clock, KeptSession, Later, SessionKey, SessionStore, SessionStoreError,
};
use serde_json::{Map, Value};

use super::adversary::lock;
use crate::outcome::Card;
use crate::principal::Principal;
use crate::tool::{Authorization, Call, Effect, InvalidArguments, Output, Retry, Tool, ToolError, ToolSpec};

/// One run of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Did {
    pub(super) tool: String,
    pub(super) effect: Effect,
    pub(super) arguments: Map<String, Value>,
    pub(super) key: String,
    pub(super) at_ms: u64,
    /// Its result, or its refusal as text. `None` while nobody knows.
    pub(super) ended: Option<Result<Value, String>>,
}

/// A card that a tool was asked to make.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) tool: String,
    pub(super) arguments: Map<String, Value>,
}

/// What was done and shown in the step that goes on.
#[derive(Default)]
pub(super) struct Book {
    pub(super) did: Mutex<Vec<Did>>,
    pub(super) shown: Mutex<Vec<Shown>>,
    /// Most octets of a session that was kept.
    pub(super) kept_bytes_most: AtomicUsize,
}

/// A tool with somebody who writes down.
pub(super) struct WatchedTool {
    pub(super) inner: Arc<dyn Tool>,
    pub(super) book: Arc<Book>,
}

impl Tool for WatchedTool {
    fn spec(&self) -> &ToolSpec {
        self.inner.spec()
    }

    fn check(&self, arguments: &Value) -> Result<Map<String, Value>, InvalidArguments> {
        self.inner.check(arguments)
    }

    fn authorize(&self, principal: &Principal, arguments: &Map<String, Value>) -> Authorization {
        self.inner.authorize(principal, arguments)
    }

    fn card(&self, arguments: &Map<String, Value>) -> Option<Card> {
        let tool = self.spec().schema.name.clone();
        lock(&self.book.shown).push(Shown { tool, arguments: arguments.clone() });
        self.inner.card(arguments)
    }

    fn precheck(&self, call: &Call<'_>) -> Result<(), ToolError> {
        self.inner.precheck(call)
    }

    fn retry(&self) -> Retry {
        self.inner.retry()
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Later<'a, Result<Output, ToolError>> {
        let at = {
            let mut did = lock(&self.book.did);
            did.push(Did {
                tool: self.spec().schema.name.clone(),
                effect: self.spec().effect,
                arguments: call.arguments.clone(),
                key: call.idempotency_key.to_owned(),
                at_ms: call.now_ms,
                ended: None,
            });
            did.len() - 1
        };
        Box::pin(async move {
            let ended = self.inner.call(call).await;
            let said = match &ended {
                Ok(output) => Ok(output.value.clone()),
                Err(ToolError::Refused { code, message }) => Err(format!("{code}: {message}")),
                Err(ToolError::Failed { .. }) => Err("failed".to_owned()),
            };
            if let Some(did) = lock(&self.book.did).get_mut(at) {
                did.ended = Some(said);
            }
            ended
        })
    }
}

/// Sessions with somebody who weighs them.
pub(super) struct WatchedSessions {
    pub(super) inner: Arc<dyn SessionStore>,
    pub(super) book: Arc<Book>,
}

impl SessionStore for WatchedSessions {
    fn load(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.inner.load(key, now_ms)
    }

    fn look(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.inner.look(key, now_ms)
    }

    fn save(
        &self,
        key: SessionKey,
        version: u64,
        bytes: Vec<u8>,
        now_ms: u64,
    ) -> Later<'_, Result<(), SessionStoreError>> {
        Box::pin(async move {
            let len = bytes.len();
            self.inner.save(key, version, bytes, now_ms).await?;
            // Only what a store took is kept.
            self.book.kept_bytes_most.fetch_max(len, Ordering::SeqCst);
            Ok(())
        })
    }

    fn remove(&self, key: SessionKey) -> Later<'_, Result<(), SessionStoreError>> {
        self.inner.remove(key)
    }

    fn sweep(&self, now_ms: u64) -> Later<'_, Result<Vec<SessionKey>, SessionStoreError>> {
        self.inner.sweep(now_ms)
    }
}

/// A clock that scripts turn.
pub(super) struct Hands(pub(super) AtomicU64);

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A log in memory, chained as on disk; the events of a script, and the chain of them all.
#[derive(Default)]
pub(super) struct Log {
    inner: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    head: ChainHead,
    entries: Vec<Entry>,
}

impl Log {
    /// Events since it was last asked, in a chain that verifies, or why it does not.
    pub(super) fn taken(&self) -> Result<Vec<Entry>, String> {
        let (entries, head) = {
            let mut written = lock(&self.inner);
            (std::mem::take(&mut written.entries), std::mem::take(&mut written.head))
        };
        let key = ChainKey::Plain;
        let mut verifier = Verifier::new(&key, Some(head));
        for entry in &entries {
            verifier.line(&entry.to_line()).map_err(|tampering| tampering.to_string())?;
        }
        verifier.finish().map_err(|tampering| tampering.to_string())?;
        Ok(entries)
    }

    fn write(&self, event: Event) {
        let mut written = lock(&self.inner);
        let entry = Entry::chain(event, "2026-01-01T00:00:00.000Z", &mut written.head, &ChainKey::Plain);
        written.entries.push(entry);
    }
}

impl AuditSink for Log {
    fn append(&self, event: Event) -> Result<(), AuditError> {
        self.write(event);
        Ok(())
    }

    fn append_durable(&self, event: Event) -> Later<'_, Result<(), AuditError>> {
        self.write(event);
        Box::pin(std::future::ready(Ok(())))
    }
}
