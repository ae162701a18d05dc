//! Packed regions inside a part: gzip, zlib and zstd data that no header announces, raw or as base64.
//!
//! A region begins at its magic bytes and is unpacked as it streams by, into a scanner of its own. A byte of it leaves
//! only when what it unpacks to is cleared. A match inside cannot be overwritten: it stops the stream. Data that turn
//! out to be something else are let go, having been scanned as they are all along. Two bytes are enough to begin zlib
//! data, and stand in any picture: so only a region whose first piece could be unpacked counts as one.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use aho_corasick::{AhoCorasick, Input, MatchKind, Span, packed};
use carboy_core::finding::{Detector, Finding, Location, Severity};

use crate::detectors::Detectors;
use crate::inflate::{Coding, DecodedMax, Inflate, is_zlib_header};
use crate::stream::{Mode, ScanPlan, StreamScanner};
use crate::view::More;
use crate::window::Window;

/// Regions that stood their first piece, open at the same time; one beyond them stops the stream, since nobody would
/// look inside.
const REGIONS_MAX: usize = 8;
/// Most bytes that all regions of one scanner unpack to.
const UNPACKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of a region that are unpacked at a time, by position in the region.
const PIECE_BYTES: u64 = 64;
/// Most bytes of regions that are held back; beyond them the stream stops.
const HELD_BYTES_MAX: u64 = 1024 * 1024;

/// How deep scanners may stand within each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth(u8);

impl Depth {
    pub(crate) const OUTERMOST: Depth = Depth(0);
    /// Nothing is unpacked any more.
    pub(crate) const INNERMOST: Depth = Depth(Depth::MAX);
    /// Packed data within packed data within packed data.
    const MAX: u8 = 3;
}

/// One stream's packed regions.
pub(crate) struct PackedScan {
    depth: Depth,
    cursor: u64,
    regions: Vec<Region>,
    unpacked: u64,
}

struct Region {
    start: u64,
    kind: Kind,
    form: &'static str,
    inflate: Inflate,
    inner: Box<StreamScanner>,
    /// Bytes of the part that went into the decoder.
    at: u64,
    /// Bits of base64 not yet a byte.
    bits: u32,
    bit_count: u32,
    /// Position in the part, and how much the bytes before it have unpacked to.
    marks: VecDeque<(u64, u64)>,
    unpacked: u64,
    released: u64,
    closed_at: Option<u64>,
    standing: Standing,
}

/// What a region's first piece said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is not complete, or it was no packed data.
    Doubtful,
    /// It could be unpacked, and more follows.
    Sound,
    /// As before, and there was room for it.
    Counted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raw(Coding),
    Base64(Coding),
}

/// A stop, and how much of the part had to be seen for it.
pub(crate) struct InnerStop {
    pub confirmed: u64,
    pub finding: Finding,
}

impl PackedScan {
    pub(crate) fn at(depth: Depth) -> Option<Self> {
        (depth.0 < Depth::MAX).then(|| PackedScan { depth, cursor: 0, regions: Vec::new(), unpacked: 0 })
    }

    /// Looks at what is new in the window; returns from where on bytes must be held back, and the first stop.
    pub(crate) fn advance(
        &mut self,
        detectors: &Arc<Detectors>,
        plan: &ScanPlan,
        window: &Window<'_>,
    ) -> (u64, Option<InnerStop>) {
        let mut stop: Option<InnerStop> = None;
        for at in 0..self.regions.len() {
            earlier(&mut stop, self.advance_one(at, window, plan));
        }
        let settled = match window.more {
            More::Open => window.end().saturating_sub(MAGIC_BYTES_MAX as u64 - 1),
            More::Ended => window.end(),
        };
        while self.cursor < settled {
            let Some((at, kind, form)) = next_magic(window, self.cursor, settled) else {
                self.cursor = settled;
                break;
            };
            self.cursor = at + 1;
            self.regions.retain(|region| region.closed_at.is_none_or(|closed| closed > at));
            self.regions.push(Region::new(detectors, plan, self.depth, at, kind, form));
            earlier(&mut stop, self.advance_one(self.regions.len() - 1, window, plan));
        }
        let open = self.regions.iter().filter(|region| region.closed_at.is_none());
        let hold = open.map(|region| region.released).min().unwrap_or(window.end()).min(self.cursor.max(window.base));
        (hold, stop)
    }

    fn advance_one(&mut self, at: usize, window: &Window<'_>, plan: &ScanPlan) -> Option<InnerStop> {
        let region = &mut self.regions[at];
        let mut stop = region.advance(window, &mut self.unpacked, plan);
        if region.standing == Standing::Sound {
            region.standing = Standing::Counted;
            let (start, sound_at) = (region.start, region.start + PIECE_BYTES);
            let open = |other: &&Region| {
                other.start < start
                    && other.standing == Standing::Counted
                    && other.closed_at.is_none_or(|closed| closed > sound_at)
            };
            if self.regions.iter().filter(open).count() >= REGIONS_MAX {
                let region = &mut self.regions[at];
                region.closed_at = Some(sound_at);
                region.standing = Standing::Doubtful;
                earlier(&mut stop, unscannable(plan, start, sound_at, Over::Count));
            }
        }
        stop
    }

    /// From here on bytes are held back even when the stream pauses, see [`StreamScanner::release`].
    pub(crate) fn guarded(&self, plan: &ScanPlan) -> u64 {
        let open = self.regions.iter().filter(|region| region.closed_at.is_none());
        open.map(|region| region.guarded(plan)).min().unwrap_or(u64::MAX)
    }

    /// The first match in what the open regions unpack to so far.
    pub(crate) fn conclude(&mut self, plan: &ScanPlan, window: &Window<'_>) -> Option<Finding> {
        let unpacked = &mut self.unpacked;
        self.regions.iter_mut().find_map(|region| region.conclude(window, unpacked, plan))
    }
}

fn earlier(stop: &mut Option<InnerStop>, other: Option<InnerStop>) {
    if let Some(other) = other
        && stop.as_ref().is_none_or(|first| other.confirmed < first.confirmed)
    {
        *stop = Some(other);
    }
}

/// The limit that was reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Regions at the same time: nobody has so many but to hide one.
    Count,
    /// What all of them unpack to.
    Size,
    /// What one of them holds back.
    Held,
}

impl Over {
    fn words(self) -> &'static str {
        match self {
            Over::Count => "too many packed regions",
            Over::Size => "packed data unpack to more than the limit",
            Over::Held => "packed data cannot be unpacked as they stream by",
        }
    }
}

/// Over a limit: outbound the stream stops, inbound the region is let go.
fn unscannable(plan: &ScanPlan, start: u64, confirmed: u64, over: Over) -> Option<InnerStop> {
    use Location as At;
    // What cannot be looked into is no placeholder that somebody sent astray.
    let named = plan.detectors.iter().find(|detector| **detector != Detector::Placeholders);
    let detector = named.copied().unwrap_or(Detector::KnownSecrets);
    let finding = Finding {
        detector,
        rule: "packed_unscannable".to_owned(),
        severity: Severity::Block,
        reason: format!("{}: send it plain or with a Content-Encoding", over.words()),
        location: plan.location,
        span: start..confirmed,
        form: "",
        fingerprint: None,
    };
    match plan.location {
        At::ResponseBody | At::ResponseHeader => None,
        // A port carries any protocol: what is too large to be looked into is nothing unusual there.
        At::PortStream if over != Over::Count => None,
        At::PortStream => Some(InnerStop { confirmed, finding }),
        At::RequestLine | At::RequestHeader | At::RequestBody | At::DnsName | At::File => {
            Some(InnerStop { confirmed, finding })
        }
    }
}

/// Longest beginning that is looked at to tell a region, in bytes.
const MAGIC_BYTES_MAX: usize = 6;

/// What regions begin with: gzip, zstd, both of them in base64, zlib as the usual encoders write it, and in base64.
const MAGICS: [&[u8]; 12] = [
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"H4sI",
    b"KLUv",
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"eJ",
    b"eN",
    b"eF",
    b"eA",
];

/// The next magic number that begins in `from..to`.
fn next_magic(window: &Window<'_>, from: u64, to: u64) -> Option<(u64, Kind, &'static str)> {
    static SEARCH: LazyLock<AhoCorasick> = LazyLock::new(|| {
        AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(MAGICS).expect("short literals")
    });
    static PACKED: LazyLock<Option<packed::Searcher>> = LazyLock::new(|| packed::Searcher::new(MAGICS));
    if from == 0
        && let [first, second, ..] = *window.data
        && is_zlib_header(first, second)
    {
        return Some((0, Kind::Raw(Coding::Deflate), "zlib"));
    }
    let mut at = window.index(from.max(window.base));
    let to = window.index(to);
    while at < to {
        let start = match &*PACKED {
            Some(packed) => packed.find_in(window.data, Span { start: at, end: window.data.len() })?.start(),
            None => SEARCH.find(Input::new(window.data).range(at..))?.start(),
        };
        if start >= to {
            return None;
        }
        let before = if start == 0 { window.before } else { Some(window.data[start - 1]) };
        if let Some((kind, form)) = magic(&window.data[start..], before) {
            return Some((window.base + start as u64, kind, form));
        }
        at = start + 1;
    }
    None
}

fn magic(data: &[u8], before: Option<u8>) -> Option<(Kind, &'static str)> {
    let free = before.is_none_or(|b| sextet(b).is_none());
    match *data {
        [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 => Some((Kind::Raw(Coding::Gzip), "gzip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some((Kind::Raw(Coding::Zstd), "zstd")),
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ref deflate @ ..] if may_be_deflate(deflate) => {
            Some((Kind::Raw(Coding::Deflate), "zlib"))
        }
        [b'H', b'4', b's', b'I', ..] if free => Some((Kind::Base64(Coding::Gzip), "gzip_base64")),
        [b'K', b'L', b'U', b'v', b'/' | b'_', b'Q'..=b'T', ..] if free => {
            Some((Kind::Base64(Coding::Zstd), "zstd_base64"))
        }
        [b'e', b'J', b'w'..=b'z', ..]
        | [b'e', b'N', b'o'..=b'r', ..]
        | [b'e', b'F', b'4'..=b'7', ..]
        | [b'e', b'A', b'E'..=b'H', ..]
            if free =>
        {
            Some((Kind::Base64(Coding::Deflate), "zlib_base64"))
        }
        _ => None,
    }
}

/// A cheap look at the first bytes of DEFLATE data (RFC 1951 3.2.3 to 3.2.7), for two bytes are soon there by chance: what
/// is refused here, the decoder would refuse at the same place.
fn may_be_deflate(data: &[u8]) -> bool {
    let [first, second, third, fourth, ..] = *data else { return true };
    match first >> 1 & 3 {
        // Stored: a length, and the same turned over.
        0 => fourth == !second && data.get(4).is_none_or(|fifth| *fifth == !third),
        // Fixed codes: nothing can be repeated yet, so the first is a literal's (or the end's).
        1 => {
            let code = (u16::from(first) >> 3 | u16::from(second) << 5) as u8;
            let code = code.reverse_bits();
            code >> 1 == 0 || (0x30..0xc0).contains(&code) || code >= 0xc8
        }
        // Codes of its own: at most 286 for lengths, 30 for distances.
        2 => first >> 3 <= 29 && second & 0x1f <= 29,
        _ => false,
    }
}

fn sextet(b: u8) -> Option<u32> {
    Some(u32::from(match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}

impl Region {
    fn new(
        detectors: &Arc<Detectors>,
        plan: &ScanPlan,
        depth: Depth,
        start: u64,
        kind: Kind,
        form: &'static str,
    ) -> Self {
        let (Kind::Raw(coding) | Kind::Base64(coding)) = kind;
        let plan = ScanPlan { mode: Mode::Block, ..plan.clone() };
        Region {
            start,
            kind,
            form,
            inflate: Inflate::new(&[coding], DecodedMax(UNPACKED_BYTES_MAX)),
            inner: Box::new(StreamScanner::nested(Arc::clone(detectors), plan, Depth(depth.0 + 1))),
            at: start,
            bits: 0,
            bit_count: 0,
            marks: VecDeque::new(),
            unpacked: 0,
            released: start,
            closed_at: None,
            standing: Standing::Doubtful,
        }
    }

    fn advance(&mut self, window: &Window<'_>, budget: &mut u64, plan: &ScanPlan) -> Option<InnerStop> {
        while self.closed_at.is_none() {
            let room = window.end() - self.at;
            let (len, ends) = match (room < PIECE_BYTES, window.more) {
                (true, More::Open) => break,
                (true, More::Ended) => (room, More::Ended),
                (false, _) => (PIECE_BYTES, More::Open),
            };
            let piece = &window.data[window.index(self.at)..window.index(self.at + len)];
            let (bytes, taken, more) = self.unwrap(piece);
            self.at += taken as u64;
            let more = if ends == More::Ended { More::Ended } else { more };
            let stop = self.unpack(&bytes, more, budget, plan);
            if stop.is_some() {
                self.closed_at = Some(self.at);
                return stop;
            }
            if self.closed_at.is_none() && self.standing == Standing::Doubtful {
                self.standing = Standing::Sound;
            }
        }
        None
    }

    /// From here on bytes unpack to more than the first few characters of a known secret. A zstd decoder shows nothing
    /// of a block before all of it is there: in an answer such a region waits for its end; a port's dialogue cannot.
    fn guarded(&self, plan: &ScanPlan) -> u64 {
        let (Kind::Raw(coding) | Kind::Base64(coding)) = self.kind;
        if coding == Coding::Zstd && plan.location != Location::PortStream {
            return self.released;
        }
        let to = self.inner.releasable_to();
        if to >= self.unpacked {
            return u64::MAX;
        }
        let before = self.marks.iter().take_while(|(_, unpacked)| *unpacked < to).last();
        before.map_or(self.released, |(source, _)| *source)
    }

    /// Unpacks what is at hand, be it less than a piece, and decides about it.
    fn conclude(&mut self, window: &Window<'_>, budget: &mut u64, plan: &ScanPlan) -> Option<Finding> {
        if self.closed_at.is_some() {
            return None;
        }
        let piece = &window.data[window.index(self.at)..];
        let (bytes, taken, more) = self.unwrap(piece);
        self.at += taken as u64;
        if let Some(stop) = self.unpack(&bytes, more, budget, plan) {
            self.closed_at = Some(self.at);
            return Some(stop.finding);
        }
        let inner = self.inner.conclude()?;
        Some(self.stop(inner).finding)
    }

    /// The packed bytes of a piece, how much of the piece they are, and whether the region goes on behind it.
    fn unwrap(&mut self, piece: &[u8]) -> (Vec<u8>, usize, More) {
        if let Kind::Raw(_) = self.kind {
            return (piece.to_vec(), piece.len(), More::Open);
        }
        let mut bytes = Vec::with_capacity(piece.len());
        for (i, &b) in piece.iter().enumerate() {
            let Some(six) = sextet(b) else {
                if b.is_ascii_whitespace() {
                    continue;
                }
                return (bytes, i, More::Ended);
            };
            self.bits = self.bits << 6 | six;
            self.bit_count += 6;
            if self.bit_count >= 8 {
                self.bit_count -= 8;
                bytes.push((self.bits >> self.bit_count) as u8);
            }
        }
        (bytes, piece.len(), More::Open)
    }

    fn unpack(&mut self, bytes: &[u8], more: More, budget: &mut u64, plan: &ScanPlan) -> Option<InnerStop> {
        let (mut rest, mut sink) = (bytes, Vec::new());
        let mut over = more;
        loop {
            let mut out = Vec::new();
            let step = self.inflate.push(rest, &mut out);
            self.unpacked += out.len() as u64;
            *budget += out.len() as u64;
            if let Err(stopped) = self.inner.push(&out, &mut sink) {
                return Some(self.stop(*stopped.finding));
            }
            sink.clear();
            if *budget > UNPACKED_BYTES_MAX {
                self.closed_at = Some(self.at);
                return unscannable(plan, self.start, self.at, Over::Size);
            }
            match step {
                Err(_) => over = More::Ended,
                Ok(step) if step.more => {
                    rest = &rest[step.consumed..];
                    continue;
                }
                Ok(_) => {}
            }
            break;
        }
        if over == More::Ended {
            self.closed_at = Some(self.at);
            return self.inner.finish(&mut sink).err().map(|stopped| self.stop(*stopped.finding));
        }
        self.release();
        if self.at - self.released > HELD_BYTES_MAX {
            self.closed_at = Some(self.at);
            return unscannable(plan, self.start, self.at, Over::Held);
        }
        None
    }

    /// A piece leaves when something behind all that it unpacks to is cleared: output may lag behind input. The
    /// zstd decoder lags by its whole window, so that such a region is held to its end.
    fn release(&mut self) {
        let (Kind::Raw(coding) | Kind::Base64(coding)) = self.kind;
        if coding == Coding::Zstd {
            return;
        }
        self.marks.push_back((self.at, self.unpacked));
        while let Some(&(source, unpacked)) = self.marks.front()
            && unpacked < self.inner.cleared()
        {
            self.released = source;
            self.marks.pop_front();
        }
    }

    fn stop(&self, inner: Finding) -> InnerStop {
        let reason = format!("{}, inside packed data ({})", inner.reason, self.form);
        InnerStop { confirmed: self.at, finding: Finding { reason, form: self.form, ..inner } }
    }
}
