//! System-prompt protection: a run of words of the prompt, as long as nobody writes by chance, in a reply.
//!
//! Words are compared without case, accents and what stands between them, so that other quotes, line breaks or a few stars
//! make no other text. A run of [`RUN_WORDS`] is one; those of texts that anybody may read (the refusal, the greeting,
//! published policy) are not. *Must never* hold back more than a run.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::plain::folded_char;
use crate::view::More;
use crate::window::Window;

/// Words in a row that make a leak.
pub const RUN_WORDS: usize = 10;
/// Octets of a longer word, or of what stands between two words, end a run.
const WORD_BYTES_MAX: usize = 64;
/// A public text of fewer words takes nothing out of the protection: it may stand anywhere by chance.
const PUBLIC_WORDS_MIN: usize = 4;
/// Words of a prompt that are protected: what a model's context holds.
const PROMPT_WORDS_MAX: usize = 200_000;

/// The protected text.
pub(super) struct Prompt {
    /// Where each word stands.
    places: HashMap<String, Vec<u32>>,
    /// Does this word stand in a text that anybody may read? Such a word is part of no run.
    public: Vec<bool>,
}

impl Prompt {
    pub(super) fn new(text: &str, public: &[&str]) -> Prompt {
        let words: Vec<String> = words(text).take(PROMPT_WORDS_MAX).collect();
        let mut may_be_read = vec![false; words.len()];
        for text in public.iter().map(|text| self::words(text).collect::<Vec<_>>()) {
            let len = text.len().min(RUN_WORDS);
            if len < PUBLIC_WORDS_MIN {
                continue;
            }
            let runs: HashSet<&[String]> = text.windows(len).collect();
            for (at, window) in words.windows(len).enumerate().filter(|(_, window)| runs.contains(window)) {
                may_be_read[at..at + window.len()].fill(true);
            }
        }
        let mut places: HashMap<String, Vec<u32>> = HashMap::new();
        for (at, word) in words.into_iter().enumerate() {
            places.entry(word).or_default().push(at as u32);
        }
        Prompt { places, public: may_be_read }
    }
}

enum Class {
    /// Part of a word, as it is compared.
    Letter(char),
    /// A word of its own, as in Chinese.
    Single(char),
    /// Not there.
    Nothing,
    Between,
}

fn class(c: char) -> Class {
    match folded_char(c) {
        None => Class::Nothing,
        Some(c) if !c.is_alphanumeric() => Class::Between,
        Some(c) if matches!(u32::from(c), 0x2e80..=0x9fff | 0xac00..=0xd7af | 0xf900..=0xfaff | 0x20000..=0x3ffff) => {
            Class::Single(c)
        }
        Some(c) => Class::Letter(c),
    }
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        let mut word = String::new();
        while let Some(c) = chars.peek() {
            match class(*c) {
                Class::Letter(c) => word.push(c),
                Class::Nothing => {}
                Class::Single(c) if word.is_empty() => {
                    chars.next();
                    return Some(c.to_string());
                }
                Class::Between if word.is_empty() => {}
                Class::Single(_) | Class::Between => break,
            }
            chars.next();
        }
        (!word.is_empty()).then_some(word)
    })
}

/// One reply's place in the prompt.
pub(super) struct PromptScan {
    /// Bytes up to here were looked at.
    cursor: u64,
    word: String,
    /// Where the word that is being read began, and where it ends so far.
    span: Option<(u64, u64)>,
    /// The last words, at most [`RUN_WORDS`].
    recent: VecDeque<(u64, u64)>,
    /// Place in the prompt of the last word → how many words before it, and with it, are the reply's.
    runs: HashMap<u32, u32>,
}

impl PromptScan {
    pub(super) fn new() -> PromptScan {
        PromptScan { cursor: 0, word: String::new(), span: None, recent: VecDeque::new(), runs: HashMap::new() }
    }

    /// Looks at what is new; calls `leak` with each run. Gives from where on bytes must be held back.
    pub(super) fn advance(&mut self, prompt: &Prompt, window: &Window<'_>, leak: &mut impl FnMut(u64, u64)) -> u64 {
        // The stream is a text, and the cursor stands between characters.
        let new = String::from_utf8_lossy(&window.data[window.index(self.cursor)..]).into_owned();
        for c in new.chars() {
            let (start, end) = (self.cursor, self.cursor + c.len_utf8() as u64);
            match class(c) {
                Class::Letter(folded) => {
                    self.word.push(folded);
                    self.span = Some((self.span.map_or(start, |(first, _)| first), end));
                }
                Class::Single(folded) => {
                    self.end_word(prompt, leak);
                    self.word.push(folded);
                    self.span = Some((start, end));
                    self.end_word(prompt, leak);
                }
                Class::Between => self.end_word(prompt, leak),
                Class::Nothing => {}
            }
            self.cursor = end;
            self.break_if_far();
        }
        if window.more == More::Ended {
            self.end_word(prompt, leak);
            return window.end();
        }
        self.hold()
    }

    /// A word that is too long is none, and neither is a gap.
    fn break_if_far(&mut self) {
        let far = |from: u64| self.cursor - from > WORD_BYTES_MAX as u64;
        let broken = match (self.span, self.recent.back()) {
            (Some((start, _)), _) => far(start),
            (None, Some((_, end))) => far(*end),
            (None, None) => false,
        };
        if broken {
            self.runs.clear();
            self.recent.clear();
            if self.span.is_some() {
                // It is read on without being kept: no word of the prompt is like it.
                self.word.clear();
                self.word.push('\0');
                self.span = Some((self.cursor, self.cursor));
            }
        }
    }

    fn end_word(&mut self, prompt: &Prompt, leak: &mut impl FnMut(u64, u64)) {
        let Some(span) = self.span.take() else { return };
        let word = std::mem::take(&mut self.word);
        self.recent.push_back(span);
        if self.recent.len() > RUN_WORDS {
            self.recent.pop_front();
        }
        let places = prompt.places.get(&word).map_or(&[][..], Vec::as_slice);
        let longer = |place: &u32| {
            let before = place.checked_sub(1).and_then(|before| self.runs.get(&before)).copied().unwrap_or(0);
            (*place, (before + 1).min(RUN_WORDS as u32))
        };
        self.runs = places.iter().filter(|place| !prompt.public[**place as usize]).map(longer).collect();
        if self.runs.values().any(|len| *len == RUN_WORDS as u32)
            && let Some((first, _)) = self.recent.front()
        {
            leak(*first, span.1);
        }
    }

    /// The first byte of what may still be a run.
    fn hold(&self) -> u64 {
        let longest =
            self.runs.values().max().map_or(0, |len| (*len as usize).min(RUN_WORDS - 1)).min(self.recent.len());
        let run = match longest {
            0 => None,
            longest => self.recent.get(self.recent.len() - longest).map(|(start, _)| *start),
        };
        run.or(self.span.map(|(start, _)| start)).unwrap_or(self.cursor)
    }
}
