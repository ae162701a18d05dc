//! Many literals at once over a stream: a skip loop over hashed 8-byte beginnings, and behind it an Aho–Corasick
//! automaton that knows its depth.
//!
//! The depth is what a hold-back needs: it is the length of the longest end of the stream that is the beginning of a
//! literal. Clean text costs one hash probe per byte; the work is linear in the stream whatever it holds.

use zeroize::Zeroize;

/// Shortest literal, in bytes.
pub(crate) const LITERAL_BYTES_MIN: usize = 8;
const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;
/// log2 of the bits of the beginnings' filter: 64 KiB, which stays in the second-level cache.
const FILTER_LOG2: u32 = 19;

/// A trie with failure links; it holds secrets, so it zeroises its labels.
pub(crate) struct Automaton {
    root: Vec<u32>,
    label: Vec<u8>,
    first_child: Vec<u32>,
    sibling: Vec<u32>,
    fail: Vec<u32>,
    depth: Vec<u32>,
    /// The literal that ends here.
    literal: Vec<u32>,
    /// The nearest state on the failure chain where a literal ends.
    ends: Vec<u32>,
    filter: Vec<u64>,
    /// Every `stride`-th place is probed: so many windows at the beginning of each literal are in the filter.
    stride: usize,
}

impl Drop for Automaton {
    fn drop(&mut self) {
        self.label.zeroize();
        self.filter.zeroize();
    }
}

fn slot(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER_LOG2)) as usize
}

fn word_at(data: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&data[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Automaton {
    /// Literal `i` is reported as `i`; of equal ones, the first. Literals below [`LITERAL_BYTES_MIN`] are not for it.
    pub(crate) fn new<'a>(literals: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let shortest = literals.clone().map(<[u8]>::len).min().unwrap_or(LITERAL_BYTES_MIN);
        let mut this = Automaton {
            root: vec![ROOT; 256],
            label: vec![0],
            first_child: vec![NONE],
            sibling: vec![NONE],
            fail: vec![ROOT],
            depth: vec![0],
            literal: vec![NONE],
            ends: vec![NONE],
            filter: vec![0; 1 << (FILTER_LOG2 - 6)],
            stride: shortest + 1 - LITERAL_BYTES_MIN.min(shortest),
        };
        for (id, literal) in literals.enumerate() {
            assert!(literal.len() >= LITERAL_BYTES_MIN, "literals are at least {LITERAL_BYTES_MIN} bytes");
            for at in 0..this.stride {
                let slot = slot(word_at(literal, at));
                this.filter[slot / 64] |= 1 << (slot % 64);
            }
            this.insert(literal, id as u32);
        }
        this.link();
        this
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.label.len() == 1
    }

    fn insert(&mut self, literal: &[u8], id: u32) {
        let mut state = ROOT;
        for &byte in literal {
            state = match self.child(state, byte) {
                NONE => {
                    let new = self.label.len() as u32;
                    let depth = self.depth[state as usize] + 1;
                    self.label.push(byte);
                    self.first_child.push(NONE);
                    self.sibling.push(self.first_child[state as usize]);
                    self.first_child[state as usize] = new;
                    self.fail.push(ROOT);
                    self.depth.push(depth);
                    self.literal.push(NONE);
                    self.ends.push(NONE);
                    if state == ROOT {
                        self.root[usize::from(byte)] = new;
                    }
                    new
                }
                next => next,
            };
        }
        let ends = &mut self.literal[state as usize];
        if *ends == NONE {
            *ends = id;
        }
    }

    fn child(&self, state: u32, byte: u8) -> u32 {
        if state == ROOT {
            return match self.root[usize::from(byte)] {
                ROOT => NONE,
                next => next,
            };
        }
        let mut next = self.first_child[state as usize];
        while next != NONE && self.label[next as usize] != byte {
            next = self.sibling[next as usize];
        }
        next
    }

    fn link(&mut self) {
        let mut queue = std::collections::VecDeque::from([ROOT]);
        while let Some(state) = queue.pop_front() {
            let mut next = self.first_child[state as usize];
            while next != NONE {
                if state != ROOT {
                    self.fail[next as usize] = self.step(self.fail[state as usize], self.label[next as usize]);
                }
                let fail = self.fail[next as usize];
                self.ends[next as usize] =
                    if self.literal[fail as usize] != NONE { fail } else { self.ends[fail as usize] };
                queue.push_back(next);
                next = self.sibling[next as usize];
            }
        }
    }

    fn step(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            match self.child(state, byte) {
                NONE if state == ROOT => return ROOT,
                NONE => state = self.fail[state as usize],
                next => return next,
            }
        }
    }

    /// First index ≥ `at` where the beginning of a literal stands, with the state behind its eight bytes; or the
    /// first index that is too near the end to tell.
    fn skip(&self, data: &[u8], at: usize) -> Result<(usize, u32), usize> {
        let end = data.len().saturating_sub(LITERAL_BYTES_MIN - 1);
        let mut cleared = at;
        let mut probe = at + self.stride - 1;
        while probe < end {
            let slot = slot(word_at(data, probe));
            if self.filter[slot / 64] >> (slot % 64) & 1 != 0
                && let Some(found) = self.begin_within(data, cleared, probe + 1)
            {
                return Ok(found);
            }
            cleared = probe + 1;
            probe += self.stride;
        }
        self.begin_within(data, cleared, end).ok_or(end.max(at))
    }

    fn begin_within(&self, data: &[u8], from: usize, to: usize) -> Option<(usize, u32)> {
        (from..to).find_map(|at| Some((at, self.begin(data, at)?)))
    }

    /// The state after the first eight bytes of a literal at `at`, if they are the beginning of one.
    fn begin(&self, data: &[u8], at: usize) -> Option<u32> {
        data[at..at + LITERAL_BYTES_MIN].iter().try_fold(ROOT, |state, &byte| match self.child(state, byte) {
            NONE => None,
            next => Some(next),
        })
    }
}

/// One end of a literal in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Which literal.
    pub literal: u32,
    /// Bytes of the stream up to and with the literal's last one, counted from the start of this feed.
    pub end: usize,
}

/// Where a stream stands in an [`Automaton`].
pub(crate) struct Cursor {
    state: u32,
    /// The last bytes of the stream, at most seven; in the skip loop the last `unprobed` of them are to be looked at.
    recent: Vec<u8>,
    unprobed: usize,
    work: Vec<u8>,
}

impl Cursor {
    pub(crate) fn new() -> Self {
        Cursor { state: ROOT, recent: Vec::new(), unprobed: 0, work: Vec::new() }
    }

    /// Takes more of the stream; appends the hits in the order of their ends.
    pub(crate) fn feed(&mut self, automaton: &Automaton, more: &[u8], hits: &mut Vec<Hit>) {
        if automaton.is_empty() || more.is_empty() {
            return;
        }
        let before = self.recent.len();
        self.work.clear();
        self.work.extend_from_slice(&self.recent);
        self.work.extend_from_slice(more);
        let data = &self.work[..];
        let mut at = if self.state == ROOT { before - self.unprobed } else { before };
        loop {
            if self.state == ROOT {
                match automaton.skip(data, at) {
                    Ok((start, state)) => {
                        self.state = state;
                        at = start + LITERAL_BYTES_MIN;
                        report(automaton, state, at - before, hits);
                    }
                    Err(end) => {
                        at = end;
                        break;
                    }
                }
                continue;
            }
            let Some(&byte) = data.get(at) else { break };
            let state = automaton.step(self.state, byte);
            at += 1;
            let depth = automaton.depth[state as usize] as usize;
            if depth >= LITERAL_BYTES_MIN {
                self.state = state;
                report(automaton, state, at - before, hits);
            } else {
                // What could still be a beginning is shorter than the skip loop's window: it looks again from there.
                self.state = ROOT;
                at -= depth;
            }
        }
        self.unprobed = if self.state == ROOT { data.len() - at } else { 0 };
        let keep = data.len().min(LITERAL_BYTES_MIN - 1);
        self.recent.clear();
        self.recent.extend_from_slice(&data[data.len() - keep..]);
    }

    /// Length of the longest end of the stream that is the beginning of a literal.
    pub(crate) fn depth(&self, automaton: &Automaton) -> usize {
        let state = if self.state == ROOT {
            let tail = &self.recent[self.recent.len() - self.unprobed..];
            tail.iter().fold(ROOT, |state, &byte| automaton.step(state, byte))
        } else {
            self.state
        };
        automaton.depth[state as usize] as usize
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.recent.zeroize();
        self.work.zeroize();
    }
}

fn report(automaton: &Automaton, state: u32, end: usize, hits: &mut Vec<Hit>) {
    let mut at = state;
    while at != NONE {
        if automaton.literal[at as usize] != NONE {
            hits.push(Hit { literal: automaton.literal[at as usize], end });
        }
        at = automaton.ends[at as usize];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(literals: &[Vec<u8>], text: &[u8], cut: usize) -> (Vec<(u32, usize)>, usize) {
        let automaton = Automaton::new(literals.iter().map(|l| &l[..]));
        let mut cursor = Cursor::new();
        let (mut found, mut done) = (Vec::new(), 0);
        for chunk in text.chunks(cut) {
            let mut hits = Vec::new();
            cursor.feed(&automaton, chunk, &mut hits);
            found.extend(hits.iter().map(|h| (h.literal, done + h.end)));
            done += chunk.len();
        }
        (found, cursor.depth(&automaton))
    }

    proptest! {
        #[test]
        fn hits_and_depth_are_those_of_the_definition(
            literals in prop_oneof![
                proptest::collection::hash_set("[ab]{8,12}", 1..6),
                proptest::collection::hash_set("[ab]{11,14}", 1..6),
            ],
            text in "[ab]{0,80}",
            cut in 1usize..90,
        ) {
            let literals: Vec<Vec<u8>> = literals.into_iter().map(String::into_bytes).collect();
            let text = text.as_bytes();
            let mut expected: Vec<(u32, usize)> = Vec::new();
            for (i, l) in literals.iter().enumerate() {
                for end in l.len()..=text.len() {
                    if text[..end].ends_with(l) {
                        expected.push((i as u32, end));
                    }
                }
            }
            let (mut found, depth) = run(&literals, text, cut);
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
            let longest = (0..=text.len()).rev().find(|&n| literals.iter().any(|l| l.starts_with(&text[text.len() - n..])));
            prop_assert_eq!(depth, longest.unwrap_or(0));
        }
    }
}
