//! One answer of a model while it arrives: what of it a person reads, and what is wrong with it.
//!
//! ```text
//! deltas ─▶ Releaser (filter, sentences, checks) ─▶ sentences, at once ─▶ person
//! end    ─▶ the blocks' words are what was heard? ─▶ Read
//! ```
//!
//! A turn has one of these for each answer. Words before a call that do not pass are never shown, and are no reason to
//! withhold the reply that comes after the call: "let me look BK-1001 up" has nothing to stand on yet. *Must never* show what
//! was streamed and leave unseen what is remembered, or the other way round.

use std::sync::{Mutex, PoisonError};

use carboy_guard::output::Redaction;

use crate::layers::grounds::Grounds;
use crate::layers::release::Releaser;
use crate::outcome::TurnEvent;
use crate::screens::Screens;

/// Where sentences go.
pub(crate) type Show<'a> = &'a (dyn Fn(String) + Send + Sync);

/// An answer that arrives.
pub(crate) struct Reading<'a> {
    releaser: Releaser<'a>,
    heard: String,
    shown: Mutex<String>,
    show: Show<'a>,
}

/// An answer that was read to its end: only [`Reading::end`] makes one.
pub(crate) struct Read {
    shown: String,
    violations: Vec<String>,
    redactions: Vec<Redaction>,
}

impl Read {
    /// The sentences that passed, as they are remembered.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Codes of what is wrong.
    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// What was overwritten.
    pub(crate) fn redactions(&self) -> &[Redaction] {
        &self.redactions
    }
}

impl<'a> Reading<'a> {
    pub(crate) fn begin(
        screens: &'a Screens,
        grounds: &'a Grounds,
        reply_chars_max: u32,
        show: Show<'a>,
    ) -> Reading<'a> {
        // What takes the place of a reply is decided by the turn, which knows whether this answer is one.
        let releaser = Releaser::new(screens.output.clone(), &screens.checker, grounds, "", reply_chars_max);
        Reading { releaser, heard: String::new(), shown: Mutex::default(), show }
    }

    /// The next words.
    pub(crate) fn hear(&mut self, words: &str) {
        self.heard.push_str(words);
        self.releaser.push(words, &tell(&self.shown, self.show));
    }

    /// The answer is complete: these are all its words. A model that does not stream says them now.
    pub(crate) fn end(mut self, words: &str) -> Read {
        let rest = words.strip_prefix(self.heard.as_str()).map(str::to_owned);
        if let Some(rest) = &rest {
            self.releaser.push(rest, &tell(&self.shown, self.show));
        }
        let released = self.releaser.finish(&tell(&self.shown, self.show));
        let shown = self.shown.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut violations = released.result.codes();
        if rest.is_none() {
            violations.push("stream_mismatch".into());
        }
        if released.shortened && shown.trim().is_empty() {
            violations.push("reply_chars_max".into());
        }
        Read { shown, violations, redactions: released.redactions }
    }
}

fn tell<'a>(shown: &'a Mutex<String>, show: Show<'a>) -> impl Fn(TurnEvent) + Send + Sync + 'a {
    move |event| match event {
        TurnEvent::Sentence(sentence) => {
            shown.lock().unwrap_or_else(PoisonError::into_inner).push_str(&sentence);
            show(sentence);
        }
        TurnEvent::Replace(_) | TurnEvent::Step { .. } | TurnEvent::Invalid { .. } | TurnEvent::Card(_) => {}
    }
}
