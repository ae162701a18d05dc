//! Readers of streams and messages: what they say does not depend on how the bytes are cut, and they hold no more than they
//! say.

use std::sync::{Arc, LazyLock};

use carboy_core::finding::{Detector, Location};
use carboy_core::ids::SecretName;
use carboy_core::secret::Secret;
use carboy_guard::{Coding, DecodedMax, Detectors, Inflate, Mode, ScanPlan, StreamScanner};
use carboy_wire::closing::Follower;
use carboy_wire::demand::{AskUsage, Demand};
use carboy_wire::filter::UsageFilter;
use carboy_wire::format::WireFormat;
use carboy_wire::meter::{Meter, Shape};
use carboy_wire::{count, socket, sse};

const FORMATS: [WireFormat; 4] =
    [WireFormat::AnthropicMessages, WireFormat::OpenAiChat, WireFormat::OpenAiResponses, WireFormat::Gemini];
const SHAPES: [Shape; 3] = [Shape::Whole, Shape::Events, Shape::List];
/// A secret that the scanner looks for.
const SECRET: &str = "fz-Q7vTr3LmW5xKd0PyB";
/// Octets that a decoder may give for one input.
const DECODED_MAX: u64 = 1 << 20;

/// The first octet chooses, the second cuts; the rest is the input.
fn chosen(bytes: &[u8]) -> Option<(usize, usize, &[u8])> {
    let [choice, cut, rest @ ..] = bytes else { return None };
    Some((usize::from(*choice), usize::from(*cut) % 61 + 1, rest))
}

/// A name server's answer is an answer, and no longer than what a resolver takes over TCP.
pub fn dns(bytes: &[u8]) {
    if let Some(answer) = carboy_egress::fuzzing::dns(bytes) {
        assert!(answer.len() >= 12 && answer.len() <= 65_535);
        assert_ne!(answer[2] & 0x80, 0, "it is a response");
        assert_eq!(answer[..2], bytes[..2], "to this query");
    }
}

/// A head in which a proxy finds a host has that host alone.
pub fn proxy_head(bytes: &[u8]) {
    if let Some((host, length)) = carboy_egress::fuzzing::proxy_head(bytes) {
        assert!(length <= bytes.len() && bytes[..length].ends_with(b"\n"));
        assert!(!host.is_empty() && !host.contains(['@', '/', '\0']));
        // More bytes behind it change nothing of what was read.
        let more = [bytes, b"GET http://other.example/ HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(carboy_egress::fuzzing::proxy_head(&more), Some((host, length)));
    }
}

/// A ClientHello says the same in one piece and in two.
pub fn client_hello(bytes: &[u8]) {
    let Some((_, cut, bytes)) = chosen(bytes) else { return };
    let whole = carboy_egress::fuzzing::client_hello(&[bytes]);
    let (a, b) = bytes.split_at(cut.min(bytes.len()));
    assert_eq!(carboy_egress::fuzzing::client_hello(&[a, b]), whole);
}

/// The same events however they are cut.
pub fn sse(bytes: &[u8]) {
    let Some((_, cut, bytes)) = chosen(bytes) else { return };
    let read = |size: usize| {
        let (mut parser, mut events) = (sse::Parser::new(64 * 1024), Vec::new());
        let ended = bytes.chunks(size).try_for_each(|piece| parser.feed(piece, &mut events));
        (events, ended.is_ok())
    };
    assert_eq!(read(cut), read(bytes.len().max(1)));
}

/// The same reading however the answer is cut, and no written octet that was not there.
pub fn meter(bytes: &[u8]) {
    let Some((choice, cut, bytes)) = chosen(bytes) else { return };
    let (format, shape) = (FORMATS[choice % 4], SHAPES[choice / 4 % 3]);
    let read = |size: usize| {
        let mut meter = Meter::new(format, shape);
        bytes.chunks(size).for_each(|piece| meter.feed(piece));
        meter.reading()
    };
    let reading = read(bytes.len().max(1));
    assert_eq!(read(cut), reading);
    assert!(reading.written_bytes <= bytes.len() as u64);
}

/// A request that is understood is bounded by its edit: read again it asks for no more, and everything else is as it was.
pub fn demand(bytes: &[u8]) {
    let Some((choice, _, body)) = chosen(bytes) else { return };
    let format = FORMATS[choice % 4];
    let path =
        ["/v1/messages", "/v1/chat/completions", "/v1/responses", "/v1beta/models/m:generateContent"][choice % 4];
    let Ok(demand) = Demand::read(format, path, body) else { return };
    let bounded = demand.bounded(body, 77, AskUsage::AsWritten);
    let again = Demand::read(format, path, &bounded).expect("an edit of what was understood is understood");
    assert!(again.output_max.is_none_or(|output| output <= 77), "{:?}", again.output_max);
    let _ = count::request(format, path, body, &demand);
    let _ = count::answer(format, body);
}

/// Wherever an answer is cut, what ends it makes it an answer that has ended.
pub fn closing(bytes: &[u8]) {
    let Some((choice, cut, bytes)) = chosen(bytes) else { return };
    let (format, shape) = (FORMATS[choice % 4], SHAPES[choice / 4 % 3]);
    let follow = |size: usize| {
        let mut follower = Follower::new(format, shape)?;
        bytes.chunks(size).for_each(|piece| follower.feed(piece));
        Some((follower.has_ended(), follower.close("cut")))
    };
    assert_eq!(follow(cut), follow(bytes.len().max(1)));
}

/// A stream without the usage that nobody asked for; the same however it is cut.
pub fn usage_filter(bytes: &[u8]) {
    let Some((_, cut, bytes)) = chosen(bytes) else { return };
    let filtered = |size: usize| {
        let (mut filter, mut out) = (UsageFilter::new(), Vec::new());
        bytes.chunks(size).for_each(|piece| filter.feed(piece, &mut out));
        filter.end(&mut out);
        out
    };
    let out = filtered(bytes.len().max(1));
    assert_eq!(filtered(cut), out);
    assert!(out.len() <= bytes.len());
}

/// Messages of a WebSocket, from either side.
pub fn socket_message(bytes: &[u8]) {
    let _ = socket::asks(bytes);
    let _ = socket::said(bytes);
    let mut meter = Meter::new(WireFormat::OpenAiResponses, Shape::Messages);
    meter.message(bytes);
    let _ = meter.reading();
}

/// What a coding gives does not depend on the cut, and ends at its bound.
pub fn inflate(bytes: &[u8]) {
    let Some((choice, cut, bytes)) = chosen(bytes) else { return };
    const CODINGS: [&str; 5] = ["gzip", "deflate", "br", "zstd", "gzip, br"];
    let Ok(codings) = Coding::parse_list(CODINGS[choice % CODINGS.len()]) else { return };
    let decoded = |size: usize| {
        let (mut inflate, mut out) = (Inflate::new(&codings, DecodedMax(DECODED_MAX)), Vec::new());
        for mut piece in bytes.chunks(size) {
            loop {
                let step = inflate.push(piece, &mut out).ok()?;
                piece = &piece[step.consumed..];
                assert!(out.len() as u64 <= DECODED_MAX);
                if !step.more {
                    break;
                }
            }
        }
        inflate.finish().ok()?;
        Some(out)
    };
    let whole = decoded(bytes.len().max(1));
    assert_eq!(decoded(cut), whole);
}

/// What a scanner lets out holds no secret in the clear, and is the same however the body is cut.
pub fn scanner(bytes: &[u8]) {
    static DETECTORS: LazyLock<Arc<Detectors>> = LazyLock::new(|| {
        let name = SecretName::parse("FUZZ").expect("a name");
        let builder = Detectors::builder([7; 32]).known_secret(&name, &Secret::new(SECRET.to_owned()));
        Arc::new(builder.build().expect("one secret"))
    });
    let Some((choice, cut, bytes)) = chosen(bytes) else { return };
    let mode = if choice % 2 == 0 { Mode::Block } else { Mode::Redact };
    let scanned = |size: usize| {
        let plan = ScanPlan {
            detectors: vec![Detector::KnownSecrets, Detector::TokenPatterns],
            mode,
            location: Location::RequestBody,
        };
        let (mut scanner, mut out) = (StreamScanner::new(DETECTORS.clone(), plan), Vec::new());
        let pushed = bytes.chunks(size).try_for_each(|piece| scanner.push(piece, &mut out));
        let ended = pushed.and_then(|()| scanner.finish(&mut out));
        (ended.is_ok(), out)
    };
    let (passed, out) = scanned(bytes.len().max(1));
    assert!(!out.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    let (passed_cut, out_cut) = scanned(cut);
    assert_eq!(passed_cut, passed);
    if passed {
        assert_eq!(out_cut, out);
        assert_eq!(out.len(), bytes.len());
    }
}
