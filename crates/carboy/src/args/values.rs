//! Values of flags, read before anything is done: a slip is told with the flag's name, and not as an error of a file that
//! the person never wrote.

use std::net::SocketAddr;
use std::time::Duration;

use carboy_core::route::normal_path;
use carboy_manifest::RunBudget;

/// `30s`, `10m`, `2h`, `1d`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no duration; write 30s, 10m, 2h or 1d", text.escape_default());
    let (mut total, mut number) = (0_u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let seconds = match c {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let count: u64 = number.parse().map_err(|_| wrong())?;
        total = count.checked_mul(seconds).and_then(|more| total.checked_add(more)).ok_or_else(wrong)?;
        number.clear();
    }
    if number.is_empty() && total > 0 { Ok(Duration::from_secs(total)) } else { Err(wrong()) }
}

/// `2M`, `claude=500k`; whether several fit together is seen when all are there.
pub(super) fn budget(text: &str) -> Result<String, String> {
    RunBudget::parse([text]).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// `127.0.0.1:8081`: an address and a port.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(8_081_u16);
        format!("write an address and a port, as in 127.0.0.1:{port}")
    })
}

/// A method, as it stands in a request: upper case, whatever was typed.
pub(super) fn method(text: &str) -> Result<String, String> {
    // Methods are tokens (RFC 9110, 9.1); those of today have letters alone, and a dash at most.
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
        return Ok(text.to_ascii_uppercase());
    }
    Err("write methods as in GET or GET,POST".into())
}

/// The beginning of a path, in the one spelling that requests are compared in.
pub(super) fn path_prefix(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("a path begins with `/`: write `/{}`", text.escape_default()));
    }
    if text.contains(['?', '#']) {
        return Err("a path ends before `?` and `#`: leave those out".into());
    }
    match normal_path(text) {
        Some(normal) if normal == text => Ok(normal),
        Some(normal) => Err(format!("write it as requests are compared: `{}`", normal.escape_default())),
        None => Err("write a path without `%2f`, `\\`, control characters and `..` above the root".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_upper_case_and_words() {
        assert_eq!(method("get"), Ok("GET".into()));
        assert_eq!(method("VERSION-CONTROL"), Ok("VERSION-CONTROL".into()));
        assert!(method("").is_err() && method("GET POST").is_err() && method("/x").is_err());
    }

    #[test]
    fn a_prefix_begins_with_a_slash_and_is_told_so() {
        assert_eq!(path_prefix("/v1"), Ok("/v1".into()));
        assert!(path_prefix("foo").is_err_and(|why| why.contains("`/foo`")));
        assert!(path_prefix("/a?b").is_err() && path_prefix("/a\n").is_err() && path_prefix("").is_err());
    }

    #[test]
    fn c7_a_budget_is_an_amount_or_one_for_a_meter() {
        assert_eq!(budget("claude=2M"), Ok("claude=2M".into()));
        assert!(budget("much").is_err_and(|why| why.contains("1.5M")));
        assert!(budget("mistral=1").is_err_and(|why| why.contains("anthropic")));
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert!(["", "1", "h", "1x", "99999999999999999999d"].iter().all(|text| duration(text).is_err()));
    }
}
