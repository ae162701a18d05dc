//! How things are said to a person: errors with their causes and the next step, entries of the log, tables.

mod fit;
mod flow;

use std::fmt::Write as _;
use std::io::IsTerminal;

use carboy_control::ports::PortReport;
use carboy_control::propose::Proposed;
use carboy_control::summary::{Action, Ended, Summary};
use carboy_core::audit::Entry;
use carboy_core::ports::Clock;
use carboy_core::verdict::Reason;

pub use fit::{Side, columns, table, width, wrapped};
pub use flow::Flow;

/// How a command ended when it did not do what was asked. The codes are documented in `carboy run --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command line makes no sense.
    Usage = 2,
    /// Something was found wrong: a log that was changed, a check that failed.
    Found = 1,
    /// This host cannot give what is needed (sysexits EX_UNAVAILABLE).
    HostNotCapable = 69,
    /// carboy itself failed (EX_SOFTWARE).
    Failed = 70,
    /// A run's supervisor was gone before it could say how the program ended (EX_OSERR).
    Lost = 71,
    /// Refused by policy (EX_NOPERM).
    Refused = 77,
    /// A file is not valid (EX_CONFIG).
    Config = 78,
}

/// A failure on its way to the person.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// What happened, with its causes.
    pub message: String,
    /// What to do next, where the message does not say it.
    pub hint: Option<String>,
    /// What stands before the message.
    pub heading: Heading,
}

/// What stands before a failure's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// `error:`
    Error,
    /// Nothing: the message is a list of diagnostics, each of which says what it is.
    OfItsOwn,
}

impl Failure {
    /// From an error and its causes.
    pub fn new(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Failure {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                let _ = write!(message, ": {text}");
            }
            cause = inner.source();
        }
        Failure { exit, message, hint: None, heading: Heading::Error }
    }

    /// From words.
    pub fn words(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), hint: None, heading: Heading::Error }
    }

    /// From diagnostics.
    pub fn diagnostics(exit: Exit, diagnostics: &impl std::fmt::Display) -> Failure {
        Failure { exit, message: diagnostics.to_string(), hint: None, heading: Heading::OfItsOwn }
    }

    /// Adds the next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

/// Styles that vanish where standard error is no terminal or `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    on: bool,
}

impl Palette {
    /// For text on standard error.
    pub fn stderr() -> Palette {
        Palette { on: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) }
    }

    /// For text on standard output.
    pub fn stdout() -> Palette {
        Palette { on: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) }
    }

    /// For a text that is compared.
    #[cfg(test)]
    pub fn plain() -> Palette {
        Palette { on: false }
    }

    fn paint(self, style: anstyle::Style, text: &str) -> String {
        if self.on { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Something good.
    pub fn good(self, text: &str) -> String {
        self.paint(anstyle::AnsiColor::Green.on_default(), text)
    }

    /// Something bad.
    pub fn bad(self, text: &str) -> String {
        self.paint(anstyle::AnsiColor::Red.on_default().bold(), text)
    }

    /// Something in between.
    pub fn warn(self, text: &str) -> String {
        self.paint(anstyle::AnsiColor::Yellow.on_default(), text)
    }

    /// A heading.
    pub fn strong(self, text: &str) -> String {
        self.paint(anstyle::Style::new().bold(), text)
    }

    /// Something less important.
    pub fn faint(self, text: &str) -> String {
        self.paint(anstyle::Style::new().dimmed(), text)
    }
}

/// Control characters made visible: a host name or a rule's text never moves the cursor of the person who reads it.
pub fn printable(text: &str) -> String {
    // Directions, lines and paragraphs, characters without width, notes between lines, tags.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars().map(|c| if hidden(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// One entry of the log as a line for people.
pub fn entry_line(entry: &Entry, palette: Palette) -> String {
    let text = |name| entry.text(name).unwrap_or("-");
    let reason = entry.detail("reason").and_then(|r| r.as_str());
    let failed = reason.and_then(Reason::from_code).is_some_and(Reason::is_failure);
    let result = if failed { "failed" } else { text("result") };
    let painted = match result {
        "allowed" | "done" => palette.good(&format!("{result:<8}")),
        "denied" | "blocked" | "failed" => palette.bad(&format!("{result:<8}")),
        _ => palette.warn(&format!("{result:<8}")),
    };
    let time = entry_time(text("timestamp"));
    let mut line = format!("{} {painted} {:<8} {}", palette.faint(&time), text("event_type"), printable(&what(entry)),);
    if let Some(reason) = reason {
        let _ = write!(line, "  {}", palette.bad(&printable(reason)));
        if let Some(reason) = Reason::from_code(reason) {
            let _ = write!(line, " {}", palette.faint(&format!("({})", reason.what())));
        }
    }
    for name in ["by", "why", "rules", "findings", "rule", "status", "repeats", "of", "refusal"] {
        if let Some(value) = entry.detail(name).filter(|v| !v.is_null()) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(line, "  {}", palette.faint(&format!("{name}={}", printable(&value))));
        }
    }
    line
}

/// When, by the host's clocks: to the millisecond, with the day where it is not today.
fn entry_time(timestamp: &str) -> String {
    match carboy_control::log::parse_time(timestamp) {
        Ok(ms) => format!("{}.{:03}", local_time(ms, carboy_control::clock::SystemClock.now_ms()), ms % 1000),
        Err(_) => "-".into(),
    }
}

/// A moment by the host's clocks, both in milliseconds since 1970: `14:03:59`, with the day before it where it is not
/// today.
pub fn local_time(ms: u64, now_ms: u64) -> String {
    let local = |ms: u64| carboy_control::local_time::local_time(i64::try_from(ms / 1000).ok()?);
    let Some(then) = local(ms) else { return "-".into() };
    let time = format!("{:02}:{:02}:{:02}", then.hour, then.minute, then.second);
    match local(now_ms) {
        Some(now) if (now.year, now.month, now.day) == (then.year, then.month, then.day) => time,
        Some(_) | None => format!("{:04}-{:02}-{:02} {time}", then.year, then.month, then.day),
    }
}

/// What was tried, in a few words.
pub fn what(entry: &Entry) -> String {
    let detail = |name| entry.detail(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    let action = entry.text("action").unwrap_or("-");
    match (detail("method"), detail("host").or_else(|| detail("name"))) {
        (Some(method), Some(host)) => {
            let port = detail("port").filter(|p| p != "443" && p != "80").map_or(String::new(), |p| format!(":{p}"));
            format!("{method} {host}{port}{}", detail("path").unwrap_or_default())
        }
        (None, Some(host)) => format!("{action} {host}{}", detail("port").map_or(String::new(), |p| format!(":{p}"))),
        (Some(method), None) => format!("{action} {method}"),
        (None, None) if action == "repeats" => format!("again: {}", detail("what").unwrap_or_default()),
        (None, None) if detail("way").is_some() => {
            let (way, inside) = (detail("way").unwrap_or_default(), detail("inside").unwrap_or_default());
            let size = |name| entry.detail(name).and_then(serde_json::Value::as_u64).map(bytes);
            let carried = match (size("bytes_out"), size("bytes_in")) {
                (Some(out), Some(into)) => format!(" {out} out, {into} in"),
                (Some(_) | None, _) => String::new(),
            };
            format!("{way} {inside} {action} {}{carried}", detail("outside").unwrap_or_default())
        }
        (None, None) => format!("{action} {}", entry.text("run").unwrap_or("")).trim_end().to_owned(),
    }
}

/// What was done to a run from outside, and how it goes on, as lines of its summary.
pub fn enforced(summary: &Summary, palette: Palette) -> String {
    let now = carboy_control::clock::SystemClock.now_ms();
    let mut out = String::new();
    // Writing to a String cannot fail.
    for one in &summary.enforced {
        let label = match one.action {
            Action::Stopped(_) => "stopped",
            Action::Resumed => "resumed",
        };
        let (action, by, at) = (one.action.as_str(), one.by.as_str(), local_time(one.at_ms, now));
        let _ = writeln!(out, "  {label:<10} {at} {}, {by}: {}", palette.warn(action), printable(&one.why));
    }
    if summary.ended == Ended::Frozen {
        let go_on = palette.strong(&format!("carboy resume {}", summary.run));
        let _ = writeln!(out, "             {} {go_on}", palette.faint("to go on:"));
    }
    out
}

/// A published or forwarded port and what went through it.
pub fn port(port: &PortReport) -> String {
    let count = |number: u64, one: &str, more: &str| match number {
        0 => String::new(),
        1 => format!(", {one}"),
        number => format!(", {number} {more}"),
    };
    let many = if port.connections == 1 { "connection" } else { "connections" };
    format!(
        "{}: {} {many}, {} out, {} in{}{}{}",
        printable(&port.joined()),
        port.connections,
        bytes(port.bytes_out),
        bytes(port.bytes_in),
        count(port.cut, "1 cut for a secret", "cut for a secret"),
        count(port.failed, "1 that nobody took", "that nobody took"),
        count(port.refused, "1 too many", "too many"),
    )
}

/// What a run that learned proposes, as lines of its summary.
pub fn proposed(proposed: &Proposed, palette: Palette) -> String {
    let mut out = match proposed.routes {
        0 => "  learned    nothing that a route should open\n".to_owned(),
        1 => "  learned    1 route would have let it work\n".to_owned(),
        count => format!("  learned    {count} routes would have let it work\n"),
    };
    // Writing to a String cannot fail.
    for remark in &proposed.remarks {
        let _ = writeln!(out, "             {}", palette.faint(&printable(remark)));
    }
    if let (Some(apply), Some(file)) = (&proposed.apply, &proposed.file) {
        let _ = writeln!(out, "             {}", printable(&file.display().to_string()));
        let _ = writeln!(out, "               {} {}", palette.faint("to allow:"), palette.strong(apply));
    }
    out
}

/// `1.2 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `250 ms`, `12.3 s`, `4 min 5 s`, `2 h 3 min`.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_like_a_person_wrote_them() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let times = [duration(5), duration(12_340), duration(245_000), duration(7_380_000)];
        assert_eq!(times, ["5 ms", "12.3 s", "4 min 5 s", "2 h 3 min"]);
    }

    #[test]
    fn a_hostile_name_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\\u{1b}[2Jb\\u{202e}c");
        let hidden = "\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{2028}\u{2029}\u{202d}\u{2060}\u{2067}\u{206a}\u{feff}\u{fff9}\u{e0041}";
        assert!(printable(hidden).is_ascii(), "{}", printable(hidden));
        assert_eq!(printable("\u{65e5}\u{e9}"), "\u{65e5}\u{e9}");
    }
}
