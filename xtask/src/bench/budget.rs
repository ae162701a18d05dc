//! What metering and budgets cost, and how fast a crossed budget ends things: all through the built programs.
//!
//! ```text
//! tax        one bottle, one gateway: requests that are metered, and the same ones that are not
//! streams    the same, for each piece of a stream
//! gateways   the simulated provider through carboy, LiteLLM's proxy and Portkey's
//! cut        from a crossed cap to the last byte of many streams, to a thousand processes that stand, to their end
//! ledger     durable reserve + settle pairs of 32 clients, beside 32 writers of SQLite
//! ```
//!
//! `CARBOY_BENCH_PARTS=tax,cut` measures those alone; nothing is to be written into the document then.

mod cut;
mod gateways;
pub(super) mod home;
mod ledger;
mod streams;
mod tax;
mod way;

use std::path::PathBuf;

use super::Bench;
use super::figures::row;
use super::process::Process;

/// The programs that take part.
struct Programs {
    carboy: PathBuf,
    /// Upstreams and load generators.
    bench: PathBuf,
    /// What speaks to the ledger.
    ledger: PathBuf,
}

/// An upstream that runs.
struct Upstream {
    process: Process,
    address: String,
    ca: PathBuf,
    /// Its certificates.
    place: PathBuf,
}

/// A part: its tables, and the lines of its goals.
struct Part {
    text: String,
    goals: String,
}

type Measure = fn(&Bench, &Programs) -> Result<Part, String>;

const PARTS: [(&str, Measure); 5] = [
    ("tax", tax::run),
    ("streams", streams::run),
    ("gateways", gateways::run),
    ("cut", cut::run),
    ("ledger", ledger::run),
];

/// Measures and writes the tables.
pub fn run(bench: &Bench) -> Result<String, String> {
    let wanted = std::env::var("CARBOY_BENCH_PARTS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|part| !part.is_empty()).collect();
    if let Some(unknown) = wanted.iter().find(|part| PARTS.iter().all(|(name, _)| name != *part)) {
        return Err(format!("no part `{unknown}`; there are {}", PARTS.map(|(name, _)| name).join(", ")));
    }
    let programs = Programs {
        carboy: bench.build("carboy", "")?,
        bench: bench.build("carboy-egress", "bench")?,
        ledger: bench.build("carboy-store", "ledger")?,
    };
    let (mut text, mut goals) = (String::new(), String::new());
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.contains(&name) {
            eprintln!("measuring: {name}");
            let part = measure(bench, &programs).map_err(|error| format!("{name}: {error}"))?;
            text += &format!("{}\n", part.text.trim_end());
            text.push('\n');
            goals += &part.goals;
        }
    }
    Ok(format!("{text}{}{}{goals}", row(&["goal", "figure", ""]), row(&["---", "---", "---"])))
}

impl Programs {
    /// The upstream with fixed answers.
    fn upstream(&self, bench: &Bench, name: &str) -> Result<Upstream, String> {
        let place = bench.directory(name)?;
        let mut command = std::process::Command::new(&self.bench);
        let mut process = Process::start("the upstream", command.arg("upstream").arg(&place))?;
        let address = process.hear()?;
        Ok(Upstream { process, address, ca: place.join("ca.pem"), place })
    }
}
