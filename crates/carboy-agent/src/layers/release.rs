//! How a reply comes before a person's eyes: sentence by sentence, each one filtered and checked before it is shown.
//!
//! ```text
//!  deltas ─▶ output filter ─▶ text ─▶ whole sentences ─▶ everything up to here checked ─▶ good:  Sentence
//!                                                                                     ├▶ waits: held with what follows
//!                                                                                     └▶ bad:   Replace(fallback), the end
//! ```
//!
//! Each check sees the reply from its beginning, so what is put together over sentences is found as soon as it stands
//! there, and what is shown in the end is what a check of the whole reply would have shown, however it was cut into deltas.
//! The sentence that is wrong is never shown.
//!
//! *Off-topic phrases* can be put right by the refusal, which may come later. So a phrase without it holds its sentence and
//! all that follow: they are shown when the refusal has come, and never when it has not. Sentences before it had none and
//! were shown: if the reply ends without the refusal, they are replaced too.
//!
//! *Must never* show a word that the filter or a check has not seen.

use std::sync::Arc;

use carboy_guard::output::{Filter, OutputRules, Redaction};
use carboy_guard::plain::visible_char;

use super::grounds::Grounds;
use super::reply::{Checker, Standing, ValidationResult};
use super::sentences::{Ending, next_cut};
use crate::outcome::TurnEvent;

/// Who shows what is released.
pub type Watch<'a> = &'a (dyn Fn(TurnEvent) + Send + Sync);

/// Releases one answer of the model.
pub struct Releaser<'a> {
    filter: Filter<'a>,
    checker: &'a Checker,
    grounds: &'a Grounds,
    fallback: &'a str,
    /// Characters that are still read.
    chars_left: usize,
    length: Length,
    /// What the filter cleared.
    text: String,
    /// The last cut between sentences.
    cut: usize,
    /// Up to here it was shown.
    shown: usize,
    bad: Option<ValidationResult>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Within,
    Exceeded,
}

/// How an answer was released.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "whether the reply was withheld stands in it"]
pub struct Released {
    /// What the person reads: the sentences that were shown, or the fallback.
    pub text: String,
    /// What the filter overwrote.
    pub redactions: Vec<Redaction>,
    /// What was wrong. Unless it is valid, `text` is the fallback, and the answer belongs into no history (G27).
    pub result: ValidationResult,
    /// The answer was longer than is shown, and ends with its last whole sentence.
    pub shortened: bool,
}

impl<'a> Releaser<'a> {
    /// For one answer. `fallback` takes its place if it is wrong.
    pub fn new(
        rules: Arc<OutputRules>,
        checker: &'a Checker,
        grounds: &'a Grounds,
        fallback: &'a str,
        reply_chars_max: u32,
    ) -> Releaser<'a> {
        Releaser {
            filter: Filter::new(rules, Box::new(|value| grounds.allows(value))),
            checker,
            grounds,
            fallback,
            chars_left: reply_chars_max as usize,
            length: Length::Within,
            text: String::new(),
            cut: 0,
            shown: 0,
            bad: None,
        }
    }

    /// Takes a delta; shows the sentences that are complete and good by now.
    pub fn push(&mut self, delta: &str, watch: Watch<'_>) {
        if self.length == Length::Exceeded {
            return;
        }
        let mut end = delta.len();
        for (at, c) in delta.char_indices() {
            if visible_char(c).is_none() {
                continue;
            }
            if self.chars_left == 0 {
                self.length = Length::Exceeded;
                end = at;
                break;
            }
            self.chars_left -= 1;
        }
        self.filter.push(&delta[..end], &mut self.text);
        // A wrong answer is filtered to its end all the same: what is told of it does not depend on its deltas.
        if self.bad.is_none() {
            self.release(Ending::Open, watch);
        }
    }

    /// The answer is complete: shows the rest, or replaces it all.
    pub fn finish(mut self, watch: Watch<'_>) -> Released {
        let redactions = self.filter.finish(&mut self.text);
        if self.bad.is_none() {
            // Of an answer that is too long the last sentence is not whole, and is not shown.
            match self.length {
                Length::Within => self.release(Ending::Ended, watch),
                Length::Exceeded => {
                    self.release(Ending::Open, watch);
                    self.text.truncate(self.cut);
                }
            }
        }
        let shortened = self.length == Length::Exceeded;
        let result = match self.bad.take() {
            Some(bad) => bad,
            None => {
                let result = self.checker.check(&self.text, self.grounds);
                let empty = shortened && self.text.trim().is_empty();
                if result.is_valid() && !empty {
                    self.show(self.text.len(), watch);
                    return Released { text: self.text, redactions, result, shortened };
                }
                watch(TurnEvent::Replace(self.fallback.to_owned()));
                result
            }
        };
        Released { text: self.fallback.to_owned(), redactions, result, shortened }
    }

    fn release(&mut self, ending: Ending, watch: Watch<'_>) {
        while let Some(cut) = next_cut(&self.text, self.cut, ending) {
            self.cut = cut;
            // The end of the reply is not the end of a sentence only: `finish` checks it as a whole.
            if ending == Ending::Ended && cut == self.text.len() {
                return;
            }
            match self.checker.standing(&self.text[..cut], self.grounds) {
                Standing::Good => self.show(cut, watch),
                Standing::Waits => {}
                Standing::Bad(result) => {
                    self.bad = Some(result);
                    watch(TurnEvent::Replace(self.fallback.to_owned()));
                    return;
                }
            }
        }
    }

    fn show(&mut self, until: usize, watch: Watch<'_>) {
        if until > self.shown {
            watch(TurnEvent::Sentence(self.text[self.shown..until].to_owned()));
            self.shown = until;
        }
    }
}

#[cfg(test)]
mod tests;
