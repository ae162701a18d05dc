//! What an operator does outside of a run: written down before it is done.
//!
//! *Must never* let anything be done that could not be written down.

use std::sync::Arc;

use carboy_core::audit::{ChainKey, Event, EventType, Outcome, Subject};
use carboy_core::ports::AuditSink;
use carboy_store::StoreError;
use carboy_store::audit::AuditLog;

use crate::clock::SystemClock;
use crate::home::Home;

/// Why a decision could not be written down, and must not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("nothing was done, because it could not be written down: {0}")]
pub struct NotWritten(String);

impl From<StoreError> for NotWritten {
    fn from(error: StoreError) -> NotWritten {
        NotWritten(error.to_string())
    }
}

/// A decision about a bottle.
pub fn decision(bottle: &str, action: &'static str) -> Event {
    let subject = Subject { user_id: None, agent: None, bottle: Some(bottle.to_owned()), run: None };
    Event::new(EventType::Operator, subject, action, Outcome::Done)
}

/// Puts it into the log, durably.
pub fn write_down(home: &Home, key: ChainKey, event: Event) -> Result<(), NotWritten> {
    let log = AuditLog::open(&home.audit_log(), key, Arc::new(SystemClock))?;
    log.append(event).map_err(|e| NotWritten(e.to_string()))?;
    Ok(log.close()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_in_the_log_or_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None).unwrap();
        write_down(&home, ChainKey::Plain, decision("b", "apply").with("changes", 3_u64)).unwrap();
        let line = std::fs::read_to_string(home.audit_log()).unwrap();
        assert!(line.contains("\"apply\"") && line.contains("\"changes\":3"), "{line}");
        std::fs::write(home.audit_log(), "not a log\n").unwrap();
        assert!(write_down(&home, ChainKey::Plain, decision("b", "apply")).is_err());
    }
}
