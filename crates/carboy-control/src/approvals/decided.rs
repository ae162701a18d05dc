//! Where answered questions came from: for a while their conversations can still be read by their ids.
//!
//! *Must never* hold a word of a conversation, or what was asked for: whoever forgets a conversation leaves nothing of it here.

use carboy_core::ask::{Origin, Posted};

use super::{DECIDED, FILE_BYTES_MAX, FileBoard, boards, is_id};
use crate::home::{Home, HomeError, read_private, write_private};

/// The origin of an answered question, and the board that it was on.
pub fn decided(home: &Home, id: &str) -> Result<Option<(FileBoard, Origin)>, HomeError> {
    for board in boards(home) {
        if let Some(origin) = board.decided(id)? {
            return Ok(Some((board, origin)));
        }
    }
    Ok(None)
}

impl FileBoard {
    fn decided(&self, id: &str) -> Result<Option<Origin>, HomeError> {
        if !is_id(id) {
            return Ok(None);
        }
        let text = read_private(&self.path(id, DECIDED))?.filter(|bytes| bytes.len() <= FILE_BYTES_MAX);
        Ok(text.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(|origin: &Origin| origin.ask == id))
    }

    /// Keeps where an answered question came from. A question without a form came from nowhere.
    pub(super) fn keep_origin(&self, id: &str, question: &[u8]) -> Result<(), HomeError> {
        let path = self.path(id, DECIDED);
        let io = |source: std::io::Error| HomeError::Io { path: path.clone(), source };
        let Ok(posted) = serde_json::from_slice::<Posted>(question) else { return Ok(()) };
        write_private(&path, &serde_json::to_vec(&posted.origin()).map_err(|e| io(e.into()))?)
    }
}
