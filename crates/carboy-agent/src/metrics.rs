//! Five counters of what was refused or overwritten (G84), under names that alert rules can rely on (G84c).
//!
//! *Must never* have a label that a person chooses: the number of series is fixed.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted, for one agent or for all of a process.
#[derive(Debug, Default)]
pub struct Metrics {
    injection_detected: AtomicU64,
    rate_limit_exceeded: AtomicU64,
    authorization_denied: AtomicU64,
    tool_errors: AtomicU64,
    redactions: AtomicU64,
}

/// One of the five.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A message looked like an attack, blocked or not.
    InjectionDetected,
    /// A request came beyond a limit.
    RateLimitExceeded,
    /// A tool was asked for by somebody who may not.
    AuthorizationDenied,
    /// A tool call gave an error.
    ToolErrors,
    /// A part of a reply was overwritten.
    Redactions,
}

impl Counter {
    /// All, in the order in which they are shown.
    pub const ALL: [Counter; 5] = [
        Counter::InjectionDetected,
        Counter::RateLimitExceeded,
        Counter::AuthorizationDenied,
        Counter::ToolErrors,
        Counter::Redactions,
    ];

    /// Its name in Prometheus; it never changes.
    pub fn name(self) -> &'static str {
        match self {
            Counter::InjectionDetected => "carboy_chat_injection_detected_total",
            Counter::RateLimitExceeded => "carboy_chat_rate_limit_exceeded_total",
            Counter::AuthorizationDenied => "carboy_chat_authorization_denied_total",
            Counter::ToolErrors => "carboy_chat_tool_errors_total",
            Counter::Redactions => "carboy_chat_redactions_total",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Counter::InjectionDetected => "Messages that looked like an attempt to override the agent's instructions.",
            Counter::RateLimitExceeded => "Requests refused because a rate limit was reached.",
            Counter::AuthorizationDenied => "Tool calls refused because their principal may not make them.",
            Counter::ToolErrors => "Tool calls answered with an error.",
            Counter::Redactions => "Parts of replies that were overwritten.",
        }
    }
}

impl Metrics {
    /// One more.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// So many more.
    pub fn add(&self, counter: Counter, n: u64) {
        self.cell(counter).fetch_add(n, Ordering::Relaxed);
    }

    /// As it stands.
    pub fn value(&self, counter: Counter) -> u64 {
        self.cell(counter).load(Ordering::Relaxed)
    }

    /// In the text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        Counter::ALL.iter().fold(String::new(), |mut text, counter| {
            let (name, help, value) = (counter.name(), counter.help(), self.value(*counter));
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
            text
        })
    }

    fn cell(&self, counter: Counter) -> &AtomicU64 {
        match counter {
            Counter::InjectionDetected => &self.injection_detected,
            Counter::RateLimitExceeded => &self.rate_limit_exceeded,
            Counter::AuthorizationDenied => &self.authorization_denied,
            Counter::ToolErrors => &self.tool_errors,
            Counter::Redactions => &self.redactions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g84c_the_five_counters_have_fixed_names_and_the_format_of_prometheus() {
        let metrics = Metrics::default();
        metrics.count(Counter::InjectionDetected);
        metrics.add(Counter::Redactions, 3);
        let text = metrics.render();
        assert!(
            text.contains(
                "# TYPE carboy_chat_injection_detected_total counter\ncarboy_chat_injection_detected_total 1\n"
            )
        );
        assert!(text.contains("\ncarboy_chat_redactions_total 3\n"));
        for name in ["rate_limit_exceeded", "authorization_denied", "tool_errors"] {
            assert!(text.contains(&format!("\ncarboy_chat_{name}_total 0\n")), "{name}");
        }
        assert_eq!(text.lines().count(), 15);
    }
}
