//! Arguments of the dashboard.

use std::time::Duration;

use clap::Args;

/// Shortest and longest time between two looks.
const INTERVAL_MS: std::ops::RangeInclusive<u128> = 200..=60_000;

#[derive(Debug, Args)]
#[command(
    after_help = "At a terminal it is a screen; `?` there lists the keys. --once, --json and --line print once and need no \
                  terminal, and start nothing. Colours follow NO_COLOR. Exit codes: 0; 2 bad usage, or no terminal; 70 carboy failed."
)]
pub struct TopArgs {
    /// Only look: no key acts on a run or a budget, and no controller is started
    #[arg(long)]
    pub read_only: bool,
    /// Print one frame as text
    #[arg(long, conflicts_with_all = ["json", "line"])]
    pub once: bool,
    /// Print one snapshot as JSON
    #[arg(long, conflicts_with = "line")]
    pub json: bool,
    /// Print one line, for tmux and status lines
    #[arg(long)]
    pub line: bool,
    /// Time between two looks: 200ms to 1m
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Nothing but ASCII [default: where the locale is not UTF-8]
    #[arg(long)]
    pub ascii: bool,
    /// Leave the mouse to the terminal
    #[arg(long)]
    pub no_mouse: bool,
}

/// `500ms`, `1s`, `1m`.
fn interval(text: &str) -> Result<Duration, String> {
    let duration = match text.strip_suffix("ms") {
        Some(ms) => Duration::from_millis(ms.parse().map_err(|_| "write 500ms, 1s, 10s".to_owned())?),
        None => super::values::duration(text)?,
    };
    if INTERVAL_MS.contains(&duration.as_millis()) { Ok(duration) } else { Err("from 200ms to 1m".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_between_a_blink_and_a_minute() {
        assert_eq!(interval("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(interval("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "0s", "199ms", "61s", "-1s", "1", "ms", "99999999999999999999ms"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
