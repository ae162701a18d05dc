//! What a run may spend, in words.

use carboy_core::budget::{CapKind, Count, Gate, Governs, Overrun, Shutdown, Unit, Window};
use carboy_manifest::budget::{BudgetsView, CapView, METERS};

/// A row for each cap and one for what they do; without a cap that it is so, where there is a model to spend on.
pub fn rows(view: &BudgetsView, metered: bool) -> Vec<String> {
    if view.caps.is_empty() {
        let none = "none: what a model costs is counted, and nothing stops it";
        return if metered { vec![none.into()] } else { Vec::new() };
    }
    view.caps.iter().map(row).chain([terms(view)]).collect()
}

fn row(cap: &CapView) -> String {
    let meters = match cap.meters.len() {
        all if all == METERS.len() => "each meter by itself".to_owned(),
        _ => cap.meters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let kind = match cap.kind {
        CapKind::Budget => "budget",
        CapKind::Ceiling => "ceiling",
    };
    let counted = match cap.count {
        Count::Weighted => "weighted tokens",
        Count::Raw => "tokens",
    };
    let replaced = if cap.binds { "" } else { "; a nearer budget replaces it" };
    format!("{kind} of {}: {} {counted} {}, {meters}{replaced}", cap.scope, tokens(cap.tokens), window(&cap.window))
}

/// `5M`, `1.5M`, `500k`, `1234`: exactly, and as short as files say it.
fn tokens(count: u64) -> String {
    match count {
        0 => "0".into(),
        _ if count.is_multiple_of(1_000_000) => format!("{}M", count / 1_000_000),
        _ if count > 1_000_000 && count.is_multiple_of(100_000) => {
            format!("{}.{}M", count / 1_000_000, count / 100_000 % 10)
        }
        _ if count.is_multiple_of(1_000) => format!("{}k", count / 1_000),
        _ => count.to_string(),
    }
}

fn window(window: &Window) -> String {
    match window {
        Window::Lifetime => "for good".into(),
        Window::Calendar { unit, tz } => {
            let unit = match unit {
                Unit::Day => "day",
                Unit::Week => "week",
                Unit::Month => "month",
            };
            format!("each {unit} ({})", tz.as_str())
        }
        Window::Rolling { ms } => format!("in any {}", span(*ms)),
    }
}

/// As files say it: `5h`, `1h30m`.
fn span(ms: u64) -> String {
    let minutes = ms / 60_000;
    let parts = [(minutes / 1_440, "d"), (minutes / 60 % 24, "h"), (minutes % 60, "m"), (ms / 1_000 % 60, "s")];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

fn terms(view: &BudgetsView) -> String {
    let spent = match view.shutdown.value {
        Shutdown::Cutoff => "every route is closed (cutoff)",
        Shutdown::Pause => "its processes stand still (pause)",
        Shutdown::Freeze => "its processes end and may be resumed (freeze)",
        Shutdown::Kill => "its processes end (kill)",
    };
    let mut text = format!("when one is spent {spent}");
    let parts: Vec<String> = view.warn_percent.value.iter().map(|part| format!("{part} %")).collect();
    if !parts.is_empty() {
        text.push_str(&format!("; you are told at {}", parts.join(" and ")));
    }
    match (view.gate.value, view.overrun.value) {
        (Gate::Observe, Overrun::Exact | Overrun::Bounded) => {
            text.push_str("; requests are measured afterwards, the last ones go beyond it");
        }
        (Gate::Reserve, Overrun::Bounded) => text.push_str("; long answers are held in parts and cut where it ends"),
        (Gate::Reserve, Overrun::Exact) => {}
    }
    match view.governs.value {
        Governs::All => text.push_str("; every budget binds, not the nearest alone"),
        Governs::Nearest => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_as_files_say_it() {
        for text in ["5h", "1h30m", "7d", "1m30s", "30m"] {
            assert_eq!(carboy_manifest::budget::parse_duration(text).map(span).as_deref(), Some(text));
        }
    }

    #[test]
    fn an_amount_is_as_short_as_it_can_be_and_exact() {
        for (count, text) in [
            (0, "0"),
            (1, "1"),
            (500_000, "500k"),
            (1_500_000, "1.5M"),
            (5_000_000, "5M"),
            (1_234_000, "1234k"),
            (1_234_567, "1234567"),
        ] {
            assert_eq!(tokens(count), text);
            assert_eq!(carboy_manifest::budget::parse_amount(text).unwrap().tokens_down(), count);
        }
    }
}
