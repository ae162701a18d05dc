//! `window`, and spans of time as files write them.

use carboy_core::budget::{ROLLING_MS, Unit, Window, Zone};

use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

const FORMS: &str = "write `lifetime`, {calendar: day, tz: Europe/Berlin} or {rolling: 5h}";

/// `30s`, `10m`, `5h`, `7d`, `1h30m` in milliseconds; `None` for anything else.
pub fn parse_duration(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0_u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let ms: u64 = match c {
            's' => 1_000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(ms)?)?;
        number.clear();
    }
    (number.is_empty() && !text.is_empty()).then_some(total)
}

/// A span of time within bounds, in milliseconds.
pub(super) fn duration(
    scope: &mut Scope<'_>,
    node: &Node,
    what: &str,
    range: std::ops::RangeInclusive<u64>,
    fix: &str,
) -> Option<u64> {
    let text = scope.text(node, what)?;
    let ms = parse_duration(text).filter(|ms| range.contains(ms));
    if ms.is_none() {
        let message = format!("{what} of {} is {}", scope.owner, excerpt(text));
        scope.error(node.at, Code::BadValue, message, fix);
    }
    ms
}

/// `lifetime`, `{calendar: day|week|month, tz}`, `{rolling: 5h}`.
pub(super) fn window(scope: &mut Scope<'_>, node: &Node) -> Option<Said<Window>> {
    let window = match &node.value {
        Value::Map(entries) => of_map(scope, node, entries)?,
        Value::Text(text) if text == "lifetime" => Window::Lifetime,
        Value::Invalid => return None,
        Value::Text(text) => {
            let message = format!("`window` of {} is {}", scope.owner, excerpt(text));
            scope.error(node.at, Code::BadValue, message, FORMS);
            return None;
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) => {
            let message = format!("`window` of {} is neither text nor a map", scope.owner);
            scope.error(node.at, Code::WrongType, message, FORMS);
            return None;
        }
    };
    Some(scope.said(window, node.at))
}

fn of_map(scope: &mut Scope<'_>, node: &Node, entries: &[Entry]) -> Option<Window> {
    scope.keys(entries, &keys::WINDOW, "`window`");
    match (find(entries, "calendar"), find(entries, "rolling"), find(entries, "tz")) {
        (Some(unit), None, tz) => {
            let unit = unit_of(scope, unit);
            let tz = match tz {
                Some(tz) => zone(scope, tz),
                None => Zone::parse("UTC").ok(),
            };
            Some(Window::Calendar { unit: unit?, tz: tz? })
        }
        (None, Some(span), None) => {
            let fix = "write a span from 1m to 366d, as in 30m, 5h or 7d";
            Some(Window::Rolling { ms: duration(scope, span, "`window.rolling`", ROLLING_MS, fix)? })
        }
        (calendar, rolling, _) => {
            let what = match (calendar, rolling) {
                (Some(_), Some(_)) => "has `calendar` and `rolling`",
                (None, Some(_)) => "has `rolling` and `tz`",
                (_, None) => "has neither `calendar` nor `rolling`",
            };
            scope.error(node.at, Code::BadValue, format!("`window` of {} {what}", scope.owner), FORMS);
            None
        }
    }
}

fn unit_of(scope: &mut Scope<'_>, node: &Node) -> Option<Unit> {
    let units = [("day", Unit::Day), ("week", Unit::Week), ("month", Unit::Month)];
    super::choice(scope, node, "`window.calendar`", &units).map(|said| said.value)
}

fn zone(scope: &mut Scope<'_>, node: &Node) -> Option<Zone> {
    let text = scope.text(node, "`window.tz`")?;
    let zone = Zone::parse(text).ok();
    if zone.is_none() {
        let message = format!("`window.tz` of {} is {}, no known time zone", scope.owner, excerpt(text));
        scope.error(node.at, Code::BadValue, message, "write a name such as `UTC` or `Europe/Berlin`");
    }
    zone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_add_up_and_need_a_unit() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("7d", Some(604_800_000)),
            ("5", None),
            ("h", None),
            ("", None),
            ("5w", None),
            ("1.5h", None),
            ("99999999999999999999d", None),
            ("9999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text), ms, "{text}");
        }
    }
}
