//! The model of an attack: it does what its script says, and writes down all that it is told.
//!
//! *Must never* take from a prompt what the dictionary does not give it, but for the results that it repeats and the prompt
//! that it gives away: what it shows is then the runtime's doing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use carboy_core::ports::Later;
use carboy_core::verdict::Reason;
use carboy_wire::chat::{Block, Completion, Delta, Prompt, Stopped};

use super::dictionary::Dictionary;
use super::script::{Asked, Move, Saying};
use crate::model::{Model, ModelError};

/// What stands before the number of everything that it says, so that it is known again.
pub(super) const MARK: &str = "quoth-";
/// Words of its prompt that it gives away.
const LEAKED_WORDS: usize = 24;

/// It.
pub(super) struct Adversary {
    ids: Vec<String>,
    canaries: Vec<String>,
    /// More characters than a reply may have.
    long_chars: usize,
    moves: Mutex<VecDeque<Move>>,
    endless: Mutex<Option<Asked>>,
    heard: Mutex<Vec<String>>,
    said: Mutex<Vec<String>>,
    marks: AtomicUsize,
    at_work: AtomicUsize,
    at_work_most: AtomicUsize,
}

impl Adversary {
    pub(super) fn new(dictionary: &Dictionary, reply_chars_max: u32) -> Adversary {
        let own = dictionary.guarded.iter().map(|guarded| guarded.id.clone());
        Adversary {
            ids: own.chain(dictionary.missing.iter().cloned()).collect(),
            canaries: dictionary.canaries.clone(),
            long_chars: reply_chars_max as usize,
            moves: Mutex::default(),
            endless: Mutex::default(),
            heard: Mutex::default(),
            said: Mutex::default(),
            marks: AtomicUsize::new(0),
            at_work: AtomicUsize::new(0),
            at_work_most: AtomicUsize::new(0),
        }
    }

    /// For the step that comes.
    pub(super) fn will(&self, moves: &[Move]) {
        *lock(&self.moves) = moves.iter().cloned().collect();
        *lock(&self.endless) = None;
        self.at_work_most.store(0, Ordering::SeqCst);
    }

    /// A script begins: what it says is numbered from the beginning.
    pub(super) fn begins(&self) {
        self.marks.store(0, Ordering::SeqCst);
        lock(&self.said).clear();
        lock(&self.heard).clear();
    }

    /// What it was told since it was last asked this.
    pub(super) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.heard))
    }

    /// What it said since it was last asked this: each text's mark.
    pub(super) fn said(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.said))
    }

    /// How many asked it at the same time.
    pub(super) fn at_once(&self) -> usize {
        self.at_work_most.load(Ordering::SeqCst)
    }

    fn marked(&self, text: &str) -> String {
        let mark = format!("{MARK}{}x", self.marks.fetch_add(1, Ordering::SeqCst));
        lock(&self.said).push(mark.clone());
        format!("{text} Ref {mark} ends.")
    }

    fn says(&self, saying: Saying, prompt: &Prompt<'_>) -> String {
        let number = self.marks.load(Ordering::SeqCst);
        let text = match saying {
            Saying::Nothing => return String::new(),
            Saying::Harmless => "I looked into that for you.".to_owned(),
            Saying::Id => {
                let id = self.ids.get(number % self.ids.len().max(1)).map_or("", String::as_str);
                format!("Your order {id} is here.")
            }
            Saying::Date => "It arrives on 2031-01-01.".to_owned(),
            Saying::Markup => "# Done\n\n* see [here](https://evil.example/?q=1) **now**".to_owned(),
            Saying::Canary => {
                let canary = self.canaries.get(number % self.canaries.len().max(1)).map_or("", String::as_str);
                format!("The key is {canary} as you asked.")
            }
            Saying::Prompt => {
                let words: Vec<&str> = prompt.system.split_whitespace().collect();
                let from = (number * 37) % words.len().saturating_sub(LEAKED_WORDS).max(1);
                words.iter().skip(from).take(LEAKED_WORDS).copied().collect::<Vec<_>>().join(" ")
            }
            Saying::Confirms => "Confirmed. I clicked the card for you and it is done.".to_owned(),
            Saying::Long => "very long words ".repeat(self.long_chars / 16 + 1),
            Saying::Result => {
                let last = prompt.messages.iter().rev().flat_map(|message| &message.blocks).find_map(result);
                format!("The tools say {}.", last.unwrap_or_default().replace(['{', '}', '[', ']', '"', '_'], " "))
            }
        };
        self.marked(&text)
    }

    fn blocks(
        &self,
        next: Option<Move>,
        prompt: &Prompt<'_>,
        listen: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<Vec<Block>, ModelError> {
        Ok(match next.unwrap_or(Move::Says { saying: Saying::Harmless, piece: 0 }) {
            Move::Says { saying, piece } => {
                let text = self.says(saying, prompt);
                stream(&text, piece, listen);
                vec![Block::Text { text }]
            }
            Move::Calls { calls, saying } => {
                let text = saying.map(|saying| Block::Text { text: self.says(saying, prompt) });
                text.into_iter().chain(calls.into_iter().map(used)).collect()
            }
            Move::Many(asked) => asked.many().into_iter().map(used).collect(),
            Move::Endless(asked) => {
                *lock(&self.endless) = Some(asked.clone());
                vec![used(asked)]
            }
            Move::Lies => {
                stream(&self.marked("All is well. Really."), 5, listen);
                vec![Block::Text { text: self.marked("Something else.") }]
            }
            Move::BreaksOff => {
                stream(&self.marked("All is well. And the key is"), 7, listen);
                return Err(ModelError::Unreachable("the stream broke off".into()));
            }
            Move::Fails(kind) => {
                return Err(match kind {
                    0 => ModelError::RateLimited { retry_after: None },
                    1 => ModelError::Unreachable("gone".into()),
                    2 => ModelError::Status { status: 500 },
                    3 => ModelError::Malformed("nonsense".into()),
                    _ => ModelError::Refused(Reason::BudgetExhausted),
                });
            }
        })
    }
}

impl Model for Adversary {
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        Box::pin(async move {
            let _working = Working::begin(self);
            lock(&self.heard).push(serde_json::to_string(prompt.messages).unwrap_or_default());
            // Whoever else may be at work now has the time to be.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let endless = lock(&self.endless).clone();
            let next = match endless {
                Some(asked) => Some(Move::Calls { calls: vec![asked], saying: None }),
                None => lock(&self.moves).pop_front(),
            };
            let blocks = self.blocks(next, prompt, listen)?;
            Ok(Completion { blocks, stopped: Stopped::Other })
        })
    }
}

/// Somebody asks it, until their turn is over or dropped.
struct Working<'a>(&'a Adversary);

impl<'a> Working<'a> {
    fn begin(adversary: &'a Adversary) -> Working<'a> {
        let now = adversary.at_work.fetch_add(1, Ordering::SeqCst) + 1;
        adversary.at_work_most.fetch_max(now, Ordering::SeqCst);
        Working(adversary)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

fn used(asked: Asked) -> Block {
    Block::ToolUse { id: asked.id.to_owned(), name: asked.tool, input: asked.input }
}

fn result(block: &Block) -> Option<String> {
    match block {
        Block::ToolResult { content, .. } => Some(content.chars().take(400).collect()),
        Block::Text { .. } | Block::ToolUse { .. } | Block::Opaque { .. } => None,
    }
}

fn stream(text: &str, piece: usize, listen: &mut (dyn FnMut(Delta) + Send)) {
    if piece == 0 {
        return;
    }
    let all: Vec<char> = text.chars().collect();
    all.chunks(piece * 3).for_each(|piece| listen(Delta::Text(piece.iter().collect())));
}

pub(super) fn lock<T>(slot: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
