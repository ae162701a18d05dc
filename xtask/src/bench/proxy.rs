//! What interception costs: requests per second, CPU time of the proxy for each, added latency, memory.
//!
//! ```text
//! direct     load ─────────────────────────────────────────────▶ upstream
//! bare       load ──TLS──▶ hyper, nothing else ──TLS───────────▶ upstream
//! carboy     load in a bottle ──captured TLS──▶ carboy, all detectors, log ──TLS──▶ upstream
//! mitmproxy  load ──CONNECT, TLS──▶ mitmdump ──TLS─────────────▶ upstream     without and with a script that scans
//! ```
//!
//! One load generator and one upstream for all, everything on loopback. carboy's way is the product's: the program in
//! the bottle knows of no proxy, and the key is injected on the way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Bench;
use super::figures::{goal, head, median, row, short};
use super::orders::{Order, Outcome, Pace, SHAPES, Shape, carry_out};
use super::process::{self, Process};

/// Rounds; in each, every contestant carries out every calm order.
const ROUNDS: usize = 5;
/// In so many of them the others too.
const BUSY_ROUNDS: usize = 3;
/// No order is given after this.
const TIME_MAX: Duration = Duration::from_secs(225);
/// How long mitmproxy may take until it listens.
const LISTEN_MAX: Duration = Duration::from_secs(20);
/// Requests per second that every contestant can bear: latency is then the way's, not that of a queue.
const CALM_PER_SECOND: u64 = 200;
/// Connections where many are meant.
const MANY: u64 = 16;

/// The ways to the upstream, in the order of the tables.
const WAYS: [&str; 5] = [DIRECT, BARE, CARBOY, MITMPROXY, SCRIPTED];
const DIRECT: &str = "direct";
const BARE: &str = "bare hyper proxy";
const CARBOY: &str = "carboy";
const MITMPROXY: &str = "mitmproxy";
/// It cannot bear the calm pace with large bodies, and is left out there.
const SCRIPTED: &str = "mitmproxy, scanning";

/// One way to the upstream at work.
struct Way {
    name: &'static str,
    load: Process,
    /// What is measured of a proxy: the supervisor of carboy's run, which is also the load generator's parent.
    proxy: Option<u32>,
    idle_mib: f64,
    outcomes: Vec<(Order, Outcome)>,
    _server: Option<Server>,
}

/// A proxy that runs on its own.
enum Server {
    Ours(Process),
    Theirs(std::process::Child),
}

/// Measures and writes the tables.
pub fn run(bench: &Bench) -> Result<String, String> {
    let carboy = bench.build("carboy", "")?;
    let programs = bench.build("carboy-egress", "bench")?;
    let place = bench.directory("tls")?;
    let mut upstream = Process::start("the upstream", Command::new(&programs).arg("upstream").arg(&place))?;
    let address = upstream.hear()?;
    let port = address.rsplit_once(':').ok_or_else(|| format!("the upstream listens on `{address}`"))?.1.to_owned();
    let ca = place.join("ca.pem");
    let mut ways = [
        direct(&programs, &port, &ca)?,
        bare(&programs, &place, &address)?,
        in_a_bottle(bench, &carboy, &programs, &address, &ca)?,
        through_mitmproxy(bench, MITMPROXY, &programs, &port, &ca)?,
        through_mitmproxy(bench, SCRIPTED, &programs, &port, &ca)?,
    ];
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < ROUNDS && begun.elapsed() < TIME_MAX {
        for order in orders() {
            if order.pace == Pace::Closed && rounds >= BUSY_ROUNDS {
                continue;
            }
            for way in &mut ways {
                if way.name == SCRIPTED && order.pace != Pace::Closed {
                    continue;
                }
                if begun.elapsed() < TIME_MAX {
                    let outcome = carry_out(&mut way.load, way.proxy, &order);
                    way.outcomes.push((order, outcome.map_err(|error| format!("{}: {order:?}: {error}", way.name))?));
                }
            }
        }
        rounds += 1;
    }
    Ok(Figures::of(&ways).report())
}

fn orders() -> Vec<Order> {
    let closed = [1, MANY]
        .into_iter()
        .flat_map(|connections| SHAPES.map(|shape| Order { shape, connections, pace: Pace::Closed }));
    let calm = SHAPES.map(|shape| Order { shape, connections: MANY, pace: Pace::PerSecond(CALM_PER_SECOND) });
    closed.chain(calm).collect()
}

/// A load generator on this machine that trusts one authority.
fn load(programs: &Path, port: &str, ca: &Path) -> Command {
    let mut command = Command::new(programs);
    command.arg("load").arg(format!("localhost:{port}")).arg("--ca").arg(ca);
    command
}

impl Way {
    fn new(name: &'static str, mut load: Process, proxy: Option<u32>, server: Option<Server>) -> Result<Way, String> {
        load.expect("up")?;
        let idle_mib = proxy.map_or(Ok(0.0), process::resident_mib)?;
        Ok(Way { name, load, proxy, idle_mib, outcomes: Vec::new(), _server: server })
    }
}

fn direct(programs: &Path, port: &str, ca: &Path) -> Result<Way, String> {
    Way::new(DIRECT, Process::start("load", &mut load(programs, port, ca))?, None, None)
}

fn bare(programs: &Path, place: &Path, upstream: &str) -> Result<Way, String> {
    let mut proxy = Process::start(BARE, Command::new(programs).arg("bare").arg(place).arg(upstream))?;
    let address = proxy.hear()?;
    let port = address.rsplit_once(':').ok_or_else(|| format!("the bare proxy listens on `{address}`"))?.1;
    let load = Process::start("load", &mut load(programs, port, &place.join("ca.pem")))?;
    let pid = proxy.pid();
    Way::new(BARE, load, Some(pid), Some(Server::Ours(proxy)))
}

fn in_a_bottle(bench: &Bench, carboy: &Path, programs: &Path, upstream: &str, ca: &Path) -> Result<Way, String> {
    const BOTTLE: &str = "---\negress:\n  routes:\n    - host: bench.example\n      auth_scheme: Bearer\n      \
                          token_env: BENCH_KEY\n---\n";
    let home = bench.directory("home")?;
    bench.directory("home/bottles")?;
    bench.file("home/bottles/bench.md", BOTTLE)?;
    let ca = ca.display();
    bench.file(
        "home/settings.yml",
        &format!("upstreams:\n  bench.example: {{address: \"{upstream}\", ca: \"{ca}\"}}\n"),
    )?;
    let work = bench.directory("work")?;
    let mut command = Command::new(carboy);
    command.args(["run", "--bottle", "bench", "-q", "--no-tty", "--bind"]);
    command.arg(format!("{}:/bench/bench", programs.display()));
    command.args(["--", "/bench/bench", "load", "bench.example:443"]);
    // A key that is no key: it is injected, and searched for in everything that leaves.
    command.current_dir(&work).env("CARBOY_HOME", &home).env("BENCH_KEY", "bench-5f0c3a9e17d24b6885");
    let load = Process::start(CARBOY, &mut command)?;
    let pid = load.pid();
    Way::new(CARBOY, load, Some(pid), None)
}

fn through_mitmproxy(
    bench: &Bench,
    name: &'static str,
    programs: &Path,
    upstream_port: &str,
    ca: &Path,
) -> Result<Way, String> {
    let place = bench.directory(name)?;
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.map_err(|error| format!("no free port: {error}"))?;
    let mut command = Command::new(bench.peers.join("mitmproxy/bin/mitmdump"));
    command.args(["--quiet", "--listen-host", "127.0.0.1", "--listen-port", &address.port().to_string()]);
    command.arg("--set").arg(format!("confdir={}", place.display()));
    command.arg("--set").arg(format!("ssl_verify_upstream_trusted_ca={}", ca.display()));
    if name == SCRIPTED {
        command.arg("--scripts").arg(bench.top.join("xtask/bench-scan.py"));
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let server = Server::Theirs(child.map_err(|error| format!("cannot start mitmdump: {error}"))?);
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        if begun.elapsed() > LISTEN_MAX {
            return Err(format!("mitmdump does not listen on {address} after {LISTEN_MAX:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut command = load(programs, upstream_port, &place.join("mitmproxy-ca-cert.pem"));
    let load = Process::start("load", command.arg("--through").arg(address.to_string()))?;
    let pid = match &server {
        Server::Theirs(child) => child.id(),
        Server::Ours(process) => process.pid(),
    };
    Way::new(name, load, Some(pid), Some(server))
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Server::Theirs(child) = self {
            // Gone already is what was wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the tables are made of.
struct Figures<'a>(BTreeMap<&'static str, &'a Way>);

/// Takes one number from an outcome.
type Pick = fn(&Outcome) -> f64;

impl<'a> Figures<'a> {
    fn of(ways: &'a [Way]) -> Figures<'a> {
        Figures(ways.iter().map(|way| (way.name, way)).collect())
    }

    /// The median over the rounds.
    fn at(&self, way: &str, order: &Order, pick: Pick) -> f64 {
        let outcomes = self.0[way].outcomes.iter().filter(|(given, _)| given == order);
        median(&outcomes.map(|(_, outcome)| pick(outcome)).collect::<Vec<_>>())
    }

    fn report(&self) -> String {
        let mut out = self.rates();
        out += &self.cpu();
        out += &self.latency();
        out += &self.memory();
        out += &self.goals();
        let _ = write!(
            out,
            "\nMedians of {BUSY_ROUNDS} rounds, calm of {ROUNDS}, interleaved; HTTP/1.1 over TLS 1.3 with connections kept alive; load generator \
             (one thread), proxy and upstream (one thread) share the cores, so that rates are those of the whole.\n"
        );
        out
    }

    fn rates(&self) -> String {
        let mut out = "Requests per second, each connection asking again at once:\n\n".to_owned();
        out += &head(&["", DIRECT, BARE, CARBOY, MITMPROXY, SCRIPTED]);
        for order in orders().iter().filter(|order| order.pace == Pace::Closed) {
            let rates = WAYS.map(|way| self.at(way, order, |outcome| outcome.per_second));
            let [direct, bare, carboy, mitmproxy, scripted] = rates.map(short);
            out += &row(&[shown(order), direct, bare, carboy, mitmproxy, scripted]);
        }
        out
    }

    fn cpu(&self) -> String {
        let mut out = "\nCPU time of the proxy for one request, user and system, in µs:\n\n".to_owned();
        out +=
            &head(&["", BARE, CARBOY, MITMPROXY, SCRIPTED, "carboy / bare", "mitmproxy / carboy", "scanning / carboy"]);
        for order in orders().iter().filter(|order| order.pace == Pace::Closed) {
            let cpu = [BARE, CARBOY, MITMPROXY, SCRIPTED].map(|way| self.at(way, order, |outcome| outcome.cpu_us));
            let [bare, carboy, mitmproxy, scripted] = cpu;
            let mut cells = vec![shown(order)];
            cells.extend(cpu.map(short));
            cells.extend([carboy / bare, mitmproxy / carboy, scripted / carboy].map(|ratio| format!("{ratio:.1}×")));
            out += &row(&cells);
        }
        out
    }

    fn latency(&self) -> String {
        let mut out = format!(
            "\nLatency in µs, p50 / p99: direct, and what each adds to it. *Calm* is {CALM_PER_SECOND} requests per second \
             over all connections; *at once* keeps the machine fully busy, so that it is mostly a queue:\n\n"
        );
        out += &head(&["", DIRECT, "bare adds", "carboy adds", "mitmproxy adds"]);
        for order in orders() {
            let mut cells = vec![match order.pace {
                Pace::Closed => format!("{}, at once", shown(&order)),
                Pace::PerSecond(_) => format!("{}, calm", shown(&order)),
            }];
            let picks: [Pick; 2] = [|outcome| outcome.p50_us, |outcome| outcome.p99_us];
            cells.push(picks.map(|pick| short(self.at(DIRECT, &order, pick))).join(" / "));
            for way in [BARE, CARBOY, MITMPROXY] {
                cells.push(picks.map(|pick| short(self.added(way, &order, pick))).join(" / "));
            }
            out += &row(&cells);
        }
        out
    }

    fn added(&self, way: &str, order: &Order, pick: Pick) -> f64 {
        self.at(way, order, pick) - self.at(DIRECT, order, pick)
    }

    fn memory(&self) -> String {
        let mut out = "\nResident memory of the proxy in MiB:\n\n".to_owned();
        out += &head(&["", BARE, CARBOY, MITMPROXY, SCRIPTED]);
        let mut cells = vec!["idle, before the first request".to_owned()];
        cells.extend(WAYS[1..].iter().map(|way| short(self.0[way].idle_mib)));
        out += &row(&cells);
        let mut cells = vec![format!("most seen with {MANY} connections")];
        for way in &WAYS[1..] {
            let many = self.0[way].outcomes.iter().filter(|(order, _)| order.connections == MANY);
            cells.push(short(many.map(|(_, outcome)| outcome.resident_mib).fold(0.0, f64::max)));
        }
        out + &row(&cells)
    }

    fn goals(&self) -> String {
        let mut out = format!("\n{}{}", row(&["goal", "figure", ""]), row(&["---", "---", "---"]));
        for (way, named) in [(SCRIPTED, "mitmproxy that scans"), (MITMPROXY, "mitmproxy that does not scan")] {
            for shape in SHAPES {
                let order = Order { shape, connections: MANY, pace: Pace::Closed };
                let ratio = self.at(way, &order, |o| o.cpu_us) / self.at(CARBOY, &order, |o| o.cpu_us);
                let what = format!("≥ 20× less CPU than {named}: {}", shown(&order));
                out += &goal(&what, &format!("{ratio:.1}×"), ratio >= 20.0);
            }
        }
        for shape in SHAPES {
            out += &self.latency_goal(shape);
        }
        out
    }

    fn latency_goal(&self, shape: Shape) -> String {
        let order = Order { shape, connections: MANY, pace: Pace::PerSecond(CALM_PER_SECOND) };
        let added = self.added(CARBOY, &order, |outcome| outcome.p99_us) / 1000.0;
        goal(&format!("< 1 ms added p99, calm: {}", shown(&order)), &format!("{added:.2} ms"), added < 1.0)
    }
}

fn shown(order: &Order) -> String {
    let plural = if order.connections == 1 { "" } else { "s" };
    format!("{}; {} connection{plural}", order.shape.shown, order.connections)
}
