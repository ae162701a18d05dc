//! One program for all targets: `CARBOY_FUZZ_TARGET` says which.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("CARBOY_FUZZ_TARGET").unwrap_or_default();
    let found = carboy_fuzz::TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("CARBOY_FUZZ_TARGET names no target: `{wanted}`")).1
});

fuzz_target!(|bytes: &[u8]| (*TARGET)(bytes));
