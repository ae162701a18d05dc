//! The processes of a run, and how they are killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_sim::{Config, RandomUsage, Running, Simulator, UsageMode, WebSockets};
use carboy_store::ledger::{LedgerStore, SqliteStore};

use crate::agent::Dice;
use crate::controller;
use crate::oracle::{Limit, Oracle};
use crate::supervisor::{Job, Sum, Which};
use crate::world::{Bottle, World};
use crate::{JOB, ROLE};

/// Bottles of one supervisor.
const BOTTLES_EACH: usize = 2;
/// Agents of one bottle, and clients of one agent: 256 of them over 8 bottles.
const AGENTS_EACH: u64 = 2;
const CLIENTS_EACH: u64 = 16;
/// The provider generates so many tokens more before it notices that nobody listens.
const OVERSHOOT_TOKENS_MAX: u64 = 8;

/// A process of the harness; killed when it is dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(role: &str, job: &str) -> Process {
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

    /// Waits for a line with this in it, and gives the rest of it.
    pub fn says(&mut self, what: &str) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).ok()? > 0 {
            // The harness of tests says something on the same line.
            if let Some(at) = line.find(what) {
                return Some(line[at + what.len()..].trim().to_owned());
            }
            line.clear();
        }
        None
    }

    pub fn tell(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            // It may have been killed.
            let _ = stdin.write_all(line.as_bytes());
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How often each kind of process was killed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kills {
    pub controller: u64,
    pub supervisors: u64,
    pub agents: u64,
}

/// Everything that runs.
pub struct Harness {
    pub world: World,
    pub oracle: Arc<Oracle>,
    pub provider: Running,
    pub home: tempfile::TempDir,
    pub kills: Kills,
    controller: Option<Process>,
    supervisors: Vec<Process>,
    agents: Vec<(usize, Process)>,
    tallies: Vec<(String, String)>,
    dice: Dice,
    ledger: Which,
    started: Instant,
    seconds: u64,
}

impl Harness {
    /// Starts all but the agents. `seconds` is how long agents live at most.
    pub async fn start(world: World, which: fn(&tempfile::TempDir) -> Which, seed: u64, seconds: u64) -> Harness {
        println!("CARBOY_SEED={seed}");
        let home = tempfile::tempdir().unwrap();
        let oracle = Oracle::new(world.limits.clone());
        let told = oracle.clone();
        let usage = RandomUsage { output_tokens_max: 6_000, ..RandomUsage::seeded(seed) };
        let config = Config {
            customers: world.customers(),
            usage: UsageMode::Random(usage),
            overshoot_tokens_max: OVERSHOOT_TOKENS_MAX,
            websockets: WebSockets::Served,
            on_billed: Some(Arc::new(move |step| told.billed(step))),
            ..Config::default()
        };
        let provider = Simulator::start(config).await.unwrap();
        let ledger = which(&home);
        let mut own = Harness {
            world,
            oracle,
            provider,
            home,
            kills: Kills::default(),
            controller: None,
            supervisors: Vec::new(),
            agents: Vec::new(),
            tallies: Vec::new(),
            dice: Dice(seed),
            ledger,
            started: Instant::now(),
            seconds,
        };
        own.start_controller();
        for at in 0..own.groups() {
            let supervisor = own.supervise(at);
            own.supervisors.push(supervisor);
        }
        own
    }

    /// A port that shares nothing between processes serves all bottles from one.
    fn groups(&self) -> usize {
        match self.ledger {
            Which::Controller(_) => self.world.bottles.len().div_ceil(BOTTLES_EACH),
            Which::Engine | Which::CheckThenSpend => 1,
        }
    }

    fn start_controller(&mut self) {
        if let Which::Controller(root) = &self.ledger {
            let mut process = Process::start("controller", &format!("{} {}", self.world.ahead_ms, root.display()));
            process.says("ready").expect("the controller came up");
            self.controller = Some(process);
        }
    }

    fn supervise(&self, at: usize) -> Process {
        let each = self.world.bottles.len().div_ceil(self.groups());
        let bottles: Vec<Bottle> = self.world.bottles.chunks(each).nth(at).unwrap().to_vec();
        let job =
            Job { bottles, provider: self.provider.addr, ledger: self.ledger.clone(), ahead_ms: self.world.ahead_ms };
        let mut process = Process::start("supervisor", &serde_json::to_string(&job).unwrap());
        process.says("ready").expect("the supervisor came up");
        process
    }

    fn agent(&mut self, at: usize) -> Process {
        let seed = self.dice.below(1 << 40);
        let targets = self.world.bottles[at].targets().join(" ");
        Process::start("agent", &format!("{seed} {CLIENTS_EACH} {} {targets}", self.seconds))
    }

    /// Starts every agent.
    pub fn spend(&mut self) {
        for at in 0..self.world.bottles.len() {
            for _ in 0..AGENTS_EACH {
                let agent = self.agent(at);
                self.agents.push((at, agent));
            }
        }
    }

    /// Kills something, and starts it again.
    pub fn kill_one(&mut self) {
        match self.dice.below(10) {
            0..=2 => {
                self.kills.controller += 1;
                if let Some(controller) = &mut self.controller {
                    controller.kill();
                }
                self.start_controller();
            }
            3..=5 => {
                self.kills.supervisors += 1;
                let at = self.dice.below(self.supervisors.len() as u64) as usize;
                self.supervisors[at].kill();
                self.supervisors[at] = self.supervise(at);
            }
            _ => {
                self.kills.agents += 1;
                let at = self.dice.below(self.agents.len() as u64) as usize;
                self.agents[at].1.kill();
                let bottle = self.agents[at].0;
                self.agents[at].1 = self.agent(bottle);
            }
        }
    }

    /// A random time below `most`.
    pub fn pause(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.dice.below(most.as_millis() as u64))
    }

    /// Ready when nothing was billed for so long, or after `most`.
    pub async fn until_still(&self, still: Duration, most: Duration) {
        let until = Instant::now() + most;
        let mut last = (self.oracle.steps(), Instant::now());
        while Instant::now() < until && last.1.elapsed() < still {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let steps = self.oracle.steps();
            if steps != last.0 {
                last = (steps, Instant::now());
            }
        }
    }

    /// Ends the agents in order.
    pub fn stop_agents(&mut self) {
        for (_, agent) in &mut self.agents {
            agent.tell("stop\n");
        }
        for (at, mut agent) in self.agents.drain(..) {
            let tally = agent.says("tally ").unwrap_or_else(|| "gone".into());
            self.tallies.push((self.world.bottles[at].name.clone(), tally));
        }
    }

    /// What the ledger says once nothing is held any more.
    pub async fn quiet(&mut self, most: Duration) -> Vec<Sum> {
        let until = Instant::now() + most;
        loop {
            let sums = self.ledger_says().await;
            let held: u64 = sums.iter().flatten().map(|sum| sum.held).sum();
            if let (Some(sums), 0) = (&sums, held) {
                return sums.clone();
            }
            assert!(Instant::now() < until, "held for {most:?} after the last request: {sums:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ledger_says(&mut self) -> Option<Vec<Sum>> {
        match &self.ledger {
            Which::Controller(root) => controller::told(root).await,
            Which::CheckThenSpend => Some(Vec::new()),
            Which::Engine => {
                self.supervisors[0].tell("sums\n");
                Some(serde_json::from_str(&self.supervisors[0].says("sums ")?).unwrap())
            }
        }
    }

    /// Ends everything, and holds the ledger's sums against its own rows (I3).
    pub fn audit(&mut self) {
        self.supervisors.clear();
        let Which::Controller(root) = &self.ledger else { return };
        if let Some(mut controller) = self.controller.take() {
            controller.stdin = None;
            let _ = controller.child.wait();
        }
        let store = SqliteStore::open(&controller::home(root).ledger()).unwrap();
        let differences = store.reader().differences().unwrap();
        assert!(differences.is_empty(), "{differences:#?}");
    }

    /// Says what happened, for a person.
    pub fn report(&self, sums: &[Sum]) {
        let tally = self.tallies.iter().map(|(bottle, tally)| format!("  {bottle:10} {tally}\n")).collect::<String>();
        let bill = self.provider.bill();
        println!(
            "{:?}: {} requests billed ({} interrupted), {} steps of the bill; killed {:?}\n{tally}",
            self.started.elapsed(),
            bill.requests,
            bill.interrupted,
            self.oracle.steps(),
            self.kills,
        );
        for limit in &self.world.limits {
            let percent = |milli: u64| milli as f64 * 100.0 / limit.cap_milli() as f64;
            let spent = spent(sums, limit).map_or(0.0, percent);
            let (name, peak) = (&limit.name, percent(limit.peak_milli()));
            println!("  {name:16} {:10} billed {peak:6.2} %, charged {spent:6.2} %", limit.meter);
        }
        for bottle in &self.world.bottles {
            let Some(sum) = of_bottle(sums, bottle) else { continue };
            let bill = self.oracle.account(&bottle.name);
            println!(
                "  {:10} charged {:>8} ({:>8} estimated) in {:>5}, billed {:>8} in {:>5} ({} interrupted), held {}",
                bottle.name,
                sum.raw / 1000,
                sum.estimated / 1000,
                sum.requests,
                bill.raw(),
                bill.requests,
                bill.interrupted,
                sum.held
            );
        }
    }
}

/// What the ledger charged to a limit's scope, as it counts there.
pub fn spent(sums: &[Sum], limit: &Limit) -> Option<u64> {
    let sum = sums.iter().find(|sum| sum.scope == limit.name && sum.meter == limit.meter)?;
    Some(match limit.counts {
        crate::oracle::Counts::Weighted => sum.weighted,
        crate::oracle::Counts::Raw => sum.raw,
    })
}

/// What it charged to a bottle.
pub fn of_bottle<'a>(sums: &'a [Sum], bottle: &Bottle) -> Option<&'a Sum> {
    let scope = format!("bottle:{}", bottle.name);
    sums.iter().find(|sum| sum.scope == scope && sum.meter == bottle.meter)
}
