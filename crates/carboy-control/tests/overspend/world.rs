//! The bottles, their caps, and who spends in them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_core::budget::{Amount, BudgetSet, Cap, CapKind, Count, Scope, Terms, Unit, Window, Zone};
use carboy_core::ids::MeterName;
use carboy_core::ports::Clock;
use carboy_sim::Customer;
use serde::{Deserialize, Serialize};

use crate::oracle::{Counts, Limit};
use crate::supervisor::Ahead;

/// One bottle of a supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bottle {
    pub name: String,
    /// Its gateway's port on loopback: the same after it was started again.
    pub port: u16,
    /// What its requests are metered as.
    pub meter: String,
    /// The key that its gateway puts in, by which the provider knows it.
    pub key: String,
    pub budgets: BudgetSet,
    /// What its clients speak, and how they behave.
    pub formats: Vec<String>,
    pub manners: String,
    /// Requests of each client, where they end by themselves.
    pub count: Option<u64>,
}

impl Bottle {
    /// What an agent is told of it.
    pub fn targets(&self) -> Vec<String> {
        let count = self.count.map_or(String::new(), |count| format!(",{count}"));
        let target = |format: &String| format!("127.0.0.1:{},{HOST},{format},{}{count}", self.port, self.manners);
        self.formats.iter().map(target).collect()
    }
}

/// The host that the bottles' model is on.
pub const HOST: &str = "model.example";

/// Everything that is governed.
pub struct World {
    pub bottles: Vec<Bottle>,
    pub limits: Vec<Arc<Limit>>,
    /// How far the ledger's clock is ahead.
    pub ahead_ms: u64,
}

fn cap(scope: Scope, kind: CapKind, tokens: u64, count: Count, window: Window) -> Cap {
    Cap { scope, kind, amount: Amount::tokens(tokens).unwrap(), count, window, most: None }
}

fn bottle(name: &str) -> Scope {
    Scope::Bottle(name.into())
}

/// Ports that nobody listens on now, outside of those that the system gives to clients.
fn free_ports(count: usize) -> Vec<u16> {
    let first = 12_000 + std::process::id() % 12_000;
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let all = (0..20_000).map(|n| u16::try_from(12_000 + (first + n * 7) % 20_000).unwrap());
    all.filter(free).take(count).collect()
}

struct Row {
    name: &'static str,
    meter: &'static str,
    formats: &'static [&'static str],
    manners: &'static str,
    count: Option<u64>,
    /// Scopes above the bottle, below the host.
    above: Vec<Scope>,
    caps: Vec<Cap>,
}

impl World {
    /// Eight bottles: one that never comes near its cap, one with a budget of its own, two under a parent's ceiling, three
    /// under the host's, one with a window that ends. `size` scales the caps, in thousandths.
    pub fn new(size: u64, calm_count: u64) -> World {
        let k = |thousands: u64| thousands * size;
        let (budget, ceiling) = (CapKind::Budget, CapKind::Ceiling);
        let life = Window::Lifetime;
        let own = |name: &str, tokens: u64, count| cap(bottle(name), budget, tokens, count, Window::Lifetime);
        let base = cap(bottle("base"), ceiling, k(90), Count::Weighted, life.clone());
        let host_openai = cap(Scope::Host, ceiling, k(150), Count::Raw, life.clone());
        let host_anthropic = cap(Scope::Host, ceiling, k(100_000), Count::Weighted, life);
        let day = Window::Calendar { unit: Unit::Day, tz: Zone::parse("UTC").unwrap() };
        let agent = cap(Scope::Agent("scout".into()), budget, k(50), Count::Weighted, day);
        let rows = vec![
            Row {
                name: "calm",
                meter: "anthropic",
                formats: &["anthropic"],
                manners: "calm",
                count: Some(calm_count),
                above: vec![],
                caps: vec![own("calm", k(50_000), Count::Weighted), host_anthropic.clone()],
            },
            Row {
                name: "own",
                meter: "anthropic",
                formats: &["anthropic"],
                manners: "calm",
                count: None,
                above: vec![],
                caps: vec![own("own", k(30), Count::Weighted), host_anthropic.clone()],
            },
            Row {
                name: "left",
                meter: "anthropic",
                formats: &["anthropic"],
                manners: "any",
                count: None,
                above: vec![bottle("base")],
                caps: vec![own("left", k(400), Count::Raw), base.clone(), host_anthropic.clone()],
            },
            Row {
                name: "right",
                meter: "anthropic",
                formats: &["anthropic"],
                manners: "any",
                count: None,
                above: vec![bottle("base")],
                caps: vec![own("right", k(400), Count::Raw), base, host_anthropic],
            },
            Row {
                name: "chat",
                meter: "openai",
                formats: &["chat"],
                manners: "any",
                count: None,
                above: vec![],
                caps: vec![own("chat", k(900), Count::Weighted), host_openai.clone()],
            },
            Row {
                name: "responses",
                meter: "openai",
                formats: &["responses", "websocket"],
                manners: "any",
                count: None,
                above: vec![],
                caps: vec![own("responses", k(900), Count::Weighted), host_openai.clone()],
            },
            Row {
                name: "sockets",
                meter: "openai",
                formats: &["websocket"],
                manners: "any",
                count: None,
                above: vec![],
                caps: vec![own("sockets", k(30), Count::Weighted), host_openai],
            },
            Row {
                name: "scout",
                meter: "gemini",
                formats: &["gemini"],
                manners: "any",
                count: None,
                above: vec![],
                caps: vec![agent],
            },
        ];
        let ports = free_ports(rows.len());
        let bottles: Vec<Bottle> = rows.into_iter().zip(ports).map(|(row, port)| row.bottle(port)).collect();
        let limits = vec![
            Limit::new("bottle:calm", "anthropic", Counts::Weighted, &["calm"], k(50_000)),
            Limit::new("bottle:own", "anthropic", Counts::Weighted, &["own"], k(30)),
            Limit::new("bottle:left", "anthropic", Counts::Raw, &["left"], k(400)),
            Limit::new("bottle:right", "anthropic", Counts::Raw, &["right"], k(400)),
            Limit::new("bottle:base", "anthropic", Counts::Weighted, &["left", "right"], k(90)),
            Limit::new("host", "openai", Counts::Raw, &["chat", "responses", "sockets"], k(150)),
            Limit::new("bottle:sockets", "openai", Counts::Weighted, &["sockets"], k(30)),
            Limit::new("agent:scout", "gemini", Counts::Weighted, &["scout"], k(50)),
        ];
        World { bottles, limits: limits.into_iter().map(Arc::new).collect(), ahead_ms: 0 }
    }

    /// The ledger's day ends so soon, and the cap that counts by the day is all that is spent.
    pub fn at_the_days_end(mut self, within: Duration) -> World {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let left = DAY_MS - Ahead(0).now_ms() % DAY_MS;
        self.ahead_ms = left + DAY_MS - u64::try_from(within.as_millis()).unwrap();
        self.bottles.retain(|bottle| bottle.name == "scout");
        let cap = self.limit("agent:scout").cap_milli() / 1000;
        let limit = Limit::new("agent:scout", "gemini", Counts::Weighted, &["scout"], cap);
        self.limits = vec![Arc::new(limit.ending(Instant::now() + within))];
        self
    }

    pub fn customers(&self) -> Vec<Customer> {
        let customer = |bottle: &Bottle| Customer { name: bottle.name.clone(), key: bottle.key.clone() };
        self.bottles.iter().map(customer).collect()
    }

    pub fn limit(&self, name: &str) -> &Arc<Limit> {
        self.limits.iter().find(|limit| limit.name == name).unwrap()
    }
}

impl Row {
    fn bottle(self, port: u16) -> Bottle {
        let run = Scope::Run(format!("run-{}", self.name));
        let agent = Scope::Agent(self.name.into());
        let chain = [vec![run, agent, bottle(self.name)], self.above, vec![Scope::Host]].concat();
        let meter = MeterName::parse(self.meter).unwrap();
        // A client waits for room as long as a test has time for it.
        let terms = Terms { hold_wait_ms: 3_000, output_min: 64, ..Terms::default() };
        let budgets = BudgetSet { chain, caps: [(meter, self.caps)].into(), terms, ..BudgetSet::default() };
        Bottle {
            name: self.name.into(),
            port,
            meter: self.meter.into(),
            key: format!("sk-sim-Zq8vTr3LmW5xKd0P-{}", self.name),
            budgets,
            formats: self.formats.iter().map(|format| (*format).to_owned()).collect(),
            manners: self.manners.into(),
            count: self.count,
        }
    }
}
