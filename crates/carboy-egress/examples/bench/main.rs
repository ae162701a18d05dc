//! The programs of `cargo xtask bench proxy`, `budget` and `chat`: upstreams, a bare proxy to compare with, load generators.
//!
//! ```text
//! bench upstream DIR                        TLS server on loopback; writes DIR/ca.pem, prints its address
//! bench provider DIR KEY                    the simulated provider; writes DIR/provider.pem, prints two addresses
//! bench offline KEY                         the offline model of chat agents; prints its address
//! bench bare DIR ADDRESS                    TLS in, TLS out to ADDRESS, nothing in between; prints its address
//! bench load HOST:PORT [--ca FILE] [--through PROXY] [--field NAME:VALUE]... [--tls no]
//!                                           takes orders as lines of JSON on standard input
//! bench streams HOST:PORT COUNT             opens so many streams and says how each ended
//! bench governed                            one gateway with and without metering; prints what that costs
//! ```
//!
//! Each ends when its standard input does. All listen on 127.0.0.1 alone.

mod bare;
mod content;
mod governed;
#[path = "../../tests/support/ledger.rs"]
#[allow(dead_code, missing_docs, clippy::unwrap_used)]
mod ledger;
mod load;
mod model;
mod provider;
mod shapes;
mod streams;
mod tls;
mod upstream;

use std::error::Error;
use std::path::Path;

/// What any of the programs may fail with; it is printed and ends the program.
type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["upstream", directory] => upstream::run(Path::new(directory)),
        ["bare", directory, upstream] => bare::run(Path::new(directory), upstream.parse()?),
        ["provider", directory, key] => provider::run(Path::new(directory), key),
        ["offline", key] => provider::offline(key),
        ["load", target, ref options @ ..] => load::run(target, options),
        ["streams", target, count] => streams::run(target, count.parse()?),
        ["governed"] => governed::run(),
        _ => {
            let usage = "bench upstream DIR | provider DIR KEY | offline KEY | bare DIR ADDRESS | load HOST:PORT [OPTIONS] | \
                         streams HOST:PORT COUNT | governed";
            Err(format!("usage: {usage}").into())
        }
    }
}
