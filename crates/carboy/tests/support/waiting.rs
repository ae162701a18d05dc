//! Waiting for what has to happen.

use std::time::{Duration, Instant};

/// What a look finds, as soon as it finds something.
pub fn within<T>(wait_max: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + wait_max;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {wait_max:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
