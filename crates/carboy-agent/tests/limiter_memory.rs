//! What a flood of names costs: measured in a process of its own, so that no other test's memory is counted.

use carboy_agent::layers::limiter::{Because, Limiter, RuleId};
use carboy_core::chat::ChatLimits;

/// Octets of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a number of kB") * 1024
}

#[test]
fn g46_a_million_names_cost_bounded_memory_and_the_next_million_cost_nothing() {
    let limiter = Limiter::new(&ChatLimits::default());
    let before = resident();
    for n in 0..1_000_000u32 {
        assert!(limiter.admit(&[(RuleId::UserPerHour, &format!("session-{n}"))], u64::from(n) / 1000).is_ok());
    }
    let full = resident() - before;
    for n in 1_000_000..2_000_000u32 {
        let refused = limiter.admit(&[(RuleId::UserPerHour, &format!("session-{n}"))], 1_000).unwrap_err();
        assert_eq!(refused.because, Because::Keys);
    }
    let flooded = resident() - before;
    println!("1,000,000 keys: {full} octets; after a million more: {flooded} octets");
    assert_eq!(limiter.keys(), 1_000_000);
    assert!(full < 160 << 20, "{full}");
    assert!(flooded < full + (8 << 20), "{flooded}");
    // An hour later the place is used again.
    for n in 0..1_000u32 {
        assert!(limiter.admit(&[(RuleId::UserPerHour, &format!("other-{n}"))], 3_601_000).is_ok());
    }
    assert_eq!(limiter.keys(), 1_000);
}
