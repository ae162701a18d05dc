//! The run's secrets on their way from the vault to the scanners, and this process's own protection.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use carboy_core::ids::SecretName;
use carboy_core::route::RouteSet;
use carboy_egress::Gateway;
use carboy_guard::Detectors;

use super::RunError;
use crate::vault::Vault;

/// A secret of so many bytes is recognised within a variable; a shorter one would be found in harmless words.
const SECRET_INSIDE_BYTES_MIN: usize = 8;

/// `--env KEY` out of habit, or a bottle's file with a key in it: the program does not start with what it must not hold.
pub(super) fn no_secret_inside(env: &BTreeMap<String, String>, vault: &Vault) -> Result<(), RunError> {
    let known = vault.known();
    let carries = |value: &str, secret: &str| {
        value == secret || secret.len() >= SECRET_INSIDE_BYTES_MIN && value.contains(secret)
    };
    for (variable, value) in env {
        if let Some((secret, _)) = known.iter().find(|(_, secret)| carries(value, secret.expose())) {
            return Err(RunError::SecretInside { variable: variable.clone(), secret: secret.clone() });
        }
    }
    Ok(())
}

/// Makes the placeholders of these routes and gives the variables that hold them inside, less those that the person set by
/// hand for this run.
pub(crate) fn placeholders(
    routes: &RouteSet,
    vault: &Vault,
    by_hand: &[(String, String)],
    settings: &Path,
) -> Result<BTreeMap<String, String>, RunError> {
    let all = || routes.iter().flat_map(|route| &route.credentials);
    let names: Vec<SecretName> = all().map(|one| one.secret.clone()).collect();
    vault.mint(&names, settings)?;
    let made = vault.placeholders();
    let wanted = all().filter(|one| by_hand.iter().all(|(name, _)| *name != one.variable));
    Ok(wanted.filter_map(|one| Some((one.variable.clone(), made.get(&one.secret)?.clone()))).collect())
}

/// The scanners for every value that the vault knows.
pub(crate) fn detectors(key: [u8; 32], vault: &Vault) -> Result<Detectors, RunError> {
    let mut builder = Detectors::builder(key);
    for (name, value) in vault.known() {
        builder = builder.known_secret(&name, &value);
    }
    for (name, placeholder) in vault.placeholders() {
        builder = builder.placeholder(&name, &placeholder);
    }
    builder.build().map_err(|e| RunError::Secret(e.to_string()))
}

/// A secret that was renewed during the run is looked for like the others.
pub(crate) fn look_for_renewed(vault: &Arc<Vault>, gateway: &Arc<Gateway>, fingerprint_key: [u8; 32]) {
    let (weak_vault, weak_gateway) = (Arc::downgrade(vault), Arc::downgrade(gateway));
    vault.on_renewal(move || {
        let (Some(vault), Some(gateway)) = (weak_vault.upgrade(), weak_gateway.upgrade()) else { return };
        match detectors(fingerprint_key, &vault) {
            Ok(fresh) => gateway.replace_detectors(Arc::new(fresh)),
            // A secret that cannot be looked for is not used: nothing passes any more.
            Err(_) => gateway.shutdown(),
        }
    });
}

/// From here on this process holds secrets: no core dump, no `ptrace`, no `/proc/PID/mem` by the same user (D5).
pub(crate) fn undumpable() -> Result<(), RunError> {
    crate::controller::process::undumpable()
        .map_err(|source| RunError::System { what: "protect this process's memory", source })
}
