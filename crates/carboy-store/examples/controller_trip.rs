//! Measures one connection to a controller that runs: `cargo run --release -p carboy-store --example controller_trip SOCKET`.
//!
//! One request after the other is held, made durable and charged; nobody else asks. Prints how long the first two took
//! together, which is what the ledger adds to a request before a byte of it leaves, and the last.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_core::budget::{
    Admitted, Amount, Ask, BudgetSet, Caching, Cap, CapKind, Count, Counted, Ending, ReservationId, Scope, Terms,
    Usage, Window,
};
use carboy_core::ids::MeterName;
use carboy_core::ports::{Later, Ledger};
use carboy_store::controller::protocol::Supervised;
use carboy_store::controller::{Client, Reach};

/// How long is measured.
const TURN: Duration = Duration::from_secs(8);

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct There(PathBuf);

impl Reach for There {
    fn socket(&self) -> &Path {
        &self.0
    }

    fn start(&self) -> Later<'_, Result<(), String>> {
        Box::pin(async { Err("it is to run already".to_owned()) })
    }

    fn program(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}

fn main() -> Result<(), Failure> {
    let socket = PathBuf::from(std::env::args_os().nth(1).ok_or("say which socket")?);
    // As a supervisor has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { tokio::spawn(measure(socket)).await? })
}

async fn measure(socket: PathBuf) -> Result<(), Failure> {
    let meter = MeterName::parse("anthropic")?;
    let run = format!("trip-{}", std::process::id());
    let supervised = Supervised {
        run: run.clone(),
        bottle: "b".into(),
        agent: None,
        plan: String::new(),
        budgets: budgets(run, &meter)?,
        meters: vec![meter.clone()],
    };
    let (client, _events) = Client::open(Arc::new(There(socket)), supervised);
    let (mut held, mut sent, mut charged) = (Vec::new(), Vec::new(), Vec::new());
    let (begin, first) = (Instant::now(), u128::from(std::process::id()) << 64);
    for n in 0_u128.. {
        if begin.elapsed() >= TURN {
            break;
        }
        let id = ReservationId(first + n);
        let ask = Ask {
            id,
            meter: meter.clone(),
            model: Some("model".into()),
            input: 1_000,
            counted: Counted::Final,
            caching: Caching::Possible,
            output: 4_000,
            answers: 1,
        };
        let start = Instant::now();
        let Admitted::Held(_) = client.admit(ask).await? else { return Err("not held".into()) };
        held.push(start.elapsed());
        client.dispatch(id).await?;
        sent.push(start.elapsed());
        let (start, usage) = (Instant::now(), Usage { input: 1_000, output: 500, ..Usage::default() });
        client.settle(id, Ending::Reported(usage)).await?;
        charged.push(start.elapsed());
    }
    for (name, took) in [("admit", held), ("admit + dispatch", sent), ("settle", charged)] {
        print(name, took);
    }
    Ok(())
}

fn print(name: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |part: usize| took.get(took.len() * part / 1000).copied().unwrap_or_default();
    println!("{name:>17}: {} times, fastest {:?}, p50 {:?}, p99 {:?}", took.len(), at(0), at(500), at(990));
}

/// A run, its bottle and the host, each with a cap that is far away.
fn budgets(run: String, meter: &MeterName) -> Result<BudgetSet, Failure> {
    let chain = vec![Scope::Run(run), Scope::Bottle("b".into()), Scope::Host];
    let amount = Amount::tokens(1_000_000_000_000).ok_or("too many tokens")?;
    let cap = |scope| Cap {
        scope,
        kind: CapKind::Ceiling,
        amount,
        count: Count::Weighted,
        window: Window::Lifetime,
        most: None,
    };
    let caps = [(meter.clone(), chain.iter().cloned().map(cap).collect())].into();
    Ok(BudgetSet { chain, caps, terms: Terms::default(), ..BudgetSet::default() })
}
