//! A simulated provider for people: `cargo run -p carboy-sim --example serve -- --port 9911`.
//!
//! Point a client at it: `ANTHROPIC_BASE_URL=http://127.0.0.1:9911` or `OPENAI_BASE_URL=http://127.0.0.1:9911/v1`, with
//! the key that it prints. It runs until Ctrl-C, then says what it would have charged.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;

use carboy_sim::{Config, Simulator};

const USAGE: &str = "usage: serve [--port N] [--tls-port N] [--key KEY] [--name NAME]... [--ca-file FILE]";

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    let (mut port, mut tls_port, mut ca_file) = (9911_u16, 0_u16, None);
    let mut config = Config::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("`{option}` needs a value"))?;
        let number = || value.parse().map_err(|_| format!("`{value}` is not a port"));
        match &option[..] {
            "--port" => port = number()?,
            "--tls-port" => tls_port = number()?,
            "--key" => (config.anthropic_key, config.openai_key) = (value.clone(), value),
            "--name" => config.names.push(value),
            "--ca-file" => ca_file = Some(value),
            _ => return Err(format!("`{option}` is not an option")),
        }
    }
    let listen = |port| {
        TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map_err(|e| format!("port {port}: {e}"))
    };
    let keys = (config.anthropic_key.clone(), config.openai_key.clone());
    let running =
        Simulator::start_on(config, listen(port)?, listen(tls_port)?).await.map_err(|error| error.to_string())?;
    eprintln!("simulated provider: http://{} and https://{}", running.addr, running.tls_addr);
    eprintln!("ANTHROPIC_API_KEY={} OPENAI_API_KEY={}", keys.0, keys.1);
    if let Some(file) = ca_file {
        std::fs::write(&file, running.ca_pem()).map_err(|error| format!("{file}: {error}"))?;
        eprintln!("CA certificate: {file}");
    }
    tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
    let (bill, connections, requests) = (running.bill(), running.connections(), running.requests());
    eprintln!("{requests} requests on {connections} connections; {bill:?}");
    running.stop().await;
    Ok(())
}
