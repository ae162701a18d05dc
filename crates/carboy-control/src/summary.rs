//! What a run did, in one page: for the person in the morning and, as JSON, for CI.

use std::borrow::Cow;

use carboy_core::address::is_public;
use carboy_core::budget::{Shutdown, Usage};
use carboy_core::host::Host;
use carboy_core::ids::{MeterName, RefusalId};
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
    /// What it spent, by meter, with every time it was resumed; empty where nothing was metered or the controller was away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spent: Vec<SpentOn>,
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
    /// What was done to it, and undone, in this order; the last few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enforced: Vec<Enforced>,
    /// Where the log stood at the end: kept elsewhere, it shows a cut tail.
    pub audit_head: String,
}

/// Exit code of a run that was frozen: it may be resumed (sysexits EX_TEMPFAIL).
pub const FROZEN_CODE: u8 = 75;
/// Exit code of a run that a spent budget or the storm breaker ended, and of one whose program failed while its routes were
/// closed.
pub const CUT_OFF_CODE: u8 = 79;

impl Summary {
    /// The exit code of whoever waited for it.
    pub fn exit_code(&self) -> u8 {
        let own = self.ended.shell_code();
        match self.enforced.last() {
            Some(Enforced { action: Action::Stopped(Shutdown::Kill), by: By::Budget | By::Storm, .. }) => CUT_OFF_CODE,
            // One that ended well has done what it could do.
            Some(Enforced { action: Action::Stopped(Shutdown::Cutoff), .. }) if own != 0 => CUT_OFF_CODE,
            Some(_) | None => own,
        }
    }
}

/// What a run spent on one meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentOn {
    /// What is metered.
    pub meter: MeterName,
    /// Tokens, weighed as they are priced.
    pub weighted: u64,
    /// Tokens, each as one.
    pub raw: u64,
    /// So many of those were not reported by the provider.
    pub estimated: u64,
    /// By kind, as far as it is known.
    pub usage: Usage,
}

/// Something that was done to a run from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// What.
    pub action: Action,
    /// Who wanted it.
    pub by: By,
    /// Why, in words.
    pub why: String,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// What is done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was stopped, in one of four ways.
    Stopped(Shutdown),
    /// It was let go on.
    Resumed,
}

impl Action {
    /// As it is written in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Stopped(how) => how.as_str(),
            Action::Resumed => "resume",
        }
    }
}

impl Serialize for Action {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Action, D::Error> {
        let name = String::deserialize(from)?;
        let all = Shutdown::ALL.into_iter().map(Action::Stopped).chain([Action::Resumed]);
        let mut fits = all.filter(|action| action.as_str() == name);
        fits.next().ok_or_else(|| serde::de::Error::custom("no such action"))
    }
}

/// Who stops a run, or lets it go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A person.
    Operator,
    /// A cap that is spent, or has room again.
    Budget,
    /// The storm breaker: it went on asking after final refusals.
    Storm,
}

impl By {
    /// As it is written in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            By::Operator => "operator",
            By::Budget => "budget",
            By::Storm => "storm",
        }
    }
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
    /// It was frozen: its processes are gone, what it wrote is kept, and it may be resumed.
    Frozen,
}

impl Ended {
    /// The exit code that a shell would show.
    pub fn shell_code(self) -> u8 {
        match self {
            Ended::Code(code) | Ended::NotStarted(code) => code,
            Ended::Frozen => FROZEN_CODE,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(ended: Ended, enforced: &[(Action, By)]) -> Summary {
        let done = |(action, by): &(Action, By)| Enforced { action: *action, by: *by, why: "w".into(), at_ms: 1 };
        Summary {
            run: "r-1".into(),
            bottle: "b".into(),
            ended,
            duration_ms: 1,
            tier: "T1".into(),
            requests: 0,
            bytes_out: 0,
            bytes_in: 0,
            spent: vec![],
            refusals: vec![],
            web_sockets: 0,
            findings: vec![],
            quarantined: vec![],
            noticed: vec![],
            ports: vec![],
            proposed: None,
            overlay: None,
            enforced: enforced.iter().map(done).collect(),
            audit_head: String::new(),
        }
    }

    #[test]
    fn c10_each_way_of_being_stopped_has_its_own_exit_code() {
        let code = |ended, enforced: &[(Action, By)]| summary(ended, enforced).exit_code();
        let (cutoff, kill) = (Action::Stopped(Shutdown::Cutoff), Action::Stopped(Shutdown::Kill));
        assert_eq!(code(Ended::Frozen, &[(Action::Stopped(Shutdown::Freeze), By::Operator)]), 75);
        assert_eq!(code(Ended::Signal(9), &[(cutoff, By::Budget), (kill, By::Storm)]), 79);
        assert_eq!(code(Ended::Signal(9), &[(kill, By::Operator)]), 137);
        assert_eq!(code(Ended::Code(1), &[(cutoff, By::Budget)]), 79);
        assert_eq!(code(Ended::Code(0), &[(cutoff, By::Budget)]), 0);
        assert_eq!(code(Ended::Code(1), &[(cutoff, By::Budget), (Action::Resumed, By::Operator)]), 1);
    }

    #[test]
    fn what_was_done_reads_as_it_was_written() {
        for action in Shutdown::ALL.map(Action::Stopped).into_iter().chain([Action::Resumed]) {
            let text = serde_json::to_string(&action).unwrap();
            assert_eq!(serde_json::from_str::<Action>(&text).unwrap(), action, "{text}");
        }
        assert!(serde_json::from_str::<Action>("\"melt\"").is_err());
    }
}
