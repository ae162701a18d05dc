//! The machine's own settings, over those of each user.
//!
//! *Must never* take a file that somebody other than root can have written, and *must never* go on without one that is there
//! and cannot be taken: a user could then loosen what the machine's owner has said by making it unreadable.

use std::collections::BTreeSet;
use std::path::Path;

use carboy_core::host::Host;
use carboy_core::upstream::Upstreams;

use super::{Origin, Settings, Sourced, read_in};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position};
use crate::files::{FILE_BYTES_MAX, FileError, ManifestFiles, Places, SYSTEM_SETTINGS};
use crate::schema::Scope;

/// The system's settings; `None` when there are none.
pub(super) fn load(files: &dyn ManifestFiles, places: &Places, out: &mut Diagnostics) -> Option<Settings> {
    let file = Path::new(SYSTEM_SETTINGS);
    let bytes = match files.read_of_root(file, FILE_BYTES_MAX) {
        Ok(found) => found?,
        Err(error) => {
            let code = match error {
                FileError::TooLarge { .. } => Code::FileTooLarge,
                FileError::Unreadable(_) => Code::FileUnreadable,
            };
            let fix = "have root make it root's alone (`chown root:root`, `chmod 644`, its directory `chmod 755`), or remove it";
            out.push(Diagnostic::error(code, error.to_string(), fix).at(file, Position::START));
            return None;
        }
    };
    let start = out.kept();
    let owner = "settings.yml";
    let mut scope = Scope { file, owner, home: &places.home, carboy_home: &places.carboy_home, out };
    let settings = read_in(&mut scope, files, &bytes);
    out.sort_from(start);
    Some(settings)
}

/// The user's settings, with what the system's say over them.
pub(super) fn over(system: Settings, mut user: Settings) -> Settings {
    user.secrets.extend(system.secrets);
    // Of a host that the system names, no entry of the user's is left: one with a port would win over one without.
    let named: BTreeSet<Host> = system.upstreams.iter().map(|(host, ..)| host.clone()).collect();
    let mut upstreams = Upstreams::default();
    let of_user = user.upstreams.iter().filter(|(host, ..)| !named.contains(host));
    for (host, port, upstream) in of_user.chain(system.upstreams.iter()) {
        upstreams.insert(host.clone(), port, upstream.clone());
    }
    user.upstreams = upstreams;
    user.upstream_origins.retain(|(host, _), _| !named.contains(host));
    user.upstream_origins.extend(system.upstream_origins);
    said_over(&mut user.capture, system.capture);
    said_over(&mut user.bottle_uid, system.bottle_uid);
    said_over(&mut user.notify, system.notify);
    // Both are kept: which of their words is the stricter one is decided with the bottle's (`budget::together`).
    user.budgets.machine = system.budgets.own;
    user.chat.machine = system.chat.own;
    user.chat.model = user.chat.model.or(system.chat.model);
    user.sources.splice(0..0, system.sources);
    user
}

fn said_over<T>(user: &mut Sourced<T>, system: Sourced<T>) {
    match system.origin {
        Origin::Default | Origin::Environment { .. } | Origin::Flag { .. } => {}
        Origin::File { .. } => *user = system,
    }
}
