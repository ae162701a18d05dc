//! Takes out of a Chat stream what its client did not ask for.
//!
//! So that its cost is known, a stream is made to say it (`stream_options.include_usage`). The client that did not ask for
//! that would meet a chunk without choices, at which many take the first one, and a `usage` of null in every other.
//!
//! ```text
//! data: {"choices":[…],"usage":null}   ──▶   data: {"choices":[…]}
//! data: {"choices":[],"usage":{…}}     ──▶   nothing
//! ```
//!
//! One event is held until it is whole, and at most [`EVENT_BYTES_MAX`]; of a larger one nothing is taken out.
//!
//! *Must never* change an octet of anything else, or hold back what is not an event's beginning.

use std::ops::Range;

use crate::json::{Hear, Scalar, Scanner};

/// Largest event that is held until it is whole, in octets. The chunk with the usage has a few hundred.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Filters one stream; it is without any content coding.
#[derive(Debug, Default)]
pub struct UsageFilter {
    /// The present event.
    held: Vec<u8>,
    /// It outgrew what is held, and passes as it is.
    passes: bool,
    /// The present line is empty so far.
    line_is_empty: bool,
    after_cr: bool,
    /// An event was taken out after a carriage return: the line feed that belongs to it goes as well.
    drop_lf: bool,
}

impl UsageFilter {
    /// At a stream's beginning.
    pub fn new() -> UsageFilter {
        UsageFilter { line_is_empty: true, ..UsageFilter::default() }
    }

    /// Reads on, and appends to `out` what the client gets.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            let second_half = std::mem::take(&mut self.after_cr) && byte == b'\n';
            if second_half && self.held.is_empty() && !self.passes {
                // The event before it has been judged already.
                if !std::mem::take(&mut self.drop_lf) {
                    out.push(byte);
                }
                continue;
            }
            self.drop_lf = false;
            self.hold(byte, out);
            match byte {
                _ if second_half => {}
                b'\r' | b'\n' => {
                    self.after_cr = byte == b'\r';
                    if std::mem::replace(&mut self.line_is_empty, true) {
                        self.event_ends(out);
                    }
                }
                _ => self.line_is_empty = false,
            }
        }
    }

    /// The stream has ended: gives what is still held.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }

    fn hold(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.passes {
            out.push(byte);
            return;
        }
        self.held.push(byte);
        if self.held.len() > EVENT_BYTES_MAX {
            self.passes = true;
            out.append(&mut self.held);
        }
    }

    fn event_ends(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.passes) {
            return;
        }
        match judge(&self.held) {
            Judged::AsItIs => out.extend_from_slice(&self.held),
            Judged::Without(span) => {
                out.extend_from_slice(&self.held[..span.start]);
                out.extend_from_slice(&self.held[span.end..]);
            }
            Judged::Out => self.drop_lf = self.after_cr,
        }
        self.held.clear();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    AsItIs,
    /// These octets are taken out.
    Without(Range<usize>),
    /// The whole event is.
    Out,
}

/// Where `usage` stands in a chunk, and whether it has choices.
#[derive(Default)]
struct Chunk {
    has_choice: bool,
    has_usage: bool,
    null: Option<Range<usize>>,
}

impl Hear for Chunk {
    fn scalar(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        match (path, value) {
            ("usage", Scalar::Null) => self.null = Some(at),
            (path, _) => {
                self.has_choice |= path.starts_with("choices");
                self.has_usage |= path.starts_with("usage.");
            }
        }
    }

    fn map_begins(&mut self, path: &str, _: usize) {
        self.has_choice |= path.starts_with("choices");
    }
}

fn judge(event: &[u8]) -> Judged {
    let Some(data) = only_data(event) else { return Judged::AsItIs };
    let (mut chunk, mut scanner) = (Chunk::default(), Scanner::new());
    scanner.feed(&event[data.clone()], &mut chunk);
    match chunk {
        _ if !scanner.is_complete() => Judged::AsItIs,
        Chunk { has_choice: false, has_usage: true, .. } => Judged::Out,
        Chunk { null: Some(at), .. } => {
            let at = data.start + at.start..data.start + at.end;
            member(event, &data, at).map_or(Judged::AsItIs, Judged::Without)
        }
        Chunk { .. } => Judged::AsItIs,
    }
}

/// The span of the event's one `data` line; over several of them no provider writes a chunk.
fn only_data(event: &[u8]) -> Option<Range<usize>> {
    let mut found = None;
    let mut from = 0;
    for line in event.split(|byte| matches!(byte, b'\r' | b'\n')) {
        let mark = if line.starts_with(b"\xef\xbb\xbf") && from == 0 { 3 } else { 0 };
        if line[mark..].starts_with(b"data:") && found.replace(from + mark + 5..from + line.len()).is_some() {
            return None;
        }
        from += line.len() + 1;
    }
    found
}

/// The member around a value, with the comma that belongs to it: the one before it, or else the one behind.
fn member(event: &[u8], data: &Range<usize>, value: Range<usize>) -> Option<Range<usize>> {
    let blank = |byte: u8| matches!(byte, b' ' | b'\t');
    let back = |from: usize| (data.start..from).rev().find(|at| !blank(event[*at]));
    let colon = back(value.start).filter(|at| event[*at] == b':')?;
    let quote = back(colon).filter(|at| event[*at] == b'"')?;
    // A key with an escape in it is not what a provider writes, and stays.
    let key = quote.checked_sub(6).filter(|at| event[*at..].starts_with(b"\"usage\""))?;
    let before = back(key)?;
    if event[before] == b',' {
        return Some(before..value.end);
    }
    let behind = (value.end..data.end).find(|at| !blank(event[*at]))?;
    Some(key..if event[behind] == b',' { behind + 1 } else { value.end })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(text: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut filter, mut out) = (UsageFilter::new(), Vec::new());
        let mut from = 0;
        for cut in cuts.iter().copied().chain([text.len()]) {
            filter.feed(&text[from..cut.max(from)], &mut out);
            from = from.max(cut);
        }
        filter.end(&mut out);
        out
    }

    const STREAM: &str = concat!(
        ": hello\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"usage\\\":null,\"}}],\"usage\":null,\"x\":1}\n\n",
        "data: {\"usage\" : null , \"choices\":[{\"usage\":null}]}\n\n",
        "event: x\ndata: {\"usage\":null}\nid: 7\n\n",
        "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"total_tokens\":1}}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"total_tokens\":1}}\n\n",
        "data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
    );
    const WANT: &str = concat!(
        ": hello\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"usage\\\":null,\"}}],\"x\":1}\n\n",
        "data: { \"choices\":[{\"usage\":null}]}\n\n",
        "event: x\ndata: {}\nid: 7\n\n",
        "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"total_tokens\":1}}\n\n",
        "data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
    );

    #[test]
    fn the_chunk_of_the_cost_and_every_null_go_and_nothing_else_does() {
        for end in ["\n", "\r\n", "\r"] {
            let (stream, want) = (STREAM.replace('\n', end), WANT.replace('\n', end));
            assert_eq!(String::from_utf8(filtered(stream.as_bytes(), &[])).unwrap(), want);
            for cut in 0..stream.len() {
                assert_eq!(filtered(stream.as_bytes(), &[cut]), want.as_bytes(), "{cut} {end:?}");
            }
        }
    }

    #[test]
    fn an_event_that_is_too_large_to_hold_passes_as_it_is_and_the_next_is_filtered() {
        let huge = format!("data: {{\"usage\":null,\"x\":\"{}\"}}\n\n", "a".repeat(EVENT_BYTES_MAX));
        let stream = format!("{huge}data: {{\"usage\":null}}\n\n");
        assert_eq!(filtered(stream.as_bytes(), &[]), format!("{huge}data: {{}}\n\n").into_bytes());
        let mut filter = UsageFilter::new();
        filter.feed(huge.as_bytes(), &mut Vec::new());
        assert!(filter.held.is_empty());
    }

    #[test]
    fn what_is_cut_off_or_no_document_passes_as_it_is() {
        for text in
            ["data: {\"usage\":null", "data: {\"usage\":null\n\n", "data: {\"usage\":\ndata: null}\n\n", "x", ""]
        {
            assert_eq!(filtered(text.as_bytes(), &[]), text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_splits_give_the_same_and_no_bytes_are_lost(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'd'), any::<u8>()], 0..200),
            mut cuts in prop::collection::vec(0_usize..600, 0..12),
        ) {
            // Without a chunk in it every byte passes.
            prop_assert_eq!(filtered(&bytes, &[]), bytes);
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(STREAM.len()));
            cuts.sort_unstable();
            prop_assert_eq!(filtered(STREAM.as_bytes(), &cuts), WANT.as_bytes());
        }
    }
}
