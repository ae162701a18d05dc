//! What a guarded chat service costs: answers per second, latency, CPU time, memory and start of `carboy serve`, beside a
//! service of the same shape in FastAPI that guards nothing.
//!
//! ```text
//! people ──HTTP, a session each──▶ carboy serve bookly, controller ──HTTP──▶ the offline model, a process of its own
//!        ────────────────────────▶ uvicorn, bench-chat-peer.py ────HTTP──▶ the same one
//! ```
//!
//! The peer asks the model with what carboy asked it with: prompt, tools and policies are taken from carboy's own requests.
//!
//! `CARBOY_BENCH_PARTS=start,load` measures those alone; nothing is to be written into the document then.

mod load;
mod memory;
mod report;
mod service;
mod start;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Bench;
use super::budget::home::KEY;
use super::process::Process;
use load::{Outcome, Pace, Person, Question};
use memory::Memory;
use service::{Carboy, Launch, Peer, Service, free_address};

/// Rounds; in each, every service carries out every order.
const ROUNDS: usize = 3;
/// No order is given after this.
const TIME_MAX: Duration = Duration::from_secs(400);
/// Connections where many are meant.
const MANY: u32 = 16;
/// Answers per second that every service can bear: latency is then its own, not that of a queue.
const CALM_PER_SECOND: u32 = 40;
/// Sessions that idle.
const SESSIONS: u32 = 10_000;
/// Requests per minute that every limiter lets through.
const PER_MINUTE: u32 = 1_000_000;

const CARBOY: &str = "carboy";
const ONE_WORKER: &str = "FastAPI, 1 worker";
const WORKERS: &str = "FastAPI, a worker for each core";

/// What is asked: what tables call it, and its words.
const ASKED: [(&str, &str); 2] = [
    ("refused as off topic: one question to the model", "Which of these novels should I read first?"),
    ("a policy: two questions, a tool between", "What is your policy on gift cards?"),
];

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Order {
    /// Index into [`ASKED`].
    question: usize,
    connections: u32,
    pace: Pace,
}

/// A service at work, and what was found.
struct Contestant {
    name: &'static str,
    service: Service,
    /// Whose CPU time and memory it is: its process and what it needs besides.
    roots: Vec<u32>,
    outcomes: Vec<(Order, Outcome)>,
    idle: Memory,
    loaded: Memory,
    full: Memory,
}

fn orders() -> Vec<Order> {
    let order = |connections, pace| move |question| Order { question, connections, pace };
    let all = [order(1, Pace::AtOnce), order(MANY, Pace::AtOnce), order(MANY, Pace::PerSecond(CALM_PER_SECOND))];
    all.iter().flat_map(|order| (0..ASKED.len()).map(order)).collect()
}

/// Measures and writes the tables.
pub fn run(bench: &Bench) -> Result<String, String> {
    let wanted = std::env::var("CARBOY_BENCH_PARTS").unwrap_or_default();
    let wants = |part: &str| wanted.is_empty() || wanted.split(',').any(|wanted| wanted == part);
    let program = bench.build("carboy", "")?;
    let programs = bench.build("carboy-egress", "bench")?;
    let mut model = Process::start("the offline model", std::process::Command::new(&programs).args(["offline", KEY]))?;
    let address = model.hear()?;
    let settings = Carboy::settings(&address, PER_MINUTE);
    let carboy = Carboy::new(bench, &program, &bench.scratch.join("home"))?;
    let home = carboy.home(bench, &settings)?;
    carboy.lift_cap()?;
    let (questions, spec) = learn(&carboy, &mut model)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let peers = [Peer::new(bench, &spec, &address, 1)?, Peer::new(bench, &spec, &address, cores)?];
    let mut text = String::new();
    let mut goals = String::new();
    if wants("load") {
        let mut contestants = vec![Contestant::enter(CARBOY, &questions, &[home.controller()], |at| carboy.serve(at))?];
        for (name, peer) in [ONE_WORKER, WORKERS].into_iter().zip(&peers) {
            contestants.push(Contestant::enter(name, &questions, &[], |at| peer.serve(at))?);
        }
        compete(&mut contestants, &questions)?;
        let part = report::of(&contestants, &peers[0].python_version()?);
        text += &part.0;
        goals += &part.1;
    }
    if wants("start") {
        let other = Carboy::new(bench, &program, &bench.scratch.join("fresh"))?;
        let part = start::run(bench, &settings, [&carboy, &other], &peers)?;
        text += &part.0;
        goals += &part.1;
    }
    drop(home);
    Ok(report::whole(&text, &goals))
}

/// Asks carboy each question once: what it replies, and what the peer has to be told to ask the model the same way.
fn learn(carboy: &Carboy, model: &mut Process) -> Result<(Vec<Question>, String), String> {
    let address = free_address()?;
    let (_service, _) = Service::start(CARBOY, carboy.serve(address), address)?;
    let (mut questions, mut last) = (Vec::new(), Value::Null);
    for (_, asked) in ASKED {
        let expected = Person::new(address)?.ask(asked)?;
        model.tell("request")?;
        last = serde_json::from_str(&model.hear()?).map_err(|error| format!("carboy asked the model: {error}"))?;
        questions.push(Question { asked, expected });
    }
    let spec = spec_of(last).ok_or("carboy asked the model without a tool between")?;
    Ok((questions, spec.to_string()))
}

/// From the last request of a turn with a call of a tool: the request without its messages, and what the tool returned.
fn spec_of(mut request: Value) -> Option<Value> {
    let messages = request["messages"].take();
    let blocks =
        || messages.as_array().into_iter().flatten().flat_map(|m| m["content"].as_array().into_iter().flatten());
    let topic = blocks().find(|block| block["type"] == "tool_use")?["input"]["topic"].as_str()?.to_owned();
    let result = blocks().find(|block| block["type"] == "tool_result")?["content"].clone();
    let result = result.as_str().map(str::to_owned).or_else(|| Some(result[0]["text"].as_str()?.to_owned()))?;
    let fields = request.as_object_mut()?;
    fields.remove("messages");
    // It reads whole answers, which is the least work there is.
    fields.remove("stream");
    Some(json!({"request": request, "policies": {topic: result}, "per_minute": PER_MINUTE}))
}

impl Contestant {
    fn enter(
        name: &'static str,
        questions: &[Question],
        besides: &[u32],
        launch: impl Fn(SocketAddr) -> Launch,
    ) -> Result<Contestant, String> {
        let address = free_address()?;
        let (service, _) = Service::start(name, launch(address), address)?;
        let mut roots = vec![service.pid()];
        roots.extend(besides);
        // One answer: what is made at the first request belongs to a service that idles.
        for question in questions {
            let reply = Person::new(address)?.ask(question.asked)?;
            if reply != question.expected {
                return Err(format!("{name} replied `{reply}`, not `{}`", question.expected));
            }
        }
        let idle = memory::of(&roots)?;
        let (outcomes, loaded, full) = Default::default();
        Ok(Contestant { name, service, roots, outcomes, idle, loaded, full })
    }

    fn carry_out(&mut self, order: Order, questions: &[Question]) -> Result<(), String> {
        let Order { question, connections, pace } = order;
        let (address, roots) = (self.service.address, &self.roots);
        let outcome = load::measure(address, &questions[question], connections, pace, &|| memory::cpu_seconds(roots));
        let outcome = outcome.map_err(|error| self.service.blamed(self.name)(format!("{order:?}: {error}")))?;
        self.outcomes.push((order, outcome));
        let now = memory::of(roots)?;
        if now.rss > self.loaded.rss {
            self.loaded = now;
        }
        Ok(())
    }
}

fn compete(contestants: &mut [Contestant], questions: &[Question]) -> Result<(), String> {
    let begun = Instant::now();
    for round in 1..=ROUNDS {
        eprintln!("measuring: round {round} of {ROUNDS}");
        for order in orders() {
            for contestant in &mut *contestants {
                if begun.elapsed() < TIME_MAX {
                    contestant.carry_out(order, questions)?;
                }
            }
        }
    }
    for contestant in contestants {
        eprintln!("measuring: {SESSIONS} sessions of {}", contestant.name);
        let filled = load::fill(contestant.service.address, &questions[0], SESSIONS, MANY);
        filled.map_err(|error| contestant.service.blamed(contestant.name)(error))?;
        contestant.full = memory::of(&contestant.roots)?;
    }
    Ok(())
}
