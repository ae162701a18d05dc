//! What stands above a conversation: the agent's name and which of its layers are on, as they really are (G73, G73b).
//!
//! *Must never* say that a layer is on which a setting has turned off.

use std::fmt::Write as _;

use carboy_core::chat::ChatSpec;

use super::page::shown;
use crate::report::Flow;

/// Most `=` of a rule.
const RULE_COLUMNS_MAX: usize = 50;

/// The banner, for a window of so many columns.
pub fn banner(spec: &ChatSpec, columns: Option<usize>) -> String {
    let rule = "=".repeat(columns.map_or(RULE_COLUMNS_MAX, |columns| columns.min(RULE_COLUMNS_MAX)));
    let screening = &spec.screening;
    let layers = [
        ("blocking", screening.block_suspicious_inputs),
        ("secrets filter", screening.filter_secrets),
        ("PII filter", screening.filter_pii),
    ];
    let off: Vec<&str> = layers.into_iter().filter_map(|(name, on)| (!on).then_some(name)).collect();
    let mut out = format!("{} (Ctrl+C to exit)\n{rule}\n", shown(&spec.title).trim());
    match off.is_empty() {
        true => out.push_str("🔒 Security enabled\n"),
        // Writing to a String cannot fail.
        false => drop(writeln!(out, "🔓 Security reduced ({} OFF)", off.join(", "))),
    }
    // Messages are always cleaned and bounded, and nothing is answered that is not written down.
    out.push_str("🛡️ Input validation: ON\n");
    out.push_str(match screening.block_suspicious_inputs {
        true => "🕵️ Injection detection: ON\n",
        false => "🕵️ Injection detection: OFF (written down, not blocked)\n",
    });
    out.push_str("📝 Audit logging: ON\n");
    let _ = writeln!(out, "🚦 Rate limiting: {} req/hour\n{rule}", spec.limits.requests_per_hour);
    Flow::whole(&out, columns)
}
