//! What is worth a person's look at once: a placeholder on its way to where its credential does not belong (B42).
//!
//! A program that sends one there has been talked into it, or is badly configured; either way somebody should know. The
//! refusal is in the log like every other one; this is one entry more that says what it means, and a supervisor calls its
//! person by the counters ([`crate::GatewayStats`]).
//!
//! *Must never* say a placeholder or a secret, only names.

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::finding::Finding;
use carboy_core::ids::RefusalId;
use carboy_core::verdict::{Denial, Reason};

use crate::gateway::Gateway;

impl Gateway {
    /// Writes the warning for a refusal that is one of these; `host` is what was asked for, fit for the log.
    pub(crate) fn alert(&self, denial: &Denial, host: &str, port: Option<u16>, id: &RefusalId) {
        if denial.reason != Reason::PlaceholderMisplaced {
            return;
        }
        let mut event = Event::new(EventType::Security, self.subject.clone(), "placeholder_misplaced", Outcome::Warned)
            .with("host", host.to_owned())
            .with("detail", denial.detail.clone())
            .with("refusal", id.as_str());
        if let Some(port) = port {
            event = event.with("port", port);
        }
        // The refusal itself is durable; a log that is full by now is told to the next request.
        let _ = self.audit.append(event);
    }
}

/// `github_token in request body (base64) #0123456789abcdef`: rule, place, disguise and fingerprint, never the text.
pub(crate) fn finding_words(finding: &Finding) -> String {
    let mut words = format!("{} in {}", finding.rule, finding.location);
    if !finding.form.is_empty() {
        words.push_str(&format!(" ({})", finding.form));
    }
    if let Some(fingerprint) = &finding.fingerprint {
        words.push_str(" #");
        words.push_str(fingerprint.as_str());
    }
    words
}
