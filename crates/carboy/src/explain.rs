//! `carboy explain`: what an agent is and may do, as a page; or why something was refused.

pub mod portrait;
mod refusal;

use carboy_core::ids::RefusalId;

use crate::args::ExplainArgs;
use crate::environment::Environment;
use crate::report::{Exit, Failure};

pub use refusal::found;

/// Explains a refusal, by its id, or else an agent or a bottle, by its name.
pub fn explain(args: &ExplainArgs, environment: &Environment) -> Result<u8, Failure> {
    match RefusalId::parse(&args.what) {
        Ok(id) if args.html.is_none() => refusal::explain(&id, args.json, environment),
        Ok(_) => Err(Failure::words(Exit::Usage, "--html makes a page of an agent, not of a refusal")
            .hint("without --html it says why that was refused")),
        Err(_) => portrait::explain(args, environment),
    }
}
