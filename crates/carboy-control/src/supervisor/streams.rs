//! What is joined to a run beside its door: the session with the program's streams, and who is called when nobody looks.

use std::path::Path;
use std::sync::Arc;

use carboy_bottle::Stdio;
use carboy_core::audit::Subject;
use carboy_core::plan::StdioMode;
use carboy_core::ports::SecretSource;
use carboy_store::audit::AuditLog;

use super::control::Shared;
use super::{RunError, RunRequest, Tell};
use crate::notify::{DESKTOP_PROGRAM, Notifier, Notifying};
use crate::registry::RunRecord;
use crate::session::{First, Keep, Parts, Session, Streaming};
use crate::vault::Vault;

/// The session of the run: it has the program's streams, unless the caller takes them.
pub(super) fn session(
    streaming: &Streaming,
    mode: StdioMode,
    shared: &Arc<Shared>,
    notifier: &Arc<Notifier>,
    stdio: &mut Option<Stdio>,
    run_dir: &Path,
) -> Result<Arc<Session>, RunError> {
    let (streams, first, keep_in) = match streaming {
        Streaming::Direct => (None, First::Nobody, None),
        Streaming::Session { first, keep: Keep::Output, .. } => (stdio.take(), *first, Some(run_dir.to_owned())),
        Streaming::Session { first, keep: Keep::Nothing, .. } => (stdio.take(), *first, None),
    };
    let size = match mode {
        StdioMode::Terminal { rows, cols } => (rows, cols),
        StdioMode::Pipes => (0, 0),
    };
    let bottle = Arc::downgrade(shared);
    let resize = move |rows, cols| {
        if let Some(shared) = bottle.upgrade() {
            // A bottle that has just ended has no terminal to tell.
            let _ = shared.bottle.resize(rows, cols);
        }
    };
    let bottle = Arc::downgrade(shared);
    let signal = move |signal| {
        if let Some(shared) = bottle.upgrade() {
            let _ = shared.bottle.signal(signal);
        }
    };
    let (caller, notifier) = (Arc::downgrade(shared), notifier.clone());
    let hear = move |call| {
        let session = caller.upgrade().and_then(|shared| shared.session.get().cloned());
        notifier.called(&call, session.map_or(0, |session| session.viewers()));
    };
    let parts = Parts {
        signal: Box::new(signal),
        stdio: streams,
        first,
        keep_in,
        resize: Box::new(resize),
        hear: Box::new(hear),
        size,
    };
    Session::open(parts).map_err(|source| RunError::System { what: "hold the program's streams", source })
}

/// What calls the person when nobody is there.
pub(super) fn notifier(
    request: &RunRequest,
    record: &RunRecord,
    (vault, fingerprint_key): (&Arc<Vault>, [u8; 32]),
    audit: &Arc<AuditLog>,
    subject: &Subject,
) -> Arc<Notifier> {
    let settings = request.effective.settings.notify.value.clone();
    let started_at = match &request.streaming {
        Streaming::Direct => None,
        Streaming::Session { started_at, .. } => started_at.clone(),
    };
    let token = settings.webhook.as_ref().and_then(|webhook| webhook.token.as_ref());
    let known = vault.clone();
    Notifier::open(Notifying {
        looked_for: Box::new(move || super::secrets::detectors(fingerprint_key, &known).ok()),
        token: token.and_then(|name| vault.current(name)),
        settings,
        upstreams: request.effective.settings.upstreams.clone(),
        record: record.clone(),
        started_at,
        lookup: request.lookup.clone(),
        desktop: request.lookup.find(DESKTOP_PROGRAM),
        audit: audit.clone(),
        subject: subject.clone(),
    })
}

/// Who hears what carboy has to say while the program goes on.
pub(super) fn teller(streaming: &Streaming, direct: &Tell, session: &Arc<Session>) -> Tell {
    match streaming {
        Streaming::Direct => direct.clone(),
        Streaming::Session { .. } => {
            let session = session.clone();
            Arc::new(move |text| session.tell(text))
        }
    }
}
