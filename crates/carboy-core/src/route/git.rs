//! What a request is to git, by its path and query alone.
//!
//! *Must never* read as no git what a server might read as a fetch or a push.

use super::path::{Readings, percent_decoded};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GitOperation {
    None,
    Fetch,
    Push,
}

/// Git over HTTP, smart and dumb (gitprotocol-http): `info/refs` announces the service, the two RPC paths do it.
/// Servers forgive a trailing slash, path parameters and letter case, so all of these count as the plain name.
pub(super) fn git_operation(readings: &Readings, query: &str) -> GitOperation {
    const PUSH: &str = "git-receive-pack";
    const FETCH: &str = "git-upload-pack";
    let segments: Vec<String> = readings.all().flat_map(|path| path.split('/')).map(bare_segment).collect();
    let asked = String::from_utf8_lossy(&percent_decoded(query)).to_ascii_lowercase();
    if segments.iter().any(|segment| segment == PUSH) || asked.contains(PUSH) {
        GitOperation::Push
    } else if segments.iter().any(|segment| segment == FETCH)
        || segments.windows(2).any(|pair| pair == ["info", "refs"])
    {
        GitOperation::Fetch
    } else {
        GitOperation::None
    }
}

/// A segment without its parameters and disguises.
fn bare_segment(segment: &str) -> String {
    let decoded = percent_decoded(segment);
    let text = String::from_utf8_lossy(&decoded).to_ascii_lowercase();
    text.split(';').next().unwrap_or("").trim().to_owned()
}
