//! `docs/limits.md` is made from the source: every maximum of a gateway with its value, what it bounds, and what becomes of
//! whoever goes beyond it. A constant that is in neither list below fails here.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use carboy_core::verdict::Reason;
use carboy_egress::GatewayLimits;

const HEAD: &str = "\
# Limits

What the gateway of one bottle (or of one chat agent) holds and waits for at most. Nothing in it grows without one of these. The page is
made from the source; a test compares them.

Each bottle has a gateway and a process of its own: what one uses up is not there for its own program, and is there for every other. What bottles share
is the controller, which takes 64 KiB of one message and answers in the order of arrival, and the log.

A name in `code` in the last column is a reason of [refusals](refusals.md): it stands in the answer and in the log. A connection that is closed before
a request could be read has its entry in the log as well, repeats counted.

";

/// What becomes of whoever goes beyond each of [`GatewayLimits`].
const OF_GATEWAY: &[(&str, &str)] = &[
    ("connections_max", "closed at once, `limit_reached`; as many as there are descriptors for, where those are fewer"),
    ("strangers_max", "`limit_reached` (503)"),
    ("requests_max", "`limit_reached` (503)"),
    ("streams_max", "the stream is reset: REFUSED_STREAM"),
    ("stream_window_bytes", "nothing more is read"),
    ("connection_window_bytes", "nothing more is read"),
    ("frame_bytes_max", "the connection ends: FRAME_SIZE_ERROR"),
    ("send_buffer_bytes", "nothing more is taken from the other side"),
    ("reset_streams_max", "the connection ends: ENHANCE_YOUR_CALM"),
    ("refused_streams_max", "the connection ends: ENHANCE_YOUR_CALM"),
    ("connection_buffer_bytes", "nothing more is read or taken"),
    ("head_bytes_max", "431 or the stream is refused, `limit_reached`; of an upstream `upstream_failed`"),
    ("headers_max", "`limit_reached` (503), or 431; of an upstream `upstream_failed`"),
    ("whole_body_bytes_max", "`body_too_large` (413)"),
    ("whole_bytes_max", "`limit_reached` (503); a WebSocket is closed with 1008"),
    ("whole_body_time", "`limit_reached` (503)"),
    ("gate_bytes_max", "the head goes out with what was scanned; the rest is scanned as it flows"),
    ("names_max", "the name gets no address, `limit_reached`"),
    ("wildcard_names_max", "the name gets no address, `limit_reached`"),
    ("zones", "the name gets no address, `name_budget`"),
    ("dns_query_bytes_max", "the connection is closed"),
    ("dns_pending_max", "the query is dropped; resolvers ask again"),
    ("repeats_max", "one count for all of them"),
    ("repeats_window", "the next one is an entry of its own, with the count"),
    ("leaves_max", "the oldest is made again"),
    ("alpn_max", "the oldest is asked again"),
    ("alpn_age", "the host is asked again"),
    ("first_byte", "closed, `protocol_refused`"),
    ("handshake", "closed, `tls_refused`; of an upstream `upstream_unreachable`"),
    ("dial", "`upstream_unreachable` (502)"),
    ("next_address", "the next address is tried beside it"),
    ("idle", "closed, `protocol_refused` where no request ever came"),
    ("answer_head", "`upstream_failed` (502)"),
    ("body_idle", "`limit_reached` for a request's body, `upstream_failed` for an answer's, which breaks off"),
    ("unread", "the connection is closed, `limit_reached`"),
    ("gate_pause", "passed on as far as it was scanned"),
    ("gate_time", "passed on as far as it was scanned"),
    ("hold_time", "passed on; a later finding ends it"),
    ("flush_pause", "passed on, but for the beginning of a secret"),
    ("cut_grace", "broken off"),
    ("refusal_every", "the refusal waits its turn"),
    ("refusal_burst", "further refusals wait their turn"),
    ("count_wait", "the request is held by its length"),
    ("count_bytes_max", "the request is held by its length"),
    ("drain", "settled by what was seen, never below it"),
    ("drain_bytes_max", "settled by what was seen, never below it"),
    ("unseen_tokens_per_s", "no more is charged for what nobody saw"),
    ("tool_calls_max", "no more is held for it"),
    ("storm_denials_max", "slowed down; after as many again the bottle is frozen, then killed"),
    ("storm_window", "forgotten"),
    ("storm_every", "answered no faster"),
];

/// The same for constants of modules.
const OF_MODULES: &[(&str, &str, &str)] = &[
    ("answer.rs", "DECODED_BYTES_MAX", "breaks off, `upstream_failed`"),
    ("answer/stream.rs", "STEPS_PER_POLL", "others get a turn"),
    ("ca.rs", "SESSIONS_MAX", "the oldest session is not resumed"),
    ("connection.rs", "CLOSING_WAIT_MAX", "closed"),
    ("dns.rs", "SHOWN_CHARS_MAX", "cut in the log"),
    ("gateway.rs", "SHOWN_CHARS_MAX", "cut in the log"),
    ("inject.rs", "DECODE_ROUNDS_MAX", "not decoded any more"),
    ("inside.rs", "HOSTS_MAX", "all begin anew"),
    ("inside.rs", "PIPE_BYTES", "nothing more is taken"),
    ("learn.rs", "LEAKY_HOSTS_MAX", "not in the proposal"),
    ("learn.rs", "LEARNED_MAX", "not in the proposal"),
    ("learn.rs", "LEARNED_PER_HOST_MAX", "not in the proposal"),
    ("learn.rs", "PATH_BYTES_MAX", "cut in the proposal"),
    ("learn.rs", "REHEARSAL_TIME_MAX", "`limit_reached` in the proposal"),
    ("learn.rs", "SHAPE_SEGMENTS_MAX", "left out of the shape"),
    ("lengths.rs", "KNOWN_MAX", "the oldest is held as one that is not known"),
    ("linger.rs", "LINGER_BYTES_MAX", "closed"),
    ("linger.rs", "LINGER_TIME", "closed"),
    ("listener.rs", "ACCEPT_PAUSE", "tried again"),
    ("metering.rs", "ERROR_BYTES_MAX", "taken for an answer, and charged"),
    ("name_server.rs", "DATAGRAM_BYTES_MAX", "cut, and refused as malformed"),
    ("name_server.rs", "PORT_PAUSE", "tried again"),
    ("outbound/whole.rs", "ROOM_BYTES_MAX", "room is made as it comes"),
    ("outbound.rs", "TAIL_BYTES_MAX", "not looked at a second time"),
    ("placeholder.rs", "LIFTED_MAX", "`placeholder_misplaced`"),
    ("placeholder/multipart.rs", "BOUNDARY_BYTES_MAX", "nothing in it is replaced, `placeholder_misplaced`"),
    ("port.rs", "ACCEPT_PAUSE", "tried again"),
    ("port.rs", "PORT_CONNECTIONS_MAX", "closed at once, `limit_reached`"),
    ("port/carry.rs", "CHUNK_BYTES", "the next one"),
    ("proxy.rs", "STEP_BYTES", "the next one"),
    ("record.rs", "FINDINGS_MAX", "counted"),
    ("reserve.rs", "FALLBACKS_MAX", "no more is held for it"),
    ("standing.rs", "ADDRESSES_MAX", "not looked at"),
    ("stats.rs", "RULES_MAX", "in the log alone"),
    ("stats.rs", "SAMPLES_MAX", "counted"),
    ("upstream/client_tls.rs", "SESSIONS_MAX", "the oldest session is not resumed"),
    ("upstream/pool.rs", "IDLE_MAX", "closed"),
    ("upstream/pool.rs", "READY_WAIT", "another connection is opened"),
    ("upstream/webhook.rs", "WEBHOOK_WAIT_MAX", "given up, and told"),
    ("websocket/relay.rs", "CLOSING_WAIT_MAX", "closed"),
    ("websocket/relay.rs", "IDLE_MAX", "closed with 1001"),
    ("websocket/relay.rs", "MESSAGE_BYTES_MAX", "closed with 1009"),
    ("websocket/relay.rs", "REASON_BYTES_MAX", "cut"),
    ("websocket/responses.rs", "KNOWN_MAX", "the oldest is held as one that is not known"),
];

/// Numbers that bound nothing: ports, formats, shares of a price, dates of certificates.
const NO_LIMITS: &[&str] = &[
    "AHEAD",
    "BACKDATED",
    "BUSY_RETRY_S",
    "CA_AHEAD",
    "CA_SINCE_MS",
    "CREATED_MS",
    "CUT_SLACK_TOKENS",
    "DNS_PORT",
    "EARLIER_MARGIN_PART",
    "EXTENDED_ERROR_BLOCKED",
    "EXTENDED_ERROR_OPTION",
    "EXTEND_PART",
    "GUESSED_OCTETS_MIN",
    "HEADER_BYTES",
    "HTTPS_PORT",
    "HTTP_PORT",
    "KEY_BYTES",
    "LOOKS",
    "MAGIC",
    "OVERSTEP_PART",
    "OVERSTEP_TOKENS_MIN",
    "POOL_SIZE",
    "RESPONSES_OUTPUT_MIN",
    "TAIL_PART",
    "TAIL_TOKENS_MIN",
    "TRUSTED_CERTIFICATE",
    "TTL_SECONDS",
    "UDP_PAYLOAD",
    "V4_BASE",
    "VERSION",
    "DATA_CONSONANTS_MIN",
    "DATA_OCTETS_MIN",
    "DATA_TURNS_MIN",
    "HEAD",
    "MARK_BYTES",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => files(&entry, found),
            false => found.push(entry),
        }
    }
}

/// Names with the words of the comment above each and what stands behind it, for lines that `named` takes.
fn commented(text: &str, named: impl Fn(&str) -> Option<(String, String)>) -> Vec<(String, String, String)> {
    let (mut words, mut found) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        match (line.strip_prefix("/// "), named(line)) {
            (Some(more), _) => words.push(more.to_owned()),
            (None, Some((name, value))) => found.push((name, words.split_off(0).join(" "), value)),
            (None, None) => words.clear(),
        }
    }
    found
}

/// `64 * 1024 * 1024` as people write it; a duration by its unit.
fn shown(name: &str, value: &str) -> String {
    for (unit, short) in [("from_secs", "s"), ("from_millis", "ms")] {
        if let Some(inner) = value.strip_prefix(&format!("Duration::{unit}(")) {
            let inner = inner.trim_end_matches(')');
            return format!("{} {short}", product(inner).unwrap_or_else(|| panic!("{value}")));
        }
    }
    product(value).map_or_else(|| panic!("{value}"), |n| number(name, n))
}

fn product(value: &str) -> Option<u64> {
    if let Some((base, shift)) = value.split_once("<<") {
        return Some(base.trim().parse::<u64>().ok()? << shift.trim().parse::<u32>().ok()?);
    }
    value.split('*').map(|factor| factor.trim().replace('_', "").parse::<u64>().ok()).product()
}

/// Octets in KiB and up.
fn number(name: &str, n: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| n > 0 && n.is_multiple_of(*size)) {
        Some((size, unit)) if name.to_lowercase().contains("bytes") => format!("{} {unit}", n / size),
        Some(_) | None => n.to_string(),
    }
}

/// Comments link to other fields.
fn plain(words: &str) -> String {
    let mut out = words.to_owned();
    while let (Some(from), true) = (out.find("](Self::"), out.contains("](Self::")) {
        let to = from + out[from..].find(')').unwrap() + 1;
        out.replace_range(from..to, "");
        let open = out[..from].rfind('[').unwrap();
        out.remove(open);
    }
    out.replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

fn of_gateway() -> String {
    let text = std::fs::read_to_string(source().join("limits.rs")).unwrap();
    let fields = commented(&text, |line| {
        let (name, kind) = line.strip_prefix("pub ")?.strip_suffix(',')?.split_once(": ")?;
        Some((name.to_owned(), kind.to_owned()))
    });
    let defaults = commented(&text, |line| {
        let (name, value) = line.strip_suffix(',')?.split_once(": ")?;
        (!line.starts_with("pub ")).then(|| (name.to_owned(), value.to_owned()))
    });
    let defaults: BTreeMap<String, String> = defaults.into_iter().map(|(name, _, value)| (name, value)).collect();
    let beyond: BTreeMap<&str, &str> = OF_GATEWAY.iter().copied().collect();
    // What the program really begins with has these fields and no others.
    let real = format!("{:#?}", GatewayLimits::default());
    let real = real.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": ")).map(|(name, _)| name);
    let real: BTreeSet<&str> = real.filter(|name| !name.starts_with(' ')).collect();
    assert_eq!(real, fields.iter().map(|(name, ..)| name.as_str()).collect());
    assert_eq!(real, beyond.keys().copied().collect());
    let mut page =
        String::from("## Of a gateway\n\n| name | value | what it bounds | beyond it |\n|---|---|---|---|\n");
    for (name, words, _) in fields {
        let beyond = beyond[name.as_str()];
        let value = if name == "zones" { of_zones() } else { shown(&name, &defaults[&name]) };
        page += &format!("| `{name}` | {value} | {} | {beyond} |\n", plain(&words));
    }
    page
}

fn of_zones() -> String {
    let zones = GatewayLimits::default().zones;
    format!(
        "{} names, {} octets, {} of them in what looks like data, {} of these in one name",
        zones.names_max, zones.octets_max, zones.data_octets_max, zones.name_data_octets_max
    )
}

fn of_modules() -> String {
    let mut all = Vec::new();
    files(&source(), &mut all);
    all.sort();
    let mut left: BTreeMap<(String, String), &str> =
        OF_MODULES.iter().map(|(file, name, beyond)| (((*file).into(), (*name).into()), *beyond)).collect();
    let mut page =
        String::from("\n## Of its parts\n\n| part | name | value | what it is | beyond it |\n|---|---|---|---|---|\n");
    let mut unknown = Vec::new();
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let file = path.strip_prefix(source()).unwrap().to_str().unwrap().to_owned();
        let constants = commented(text, |line| {
            let (_, rest) = line.split_once("const ").filter(|(before, _)| !before.contains("//"))?;
            let (name, rest) = rest.split_once(": ")?;
            let (kind, value) = rest.strip_suffix(';')?.split_once(" = ")?;
            ["usize", "u64", "u32", "u16", "Duration"].contains(&kind).then(|| (name.to_owned(), value.to_owned()))
        });
        for (name, words, value) in constants {
            match left.remove(&(file.clone(), name.clone())) {
                Some(beyond) => {
                    let part = file.trim_end_matches(".rs");
                    page +=
                        &format!("| {part} | `{name}` | {} | {} | {beyond} |\n", shown(&name, &value), plain(&words));
                }
                None if NO_LIMITS.contains(&name.as_str()) => {}
                None => unknown.push(format!("{file}: {name}")),
            }
        }
    }
    assert!(unknown.is_empty(), "say what becomes of whoever goes beyond, or that it bounds nothing: {unknown:#?}");
    assert!(left.is_empty(), "these are no more: {left:?}");
    page
}

#[test]
fn every_limit_of_the_gateway_is_on_its_page_with_what_becomes_of_whoever_goes_beyond() {
    let page = [HEAD.to_owned(), of_gateway(), of_modules()].concat();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/limits.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/limits.md is out of date: UPDATE_DOCS=1 cargo test -p carboy-egress --test limits");
    // Every code that is named is one.
    let named = OF_GATEWAY.iter().map(|(_, beyond)| *beyond).chain(OF_MODULES.iter().map(|(_, _, beyond)| *beyond));
    for code in named.flat_map(|beyond| beyond.split('`').skip(1).step_by(2)) {
        assert!(Reason::from_code(code).is_some(), "{code}");
    }
}
