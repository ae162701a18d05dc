//! `run --publish` and `run --forward`: the same as the manifest's keys, for one run.
//!
//! *Must never* accept what a manifest may not say: both are read and refused by `carboy_manifest::ports`.

use carboy_manifest::Effective;
use carboy_manifest::ports::{PORTS_MAX, forward_flag, publish_flag};

use crate::args::RunArgs;
use crate::environment::Environment;
use crate::report::{Exit, Failure};

/// Adds the flags' ports; one that takes the place of the manifest's (the same port of the host, the same port inside)
/// replaces it.
pub fn add_flags(args: &RunArgs, environment: &Environment, effective: &mut Effective) -> Result<(), Failure> {
    let usage = |text: String| Failure::words(Exit::Usage, text);
    for spec in &args.publish {
        let publish = publish_flag(spec).map_err(usage)?;
        if !publish.listen.ip().is_loopback() {
            say!("warning: --publish {spec}: other machines reach the program inside");
        }
        effective.publish.retain(|known| known.listen != publish.listen);
        effective.publish.push(publish);
    }
    let (home, carboy_home) = (&environment.places.home, environment.home.root());
    for spec in &args.forward {
        let forward = forward_flag(spec, home, carboy_home).map_err(usage)?;
        effective.forward.retain(|known| known.inside != forward.inside);
        effective.forward.push(forward);
    }
    let round = effective.publish.iter().find(|p| effective.forward.iter().any(|f| f.inside == p.inside));
    if let Some(both) = round {
        return Err(usage(format!("port {} inside is both published and forwarded", both.inside))
            .hint("use another port inside for one of the two"));
    }
    if effective.publish.len().max(effective.forward.len()) > PORTS_MAX {
        return Err(usage(format!("more than {PORTS_MAX} ports are published or forwarded")).hint("leave some out"));
    }
    Ok(())
}
