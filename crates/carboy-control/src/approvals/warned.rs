//! What the operator is told of a board that takes no more, or cannot be read: a line of JSON, and not one for each question.
//!
//! *Must never* be a line for every wish of whoever writes to an agent, or keep a question from being asked.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use carboy_core::ask::Posted;
use carboy_core::ports::{AskBoard, AskBoardError, Clock};
use carboy_store::audit::rfc3339;
use serde_json::json;

use super::FileBoard;
use crate::clock::SystemClock;
use crate::serve::Lines;

/// How soon the same is told again.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// Tells the operator, the same thing once an hour.
pub(crate) struct Warnings {
    lines: Lines,
    told: Mutex<BTreeMap<(&'static str, &'static str), Instant>>,
}

impl Warnings {
    /// They go where the other lines for the operator go.
    pub(crate) fn new(lines: Lines) -> Arc<Warnings> {
        Arc::new(Warnings { lines, told: Mutex::default() })
    }

    /// `event` happened to what is `about`, and why.
    pub(crate) fn tell(&self, event: &'static str, about: &'static str, why: &dyn Display) {
        let now = Instant::now();
        {
            // Whole at every step.
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.get(&(event, about)).is_some_and(|at| now.duration_since(*at) < TOLD_AGAIN_AFTER) {
                return;
            }
            told.insert((event, about), now);
        }
        let line = json!({
            "timestamp": rfc3339(SystemClock.now_ms()),
            "level": "warning",
            "event": event,
            "about": about,
            "particulars": why.to_string(),
        });
        (self.lines)(&line.to_string());
    }
}

/// A board whose refusals are told.
#[derive(Clone)]
pub(crate) struct Warned {
    /// Where questions are.
    pub(crate) board: FileBoard,
    /// Who tells it.
    pub(crate) warnings: Arc<Warnings>,
}

impl AskBoard for Warned {
    fn post(&self, posted: &Posted) -> Result<(), AskBoardError> {
        let put = self.board.post(posted);
        if let Err(error) = &put {
            self.warnings.tell("question_not_put_up", posted.ask.kind().as_str(), error);
        }
        put
    }

    fn take_down(&self, id: &str, came_of_it: &str) -> Result<(), AskBoardError> {
        self.board.take_down(id, came_of_it)
    }
}
