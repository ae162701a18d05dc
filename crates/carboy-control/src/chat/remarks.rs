//! Why tools fail, for whoever runs the agent: one JSON object a line, apart from the audit log (G83).
//!
//! ```text
//! Engine ─ Remark ─▶ searched for secrets, shortened ─▶ {session, turn, tool, particulars} ─▶ standard error, or a file
//! ```
//!
//! `session` and `turn` are those of the audit log and of the service's own lines: they bring the three together. *Must never*
//! hold a secret of this run, or reach a person or a model.

use std::sync::Arc;

use carboy_agent::Remark;
use carboy_agent::engine::Remarks;
use carboy_core::ports::Clock;
use carboy_store::audit::rfc3339;
use serde_json::json;

use crate::clock::SystemClock;
use crate::notify::{LookedFor, clean};
use crate::serve::Lines;

/// Writes each as a line. Where nobody can tell what is secret, no words are passed on.
pub(super) fn remarks(lines: Lines, looked_for: LookedFor) -> Remarks {
    Arc::new(move |remark: Remark| {
        let line = json!({
            "timestamp": rfc3339(SystemClock.now_ms()),
            "level": "warning",
            "event": "tool_failed",
            "session": remark.conversation.session,
            "turn": remark.conversation.turn,
            "tool": remark.tool,
            "particulars": clean(looked_for().as_ref(), &remark.particulars).text,
        });
        lines(&line.to_string());
    })
}
