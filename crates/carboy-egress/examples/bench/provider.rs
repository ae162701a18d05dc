//! The simulated provider as a program of its own: what carboy and the other gateways to models are compared before.

use std::path::Path;

use carboy_sim::{Config, Reply, Script, Simulator};

use crate::{Failure, upstream};

/// The name in its certificate.
pub const NAME: &str = "sim.example";
/// Words of each answer; a stream has a piece for each.
const WORDS: usize = 100;

/// Serves until standard input ends. Prints `PLAIN TLS`, the addresses, when `directory` has its certificate.
pub fn run(directory: &Path, key: &str) -> Result<(), Failure> {
    let text = ["the", "order", "of", "tables", "was", "changed"].into_iter().cycle().take(WORDS);
    let config = Config {
        openai_key: key.to_owned(),
        names: vec![NAME.to_owned()],
        script: Script::default().on("", Reply::text(text.collect::<Vec<_>>().join(" "))),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = Simulator::start(config).await?;
        std::fs::write(directory.join("provider.pem"), running.ca_pem())?;
        println!("{} {}", running.addr, running.tls_addr);
        upstream::until_input_ends().await
    })
}
