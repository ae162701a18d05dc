//! A supervisor's process: the real gateways of some bottles, each with a ledger of its own.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use carboy_core::audit::{Event, Subject};
use carboy_core::budget::Node;
use carboy_core::host::{Host, HostPattern};
use carboy_core::ids::{MeterName, SecretName};
use carboy_core::ports::{AuditError, AuditSink, Clock, Later, Ledger, SecretSource};
use carboy_core::route::{AuthScheme, Route, RouteAuth, RouteSet};
use carboy_core::secret::{Secret, SecretText};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::{CertificateAuthority, Gateway, GatewayConfig, GatewayLimits, Learning, Listener};
use carboy_guard::Detectors;
use carboy_store::controller::protocol::{Push, Supervised};
use carboy_store::controller::{Client, ClientEvents};
use carboy_store::ledger::{Engine, MemoryStore, Owner};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::controller::Waits;
use crate::ledgers::{CheckThenSpend, Spent};
use crate::world::{Bottle, HOST};

/// What such a process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub bottles: Vec<Bottle>,
    pub provider: SocketAddr,
    pub ledger: Which,
    /// How far its clock is ahead.
    pub ahead_ms: u64,
}

/// Whom it asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Which {
    /// The controller of this home.
    Controller(PathBuf),
    /// The ledger's own engine, in this process.
    Engine,
    /// Nobody that holds anything.
    CheckThenSpend,
}

struct Discard;

impl AuditSink for Discard {
    fn append(&self, _: Event) -> Result<(), AuditError> {
        Ok(())
    }

    fn append_durable(&self, _: Event) -> Later<'_, Result<(), AuditError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Secrets(SecretName, Arc<SecretText>);

impl SecretSource for Secrets {
    fn current(&self, name: &SecretName) -> Option<Arc<SecretText>> {
        (*name == self.0).then(|| self.1.clone())
    }

    fn refresh(&self, name: &SecretName) -> Later<'_, Option<Arc<SecretText>>> {
        let value = self.current(name);
        Box::pin(std::future::ready(value))
    }
}

/// The time, so many milliseconds ahead.
pub struct Ahead(pub u64);

impl Clock for Ahead {
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(since.as_millis()).unwrap() + self.0
    }
}

/// Runs until its standard input ends: nothing outlives the test.
pub fn main(job: Job) {
    let (asked, mut asks) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = asked.blocking_send(line);
        }
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let ledgers = Ledgers::new(&job).await;
        for bottle in &job.bottles {
            ledgers.serve(bottle, job.provider).await;
        }
        println!("ready");
        while asks.recv().await.is_some() {
            if let Some(engine) = &ledgers.engine {
                println!("sums {}", serde_json::to_string(&sums(&engine.snapshot().await.unwrap().host)).unwrap());
            }
        }
    });
}

/// The ledgers of some bottles.
#[derive(Default)]
pub struct Ledgers {
    by_bottle: BTreeMap<String, Arc<dyn Ledger>>,
    pushes: Mutex<BTreeMap<String, ClientEvents>>,
    pub engine: Option<Engine>,
}

/// What a ledger says of one scope and meter, in thousandths.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sum {
    pub scope: String,
    pub meter: String,
    pub weighted: u64,
    pub raw: u64,
    pub held: u64,
    pub estimated: u64,
    pub requests: u64,
}

pub fn sums(node: &Node) -> Vec<Sum> {
    let own = node.meters.iter().map(|line| Sum {
        scope: node.scope.to_string(),
        meter: line.meter.to_string(),
        weighted: line.spent.weighted.as_milli(),
        raw: line.spent.raw.as_milli(),
        held: line.held.raw.as_milli(),
        estimated: line.estimated.raw.as_milli(),
        requests: line.requests,
    });
    own.chain(node.children.iter().flat_map(sums)).collect()
}

impl Ledgers {
    pub async fn new(job: &Job) -> Ledgers {
        let mut own = Ledgers::default();
        match &job.ledger {
            Which::Controller(root) => {
                for bottle in &job.bottles {
                    let (client, events) = Client::open(Waits::new(root), supervised(bottle));
                    own.by_bottle.insert(bottle.name.clone(), client);
                    own.pushes.lock().unwrap().insert(bottle.name.clone(), events);
                }
            }
            Which::CheckThenSpend => {
                let all = Arc::new(Spent::default());
                for bottle in &job.bottles {
                    let (all, budgets) = (all.clone(), bottle.budgets.clone());
                    let ledger = CheckThenSpend { all, budgets, open: Mutex::default() };
                    own.by_bottle.insert(bottle.name.clone(), Arc::new(ledger));
                }
            }
            Which::Engine => {
                let engine = Engine::open(Box::new(MemoryStore::default()), Arc::new(Ahead(job.ahead_ms))).unwrap();
                for (id, bottle) in (1..).zip(&job.bottles) {
                    let Supervised { run, bottle: name, agent, budgets, meters, .. } = supervised(bottle);
                    let (pid, boot_id) = (std::process::id(), "b".into());
                    let owner = Owner { id, run, bottle: name, agent, pid, start_time: 1, boot_id };
                    engine.hello(owner, budgets, meters).await.unwrap();
                    own.by_bottle.insert(bottle.name.clone(), engine.ledger(id));
                }
                own.engine = Some(engine);
            }
        }
        own
    }

    /// The gateway of one bottle, listening on its port, doing what it is told.
    pub async fn serve(&self, bottle: &Bottle, provider: SocketAddr) {
        let gateway = gateway(bottle, provider, self.by_bottle[&bottle.name].clone());
        let listener = TcpListener::bind(("127.0.0.1", bottle.port)).await.unwrap();
        let kind = Listener::Fixed { host: Host::parse(HOST).unwrap(), port: 80 };
        let pushes = self.pushes.lock().unwrap().remove(&bottle.name);
        if let Some(mut pushes) = pushes {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                while let Some(push) = pushes.next().await {
                    match push {
                        Push::Act { why, .. } => gateway.cut_off(Denial::new(Reason::CutOff, why)),
                        Push::Restore { .. } => gateway.restore(),
                        Push::Warn { .. } => {}
                    }
                }
            });
        }
        tokio::spawn(async move { gateway.serve_tcp(listener, kind).await });
    }
}

fn supervised(bottle: &Bottle) -> Supervised {
    Supervised {
        run: format!("run-{}", bottle.name),
        bottle: bottle.name.clone(),
        agent: Some(bottle.name.clone()),
        plan: "0".repeat(64),
        budgets: bottle.budgets.clone(),
        meters: vec![MeterName::parse(&bottle.meter).unwrap()],
    }
}

fn gateway(bottle: &Bottle, provider: SocketAddr, ledger: Arc<dyn Ledger>) -> Arc<Gateway> {
    let name = SecretName::parse("API_KEY").unwrap();
    let secret = Arc::new(Secret::new(bottle.key.clone()));
    let (header, scheme) = match bottle.meter.as_str() {
        "anthropic" => ("x-api-key", AuthScheme::AnthropicByToken),
        "gemini" => ("x-goog-api-key", AuthScheme::Bare),
        _ => ("authorization", AuthScheme::Bearer),
    };
    let mut route = Route::plain(1, HostPattern::parse(HOST).unwrap());
    route.websocket = true;
    route.meter = Some(MeterName::parse(&bottle.meter).unwrap());
    route.auth = Some(RouteAuth { header: header.into(), scheme, secret: name.clone() });
    let mut upstreams = Upstreams::default();
    let upstream = Upstream { address: provider, transport: Transport::Plain, extra_ca_pem: None };
    upstreams.insert(Host::parse(HOST).unwrap(), None, upstream);
    let (ca, _) = CertificateAuthority::generate(Ahead(0).now_ms()).unwrap();
    let detectors = Detectors::builder([7; 32]).known_secret(&name, &secret).build().unwrap();
    // Clients here go on asking on purpose; what is made against that is not what is tested.
    let limits = GatewayLimits { refusal_burst: 100_000, storm_denials_max: 100_000, ..GatewayLimits::default() };
    Gateway::new(GatewayConfig {
        learning: Learning::Off,
        subject: Subject::default(),
        routes: RouteSet::new(vec![route], 1),
        upstreams,
        ca: Arc::new(ca),
        detectors: Arc::new(detectors),
        secrets: Arc::new(Secrets(name, secret)),
        audit: Arc::new(Discard),
        ledger,
        clock: Arc::new(Ahead(0)),
        limits,
    })
    .unwrap()
}
