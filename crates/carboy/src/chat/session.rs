//! Which conversation goes on: a new one, or the last that this person had with this agent.
//!
//! *Must never* put a conversation's id where others can read it: whoever knows it has the conversation.

use std::path::{Path, PathBuf};

use carboy_control::chat::{Asker, Principal, PrincipalKind, SessionId};
use carboy_control::home::{private_dir, read_private, write_private};
use carboy_core::audit::{hex, sha256};

use crate::args::Resumed;
use crate::report::{Exit, Failure};

/// Octets of a person's hash in the name of the file that holds their last conversation.
const WHOSE_BYTES: usize = 8;

/// Who talks, and in which conversation.
pub struct Conversation {
    asker: Asker,
    file: PathBuf,
    goes_on: bool,
}

/// Takes the last one up, or begins a new one.
pub fn begin(place: &Path, who: &str, which: Option<Resumed>) -> Result<Conversation, Failure> {
    private_dir(place).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let file = place.join(format!("last-{}", hex(&sha256(who.as_bytes())[..WHOSE_BYTES])));
    let last = match which {
        Some(Resumed::Last) => last(&file)?,
        Some(Resumed::New) | None => None,
    };
    if which == Some(Resumed::Last) && last.is_none() {
        say!("carboy: there is no last conversation: a new one begins");
    }
    let goes_on = last.is_some();
    let session = last.map_or_else(|| fresh(&file), Ok)?;
    let principal = Principal { id: who.to_owned(), kind: PrincipalKind::Terminal, roles: Default::default() };
    Ok(Conversation { asker: Asker { session, principal, address: None }, file, goes_on })
}

impl Conversation {
    /// For the engine.
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Was it begun before?
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Leaves it for a new one of the same person.
    pub fn anew(&mut self) -> Result<(), Failure> {
        self.asker.session = fresh(&self.file)?;
        self.goes_on = false;
        Ok(())
    }
}

fn fresh(file: &Path) -> Result<SessionId, Failure> {
    let session = SessionId::fresh().map_err(|e| Failure::new(Exit::Failed, &e))?;
    write_private(file, session.to_cookie().as_bytes()).map_err(|e| Failure::new(Exit::Failed, &e))?;
    Ok(session)
}

fn last(file: &Path) -> Result<Option<SessionId>, Failure> {
    let kept = read_private(file).map_err(|e| Failure::new(Exit::Failed, &e))?;
    Ok(kept.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| SessionId::from_cookie(text.trim())))
}
