//! The streaming scanner of one message part: bytes in, cleared bytes out.

use std::collections::HashMap;
use std::sync::Arc;

use carboy_core::finding::{Detector, Finding, Location};
use zeroize::Zeroize;

use crate::detectors::Detectors;
use crate::known::KnownScan;
use crate::packed::{Depth, PackedScan};
use crate::tokens::TokenScan;
use crate::variants::{Instead, turned_over};
use crate::view::More;
use crate::window::{Match, Window};

/// What a block-severity match does to the stream. `OnMatch::Supervise` is [`Mode::Block`] here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The scanner stops with the finding; nothing of the match has left.
    Block,
    /// The match is overwritten in place, its length kept. A match inside a packed region (gzip in a body) cannot
    /// be overwritten and stops the stream as in [`Mode::Block`].
    Redact,
}

/// What to scan for, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPlan {
    /// Outbound detectors of the route; [`Detector::NaiveInjectionDetection`] is not for this scanner and is ignored.
    pub detectors: Vec<Detector>,
    /// What a match does.
    pub mode: Mode,
    /// Which part of the message this is.
    pub location: Location,
}

/// The stream was stopped by a match. The scanner takes no more bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} found in the {}: {}", .finding.rule, .finding.location, .finding.reason)]
pub struct Stopped {
    /// What was found.
    pub finding: Box<Finding>,
}

/// Most findings kept by one scanner; the rest are counted.
pub const FINDINGS_MAX: usize = 64;

/// Scans one message part. See the crate's documentation for what it promises.
pub struct StreamScanner {
    detectors: Arc<Detectors>,
    plan: ScanPlan,
    known: Option<KnownScan>,
    tokens: Option<TokenScan>,
    packed: Option<PackedScan>,
    /// Bytes held back; the first one stands at `base` in the stream.
    buffer: Vec<u8>,
    base: u64,
    /// Bytes before this position were given out; those of them that are still in the buffer are a memory.
    given: u64,
    before: Option<u8>,
    matches: Vec<Match>,
    overwrites: Vec<Overwrite>,
    /// Per rule, how far its last finding reaches: further matches within it are the same leak.
    reported: HashMap<(Detector, usize), u64>,
    findings: Vec<Finding>,
    dropped: u64,
    stopped: Option<Stopped>,
    /// Up to here packed regions were looked into as they are, because the stream paused.
    settled: u64,
}

/// Bytes to be overwritten when they leave.
struct Overwrite {
    start: u64,
    end: u64,
    how: How,
}

enum How {
    /// Those that are true, by stars.
    Stars(Vec<bool>),
    /// By the placeholder of what stood there.
    Instead(Instead),
}

impl Overwrite {
    /// What leaves at a position of its own.
    fn over(&self, position: u64) -> Option<u8> {
        let at = (self.start..self.end).contains(&position).then(|| (position - self.start) as usize)?;
        match &self.how {
            How::Stars(stars) => stars[at].then_some(b'*'),
            How::Instead(instead) => Some(instead.bytes[at]),
        }
    }

    /// What leaves beside it, in the place of `byte`.
    fn beside(&self, position: u64, byte: u8) -> Option<u8> {
        let How::Instead(instead) = &self.how else { return None };
        if position + 1 == self.start {
            Some(turned_over(byte, instead.lead))
        } else if position == self.end {
            Some(turned_over(byte, instead.trail))
        } else {
            None
        }
    }
}

impl StreamScanner {
    /// A scanner at the start of a part.
    pub fn new(detectors: Arc<Detectors>, plan: ScanPlan) -> Self {
        StreamScanner::nested(detectors, plan, Depth::OUTERMOST)
    }

    /// A scanner that takes packed regions as the bytes they are: for data that are unpacked elsewhere.
    pub fn shallow(detectors: Arc<Detectors>, plan: ScanPlan) -> Self {
        StreamScanner::nested(detectors, plan, Depth::INNERMOST)
    }

    pub(crate) fn nested(detectors: Arc<Detectors>, plan: ScanPlan, depth: Depth) -> Self {
        let wants = |detector| plan.detectors.contains(&detector);
        let values = wants(Detector::KnownSecrets) || wants(Detector::Placeholders);
        let known = (values && !detectors.known().is_empty()).then(KnownScan::new);
        let tokens = wants(Detector::TokenPatterns).then(TokenScan::new);
        let packed = if known.is_some() || tokens.is_some() { PackedScan::at(depth) } else { None };
        StreamScanner {
            detectors,
            plan,
            known,
            tokens,
            packed,
            buffer: Vec::new(),
            base: 0,
            given: 0,
            before: None,
            matches: Vec::new(),
            overwrites: Vec::new(),
            reported: HashMap::new(),
            findings: Vec::new(),
            dropped: 0,
            stopped: None,
            settled: 0,
        }
    }

    /// Takes a chunk and appends to `out` what is cleared by now. A call that stops appends nothing, and so does
    /// every call after it.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), Stopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        self.buffer.extend_from_slice(chunk);
        self.advance(More::Open, out)
    }

    /// The part is complete: decides about the bytes held back and appends them.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Stopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        self.advance(More::Ended, out)
    }

    /// The stream pauses, and somebody may be waiting for what is held back: appends it, but for what is more than the
    /// first few characters of a known secret, or unpacks to that. The scanner goes on where it stands: the rest of a
    /// match whose beginning was given out is still overwritten, or stops the stream. Packed regions are looked into as
    /// far as they have come, so that a match in one may stop the stream here.
    pub fn release(&mut self, out: &mut Vec<u8>) -> Result<(), Stopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        if let Some(finding) = self.conclude_packed() {
            return Err(self.stop(finding));
        }
        self.settled = self.base + self.buffer.len() as u64;
        self.give(self.releasable_to(), out);
        Ok(())
    }

    /// As [`release`](Self::release), for a stream in which nobody may wait: first decides, in [`Mode::Block`], about
    /// every match that is only waiting for what stands behind it, inside packed regions too. Where such a stream is
    /// stopped may depend on where it paused.
    pub fn pause(&mut self, out: &mut Vec<u8>) -> Result<(), Stopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        if self.plan.mode == Mode::Block
            && let Some(finding) = self.conclude()
        {
            return Err(self.stop(finding));
        }
        self.release(out)
    }

    /// As [`pause`](Self::pause), and nothing of a token either is given out beyond its first few characters: for a stream
    /// that leaves, and whose other end may be waiting for it. A token that is complete as far as it came stops the stream
    /// in [`Mode::Block`]; one that is not is held until more comes.
    pub fn pause_strictly(&mut self, out: &mut Vec<u8>) -> Result<(), Stopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        let end = self.base + self.buffer.len() as u64;
        let mut to = end;
        if let Some(tokens) = &self.tokens {
            let window = Window { base: self.base, data: &self.buffer, more: More::Ended, before: self.before };
            self.matches.clear();
            tokens.conclude(&window, &mut self.matches);
            if let (Mode::Block, Some(found)) = (self.plan.mode, self.matches.first()) {
                let text = &self.buffer[(found.start - self.base) as usize..(found.end - self.base) as usize];
                let finding = self.detectors.last_finding(found, text, self.plan.location);
                return Err(self.stop(finding));
            }
            to = tokens.guarded(&window);
        }
        if self.plan.mode == Mode::Block
            && let Some(finding) = self.conclude()
        {
            return Err(self.stop(finding));
        }
        if let Some(finding) = self.conclude_packed() {
            return Err(self.stop(finding));
        }
        self.settled = end;
        self.give(self.releasable_to().min(to), out);
        Ok(())
    }

    /// The first match in what is at hand, were the stream to end here; the scanner goes on where there is none.
    pub(crate) fn conclude(&mut self) -> Option<Finding> {
        if let Some(stopped) = &self.stopped {
            return Some(Finding::clone(&stopped.finding));
        }
        let window = Window { base: self.base, data: &self.buffer, more: More::Ended, before: self.before };
        self.matches.clear();
        if let Some(known) = &mut self.known {
            known.settle(self.detectors.known(), &window, &mut self.matches);
            self.matches.retain(|found| self.plan.detectors.contains(&found.detector));
        }
        if let Some(found) = self.matches.first() {
            let text = &self.buffer[(found.start - self.base) as usize..(found.end - self.base) as usize];
            return Some(self.detectors.last_finding(found, text, self.plan.location));
        }
        self.conclude_packed()
    }

    fn conclude_packed(&mut self) -> Option<Finding> {
        let window = Window { base: self.base, data: &self.buffer, more: More::Ended, before: self.before };
        self.packed.as_mut().and_then(|packed| packed.conclude(&self.plan, &window))
    }

    /// Bytes that [`release`](Self::release) would append, at most: it appends fewer where packed regions that came
    /// since the last one unpack to a secret's beginning.
    pub fn releasable(&self) -> usize {
        let settled = self.settled == self.base + self.buffer.len() as u64;
        let to = if settled { self.releasable_to() } else { self.known_to() };
        to.saturating_sub(self.given) as usize
    }

    /// How far bytes may be given out at a pause; within a packed region, how far what it unpacks to may.
    pub(crate) fn releasable_to(&self) -> u64 {
        let to = self.known_to();
        self.packed.as_ref().map_or(to, |packed| packed.guarded(&self.plan).min(to))
    }

    fn known_to(&self) -> u64 {
        let end = self.base + self.buffer.len() as u64;
        self.known.as_ref().map_or(end, |known| known.guarded().min(end))
    }

    /// Warnings and redactions so far, at most [`FINDINGS_MAX`] at a time; empties the list.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// How many findings did not fit.
    pub fn findings_dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes held back now.
    pub fn held(&self) -> usize {
        (self.base + self.buffer.len() as u64).saturating_sub(self.given) as usize
    }

    /// What was given out at a pause and may still be the beginning of a match.
    pub fn given(&self) -> &[u8] {
        &self.buffer[..self.given.saturating_sub(self.base) as usize]
    }

    /// Bytes of the stream that are cleared.
    pub(crate) fn cleared(&self) -> u64 {
        self.base
    }

    fn advance(&mut self, more: More, out: &mut Vec<u8>) -> Result<(), Stopped> {
        let window = Window { base: self.base, data: &self.buffer, more, before: self.before };
        let mut hold = window.end();
        self.matches.clear();
        if let Some(known) = &mut self.known {
            hold = hold.min(known.advance(self.detectors.known(), &window, &mut self.matches));
            self.matches.retain(|found| self.plan.detectors.contains(&found.detector));
        }
        if let Some(tokens) = &mut self.tokens {
            hold = hold.min(tokens.advance(&window, &mut self.matches));
        }
        let mut inner = None;
        if let Some(packed) = &mut self.packed {
            let (from, stop) = packed.advance(&self.detectors, &self.plan, &window);
            hold = hold.min(from);
            inner = stop;
        }
        // The order of decision, not of the detectors: the same whatever the chunks are.
        self.matches.sort_by_key(|m| (m.confirmed, m.detector, m.start, m.end));
        let limit = inner.as_ref().map_or(u64::MAX, |stop| stop.confirmed);
        for found in std::mem::take(&mut self.matches) {
            if found.confirmed <= limit {
                self.take_match(found)?;
            }
        }
        if let Some(stop) = inner {
            return Err(self.stop(stop.finding));
        }
        let cut = match more {
            More::Open => (hold - self.base) as usize,
            More::Ended => self.buffer.len(),
        };
        self.emit(cut, out);
        Ok(())
    }

    fn take_match(&mut self, found: Match) -> Result<(), Stopped> {
        let (from, to) = ((found.start - self.base) as usize, (found.end - self.base) as usize);
        let reach = self.reported.entry((found.detector, found.rule)).or_insert(0);
        let again = found.start < *reach;
        *reach = found.end.max(*reach);
        // A placeholder is never overwritten: that it was sent there at all is what matters.
        let stops = self.plan.mode == Mode::Block || found.detector == Detector::Placeholders;
        if stops || found.open_ended {
            let finding = self.detectors.last_finding(&found, &self.buffer[from..to], self.plan.location);
            return Err(self.stop(finding));
        }
        let finding = self.detectors.finding(&found, &self.buffer[from..to], self.plan.location);
        let inbound = self.plan.location == Location::ResponseBody;
        let how = match found.instead.filter(|_| inbound) {
            Some(instead) => How::Instead(instead),
            None => How::Stars(stars(&self.buffer[from..to], found.exact)),
        };
        self.overwrites.push(Overwrite { start: found.start, end: found.end, how });
        if !again && self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else if !again {
            self.dropped += 1;
        }
        Ok(())
    }

    fn stop(&mut self, finding: Finding) -> Stopped {
        let stopped = Stopped { finding: Box::new(finding) };
        self.buffer.zeroize();
        self.buffer.clear();
        self.stopped = Some(stopped.clone());
        stopped
    }

    fn emit(&mut self, cut: usize, out: &mut Vec<u8>) {
        if cut == 0 {
            return;
        }
        self.give(self.base + cut as u64, out);
        self.before = Some(self.buffer[cut - 1]);
        self.buffer.drain(..cut);
        self.base += cut as u64;
        let base = self.base;
        // One more: the character behind may change with the match.
        self.overwrites.retain(|o| o.end >= base);
    }

    /// Appends what was not given out yet of the bytes before `to`, overwritten where it has to be.
    fn give(&mut self, to: u64, out: &mut Vec<u8>) {
        let from = self.given;
        if to <= from {
            return;
        }
        let at = out.len();
        out.extend_from_slice(&self.buffer[(from - self.base) as usize..(to - self.base) as usize]);
        // What is overwritten by one match is not changed beside another; a placeholder goes over stars.
        for overwrite in &self.overwrites {
            let first = overwrite.start.saturating_sub(1).max(from);
            for position in first..(overwrite.end + 1).min(to) {
                let byte = self.buffer[(position - self.base) as usize];
                if let Some(byte) = overwrite.beside(position, byte) {
                    out[at + (position - from) as usize] = byte;
                }
            }
        }
        for with_stars in [true, false] {
            for overwrite in self.overwrites.iter().filter(|o| matches!(o.how, How::Stars(_)) == with_stars) {
                for position in overwrite.start.max(from)..overwrite.end.min(to) {
                    let slot = &mut out[at + (position - from) as usize];
                    *slot = overwrite.over(position).unwrap_or(*slot);
                }
            }
        }
        self.given = to;
    }
}

impl Drop for StreamScanner {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

/// Which bytes of a match are overwritten. In a match that is split up, what holds a JSON text together stays.
fn stars(text: &[u8], exact: bool) -> Vec<bool> {
    let mut escaped = false;
    text.iter()
        .map(|&b| {
            let keep = !exact && !escaped && (b.is_ascii_whitespace() || b"\",:[]{}".contains(&b));
            escaped = b == b'\\' && !escaped;
            !keep
        })
        .collect()
}

#[cfg(test)]
mod tests;
