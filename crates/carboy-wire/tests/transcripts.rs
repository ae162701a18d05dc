//! What each provider's answers cost, read from golden transcripts (C2, C3, C4).

// Without `#[cfg(test)]` clippy does not see that the helpers here are of tests.
#![allow(clippy::unwrap_used)]

mod golden;

use carboy_core::budget::Usage;
use carboy_wire::meter::{Meter, Reading, Reported, Shape};
use golden::{ALL, Golden};
use proptest::prelude::*;

/// Input, written to a cache, read from it, output; and how far the answer said so.
const WANT: &[(&str, [u64; 4], Reported)] = &[
    ("anthropic/thinking.sse", [12, 300, 4000, 57], Reported::Complete),
    ("anthropic/tools.sse", [472, 0, 0, 89], Reported::Complete),
    // 180000 and 3500 were read and written to shorten the conversation, and do not stand in the top level.
    ("anthropic/compaction.sse", [180_100, 0, 7, 3520], Reported::Complete),
    ("anthropic/server_tool.sse", [10_682, 0, 0, 510], Reported::Complete),
    ("anthropic/overloaded.sse", [12, 0, 0, 2], Reported::Partly),
    ("anthropic/whole.json", [10, 20, 5, 3], Reported::Complete),
    ("chat/text.sse", [36, 0, 64, 20], Reported::Complete),
    ("chat/tools.sse", [0, 0, 0, 0], Reported::Never),
    ("chat/two_answers.sse", [8, 0, 0, 2], Reported::Complete),
    ("chat/whole.json", [19, 0, 0, 410], Reported::Complete),
    ("chat/hidden_reasoning.json", [10, 0, 0, 30], Reported::Complete),
    ("chat/completion.json", [5, 0, 0, 7], Reported::Complete),
    ("chat/embeddings.json", [8, 0, 0, 0], Reported::Complete),
    ("responses/text.sse", [40, 0, 10, 7], Reported::Complete),
    ("responses/tools.sse", [171, 120, 0, 23], Reported::Complete),
    ("responses/incomplete.sse", [40, 0, 10, 7], Reported::Complete),
    ("responses/failed.sse", [40, 0, 10, 0], Reported::Complete),
    ("responses/failed_silent.sse", [0, 0, 0, 0], Reported::Never),
    ("responses/socket.jsonl", [40, 0, 10, 7], Reported::Complete),
    ("responses/whole.json", [36, 0, 0, 87], Reported::Complete),
    ("gemini/text.sse", [27, 0, 8, 15], Reported::Complete),
    ("gemini/list.json", [27, 0, 8, 15], Reported::Complete),
    ("gemini/whole.json", [10, 0, 0, 23], Reported::Complete),
];

fn read(golden: &Golden, text: &[u8], cuts: &[usize]) -> Reading {
    let mut meter = Meter::new(golden.format, golden.shape);
    if golden.shape == Shape::Messages {
        text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).for_each(|line| meter.message(line));
        return meter.reading();
    }
    let mut from = 0;
    for cut in cuts.iter().copied().chain([text.len()]) {
        meter.feed(&text[from..cut.max(from)]);
        from = from.max(cut);
    }
    meter.reading()
}

#[test]
fn c3_every_transcript_is_read_to_the_token() {
    assert_eq!(WANT.len(), ALL.len());
    for (golden, (name, [input, cache_write, cache_read, output], reported)) in ALL.iter().zip(WANT) {
        assert_eq!(golden.name, *name);
        let usage = Usage { input: *input, cache_write: *cache_write, cache_read: *cache_read, output: *output };
        let reading = read(golden, golden.text.as_bytes(), &[]);
        assert_eq!((reading.usage, reading.reported, reading.implausible), (usage, *reported, false), "{name}");
    }
}

#[test]
fn c4_every_line_ending_a_mark_and_comments_change_nothing() {
    for golden in golden::streams() {
        let whole = read(&golden, golden.text.as_bytes(), &[]);
        let plain = golden.text.replace("\r\n", "\n");
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("\u{feff}: keep-alive\n\n{plain}").replace("\n\n", "\n: x\n\n").replace('\n', end);
            assert_eq!(read(&golden, text.as_bytes(), &[]), whole, "{}", golden.name);
        }
    }
}

#[test]
fn c4_every_single_split_reads_the_same() {
    for golden in ALL {
        let text = golden.text.as_bytes();
        let whole = read(golden, text, &[]);
        for cut in 0..=text.len() {
            assert_eq!(read(golden, text, &[cut]), whole, "{} at {cut}", golden.name);
        }
    }
}

#[test]
fn a_stream_cut_anywhere_never_says_more_than_it_does_at_its_end() {
    for golden in golden::streams() {
        let text = golden.text.as_bytes();
        let whole = read(&golden, text, &[]);
        for cut in 0..text.len() {
            let part = read(&golden, &text[..cut], &[]);
            assert!(
                part.usage.read() <= whole.usage.read() && part.usage.output <= whole.usage.output,
                "{}",
                golden.name
            );
            assert!(part.written_bytes <= whole.written_bytes && part.deltas <= whole.deltas);
        }
    }
}

proptest! {
    #[test]
    fn any_splits_read_the_same(which in 0..ALL.len(), mut cuts in prop::collection::vec(0_usize..4300, 0..40)) {
        let golden = &ALL[which];
        let text = golden.text.as_bytes();
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(text.len()));
        cuts.sort_unstable();
        prop_assert_eq!(read(golden, text, &cuts), read(golden, text, &[]));
    }
}
