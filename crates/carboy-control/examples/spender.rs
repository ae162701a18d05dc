//! Clients that spend, as a program of the standard library alone: for a bottle, and for anybody who wants to see budgets at
//! work. See `tests/overspend/agent.rs` for what they do.

#[path = "../tests/overspend/agent.rs"]
#[allow(dead_code, missing_docs, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]
mod agent;

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    agent::main(&arguments)
}
