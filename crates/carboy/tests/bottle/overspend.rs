//! Nothing is overspent: the proof through real bottles, the built binary and the real capture path.
//!
//! ```text
//!  6 bottles × 6 clients ─▶ capture ─▶ 6 supervisors (`carboy run`) ─▶ controller (killed, again and again)
//!                                              │
//!                                              ▼
//!                          simulated provider, with its own bill ─▶ oracle: billed ≤ cap, at every step
//! ```
//!
//! The clients are `carboy-control`'s example `spender`. `CARBOY_SEED` makes other choices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_sim::{Customer, RandomUsage, UsageMode};
use serde_json::Value;

use crate::waiting::within;
use crate::world::{Person, World, wait};
use crate::{Case, case};

use oracle::{Counts, Limit, Oracle};

#[path = "../../../carboy-control/tests/overspend/oracle.rs"]
#[allow(dead_code)]
mod oracle;

/// The bottles; each has a key of its own, by which the provider knows it.
const BOTTLES: [&str; 5] = ["left", "right", "own", "repo", "victim"];
/// How long clients ask, in seconds.
const SECONDS: u64 = 9;
/// Clients of each bottle.
const CLIENTS: u64 = 6;
/// Longest wait for what happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);
const KEY: &str = "sk-sim-Zq8vTr3LmW5xKd0P-";

pub fn cases() -> Vec<Case> {
    vec![case("C3 C15 I1 nothing is overspent by bottles, whatever is killed", whatever_is_killed)]
}

/// Numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % count
    }
}

/// The same dice in every check, so that what fell falls again; `CARBOY_SEED` throws others.
fn seed() -> u64 {
    std::env::var("CARBOY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_130)
}

fn limits() -> Vec<Arc<Limit>> {
    let limit =
        |name, counts, members: &[&str], tokens| Arc::new(Limit::new(name, "anthropic", counts, members, tokens));
    vec![
        limit("bottle:base", Counts::Weighted, &["left", "right"], 60_000),
        limit("bottle:left", Counts::Raw, &["left"], 45_000),
        limit("bottle:right", Counts::Raw, &["right"], 45_000),
        limit("bottle:own", Counts::Weighted, &["own"], 20_000),
        limit("agent:scout", Counts::Weighted, &["repo"], 25_000),
        limit("host", Counts::Weighted, &BOTTLES, 900_000),
    ]
}

/// The example, compiled as it is: the standard library alone.
fn spender(world: &World) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../carboy-control/examples/spender.rs");
    let program = world.dir.join("spender");
    // The compiler beside the cargo that built this test.
    let built = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
        .args(["--edition=2024", "-Cdebuginfo=0", "-o"])
        .arg(&program)
        .arg(source)
        .output();
    let built = built.unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

/// The home: two bottles under one ceiling, one with a budget of its own, one that a repository's agent bounds.
fn write_home(world: &World) {
    let route = |name: &str| {
        format!(
            "egress:\n  routes:\n    - host: plain.example\n      ports: [80]\n      auth_scheme: Bearer\n      \
             token_env: KEY_{name}\n      meter: anthropic\n"
        )
    };
    let bottle = |name: &str, says: &str| {
        let text = format!("---\n{says}{}---\nSpends.\n", route(name));
        world.write(&format!("home/bottles/{name}.md"), &text);
    };
    world.settings("ceiling: 900k\nhold_wait: 1s\n");
    world.write("home/bottles/base.md", "---\nceiling: 60k\n---\nWhat two may spend together.\n");
    for side in ["left", "right"] {
        bottle(side, "extends: [base]\nbudget: 45k\ncount: raw\n");
    }
    bottle("own", "budget: 20k\n");
    bottle("repo", "budget: 500k\n");
    bottle("victim", "budget: 800k\n");
    world.write("project/.carboy/agents/scout.md", "---\nbottle: repo\nbudget: 25k\n---\nScouts.\n");
}

/// One run, whose supervisor is the process that is started here.
fn start(world: &World, program: &Path, name: &str, seed: u64) -> Child {
    let bind = format!("{}:/carboy-test/spender", program.display());
    let manners = if name == "victim" { "calm" } else { "any" };
    let target = format!("plain.example:80,plain.example,anthropic,{manners}");
    let whose: &[&str] = if name == "repo" { &["--trust", "scout"] } else { &["--bottle", name] };
    let (seed, clients, seconds) = (seed.to_string(), CLIENTS.to_string(), SECONDS.to_string());
    let mut arguments = vec!["run", "--another", "--quiet", "--bind", &bind];
    arguments.extend(whose);
    arguments.extend(["--", "/carboy-test/spender", &seed, &clients, &seconds, &target]);
    let mut command = world.carboy(&arguments);
    for bottle in BOTTLES {
        command.env(format!("KEY_{bottle}"), format!("{KEY}{bottle}"));
    }
    command.stdin(Stdio::null()).spawn().unwrap()
}

fn done(world: &World, arguments: &[&str]) -> String {
    let output = world.carboy(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn kill_controller(world: &World) {
    let output = world.carboy(&["controller", "status", "--json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    // It may have been killed a moment ago, and nobody needed it since.
    if let Some(pid) = status["pid"].as_u64() {
        kill(u32::try_from(pid).unwrap());
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Weighted and raw spending, holds and estimates of one scope, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    weighted: u64,
    raw: u64,
    held: u64,
    estimated: u64,
}

/// Every scope of `budget show --json`.
fn sums(world: &World) -> BTreeMap<String, Sum> {
    let shown: Value = serde_json::from_str(&done(world, &["budget", "show", "--json"])).unwrap();
    let (mut nodes, mut sums) = (vec![&shown["host"]], BTreeMap::new());
    while let Some(node) = nodes.pop() {
        nodes.extend(node["children"].as_array().into_iter().flatten());
        let name = match node["scope"].as_object().and_then(|scope| scope.iter().next()) {
            Some((kind, name)) => format!("{kind}:{}", name.as_str().unwrap()),
            None => "host".to_owned(),
        };
        let milli = |line: &Value, what: &str, count: &str| line[what][count].as_u64().unwrap();
        for line in node["meters"].as_array().unwrap().iter().filter(|line| line["meter"] == "anthropic") {
            let sum = Sum {
                weighted: milli(line, "spent", "weighted"),
                raw: milli(line, "spent", "raw"),
                held: milli(line, "held", "raw"),
                estimated: milli(line, "estimated", "raw"),
            };
            sums.insert(name.clone(), sum);
        }
    }
    sums
}

/// What happens while they spend: kills and edits, at moments that the dice choose.
fn trouble(world: &World, oracle: &Oracle, dice: &mut Dice, victim: &mut Child) {
    let own = oracle.limits.iter().find(|limit| limit.name == "bottle:own").unwrap();
    let begun = Instant::now();
    let in_the_middle = 2 + dice.below(3);
    for step in 0..7 {
        // The provider goes on billing meanwhile: a moment of that and not of the clock alone.
        let steps = oracle.steps() + dice.below(40);
        let moment = begun + Duration::from_millis(step * 900 + dice.below(700));
        let billed =
            || Instant::now() > moment && (oracle.steps() >= steps || Instant::now() > moment + HAPPEN_WAIT_MAX / 20);
        within(HAPPEN_WAIT_MAX, "it is billed", || billed().then_some(()));
        match step {
            1 => {
                own.set(35_000);
                done(world, &["budget", "set", "own", "claude=35k"]);
            }
            4 => {
                own.set(50_000);
                done(world, &["budget", "top-up", "own", "claude=15k"]);
            }
            _ => kill_controller(world),
        }
        if step == in_the_middle {
            // With something under way: whoever has just lost the controller asks nothing until it is back.
            let at_work = || (sums(world).get("bottle:victim")?.held > 0).then_some(());
            within(HAPPEN_WAIT_MAX, "the victim is at work", at_work);
            kill(victim.id());
            victim.wait().unwrap();
        }
        assert!(oracle.beyond().is_empty(), "overspent: {:#?}", oracle.beyond());
    }
}

fn whatever_is_killed(person: Person) {
    let seed = seed();
    println!("CARBOY_SEED={seed}");
    let oracle = Oracle::new(limits());
    let told = oracle.clone();
    let world = World::configured(person, |config| {
        config.customers =
            BOTTLES.iter().map(|name| Customer { name: (*name).into(), key: format!("{KEY}{name}") }).collect();
        config.usage = UsageMode::Random(RandomUsage { output_tokens_max: 3_000, ..RandomUsage::seeded(seed) });
        config.overshoot_tokens_max = 8;
        config.on_billed = Some(Arc::new(move |step| told.billed(step)));
    });
    write_home(&world);
    let program = spender(&world);
    let mut dice = Dice(seed);
    let mut runs: Vec<Child> = BOTTLES.iter().map(|name| start(&world, &program, name, dice.below(1 << 40))).collect();
    within(HAPPEN_WAIT_MAX, "they spend", || (oracle.steps() > 20).then_some(()));
    let mut victim = runs.pop().unwrap();
    trouble(&world, &oracle, &mut dice, &mut victim);
    for run in runs {
        let output = wait(run, HAPPEN_WAIT_MAX * 2);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // Clients that go on asking after final refusals are a storm, and that ends a run too: frozen (75) or killed (79).
        let broken = matches!(output.status.code(), Some(75 | 79));
        assert!(broken || said.contains("tally answered="), "seed {seed}: {output:?}");
    }
    let held = || sums(&world).values().any(|sum| sum.held > 0);
    within(HAPPEN_WAIT_MAX, "nothing is held any more", || (!held()).then_some(()));
    check(&world, &oracle, seed);
    done(&world, &["audit", "verify"]);
}

/// The ledger beside the bill.
fn check(world: &World, oracle: &Oracle, seed: u64) {
    let sums = sums(world);
    assert!(oracle.beyond().is_empty(), "seed {seed}: overspent: {:#?}", oracle.beyond());
    for name in BOTTLES {
        let (bill, sum) = (oracle.account(name), sums.get(&format!("bottle:{name}")).copied().unwrap_or_default());
        let seen = format!("seed {seed}: {name} spent {sum:?}, billed {bill:?}");
        assert!(bill.raw() > 0, "{seen}");
        assert!(sum.weighted >= bill.weighted_milli() && sum.raw >= bill.raw() * 1000, "charged too little: {seen}");
        println!("{seen}");
    }
    for limit in &oracle.limits {
        // A repository's agent has a longer name; nobody else is in its bottle.
        let scope = if limit.name == "agent:scout" { "bottle:repo" } else { &limit.name };
        let sum = sums[scope];
        let charged = if limit.counts == Counts::Weighted { sum.weighted } else { sum.raw };
        assert!(charged <= limit.allowed_milli(), "seed {seed}: {}: {sum:?}", limit.name);
        let is_used = limit.name != "bottle:base" && scope != "bottle:repo" || charged * 2 >= limit.cap_milli();
        assert!(is_used, "seed {seed}: next to nothing of {} was used: {sum:?}", limit.name);
        println!("{}: at most {} of {} milli-tokens billed", limit.name, limit.peak_milli(), limit.allowed_milli());
    }
    // Its clients read every answer to its end: what is estimated there is what was under way when it was killed.
    assert!(sums["bottle:victim"].estimated > 0, "seed {seed}: {sums:?}");
}
