//! Nothing is overspent: the proof, with real processes.
//!
//! ```text
//!  16 agents (processes) × 16 clients ─▶ 4 supervisors (processes) × 2 gateways ─▶ controller (process)
//!                                                       │
//!                                                       ▼
//!                                     simulated provider, with its own bill ─▶ oracle: billed ≤ cap, at every step
//! ```
//!
//! `CARBOY_SEED` throws other dice, `CARBOY_SOAK` makes it longer by so many seconds.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, clippy::wildcard_enum_match_arm)]
mod agent;
mod controller;
mod harness;
mod ledgers;
mod oracle;
mod supervisor;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::Dice;
use carboy_core::budget::{Amount, CapEdit, CapKey, CapKind, Scope};
use carboy_core::ids::MeterName;
use carboy_store::controller::protocol::Call;
use carboy_store::ledger::Engine;
use harness::{Harness, of_bottle, spent};
use oracle::Oracle;
use supervisor::{Job, Ledgers, Sum, Which};
use tokio::sync::Mutex;
use world::{Bottle, World};

/// What a process that a test below started is to do, and with what.
const ROLE: &str = "CARBOY_OVERSPEND_ROLE";
const JOB: &str = "CARBOY_OVERSPEND_JOB";

/// One after the other: each has the machine to itself.
static ONE: Mutex<()> = Mutex::const_new(());

/// Not a test of its own: what a process does that a test below started.
#[test]
fn role() {
    let (Ok(role), Ok(job)) = (std::env::var(ROLE), std::env::var(JOB)) else { return };
    match role.as_str() {
        "agent" => agent::main(&job.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap(),
        "supervisor" => supervisor::main(serde_json::from_str(&job).unwrap()),
        "controller" => {
            let (ahead_ms, root) = job.split_once(' ').unwrap();
            controller::main(Path::new(root), ahead_ms.parse().unwrap());
        }
        other => panic!("{other} is no role"),
    }
}

/// The same dice in every check, so that what fell falls again; `CARBOY_SEED` throws others.
fn seed() -> u64 {
    std::env::var("CARBOY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_130)
}

/// Seconds of a soak, beyond what a test takes.
fn soak() -> u64 {
    std::env::var("CARBOY_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn at_controller(home: &tempfile::TempDir) -> Which {
    Which::Controller(home.path().to_owned())
}

fn key_of_own() -> CapKey {
    let (scope, meter) = (Scope::Bottle("own".into()), MeterName::parse("anthropic").unwrap());
    CapKey { scope, meter, kind: CapKind::Budget }
}

/// Sets the budget of the bottle `own`; the oracle hears of it first.
async fn set_own(harness: &Harness, tokens: u64) {
    harness.world.limit("bottle:own").set(tokens);
    let edit = CapEdit { amount: Amount::tokens(tokens).unwrap(), count: None, window: None };
    controller::operate(harness.home.path(), Call::SetCap(key_of_own(), edit)).await;
}

async fn top_up_own(harness: &Harness, before: u64, tokens: u64) {
    harness.world.limit("bottle:own").set(before + tokens);
    let amount = Amount::tokens(tokens).unwrap();
    controller::operate(harness.home.path(), Call::TopUp(key_of_own(), amount)).await;
}

fn assert_within(harness: &Harness, sums: &[Sum]) {
    assert!(harness.oracle.beyond().is_empty(), "overspent: {:#?}", harness.oracle.beyond());
    for bottle in &harness.world.bottles {
        let bill = harness.oracle.account(&bottle.name);
        let sum = of_bottle(sums, bottle).unwrap_or_else(|| panic!("{} is not in the ledger", bottle.name));
        assert!(
            sum.weighted >= bill.weighted_milli() && sum.raw >= bill.raw() * 1000,
            "{} was charged less than the provider bills: {sum:?} {bill:?}",
            bottle.name
        );
    }
    for limit in &harness.world.limits {
        let charged = spent(sums, limit).unwrap_or(0);
        assert!(charged <= limit.allowed_milli(), "{}: charged {charged} of {}", limit.name, limit.allowed_milli());
    }
}

/// Caps that their clients spend to the end.
const SPENT: [&str; 4] = ["bottle:own", "bottle:base", "host", "agent:scout"];

fn assert_used(harness: &Harness, sums: &[Sum]) {
    for name in SPENT {
        let limit = harness.world.limit(name);
        let charged = spent(sums, limit).unwrap_or(0);
        assert!(charged * 100 >= limit.cap_milli() * 95, "{name}: {charged} of {} was used", limit.cap_milli());
    }
}

// C3, I1, I3, I4, I5: clients leave, the provider breaks off, answers are packed, caps are edited; nothing is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_overspent_and_little_is_left_over() {
    let _one = ONE.lock().await;
    let mut harness = Harness::start(World::new(1000 + 100 * soak(), 10), at_controller, seed(), 600).await;
    harness.spend();
    let second = Duration::from_secs(1);
    let step = 1000 * (1000 + 100 * soak()) / 1000;
    for own in [20 * step, 40 * step, 30 * step] {
        harness.until_still(second, second).await;
        set_own(&harness, own).await;
    }
    harness.until_still(second, 3 * second).await;
    set_own(&harness, 50 * step).await;
    top_up_own(&harness, 50 * step, 10 * step).await;
    harness.until_still(Duration::from_millis(2500), Duration::from_secs(15 + soak())).await;
    harness.stop_agents();
    let sums = harness.quiet(Duration::from_secs(10)).await;
    harness.report(&sums);
    assert_within(&harness, &sums);
    assert_used(&harness, &sums);
    for bottle in &harness.world.bottles {
        let (bill, sum) = (harness.oracle.account(&bottle.name), of_bottle(&sums, bottle).unwrap());
        let exact = (bill.weighted_milli(), bill.raw() * 1000) == (sum.weighted, sum.raw);
        assert!(exact || bill.interrupted > 0 || sum.estimated > 0, "{}: {sum:?} {bill:?}", bottle.name);
        assert!(exact || bottle.count.is_none(), "whoever reads every answer pays what it cost: {sum:?} {bill:?}");
    }
    harness.audit();
}

// I1, I3, I4, and the crash rules: what was sent by whoever died is charged in full, what was not is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_overspent_whatever_is_killed() {
    let _one = ONE.lock().await;
    let mut harness = Harness::start(World::new(2500 + 100 * soak(), 1000), at_controller, seed(), 600).await;
    harness.spend();
    let until = Instant::now() + Duration::from_secs(13 + soak());
    let mut own = 100_000;
    while Instant::now() < until {
        tokio::time::sleep(harness.pause(Duration::from_millis(700))).await;
        harness.kill_one();
        if harness.pause(Duration::from_millis(4)).is_zero() {
            own += 10_000;
            set_own(&harness, own).await;
        }
    }
    harness.stop_agents();
    let sums = harness.quiet(Duration::from_secs(45)).await;
    harness.report(&sums);
    assert_within(&harness, &sums);
    assert!(harness.kills.controller > 0 && harness.kills.supervisors > 0 && harness.kills.agents > 0);
    harness.audit();
}

// C6: a hold counts in the window of its admission, also when its answer ends in the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_ends_begins_anew_and_nothing_of_it_is_spent_twice() {
    let _one = ONE.lock().await;
    let world = World::new(1000, 1).at_the_days_end(Duration::from_secs(4));
    let mut harness = Harness::start(world, at_controller, seed(), 600).await;
    harness.spend();
    tokio::time::sleep(Duration::from_secs(10)).await;
    harness.stop_agents();
    let sums = harness.quiet(Duration::from_secs(10)).await;
    harness.report(&sums);
    assert!(harness.oracle.beyond().is_empty(), "overspent: {:#?}", harness.oracle.beyond());
    let limit = harness.world.limit("agent:scout");
    let charged = spent(&sums, limit).unwrap();
    assert!(charged > limit.cap_milli() * 12 / 10, "the second window was used: {charged}");
    assert!(charged <= limit.cap_milli() * 2, "{charged}");
    harness.audit();
}

// The same clients and the same oracle, and a port that most gateways have: it is caught.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_checks_and_then_spends_is_caught() {
    let _one = ONE.lock().await;
    let mut harness = Harness::start(World::new(1000, 10), |_| Which::CheckThenSpend, seed(), 600).await;
    harness.spend();
    harness.until_still(Duration::from_millis(1500), Duration::from_secs(8)).await;
    harness.stop_agents();
    harness.report(&[]);
    let beyond = harness.oracle.beyond();
    assert!(!beyond.is_empty(), "the oracle saw nothing");
    println!("{beyond:#?}");
}

/// One request after the other, so that each charge can be laid beside its bill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_charged_less_than_the_provider_bills_however_it_ends() {
    let _one = ONE.lock().await;
    let harness = Harness::start(World::new(1_000_000, 1), |_| Which::CheckThenSpend, seed(), 1).await;
    let (world, oracle) = (World::new(1_000_000, 1), &harness.oracle);
    let job =
        Job { bottles: world.bottles.clone(), provider: harness.provider.addr, ledger: Which::Engine, ahead_ms: 0 };
    let ledgers = Ledgers::new(&job).await;
    for bottle in &world.bottles {
        ledgers.serve(bottle, job.provider).await;
    }
    let engine = ledgers.engine.clone().unwrap();
    let mut dice = Dice(seed());
    let bottles: Vec<&Bottle> = world.bottles.iter().filter(|bottle| bottle.manners == "any").collect();
    let (mut below, mut exact, mut above) = (Vec::new(), 0, 0_u64);
    let mut kinds = BTreeMap::<String, (u64, u64, u64)>::new();
    let count = std::env::var("CARBOY_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(120 + 10 * soak());
    for _ in 0..count {
        let bottle = dice.of(&bottles);
        let targets = bottle.targets();
        let target = agent::Target::parse(&targets[dice.below(targets.len() as u64) as usize]).unwrap();
        let (mut own, before) = (Dice(dice.roll()), oracle.account(&bottle.name));
        let spent = spent_by(&engine, bottle).await;
        let carried_out = tokio::task::spawn_blocking(move || {
            let errand = agent::errand(&target, &mut own);
            let became = agent::carry_out(&target, &errand, &mut own);
            (errand, became)
        });
        let (errand, became) = carried_out.await.unwrap();
        let charged = settled(&engine, bottle, oracle).await - spent;
        let billed = (oracle.account(&bottle.name).raw() - before.raw()) * 1000;
        let kind = kinds.entry(format!("{became:?}")).or_default();
        *kind = (kind.0 + 1, kind.1 + charged / 1000, kind.2 + billed / 1000);
        if charged < billed {
            let told = errand.told();
            below.push(format!("{} {became:?}: charged {charged}, billed {billed}: {told}", bottle.name));
        }
        exact += u64::from(charged == billed);
        above += charged.saturating_sub(billed) / 1000;
    }
    println!("{exact} of {count} to the token; {above} tokens above; (requests, charged, billed): {kinds:?}");
    assert!(below.is_empty(), "{} of {count} charged less:\n{}", below.len(), below.join("\n"));
}

async fn spent_by(engine: &Engine, bottle: &Bottle) -> u64 {
    let sums = supervisor::sums(&engine.snapshot().await.unwrap().host);
    of_bottle(&sums, bottle).map_or(0, |sum| sum.raw)
}

/// What is spent when nothing is held any more and the bill stands still.
async fn settled(engine: &Engine, bottle: &Bottle, oracle: &Oracle) -> u64 {
    let (mut still, mut last) = (0, (0, 0));
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
