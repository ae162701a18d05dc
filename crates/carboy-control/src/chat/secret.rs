//! The secrets of a chat agent that no route has: what its sessions are keyed with.
//!
//! ```text
//!  SESSION_SECRET in `secrets:` or the environment ─▶ that one
//!  development ─▶ CARBOY_HOME/session-secret, made once (0600)        production ─▶ an error (G41b)
//! ```
//!
//! *Must never* replace a secret that is there: every session would be lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use carboy_core::chat::Identity;
use carboy_core::ids::SecretName;
use carboy_core::ports::SecretSource;
use carboy_core::secret::SecretText;
use carboy_manifest::SecretFrom;
use carboy_manifest::chat::Dotenv;
use carboy_manifest::chat::dotenv::DOTENV_BYTES_MAX;

use super::{Beside, ChatError, ChatRequest};
use crate::fresh::random_text;
use crate::home::{HomeError, Reaches, draft_of};
use crate::supervisor::seal::injected_secrets;
use crate::vault::Vault;

/// The variable that holds it.
pub const SESSION_SECRET: &str = "SESSION_SECRET";
/// The file that it is made in, in development.
const FILE: &str = "session-secret";

/// Whether a secret may be made where nobody chose one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deployment {
    /// It may.
    #[default]
    Development,
    /// It may not (`--preset production`).
    Production,
}

/// The name under which the vault knows it.
pub fn session_secret() -> SecretName {
    SecretName::parse(SESSION_SECRET).expect("capital letters and `_` are a name")
}

/// Sees to it that `origins` or the environment has the session secret.
fn settle(origins: &mut BTreeMap<SecretName, SecretFrom>, request: &ChatRequest) -> Result<(), ChatError> {
    let name = session_secret();
    match (is_chosen(origins, request), request.deployment) {
        (true, Deployment::Development | Deployment::Production) => {}
        (false, Deployment::Production) => {
            return Err(ChatError::NoSessionSecret {
                beside: beside(request, &name),
                settings: request.places.settings(),
            });
        }
        (false, Deployment::Development) => {
            let path = request.home.root().join(FILE);
            make(&path)?;
            origins.insert(name, SecretFrom::File(path));
        }
    }
    Ok(())
}

/// The session secret that its conversations were kept with. None is made: it would open nothing.
pub(crate) fn kept(request: &ChatRequest) -> Result<Arc<SecretText>, ChatError> {
    let (name, settings) = (session_secret(), request.places.settings());
    let said = request.effective.settings.secrets.iter();
    let mut origins: BTreeMap<_, _> = said.map(|(name, from)| (name.clone(), from.value.clone())).collect();
    if !is_chosen(&origins, request) {
        let path = request.home.root().join(FILE);
        if fs::symlink_metadata(&path).is_err() {
            return Err(ChatError::NoKeptSecret { beside: beside(request, &name), settings });
        }
        origins.insert(name.clone(), SecretFrom::File(path));
    }
    let vault = Vault::open(std::slice::from_ref(&name), origins, request.lookup.clone(), &settings)?;
    Ok(vault.current(&name).expect("the vault was opened with it"))
}

fn is_chosen(origins: &BTreeMap<SecretName, SecretFrom>, request: &ChatRequest) -> bool {
    let variable = request.lookup.variable(SESSION_SECRET);
    origins.contains_key(&session_secret()) || variable.is_some_and(|value| !value.is_empty())
}

/// Where the secrets come from; that of its sessions is made where it may be. No value is read.
fn origins(request: &ChatRequest) -> Result<BTreeMap<SecretName, SecretFrom>, ChatError> {
    let said = request.effective.settings.secrets.iter();
    let mut origins = said.map(|(name, from)| (name.clone(), from.value.clone())).collect();
    settle(&mut origins, request)?;
    Ok(origins)
}

/// G41b, before anything is made: the model's key is defined somewhere, and the session's secret is.
pub(super) fn is_there(request: &ChatRequest) -> Result<(), ChatError> {
    let origins = origins(request)?;
    let defined = |name: &SecretName| {
        let variable = request.lookup.variable(name.as_str());
        origins.contains_key(name) || variable.is_some_and(|value| !value.is_empty())
    };
    match request.spec.model.token_env.as_ref().filter(|name| !defined(name)) {
        Some(name) => Err(ChatError::NoModelKey {
            name: name.clone(),
            beside: beside(request, name),
            settings: request.places.settings(),
        }),
        None => Ok(()),
    }
}

/// Whether the `.env` beside the agent names a secret that is nowhere set.
fn beside(request: &ChatRequest, name: &SecretName) -> Beside {
    let Some(file) = &request.effective.chat else { return Beside::Nowhere };
    let path = file.dotenv(&request.places);
    let read = request.files.read(&path, DOTENV_BYTES_MAX).ok().flatten();
    let is_empty = read.is_some_and(|bytes| Dotenv::parse(&path, &bytes, &file.secrets()).0.is_empty_line(name));
    if is_empty { Beside::Empty(path) } else { Beside::Unsaid(path) }
}

/// Reads every secret that is needed now; one that is missing stops the start.
pub(super) fn vault(request: &ChatRequest) -> Result<Vault, ChatError> {
    let (origins, settings) = (origins(request)?, request.places.settings());
    let model_key = request.spec.model.token_env.as_ref();
    let webhook = request.effective.settings.notify.value.webhook.as_ref().and_then(|webhook| webhook.token.clone());
    let identity = match &request.spec.identity {
        Identity::SignedHeader { secret, .. } => Some(secret.clone()),
        Identity::Anonymous | Identity::Jwt { .. } => None,
    };
    let signed = request.spec.webhooks.as_ref().map(|webhooks| webhooks.secret.clone());
    let mut needed = injected_secrets(&request.effective.routes);
    for name in [Some(session_secret()), webhook, identity, model_key.cloned(), signed].into_iter().flatten() {
        if !needed.contains(&name) {
            needed.push(name);
        }
    }
    Ok(Vault::open(&needed, origins, request.lookup.clone(), &settings)?)
}

/// A file with a fresh secret, unless there is one; of two who make it at once the first one's stays.
fn make(path: &Path) -> Result<(), ChatError> {
    let io = |source| HomeError::Io { path: path.to_owned(), source };
    if fs::symlink_metadata(path).is_ok() {
        return Ok(()); // whether it may be used is for the vault to say, which reads it
    }
    let text = random_text()?;
    match draft_of(path).and_then(|draft| draft.fill(text.as_bytes(), Reaches::Disk)?.place(path)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => Ok(other.map_err(io)?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn g41b_in_development_a_session_secret_is_made_once_and_for_ones_own_eyes_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        make(&path).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!((first.len(), fs::metadata(&path).unwrap().permissions().mode() & 0o777), (64, 0o600));
        make(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }
}
