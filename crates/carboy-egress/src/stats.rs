//! What a gateway counted, for summaries and dashboards. Bounded, and free of secrets.

use std::collections::BTreeMap;

use carboy_core::finding::Finding;
use carboy_core::ids::RefusalId;
use carboy_core::verdict::{Denial, Reason};

/// Samples that are kept per reason.
pub const SAMPLES_MAX: usize = 8;
/// Rules whose findings are counted apart.
const RULES_MAX: usize = 256;

/// A snapshot of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayStats {
    /// HTTP requests seen, refused ones included.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Request body bytes that went out.
    pub bytes_out: u64,
    /// Response body bytes that came in, decoded.
    pub bytes_in: u64,
    /// Refusals and failures by reason.
    pub refusals: BTreeMap<Reason, RefusalStats>,
    /// WebSocket attempts at a model's interface, answered with 426: its client goes on over HTTP. None of the refusals.
    pub web_sockets: u64,
    /// Findings by rule name.
    pub findings: BTreeMap<String, u64>,
}

/// Refusals of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusalStats {
    /// How many.
    pub count: u64,
    /// The first few that differ.
    pub samples: Vec<RefusalSample>,
}

/// One refusal as an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalSample {
    /// The host or name that was asked for.
    pub host: String,
    /// The port, where there was one.
    pub port: Option<u16>,
    /// The denial's particulars.
    pub detail: String,
    /// Under which the log has it: the first of those that the sample stands for.
    pub id: RefusalId,
}

impl GatewayStats {
    /// How much was refused; what merely failed is not in it.
    pub fn refused(&self) -> u64 {
        self.total(|reason| !reason.is_failure())
    }

    /// How much failed without anybody's having forbidden it.
    pub fn failed(&self) -> u64 {
        self.total(Reason::is_failure)
    }

    fn total(&self, counts: impl Fn(Reason) -> bool) -> u64 {
        self.refusals.iter().filter(|(reason, _)| counts(**reason)).map(|(_, refusals)| refusals.count).sum()
    }

    pub(crate) fn refuse(&mut self, denial: &Denial, host: &str, port: Option<u16>, id: &RefusalId) {
        let stats = self.refusals.entry(denial.reason).or_default();
        stats.count += 1;
        let known = stats.samples.iter().any(|sample| sample.host == host && sample.port == port);
        if !known && stats.samples.len() < SAMPLES_MAX {
            let (host, detail) = (host.to_owned(), denial.detail.clone());
            stats.samples.push(RefusalSample { host, port, detail, id: id.clone() });
        }
    }

    /// Counts a refusal that no entry stands for by itself.
    pub(crate) fn refuse_again(&mut self, reason: Reason) {
        self.refusals.entry(reason).or_default().count += 1;
    }

    pub(crate) fn found(&mut self, findings: &[Finding]) {
        for finding in findings {
            if self.findings.len() < RULES_MAX || self.findings.contains_key(&finding.rule) {
                *self.findings.entry(finding.rule.clone()).or_default() += 1;
            }
        }
    }
}
