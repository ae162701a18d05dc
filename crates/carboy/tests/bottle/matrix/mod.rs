//! The bypass matrix: for each row several variants of its attack, run by `driver.py` inside a real bottle, and what has to
//! come of each outside: nothing of it at an origin, and an entry in the log with the right reason.
//!
//! ```text
//!  rows (net, names, http, bodies, kernel, hosts) ─▶ attacks.json ─▶ driver.py, in the bottle ─▶ one report for each
//!                                                                                                    │
//!  target/tmp/matrix/PERSON.GROUP.json ◀─ judged: report, log, what the provider and the canaries saw ┘
//! ```
//!
//! Each variant carries a mark of its own, so that an escape names its attack. `cargo xtask matrix` makes
//! `docs/bypass-matrix.md` of the results.

mod bodies;
mod hosts;
mod http;
mod kernel;
pub mod names;
mod net;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use carboy_core::audit::Entry;
use regex::Regex;
use serde_json::{Value, json};

use crate::attack::Outside;
use crate::world::{CANARY, Person, REAL_KEY, REAL_OPENAI_KEY, Ran, World, is_root};
use crate::{Case, case_with};

const PYTHON: &str = "/usr/bin/python3";
/// A row without so many variants is a single string, and no class of attacks.
const VARIANTS_MIN: usize = 3;
/// What every HTTP/1 answer of the provider has in its head.
const FROM_PROVIDER: &str = "x-simulated: ";

pub fn cases() -> Vec<Case> {
    vec![
        case_with("the bypass matrix: addresses and ports", &[PYTHON, "curl"], net::run),
        case_with("the bypass matrix: names", &[PYTHON], names::run),
        case_with("the bypass matrix: requests and protocols", &[PYTHON, "curl"], http::run),
        case_with("the bypass matrix: bodies and credentials", &[PYTHON], bodies::run),
        case_with("the bypass matrix: the kernel and the host", &[PYTHON], kernel::run),
        case_with("the bypass matrix: paths of shared hosts", &[PYTHON], hosts::paths),
        case_with("the bypass matrix: labels below a wildcard", &[PYTHON], hosts::labels),
        case_with("the bypass matrix: upstreams that are not in order", &[PYTHON], hosts::upstreams),
        case_with("the bypass matrix: proxies of the host's", &[PYTHON], hosts::proxies),
        case_with("the bypass matrix: names that lead elsewhere", &[PYTHON, "root", "unshare"], hosts::rebound),
    ]
}

/// A row: its id and what it is, and variants of the attack.
pub struct Row {
    title: &'static str,
    variants: Vec<Variant>,
}

/// One attack for the driver, and what has to come of it.
pub struct Variant {
    what: String,
    attack: Value,
    expect: Expect,
}

/// What has to come of an attack.
pub enum Expect {
    /// The program is told this reason, and the log has it under the id that it was told.
    Told(&'static str),
    /// The first request of a connection is answered by the provider; the next is as [`Told`](Expect::Told).
    AfterOne(&'static str),
    /// Nothing is answered by the provider; the log has the reason in an entry with these words.
    Logged(&'static str, String),
    /// NXDOMAIN without a record; the log has the reason in an entry with these words.
    NoName(&'static str, String),
    /// There is nothing to reach: the bottle's own kernel says one of these, and the gateway is not asked.
    Kernel(&'static [&'static str]),
    /// A WebSocket is open, and the log has the reason for which a message on it was refused, in an entry with these words.
    InSocket(&'static str, String),
    /// The connection ends before it is read: no second reader could find it there.
    Unread,
    /// It is supported: the provider saw the mark once and answered.
    Works,
}

use Expect::{AfterOne, InSocket, Kernel, Logged, NoName, Told, Unread, Works};

pub fn row(title: &'static str, variants: Vec<Variant>) -> Row {
    assert!(variants.len() >= VARIANTS_MIN, "{title}: {} variants", variants.len());
    Row { title, variants }
}

pub fn variant(what: impl Into<String>, attack: Value, expect: Expect) -> Variant {
    Variant { what: what.into(), attack, expect }
}

/// Bytes over a plain connection. `{mark}` in a text becomes the variant's mark.
pub fn plain(to: &str, port: u16, send: Value) -> Value {
    json!({"do": "tcp", "to": to, "port": port, "send": send})
}

/// Bytes over TLS in this name.
pub fn tls(to: &str, name: &str, send: Value) -> Value {
    tls_with(to, json!({"sni": name}), send)
}

/// The same with a handshake of its own kind.
pub fn tls_with(to: &str, handshake: Value, send: Value) -> Value {
    json!({"do": "tcp", "to": to, "port": 443, "tls": handshake, "send": send})
}

/// Frames of HTTP/2 to a host in its own name, with a farewell behind them.
pub fn h2(to: &str, frames: Value) -> Value {
    let mut all = vec![json!(["preface"])];
    all.extend(frames.as_array().unwrap().iter().cloned());
    all.push(json!(["goaway", 0, 0, {"hex": "0000000000000000"}]));
    tls_with(to, json!({"sni": to, "alpn": ["h2"]}), json!([{ "h2": all }]))
}

/// The fields of a GET.
pub fn fields(authority: &str, path: &str, more: &[(&str, &str)]) -> Value {
    let mut all = vec![
        json!([":method", "GET"]),
        json!([":scheme", "https"]),
        json!([":authority", authority]),
        json!([":path", path]),
    ];
    all.extend(more.iter().map(|(name, value)| json!([name, value])));
    json!(all)
}

/// A whole GET as the one stream of a connection.
pub fn h2_get(to: &str, authority: &str, path: &str, more: &[(&str, &str)]) -> Value {
    h2(to, json!([["headers", 1, 5, fields(authority, path, more)]]))
}

/// A GET of HTTP/1.1 with these `Host` fields, in one piece.
pub fn get(target: &str, hosts: &[&str]) -> Value {
    let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
    json!([format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")])
}

/// A POST with a body of known length to a host, in one piece.
pub fn post(host: &str, path: &str, body: Value) -> Value {
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {{length}}\r\n\r\n");
    json!([{"sized": [head, body]}])
}

pub fn sh(script: impl Into<String>) -> Value {
    json!({"do": "sh", "run": script.into()})
}

pub fn py(script: impl Into<String>) -> Value {
    json!({"do": "py", "run": script.into()})
}

/// Not beside others, whose doings it would see.
pub fn alone(mut attack: Value) -> Value {
    attack["alone"] = true.into();
    attack
}

pub fn dns(name: &str, kind: u16) -> Value {
    json!({"do": "dns", "name": name, "type": kind})
}

/// One run of the driver in the world's bottle, and what it came to.
pub struct Round<'w> {
    world: &'w World,
    outside: &'w Outside,
    group: &'static str,
    person: Person,
    environment: Vec<(String, String)>,
}

impl<'w> Round<'w> {
    pub fn new(world: &'w World, outside: &'w Outside, group: &'static str, person: Person) -> Round<'w> {
        Round { world, outside, group, person, environment: Vec::new() }
    }

    /// A variable of the host's environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Runs all variants in one bottle and judges all of them, so that one run shows everything that is wrong.
    pub fn judge(self, rows: &[Row]) -> Ran {
        let marked = marked(rows);
        let attacks: Vec<&Value> = marked.iter().map(|one| &one.attack).collect();
        self.world.write("project/attacks.json", &serde_json::to_string(&attacks).unwrap());
        self.world.write("project/driver.py", include_str!("driver.py"));
        let (name, label) = (format!("{}.{}.json", self.label(), self.group), self.label());
        let environment: Vec<(&str, &str)> = self.environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let ran = self.world.run_in(&environment, &[], &[PYTHON, "driver.py", "attacks.json"]);
        let reports: BTreeMap<String, Value> = ran
            .stdout
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|report| (report["id"].as_str().unwrap_or_default().to_owned(), report))
            .collect();
        let judge = Judge::new(self.world, &ran);
        let mut wrong: Vec<String> = Vec::new();
        for one in &marked {
            match reports.get(&one.mark) {
                None => wrong.push(format!("{} {}: no report", one.mark, one.variant.what)),
                Some(report) => judge.variant(one, report, &mut wrong),
            }
        }
        judge.nothing_unwritten(&marked, &mut wrong);
        let log = self.world.dir.join("home/audit");
        assert!(
            wrong.is_empty(),
            "{label} {name}:\n{}\n\nlog: {}\nstderr:\n{}",
            wrong.join("\n"),
            log.display(),
            ran.stderr
        );
        let text: String = ran.entries.iter().map(|e| String::from_utf8(e.to_line()).unwrap() + "\n").collect();
        for secret in [CANARY, REAL_KEY, REAL_OPENAI_KEY] {
            assert!(!text.contains(secret), "{secret} stands in the log");
        }
        self.world.assert_nothing_escaped();
        self.outside.assert_untouched();
        write_down(&name, rows);
        ran
    }

    fn label(&self) -> &'static str {
        if self.person == Person::Me && is_root() { "root" } else { "user" }
    }
}

/// A variant with its mark.
struct Marked<'r> {
    mark: String,
    variant: &'r Variant,
    attack: Value,
}

fn marked(rows: &[Row]) -> Vec<Marked<'_>> {
    let mut all = Vec::new();
    // Two rows may be about one id.
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let id = row.title.split(' ').next().unwrap().to_lowercase();
        for variant in &row.variants {
            let number = numbers.entry(id.clone()).or_default();
            let mark = format!("mark-{id}-{number:02}");
            *number += 1;
            let text = serde_json::to_string(&variant.attack).unwrap();
            // Where bytes leave, something has to be missed at the origin.
            let tells = text.contains("{mark}") || text.contains(CANARY) || text.contains("{wide}");
            assert!(
                tells || matches!(variant.expect, Kernel(_) | NoName(..) | Logged(..) | InSocket(..)),
                "{mark}: it carries nothing"
            );
            let wide: String = mark.bytes().map(|b| format!("%{b:02x}")).collect();
            let mut attack: Value =
                serde_json::from_str(&text.replace("{mark}", &mark).replace("{wide}", &wide)).unwrap();
            attack["id"] = mark.clone().into();
            all.push(Marked { mark, variant, attack });
        }
    }
    all
}

/// What is known once the run is over.
struct Judge<'w> {
    world: &'w World,
    lines: Vec<(Option<String>, Option<String>, String)>,
    refusal: Regex,
    told: Regex,
}

impl<'w> Judge<'w> {
    fn new(world: &'w World, ran: &'w Ran) -> Judge<'w> {
        let text = |entry: &Entry, name: &str| entry.detail(name).and_then(|v| v.as_str()).map(str::to_owned);
        let line = |entry: &Entry| {
            (text(entry, "reason"), text(entry, "refusal"), String::from_utf8(entry.to_line()).unwrap())
        };
        Judge {
            world,
            lines: ran.entries.iter().map(line).collect(),
            refusal: Regex::new(r"\bx-[0-9a-z]{6}\b").unwrap(),
            told: Regex::new(r"x-carboy-reason: ([a-z_]+)").unwrap(),
        }
    }

    fn variant(&self, one: &Marked<'_>, report: &Value, wrong: &mut Vec<String>) {
        let got = report["got"].as_str().unwrap_or_default();
        let error = report["error"].as_str();
        let answered = got.matches(FROM_PROVIDER).count();
        let seen = self.world.provider.received().iter().filter(|r| r.contains(one.mark.as_bytes())).count();
        let mut complain = |what: String| {
            let text: String = got.chars().take(400).collect();
            wrong.push(format!("{} {}: {what}; error {error:?}, {text:?}", one.mark, one.variant.what));
        };
        let forms = [REAL_KEY, REAL_OPENAI_KEY]
            .map(|key| [key.to_owned(), base64::engine::general_purpose::STANDARD.encode(key)]);
        if forms.as_flattened().iter().any(|form| got.contains(form)) {
            complain("A REAL KEY CAME BACK".to_owned());
        }
        if !matches!(one.variant.expect, Works) && seen > 0 {
            complain("IT ARRIVED".to_owned());
        }
        match &one.variant.expect {
            Told(code) if answered > 0 || !self.was_told(got, code) => {
                complain(format!("not told {code} as the log has it"))
            }
            AfterOne(code) if answered != 1 || !self.was_told(got, code) => {
                complain(format!("not one answer, and then {code}"));
            }
            Logged(code, words) if answered > 0 || !self.in_log(code, words) => {
                complain(format!("answered, or no entry with {code} and {words:?}"));
            }
            NoName(code, words) if report["code"] != 3 || report["records"] != 0 || !self.in_log(code, words) => {
                complain(format!("a name, or no entry with {code} and {words:?}"));
            }
            InSocket(code, words) if !got.starts_with("HTTP/1.1 101") || !self.in_log(code, words) => {
                complain(format!("no WebSocket, or no entry with {code} and {words:?}"));
            }
            Unread if answered > 1 || report["ended"] != true => complain("read, or left open".to_owned()),
            Kernel(words) if !says(report, words) => complain(format!("not one of {words:?}")),
            Works if answered == 0 && !self.over_h2(got) && !got.starts_with("HTTP/1.1 101") || seen != 1 => {
                complain(format!("not answered, or seen {seen} times"))
            }
            Told(_) | AfterOne(_) | Logged(..) | NoName(..) | InSocket(..) | Unread | Kernel(_) | Works => {}
        }
    }

    /// Is the last thing that was told this reason, under an id that the log has it under?
    fn was_told(&self, got: &str, code: &str) -> bool {
        let last = self.told.captures_iter(got).last().map(|found| found[1].to_owned());
        // Over HTTP/2 the fields are packed; the body says it too.
        let says = last.map_or_else(|| got.contains(code), |last| last == code);
        let id = self.refusal.find_iter(got).last().map(|found| found.as_str());
        says && self
            .lines
            .iter()
            .any(|(reason, refusal, _)| reason.as_deref() == Some(code) && refusal.as_deref() == id)
    }

    fn in_log(&self, code: &str, words: &str) -> bool {
        self.lines.iter().any(|(reason, _, line)| reason.as_deref() == Some(code) && line.contains(words))
    }

    /// An answer over HTTP/2 that is no refusal.
    fn over_h2(&self, got: &str) -> bool {
        got.starts_with("\0\0") && !self.refusal.is_match(got)
    }

    /// As many refusals are in the log, counted repeats included, as were provoked: none was given without a word there.
    fn nothing_unwritten(&self, marked: &[Marked<'_>], wrong: &mut Vec<String>) {
        let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
        for one in marked {
            match &one.variant.expect {
                Told(code) | AfterOne(code) | Logged(code, _) | NoName(code, _) | InSocket(code, _) => {
                    *expected.entry(code).or_default() += 1
                }
                Kernel(_) | Unread | Works => {}
            }
        }
        let repeats = Regex::new("\"repeats\":([0-9]+)").unwrap();
        for (code, count) in expected {
            let own = self
                .lines
                .iter()
                .filter(|(reason, _, line)| reason.as_deref() == Some(code) || reason.is_none() && line.contains(code));
            let written: usize = own
                .map(|(reason, _, line)| {
                    let more = repeats.captures(line).map_or(0, |found| found[1].parse::<usize>().unwrap());
                    usize::from(reason.is_some()) + more
                })
                .sum();
            if written < count {
                wrong.push(format!("{code}: {count} variants, and {written} refusals in the log"));
            }
        }
    }
}

/// Did it fail in one of these ways, in all that it tried?
fn says(report: &Value, words: &[&str]) -> bool {
    if let Some(error) = report["error"].as_str() {
        return words.contains(&error);
    }
    let mut lines = report["got"].as_str().unwrap_or_default().lines().peekable();
    report["code"].is_number() && lines.peek().is_some() && lines.all(|line| words.contains(&line))
}

/// For `cargo xtask matrix`.
fn write_down(name: &str, rows: &[Row]) {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix");
    std::fs::create_dir_all(&dir).unwrap();
    let outcome = |expect: &Expect| match expect {
        Told(code) | AfterOne(code) | Logged(code, _) | NoName(code, _) | InSocket(code, _) => (*code).to_owned(),
        Kernel(_) => "kernel".to_owned(),
        Unread => "unread".to_owned(),
        Works => "works".to_owned(),
    };
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let variants: Vec<Value> =
                row.variants.iter().map(|v| json!({"what": v.what, "outcome": outcome(&v.expect)})).collect();
            json!({"title": row.title, "variants": variants})
        })
        .collect();
    std::fs::write(dir.join(name), serde_json::to_string_pretty(&rows).unwrap()).unwrap();
}

/// A reachable address outside, as the driver wants it.
pub fn split(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}
