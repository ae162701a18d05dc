//! Figures for Prometheus, in its text format 0.0.4, where the operator asked for them.
//!
//! Labels are the scope's kind and name, the meter, and the kind of a cap. Runs are not among them: there is no end to
//! their names. *Must never* tell of more scopes than [`SCOPES_MAX`], or anything that is written by an agent.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::budget::{CapKind, LedgerSnapshot, MeterLine, Node, Scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::serving::Serving;
use crate::serve::origin::is_this_machine;

/// Most scopes that are told, the nearest to the host first.
pub const SCOPES_MAX: usize = 500;
/// Longest question, in bytes.
const QUESTION_BYTES_MAX: usize = 8 * 1024;
/// How long a question and its answer may take.
const EXCHANGE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Most questions at once.
const QUESTIONS_MAX: usize = 8;

/// Answers until it is aborted.
pub(super) async fn serve(listener: TcpListener, serving: Arc<Serving>) {
    let room = Arc::new(tokio::sync::Semaphore::new(QUESTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let serving = serving.clone();
        tokio::spawn(async move {
            // Who is slow, or breaks off, asks again.
            let _ = timeout(EXCHANGE_WAIT_MAX, exchange(stream, &serving)).await;
            drop(permit);
        });
    }
}

async fn exchange(mut stream: TcpStream, serving: &Serving) -> std::io::Result<()> {
    let mut question = Vec::new();
    let mut chunk = [0; 1024];
    while !question.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut chunk).await?;
        if length == 0 || question.len() + length > QUESTION_BYTES_MAX {
            return Ok(());
        }
        question.extend_from_slice(&chunk[..length]);
    }
    let (status, body) = if !is_for_us(&question, stream.local_addr()?) {
        ("421 Misdirected Request", "on loopback there are only loopback's names\n".to_owned())
    } else if question.starts_with(b"GET /metrics ") {
        match serving.keeper.engine().snapshot().await {
            Ok(snapshot) => ("200 OK", text(&snapshot, &Counted::of(serving))),
            Err(why) => ("503 Service Unavailable", format!("{why}\n")),
        }
    } else {
        ("404 Not Found", "there is only /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// On loopback only this machine's names are answered to: a page whose name was made to mean 127.0.0.1 could read the answer.
fn is_for_us(question: &[u8], at: SocketAddr) -> bool {
    let named = |line: &[u8]| -> Option<String> {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let value = || String::from_utf8_lossy(&value[1..]).trim().to_ascii_lowercase();
        name.trim_ascii().eq_ignore_ascii_case(b"host").then(value)
    };
    let mut hosts = question.split(|byte| *byte == b'\n').filter_map(named);
    !at.ip().is_loopback() || hosts.all(|host| is_this_machine(&host))
}

/// The controller's own figures.
struct Counted {
    supervisors: u64,
    connections: u64,
    failing: bool,
}

impl Counted {
    fn of(serving: &Serving) -> Counted {
        let status = serving.status();
        Counted { supervisors: status.supervisors, connections: status.connections, failing: status.failing.is_some() }
    }
}

/// A family of figures: name, kind, help, and what a line of a meter gives for it.
type Family = (&'static str, &'static str, &'static str, fn(&MeterLine) -> u64);

const FAMILIES: &[Family] = &[
    ("carboy_tokens_spent_total", "counter", "Tokens charged, as they were reported.", |line| {
        line.spent.raw.tokens_up()
    }),
    ("carboy_tokens_held", "gauge", "Tokens held for requests under way.", |line| line.held.raw.tokens_up()),
    ("carboy_tokens_estimated_total", "counter", "Charged tokens that no provider reported.", |line| {
        line.estimated.raw.tokens_up()
    }),
    ("carboy_tokens_input_total", "counter", "Tokens read, cached ones aside.", |line| line.usage.input),
    ("carboy_tokens_cache_write_total", "counter", "Tokens read and written to a cache.", |line| {
        line.usage.cache_write
    }),
    ("carboy_tokens_cache_read_total", "counter", "Tokens read from a cache.", |line| line.usage.cache_read),
    ("carboy_tokens_output_total", "counter", "Tokens written.", |line| line.usage.output),
    ("carboy_requests_total", "counter", "Requests that ended.", |line| line.requests),
    ("carboy_tokens_per_minute", "gauge", "Tokens a minute over the last five minutes.", |line| line.rate[1]),
];

fn text(snapshot: &LedgerSnapshot, counted: &Counted) -> String {
    let mut nodes = Vec::new();
    walk(&snapshot.host, &mut nodes);
    let mut out = String::new();
    for (name, kind, help, value) in FAMILIES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for node in &nodes {
            for line in &node.meters {
                let _ = writeln!(out, "{name}{{{},meter=\"{}\"}} {}", scope(&node.scope), line.meter, value(line));
            }
        }
    }
    caps(&nodes, &mut out);
    for (name, help, value) in [
        ("carboy_requests_waiting", "Requests that wait for room.", snapshot.waiting),
        ("carboy_supervisors", "Runs that are connected.", counted.supervisors),
        ("carboy_connections", "Clients that are connected.", counted.connections),
        ("carboy_failing", "1 while nothing can be held.", u64::from(counted.failing || snapshot.failing.is_some())),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    out
}

fn caps(nodes: &[&Node], out: &mut String) {
    for (name, help) in [
        ("carboy_cap_tokens", "The most that may be spent in the present window."),
        ("carboy_cap_left_tokens", "What is neither spent nor held of it."),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (node, line, cap) in nodes
            .iter()
            .flat_map(|node| node.meters.iter().flat_map(move |m| m.caps.iter().map(move |cap| (node, m, cap))))
        {
            let kind = match cap.kind {
                CapKind::Budget => "budget",
                CapKind::Ceiling => "ceiling",
            };
            let value = if name == "carboy_cap_tokens" { cap.standing.cap } else { cap.standing.headroom() };
            let labels = scope(&node.scope);
            let _ =
                writeln!(out, "{name}{{{labels},meter=\"{}\",kind=\"{kind}\"}} {}", line.meter, value.tokens_down());
        }
    }
}

/// Every scope but runs, each once: an agent may stand below several bottles.
fn walk<'s>(node: &'s Node, found: &mut Vec<&'s Node>) {
    let mut ahead = std::collections::VecDeque::from([node]);
    while let Some(node) = ahead.pop_front() {
        let new = !found.iter().any(|known| known.scope == node.scope);
        if new && !matches!(node.scope, Scope::Run(_)) && found.len() < SCOPES_MAX {
            found.push(node);
        }
        ahead.extend(&node.children);
    }
}

fn scope(scope: &Scope) -> String {
    let escaped = |name: &str| name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    match scope {
        Scope::Host => "scope=\"host\",name=\"\"".to_owned(),
        Scope::Bottle(name) => format!("scope=\"bottle\",name=\"{}\"", escaped(name)),
        Scope::Agent(name) => format!("scope=\"agent\",name=\"{}\"", escaped(name)),
        Scope::Run(id) => format!("scope=\"run\",name=\"{}\"", escaped(id)),
    }
}
