//! The programs of `cargo xtask bench budget` that speak to the ledger.
//!
//! ```text
//! ledger pairs DIRECTORY [SOCKET]     durable reserve + settle pairs per second, see below; prints a line of JSON
//! ledger cross SOCKET                 sets caps, as lines on standard input say
//! ```
//!
//! Thirty-two clients hold, send and charge requests for some seconds: through the ledger's one thread, over the socket of a
//! controller that runs already, and, in turns in the same run, as thirty-two writers that each change the same SQLite
//! file themselves.

mod cross;
mod socket;
#[path = "../waiting/mod.rs"]
mod waiting;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use carboy_core::budget::{
    Admitted, Amount, Ask, BudgetSet, Caching, Cap, CapKind, Count, Counted, Ending, ReservationId, Scope, Terms,
    Usage, Window,
};
use carboy_core::ids::MeterName;
use carboy_core::ports::Ledger;
use carboy_store::ledger::{Engine, Owner, SqliteStore};
use rusqlite::{Connection, TransactionBehavior, params};

use socket::Controller;
use waiting::{Wall, block_on};

/// Clients of each kind.
const CLIENTS: u64 = 32;
/// Turns of each kind; they alternate, so that whatever else the machine does hits both.
const TURNS: usize = 3;
/// How long a turn takes.
const TURN: Duration = Duration::from_secs(4);
/// How long a direct writer waits for the others, in milliseconds.
const BUSY_MS: u64 = 10_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pairs", directory] => pairs(Path::new(directory), None),
        ["pairs", directory, socket] => pairs(Path::new(directory), Some(Path::new(socket))),
        ["cross", socket] => cross::run(Path::new(socket)),
        _ => Err("usage: ledger pairs DIRECTORY [SOCKET] | cross SOCKET".into()),
    }
}

fn pairs(directory: &Path, socket: Option<&Path>) -> Result<(), Failure> {
    let place = directory.join(format!("carboy-ledger-bench-{}", std::process::id()));
    std::fs::create_dir_all(&place)?;
    let outcome = measure(&place, socket);
    std::fs::remove_dir_all(&place)?;
    outcome
}

fn measure(place: &Path, socket: Option<&Path>) -> Result<(), Failure> {
    let (mut ours, mut over, mut direct) = (Figures::default(), Figures::default(), Figures::default());
    let controller = socket.map(Controller::new).transpose()?;
    for turn in 0..TURNS {
        ours.add(through_the_ledger(&place.join(format!("ours-{turn}/ledger.db")))?);
        if let Some(controller) = &controller {
            over.add(controller.turn(turn as u64)?);
        }
        direct.add(each_by_itself(&place.join(format!("direct-{turn}.db")))?);
    }
    let figures = serde_json::json!({
        "clients": CLIENTS,
        "turns": TURNS,
        "turn_s": TURN.as_secs_f64(),
        "inside": ours.told(),
        "socket": controller.map(|_| over.told()),
        "direct": direct.told(),
    });
    println!("{figures}");
    Ok(())
}

/// How long each pair of each client took.
type Turn = Vec<Vec<Duration>>;

#[derive(Default)]
struct Figures {
    took: Vec<Duration>,
    fewest: u64,
    most: u64,
    elapsed: Duration,
}

impl Figures {
    fn add(&mut self, turn: Turn) {
        let counts = || turn.iter().map(|client| client.len() as u64);
        self.fewest += counts().min().unwrap_or(0);
        self.most += counts().max().unwrap_or(0);
        self.elapsed += TURN;
        self.took.extend(turn.into_iter().flatten());
        self.took.sort();
    }

    fn rate(&self) -> f64 {
        self.took.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn told(&self) -> serde_json::Value {
        let micros = |took: Option<&Duration>| took.copied().unwrap_or_default().as_secs_f64() * 1e6;
        let at = |part: usize| micros(self.took.get(self.took.len() * part / 1000));
        serde_json::json!({
            "per_second": self.rate(),
            "p50_us": at(500),
            "p99_us": at(990),
            "longest_us": micros(self.took.last()),
            "fewest": self.fewest,
            "most": self.most,
        })
    }
}

/// Runs the same work as thirty-two clients for one turn.
fn clients<W: Work>(make: impl Fn(u64) -> Result<W, Failure> + Sync) -> Result<Turn, Failure> {
    thread::scope(|scope| {
        let client = |id| {
            let make = &make;
            scope.spawn(move || -> Result<Vec<Duration>, Failure> {
                let mut work = make(id)?;
                let (begin, mut took) = (Instant::now(), Vec::new());
                for n in 0.. {
                    if begin.elapsed() >= TURN {
                        break;
                    }
                    let start = Instant::now();
                    work.pair(u128::from(id) << 64 | n)?;
                    took.push(start.elapsed());
                }
                Ok(took)
            })
        };
        let threads: Vec<_> = (1..=CLIENTS).map(client).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a client broke off")?).collect()
    })
}

trait Work {
    fn pair(&mut self, id: u128) -> Result<(), Failure>;
}

struct Through(Arc<dyn Ledger>, MeterName);

impl Work for Through {
    fn pair(&mut self, id: u128) -> Result<(), Failure> {
        block_on(one_pair(self.0.as_ref(), &self.1, id))
    }
}

/// A request from its admission to its end.
async fn one_pair(ledger: &dyn Ledger, meter: &MeterName, id: u128) -> Result<(), Failure> {
    let id = ReservationId(id);
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
    let Admitted::Held(_) = ledger.admit(ask).await? else { return Err("not held".into()) };
    ledger.dispatch(id).await?;
    let usage = Usage { input: 1_000, output: 500, ..Usage::default() };
    Ok(ledger.settle(id, Ending::Reported(usage)).await?)
}

fn through_the_ledger(path: &Path) -> Result<Turn, Failure> {
    let engine = Engine::open(Box::new(SqliteStore::open(path)?), Arc::new(Wall))?;
    let meter = MeterName::parse("anthropic")?;
    let turn = clients(|id| {
        let owner = Owner {
            id,
            run: format!("r{id}"),
            bottle: "b".into(),
            agent: None,
            pid: 1,
            start_time: 1,
            boot_id: "b".into(),
        };
        block_on(engine.hello(owner, budgets(id, &meter)?, vec![meter.clone()]))?;
        Ok(Through(engine.ledger(id), meter.clone()))
    })?;
    let differences = engine.reader().differences()?;
    block_on(engine.close())?;
    if differences.is_empty() { Ok(turn) } else { Err("the sums differ from the rows".into()) }
}

/// A run, its bottle and the host, each with a cap that is far away.
fn budgets(id: u64, meter: &MeterName) -> Result<BudgetSet, Failure> {
    let chain = vec![Scope::Run(format!("r{id}")), Scope::Bottle("b".into()), Scope::Host];
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

/// One writer among many: the same two transactions over three scopes, by conditional updates.
struct Direct(Connection, [String; 3]);

impl Work for Direct {
    fn pair(&mut self, id: u128) -> Result<(), Failure> {
        let (name, scopes) = (id.to_be_bytes(), self.1.clone());
        let reserve = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for scope in &scopes {
            let sql = "UPDATE scope SET held = held + 5050 WHERE name = ?1 AND cap - spent - held >= 5050";
            if reserve.prepare_cached(sql)?.execute([scope])? != 1 {
                return Err("no room".into());
            }
        }
        reserve.prepare_cached("INSERT INTO reservation VALUES (?1, 5050)")?.execute([name])?;
        reserve.commit()?;
        let settle = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        settle.prepare_cached("DELETE FROM reservation WHERE id = ?1")?.execute([name])?;
        settle.prepare_cached("INSERT INTO spend VALUES (NULL, ?1, 1000, 500)")?.execute([name])?;
        for scope in &scopes {
            let sql = "UPDATE scope SET held = held - 5050, spent = spent + 1500 WHERE name = ?1";
            settle.prepare_cached(sql)?.execute([scope])?;
        }
        Ok(settle.commit()?)
    }
}

fn each_by_itself(path: &Path) -> Result<Turn, Failure> {
    let setup = connection(path)?;
    setup.execute_batch(
        "CREATE TABLE scope (name TEXT PRIMARY KEY, cap INTEGER, spent INTEGER, held INTEGER) WITHOUT ROWID;
         CREATE TABLE reservation (id BLOB PRIMARY KEY, hold INTEGER) WITHOUT ROWID;
         CREATE TABLE spend (number INTEGER PRIMARY KEY, id BLOB UNIQUE, input INTEGER, output INTEGER);",
    )?;
    for name in (1..=CLIENTS).map(|id| format!("r{id}")).chain(["b".to_owned(), "host".to_owned()]) {
        setup.execute("INSERT INTO scope VALUES (?1, ?2, 0, 0)", params![name, i64::MAX / 2])?;
    }
    clients(|id| Ok(Direct(connection(path)?, [format!("r{id}"), "b".into(), "host".into()])))
}

fn connection(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_millis(BUSY_MS))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    Ok(connection)
}
