//! `carboy audit`: which part of the log, and how it is shown.

use std::path::PathBuf;

use carboy_core::verdict::Reason;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check the chain: VALID, TAMPERED with the first bad entry, or UNVERIFIED where its key is missing
    #[command(
        after_help = "Exit codes: 0 VALID; 1 TAMPERED, or there is no log; 2 bad usage; 70 it cannot be read; 78 UNVERIFIED: it is keyed, \
                      and AUDIT_INTEGRITY_KEY is not set, which says nothing of a change."
    )]
    Verify {
        /// Log to check [default: this user's]
        file: Option<PathBuf>,
        /// A head noted down elsewhere, SEQ:HASH, to find a cut tail or an older copy
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The last entries
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        /// Wait for more
        #[arg(short = 'f', long)]
        follow: bool,
        /// Print the entries as JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Entries that fit
    Query(QueryArgs),
    /// Where the log is
    Path,
    /// Print a fresh key for AUDIT_INTEGRITY_KEY
    Keygen,
}

/// What the log's `event_type` can be.
const KINDS: [&str; 13] = [
    "run",
    "egress",
    "dns",
    "security",
    "policy",
    "operator",
    "port",
    "budget",
    "turn",
    "tool",
    "rate_limit",
    "session",
    "ask",
];

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// Kind of entry
    #[arg(long = "type", value_name = "KIND", value_parser = KINDS)]
    pub event_type: Option<String>,
    /// Outcome
    #[arg(long, value_parser = ["allowed", "denied", "redacted", "warned", "blocked", "done", "failed"])]
    pub result: Option<String>,
    /// Reason code of a refusal, as in docs/refusals.md
    #[arg(long, value_name = "CODE", value_parser = reason_code)]
    pub reason: Option<String>,
    /// Bottle
    #[arg(long)]
    pub bottle: Option<String>,
    /// Run
    #[arg(long)]
    pub run: Option<String>,
    /// Host that was asked for, or looked up
    #[arg(long)]
    pub host: Option<String>,
    /// From this time on (RFC 3339, as in the log)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1000)]
    pub limit: usize,
    /// Print the entries as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// A reason that carboy knows: a misspelt one fits nothing, and silence would read as "never refused".
fn reason_code(text: &str) -> Result<String, String> {
    match Reason::from_code(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("no such reason; docs/refusals.md lists them".into()),
    }
}

#[cfg(test)]
mod tests {
    use carboy_core::audit::EventType;

    use super::*;

    #[test]
    fn every_kind_of_entry_can_be_asked_for() {
        for kind in KINDS {
            serde_json::from_value::<EventType>(kind.into()).unwrap();
        }
        // The last of them has a place here, and so have those before it.
        let all = [
            EventType::Port,
            EventType::Budget,
            EventType::Turn,
            EventType::Tool,
            EventType::RateLimit,
            EventType::Session,
            EventType::Ask,
        ];
        for kind in all {
            let name = serde_json::to_value(kind).unwrap();
            assert!(KINDS.contains(&name.as_str().unwrap()), "{name}");
        }
    }
}
