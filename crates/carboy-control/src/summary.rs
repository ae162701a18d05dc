//! What a run did, in one page: for the person in the morning and, as JSON, for CI.

use std::borrow::Cow;

use carboy_core::address::is_public;
use carboy_core::host::Host;
use carboy_core::ids::RefusalId;
use carboy_core::verdict::Reason;
use carboy_egress::GatewayStats;
use serde::{Deserialize, Serialize};

use crate::propose::Proposed;

use crate::ports::PortReport;

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The run.
    pub run: String,
    /// Its bottle.
    pub bottle: String,
    /// How the program ended.
    pub ended: Ended,
    /// Milliseconds from start to end.
    pub duration_ms: u64,
    /// How traffic was captured.
    pub tier: String,
    /// HTTP requests seen, refused ones included.
    pub requests: u64,
    /// Bytes of requests that left.
    pub bytes_out: u64,
    /// Bytes of answers that came in.
    pub bytes_in: u64,
    /// What was refused and what failed, grouped, most frequent first.
    pub refusals: Vec<Refused>,
    /// WebSocket attempts at a model's interface that were answered with 426; none of the refusals.
    #[serde(default)]
    pub web_sockets: u64,
    /// What the scanners found, by detector and rule.
    pub findings: Vec<Found>,
    /// What was changed in the workspace and not kept.
    pub quarantined: Vec<String>,
    /// What the workspace brought along that would make programs of the host run something.
    pub noticed: Vec<String>,
    /// Published and forwarded ports, and what went through them.
    #[serde(default)]
    pub ports: Vec<PortReport>,
    /// What a run that learned proposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed: Option<Proposed>,
    /// The directory whose changes wait in the bottle's state (`workspace: overlay`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// Where the log stood at the end: kept elsewhere, it shows a cut tail.
    pub audit_head: String,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
    /// It was not found, or cannot be executed; a shell shows this code.
    NotStarted(u8),
}

impl Ended {
    /// The exit code that a shell would show.
    pub fn shell_code(self) -> u8 {
        match self {
            Ended::Code(code) | Ended::NotStarted(code) => code,
            Ended::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Was it forbidden, or could carboy not get it?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedKind {
    /// Forbidden: by a route, a scanner, the form of the request.
    #[default]
    Refused,
    /// An outage, a limit, a missing file: no policy decided it.
    Failed,
}

/// Refusals of one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Forbidden or failed.
    #[serde(default)]
    pub kind: RefusedKind,
    /// Stable code of the reason.
    pub reason: Cow<'static, str>,
    /// How often.
    pub count: u64,
    /// What happened, in words.
    pub what: Cow<'static, str>,
    /// What the operator can do about it.
    pub next: Cow<'static, str>,
    /// The first few that differ.
    pub examples: Vec<Example>,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Under which the log has it, and `carboy explain`.
    #[serde(default)]
    pub id: String,
    /// Host, or name asked of DNS.
    pub host: String,
    /// The particulars.
    pub detail: String,
    /// The command that would allow it, where one would.
    pub allow: Option<String>,
}

impl Example {
    /// The particulars, and the host where they do not name it.
    pub fn detail_or_host(&self) -> String {
        match (self.detail.is_empty(), self.detail.contains(&self.host)) {
            (true, _) => self.host.clone(),
            (false, true) => self.detail.clone(),
            (false, false) => format!("{}: {}", self.host, self.detail),
        }
    }
}

impl Refused {
    /// All reasons of a gateway's counters, most frequent first.
    pub fn of(stats: &GatewayStats) -> Vec<Refused> {
        let mut all: Vec<Refused> = stats
            .refusals
            .iter()
            .map(|(reason, refusals)| Refused {
                kind: if reason.is_failure() { RefusedKind::Failed } else { RefusedKind::Refused },
                reason: reason.code().into(),
                count: refusals.count,
                what: reason.what().into(),
                next: reason.operator_step().into(),
                examples: refusals
                    .samples
                    .iter()
                    .map(|sample| Example {
                        id: sample.id.to_string(),
                        host: sample.host.clone(),
                        detail: sample.detail.clone(),
                        allow: allow_command(*reason, &sample.host, &sample.id),
                    })
                    .collect(),
            })
            .collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then(a.reason.cmp(&b.reason)));
        all
    }
}

/// The command that opens what was refused; none where opening is not what one should do (a leaking secret, a
/// metadata address) or where the refusal is none of the routes'.
fn allow_command(reason: Reason, host: &str, id: &RefusalId) -> Option<String> {
    let host = Host::parse(host).ok()?;
    match host.as_ip() {
        Some(ip) if !is_public(ip) => None,
        Some(_) | None => reason.is_of_routes().then(|| format!("carboy allow {id}")),
    }
}

/// One kind of finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Detector and rule.
    pub rule: String,
    /// How often.
    pub count: u64,
}
