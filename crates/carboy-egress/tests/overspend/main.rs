//! Nothing is overspent: the proof, with real processes.
//!
//! ```text
//!  16 agents (processes) × 16 clients ─▶ 4 supervisors (processes) × 2 gateways ─▶ controller (process)
//!                                                       │
//!                                                       ▼
//!                                     simulated provider, with its own bill ─▶ oracle: billed ≤ cap, at every step
//! ```
//!
//! `CARBOY_SEED` repeats a run, `CARBOY_SOAK` makes it longer by so many seconds.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, clippy::wildcard_enum_match_arm)]
mod agent;
mod ledgers;
mod oracle;
mod supervisor;
mod world;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::Dice;
use carboy_sim::{Config, RandomUsage, Running, Simulator, UsageMode, WebSockets};
use oracle::Oracle;
use supervisor::{Job, Ledgers, Sum, Which};
use world::{Bottle, World};

/// What a process that a test below started is to do, and with what.
const ROLE: &str = "CARBOY_OVERSPEND_ROLE";
const JOB: &str = "CARBOY_OVERSPEND_JOB";

/// Not a test of its own: what a process does that a test below started.
#[test]
fn role() {
    let (Ok(role), Ok(job)) = (std::env::var(ROLE), std::env::var(JOB)) else { return };
    match role.as_str() {
        "agent" => agent::main(&job.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap(),
        "supervisor" => supervisor::main(serde_json::from_str(&job).unwrap()),
        other => panic!("{other} is no role"),
    }
}

/// A process of the harness; killed when it is dropped.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(role: &str, job: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(JOB, job)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Process { child, stdin, output }
    }

    /// Waits for a line that begins so, and gives the rest of it.
    fn says(&mut self, what: &str) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            // The harness of libtest says something on the same line.
            if let Some(at) = line.find(what) {
                return Some(line[at + what.len()..].trim().to_owned());
            }
            line.clear();
        }
        None
    }

    fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(line.as_bytes());
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn seed() -> u64 {
    let given = std::env::var("CARBOY_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 % 1_000_000
    })
}

async fn provider(world: &World, oracle: &Arc<Oracle>, seed: u64) -> Running {
    let told = oracle.clone();
    let usage = RandomUsage { output_tokens_max: 6_000, ..RandomUsage::seeded(seed) };
    let config = Config {
        customers: world.customers(),
        usage: UsageMode::Random(usage),
        overshoot_tokens_max: 8,
        websockets: WebSockets::Served,
        on_billed: Some(Arc::new(move |step| told.billed(step))),
        ..Config::default()
    };
    Simulator::start(config).await.unwrap()
}

fn supervise(bottles: &[Bottle], provider: std::net::SocketAddr, ledger: Which) -> Process {
    let job = Job { bottles: bottles.to_vec(), provider, ledger };
    let mut process = Process::start("supervisor", &serde_json::to_string(&job).unwrap());
    process.says("ready").expect("the supervisor came up");
    process
}

fn spend(bottle: &Bottle, seed: u64, threads: u64, seconds: u64) -> Process {
    Process::start("agent", &format!("{seed} {threads} {seconds} {}", bottle.targets().join(" ")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_checks_and_then_spends_is_caught() {
    let ledger = if std::env::var_os("CARBOY_ENGINE").is_some() { Which::Engine } else { Which::CheckThenSpend };
    let seed = seed();
    println!("CARBOY_SEED={seed}");
    let world = World::new(1000, 10);
    let oracle = Oracle::new(world.limits.clone());
    let sim = provider(&world, &oracle, seed).await;
    let mut supervisor = supervise(&world.bottles, sim.addr, ledger.clone());
    let mut dice = Dice(seed);
    let started = Instant::now();
    let mut agents: Vec<Process> =
        world.bottles.iter().map(|bottle| spend(bottle, dice.below(1 << 40), 32, 60)).collect();
    tokio::time::sleep(Duration::from_secs(12)).await;
    for agent in &mut agents {
        agent.tell("stop\n");
    }
    for (agent, bottle) in agents.iter_mut().zip(&world.bottles) {
        println!("{:10} {}", bottle.name, agent.says("tally ").unwrap_or_default());
    }
    println!("{:?} {} steps {:?}", started.elapsed(), oracle.steps(), sim.bill());
    for limit in &world.limits {
        let percent = limit.peak_milli() as f64 * 100.0 / limit.cap_milli() as f64;
        println!("{:16} {:10} {percent:6.2} %  {:?}", limit.name, limit.meter, oracle.bill(limit));
    }
    supervisor.tell("sums\n");
    if let Some(sums) = ledger_says(&mut supervisor) {
        compare(&world, &oracle, &sums);
    }
    println!("{:#?}", oracle.beyond());
}

fn ledger_says(supervisor: &mut Process) -> Option<Vec<Sum>> {
    Some(serde_json::from_str(&supervisor.says("sums ")?).unwrap())
}

fn compare(world: &World, oracle: &Oracle, sums: &[Sum]) {
    for bottle in &world.bottles {
        let scope = format!("bottle:{}", bottle.name);
        let Some(sum) = sums.iter().find(|sum| sum.scope == scope && sum.meter == bottle.meter) else { continue };
        let bill = oracle.account(&bottle.name);
        println!(
            "{:10} ledger {:>8} raw, {:>8} of it estimated, {} held, {} requests; provider {:>8} raw, {} requests, {} interrupted; weighted {} {}",
            bottle.name, sum.raw / 1000, sum.estimated / 1000, sum.held, sum.requests, bill.raw(), bill.requests, bill.interrupted,
            sum.weighted, bill.weighted_milli()
        );
    }
}

/// One request after the other, so that each charge can be laid beside its bill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_charged_less_than_the_provider_bills_however_it_ends() {
    let seed = seed();
    println!("CARBOY_SEED={seed}");
    let world = World::new(1_000_000, 1);
    let oracle = Oracle::new(world.limits.clone());
    let sim = provider(&world, &oracle, seed).await;
    let job = Job { bottles: world.bottles.clone(), provider: sim.addr, ledger: Which::Engine };
    let ledgers = Ledgers::new(&job).await;
    for bottle in &world.bottles {
        supervisor::serve(bottle, sim.addr, ledgers.by_bottle[&bottle.name].clone()).await;
    }
    let engine = ledgers.engine.clone().unwrap();
    let mut dice = Dice(seed);
    let bottles: Vec<&Bottle> = world.bottles.iter().filter(|bottle| bottle.manners == "any").collect();
    let mut below = Vec::new();
    let (mut exact, mut above, mut kinds) = (0, 0_u64, std::collections::BTreeMap::<String, (u64, u64)>::new());
    let count = std::env::var("CARBOY_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
    for _ in 0..count {
        let bottle = bottles[dice.below(bottles.len() as u64) as usize];
        let targets = bottle.targets();
        let target = agent::Target::parse(&targets[dice.below(targets.len() as u64) as usize]).unwrap();
        let (mut own, before) = (Dice(dice.roll()), oracle.account(&bottle.name));
        let spent = spent_by(&engine, bottle).await;
        let (errand, became) = tokio::task::spawn_blocking(move || {
            let errand = agent::errand(&target, &mut own);
            let became = agent::carry_out(&target, &errand, &mut own);
            (errand, became)
        })
        .await
        .unwrap();
        let charged = settled(&engine, bottle, &oracle).await - spent;
        let after = oracle.account(&bottle.name);
        let billed = after.raw() * 1000 - before.raw() * 1000;
        let entry = kinds.entry(format!("{became:?}")).or_default();
        (entry.0, entry.1) = (entry.0 + charged / 1000, entry.1 + billed / 1000);
        if charged < billed {
            below.push(format!("{} {became:?}: charged {charged}, billed {billed}: {}", bottle.name, errand.told()));
        }
        exact += u64::from(charged == billed);
        above += charged.saturating_sub(billed) / 1000;
    }
    println!("{exact} of {count} to the token; {above} tokens above; {kinds:?}");
    assert!(below.is_empty(), "{} of {count} charged less:\n{}", below.len(), below.join("\n"));
}

async fn spent_by(engine: &carboy_store::ledger::Engine, bottle: &Bottle) -> u64 {
    let scope = format!("bottle:{}", bottle.name);
    let sums = supervisor::sums(&engine.snapshot().await.unwrap().host);
    sums.iter().find(|sum| sum.scope == scope).map_or(0, |sum| sum.raw)
}

/// What is spent when nothing is held any more and the bill stands still.
async fn settled(engine: &carboy_store::ledger::Engine, bottle: &Bottle, oracle: &Oracle) -> u64 {
    let mut still = 0;
    let mut last = (0, 0);
    loop {
        let sums = supervisor::sums(&engine.snapshot().await.unwrap().host);
        let held: u64 = sums.iter().map(|sum| sum.held).sum();
        let now = (spent_by(engine, bottle).await, oracle.steps());
        still = if held == 0 && now == last { still + 1 } else { 0 };
        last = now;
        if still > 3 {
            return now.0;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
