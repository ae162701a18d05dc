//! The simulated provider as a program of its own: what carboy and the other gateways to models are compared before, and the
//! model that chat services ask.

use std::io::BufRead;
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

/// The offline model of chat agents, until standard input ends. Prints its address, and at each line of its input the body of
/// the last request.
pub fn offline(key: &str) -> Result<(), Failure> {
    let config = Config { anthropic_key: key.to_owned(), ..Config::offline() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let running = Simulator::start(config).await?;
        println!("{}", running.addr);
        tokio::task::spawn_blocking(move || {
            for line in std::io::stdin().lock().lines() {
                line?;
                let body = running.received().pop().map(|request| request.body).unwrap_or_default();
                let body: serde_json::Value = serde_json::from_slice(&body)?;
                println!("{body}");
            }
            Ok(())
        })
        .await?
    })
}
