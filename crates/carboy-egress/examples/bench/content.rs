//! What is sent: JSON as a model's interface sees it, the same bytes in every run.

use bytes::Bytes;

/// Bytes of a small body, in either direction.
pub const SMALL_BYTES: usize = 1024;
/// Bytes of a large body, in either direction.
pub const LARGE_BYTES: usize = 100 * 1024;

/// Neither secrets nor instructions to an agent: nothing that a detector would stop at.
const WORDS: &[&str] = &[
    "the",
    "order",
    "of",
    "tables",
    "was",
    "changed",
    "after",
    "a",
    "second",
    "review",
    "because",
    "column",
    "widths",
    "did",
    "not",
    "match",
    "and",
    "function",
    "parse_line(input:",
    "&str)",
    "->",
    "Result<Vec<u32>,",
    "Error>",
    "returns",
    "12,",
    "40.5,",
    "2026-02-11T09:30:00Z,",
    "src/report/table.rs:118",
    "https://docs.example/guide?page=3",
    "naïve",
    "café",
    "x1f9c",
];

/// `{"model":…,"messages":[…]}` of about this many bytes; prose, some code, escapes, a few letters beyond ASCII.
pub fn json(bytes: usize) -> Bytes {
    let mut text = String::from(r#"{"model":"bench-1","max_tokens":1024,"messages":[{"role":"user","content":""#);
    let end = r#""}]}"#;
    // A fixed linear congruence: varied enough that no scanner meets one period, equal for every peer.
    let mut state: u32 = 0x2545_f491;
    while text.len() + end.len() < bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(WORDS[(state >> 16) as usize % WORDS.len()]);
        text.push_str(if state >> 28 == 0 { "\\n\\\"" } else { " " });
    }
    text.push_str(end);
    Bytes::from(text)
}

/// The same, asking for its answer piece by piece.
pub fn streamed(json: Bytes) -> Bytes {
    Bytes::from([br#"{"stream":true,"#.as_slice(), &json[1..]].concat())
}
