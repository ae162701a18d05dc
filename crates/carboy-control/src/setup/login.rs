//! Logins that programs of this host have made. *Must never* give what stands in them, only that they are there and where.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use carboy_core::secret::SecretText;

use super::{Surroundings, read_own};

/// Where `codex login` keeps the token of a subscription.
pub const CODEX_POINTER: &str = "/tokens/access_token";

/// The file of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginFile {
    /// Where.
    pub path: PathBuf,
    /// Whether others can read it: then no run takes it.
    pub open_to_others: bool,
}

/// The file of `codex login`, when it holds the token of a subscription.
pub fn codex(host: &Surroundings) -> Option<LoginFile> {
    let dir = host.variable("CODEX_HOME").map_or_else(|| host.home.join(".codex"), PathBuf::from);
    let path = dir.join("auth.json");
    let meta = std::fs::metadata(&path).ok()?;
    let text = SecretText::new(read_own(&path)?);
    text.expose().contains("\"access_token\"").then(|| LoginFile { path, open_to_others: meta.mode() & 0o077 != 0 })
}
