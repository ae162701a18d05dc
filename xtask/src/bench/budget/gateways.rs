//! The simulated provider through carboy and through two gateways to models.
//!
//! ```text
//! direct     load ──HTTP──────────────────────────────────────────────▶ provider
//! carboy     load in a bottle ──captured TLS──▶ carboy ──TLS──────────▶ provider
//! litellm    load ──HTTP──▶ LiteLLM's proxy, one worker, a budget ──HTTP──▶ provider
//! portkey    load ──HTTP──▶ Portkey's gateway on Node ──HTTP──────────▶ provider
//! ```
//!
//! The two speak plain text on both sides, as they are run on one machine, and are spared what TLS costs.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::figures::{goal, head, row, short};
use super::super::process::Process;
use super::home::{Home, KEY};
use super::way::{Length, Order, Way, cpu_us, per_second};
use super::{Part, Programs};

const ROUNDS: usize = 3;
/// No round begins after this.
const TIME_MAX: Duration = Duration::from_secs(150);
/// How long each order is carried out.
const MEASURED_MS: u64 = 1500;
/// Connections where many are meant.
const MANY: u64 = 16;
/// How long a gateway may take until it listens: LiteLLM brings a lot along.
const LISTEN_MAX: Duration = Duration::from_secs(120);
/// LiteLLM does not start without a key of its own.
const MASTER_KEY: &str = "sk-5f0c3a9e17d24b68855f0c3a9e17d24b68855f0c3a9e17d24b68855f0c3a9e17";
/// So many times less CPU than LiteLLM.
const LESS_MIN: f64 = 100.0;

const DIRECT: &str = "direct";
const CARBOY: &str = "carboy";
const LITELLM: &str = "LiteLLM";
const PORTKEY: &str = "Portkey";
const SHAPES: [(&str, &str); 2] = [("chat", "whole answer of 100 words"), ("chat-stream", "the same as a stream")];
const BOTTLE: &str = "egress:\n  routes:\n    - {host: sim.example, auth_scheme: Bearer, token_env: BENCH_KEY}\nbudget: {unknown: 1000000M}\n";

/// A gateway that ends with the bench.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is what was wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn order(shape: &'static str, connections: u64) -> Order {
    Order { shape, connections, length: Length::Ms(MEASURED_MS) }
}

/// Portkey's gateway is asked for whole answers alone.
fn takes(way: &Way, shape: &str) -> bool {
    way.name != PORTKEY || shape == "chat"
}

/// Measures and writes the tables.
pub fn run(bench: &Bench, programs: &Programs) -> Result<Part, String> {
    let place = bench.directory("provider")?;
    let mut provider =
        Process::start("the provider", Command::new(&programs.bench).arg("provider").arg(&place).arg(KEY))?;
    let addresses = provider.hear()?;
    let (plain, tls) = addresses.split_once(' ').ok_or_else(|| format!("the provider listens on `{addresses}`"))?;
    let settings = Home::upstream("sim.example", tls, &place.join("provider.pem"));
    let home = Home::open(bench, programs, &bench.scratch.join("gateways"), &settings)?;
    home.bottle("bench", BOTTLE)?;
    let load = home.run("bench", &["/bench/bench", "load", "sim.example:443"])?;
    let pids = vec![load.pid(), home.controller()];
    let carboy = Way::new(CARBOY, load, pids)?;
    let bearer = format!("authorization:Bearer {KEY}");
    let direct = Way::new(DIRECT, load_to(programs, plain, &[&bearer])?, Vec::new())?;
    let (litellm, _litellm) = litellm(bench, programs, plain)?;
    let (portkey, _portkey) = portkey(bench, programs, plain, &bearer)?;
    let mut ways = [direct, carboy, litellm, portkey];
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        for connections in [1, MANY] {
            for (shape, _) in SHAPES {
                for way in &mut ways {
                    if takes(way, shape) && begun.elapsed() < TIME_MAX {
                        way.carry_out(order(shape, connections))?;
                    }
                }
            }
        }
    }
    drop(home);
    Ok(report(&ways))
}

/// A load generator that speaks plain text, with these fields in every request.
fn load_to(programs: &Programs, address: &str, fields: &[&str]) -> Result<Process, String> {
    let mut command = Command::new(&programs.bench);
    command.args(["load", address, "--tls", "no"]);
    for field in fields {
        command.args(["--field", field]);
    }
    Process::start("load", &mut command)
}

fn free_port() -> Result<SocketAddr, String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_err(|error| format!("no free port: {error}"))
}

/// Starts it, and waits until somebody listens there.
fn served(name: &str, command: &mut Command, address: SocketAddr) -> Result<Server, String> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut server = Server(child.map_err(|error| format!("cannot start {name}: {error}"))?);
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        if begun.elapsed() > LISTEN_MAX || !matches!(server.0.try_wait(), Ok(None)) {
            return Err(format!("{name} does not listen on {address}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(server)
}

/// With the budget that it can keep without a database: one for the provider, in its memory.
fn litellm(bench: &Bench, programs: &Programs, provider: &str) -> Result<(Way, Server), String> {
    let text = format!(
        "model_list:\n  - model_name: bench-1\n    litellm_params: {{model: openai/bench-1, api_base: \"http://{provider}/v1\", api_key: {KEY}, \
         input_cost_per_token: 0.000001, output_cost_per_token: 0.000005}}\nrouter_settings:\n  provider_budget_config:\n    \
         openai: {{budget_limit: 1000000, time_period: 1d}}\nlitellm_settings: {{telemetry: false}}\n"
    );
    let config = bench.file("litellm.yaml", &text)?;
    let address = free_port()?;
    let mut command = Command::new(bench.peers.join("litellm/bin/litellm"));
    command.arg("--config").arg(&config).args(["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]);
    command.arg("--port").arg(address.port().to_string());
    command
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("LITELLM_LOG", "ERROR")
        .env("LITELLM_MASTER_KEY", MASTER_KEY);
    command.current_dir(&bench.scratch);
    let bearer = format!("authorization:Bearer {MASTER_KEY}");
    let server = served(LITELLM, &mut command, address)?;
    let way = Way::new(LITELLM, load_to(programs, &address.to_string(), &[&bearer])?, vec![server.0.id()])?;
    Ok((way, server))
}

fn portkey(bench: &Bench, programs: &Programs, provider: &str, bearer: &str) -> Result<(Way, Server), String> {
    let address = free_port()?;
    let program = bench.peers.join("node_modules/@portkey-ai/gateway/build/start-server.js");
    let mut command = Command::new(bench.peers.join("bin/node"));
    command.arg(program).arg(format!("--port={}", address.port())).arg("--headless");
    command
        .env("NODE_ENV", "production")
        .env("TRUSTED_CUSTOM_HOSTS", "127.0.0.1,localhost")
        .current_dir(&bench.scratch);
    let server = served(PORTKEY, &mut command, address)?;
    let host = format!("x-portkey-custom-host:http://{provider}/v1");
    let load = load_to(programs, &address.to_string(), &[bearer, "x-portkey-provider:openai", &host])?;
    let way = Way::new(PORTKEY, load, vec![server.0.id()])?;
    Ok((way, server))
}

fn report(ways: &[Way; 4]) -> Part {
    let [_, carboy, litellm, _] = ways;
    let mut text = "The simulated provider through gateways to models, requests per second:\n\n".to_owned();
    text += &head(&["", DIRECT, CARBOY, LITELLM, PORTKEY]);
    let mut cpu = head(&["", CARBOY, LITELLM, PORTKEY, "LiteLLM / carboy"]);
    let mut late = head(&["", DIRECT, CARBOY, LITELLM, PORTKEY]);
    let mut goals = String::new();
    for (shape, shown) in SHAPES {
        for connections in [1, MANY] {
            let order = order(shape, connections);
            let plural = if connections == 1 { "" } else { "s" };
            let name = format!("{shown}; {connections} connection{plural}");
            let of = |way: &Way, figure: &dyn Fn(&Way) -> String| {
                if takes(way, shape) { figure(way) } else { "–".to_owned() }
            };
            let cells = |ways: &[Way], figure: &dyn Fn(&Way) -> String| {
                let cells = ways.iter().map(|way| of(way, figure));
                std::iter::once(name.clone()).chain(cells).collect::<Vec<_>>()
            };
            text += &row(&cells(ways, &|way| short(way.at(order, per_second))));
            let times =
                |way: &Way| [way.at(order, |raw| raw.p50_us), way.at(order, |raw| raw.p99_us)].map(short).join(" / ");
            late += &row(&cells(ways, &times));
            let ratio = litellm.at(order, cpu_us) / carboy.at(order, cpu_us);
            let mut line = cells(&ways[1..], &|way| short(way.at(order, cpu_us)));
            line.push(format!("{ratio:.0}×"));
            cpu += &row(&line);
            let what = format!("≥ {LESS_MIN:.0}× less CPU than LiteLLM: {name}");
            goals += &goal(&what, &format!("{ratio:.0}×"), ratio >= LESS_MIN);
        }
    }
    text += &format!("\nCPU time of the gateway for one request, carboy's with its controller, in µs:\n\n{cpu}");
    text += &format!("\nTime to the end of the answer, p50 / p99, in µs:\n\n{late}");
    text += &format!(
        "\nMedians of {ROUNDS} rounds, interleaved. The provider is one thread; carboy speaks TLS on both sides, the others on neither.\n"
    );
    Part { text, goals }
}
