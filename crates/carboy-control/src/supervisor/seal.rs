//! From a request to the bottle's spec: what is shown, what is set, what is generated.
//!
//! *Must never* show a path other than the one that was checked.

use std::path::{Path, PathBuf};

use carboy_bottle::LaunchError;
use carboy_core::ids::{RunId, SecretName};
use carboy_core::plan::{Access, Bind, BottleSpec, GeneratedFile, RootSource};
use carboy_core::route::{Route, RouteSet};
use carboy_manifest::{Effective, providers};

use super::{RunError, RunRequest};
use crate::home::private_dir;
use crate::inside::{EnvironmentParts, HostPlaces, environment};
use crate::resume::{self, Again};
use crate::seed;
use crate::workspace::{Held, worktree};

fn host_places(request: &RunRequest) -> HostPlaces {
    HostPlaces { user_home: request.places.home.clone(), carboy_home: request.home.root().to_owned() }
}

/// What the bottle writes, or its repository has brought: a program there is nobody's to run on the host.
pub(super) fn of_the_bottle(request: &RunRequest) -> Vec<PathBuf> {
    let binds = request.effective.binds.iter().chain(&request.binds);
    let writable = binds.filter(|bind| bind.access == Access::ReadWrite).map(|bind| bind.source.clone());
    let workdir = request.workplace.directory();
    let repository = workdir.and_then(worktree::common_directory);
    workdir.map(Path::to_owned).into_iter().chain([request.home.states()]).chain(repository).chain(writable).collect()
}

/// May the working directory be a bottle's at all? And the repository that it is a worktree of?
pub(super) fn may_be_shown(request: &RunRequest) -> Result<(), RunError> {
    let Some(workdir) = request.workplace.directory() else { return Ok(()) };
    let places = host_places(request);
    places.check_workspace(workdir)?;
    Ok(worktree::common_directory(workdir).map_or(Ok(()), |common| places.check_bind(&common))?)
}

/// Everything that is known of the bottle before it is made.
pub(super) fn bottle_spec(
    request: &RunRequest,
    run: &RunId,
    ca_pem: &str,
    held: &Held,
    root: RootSource,
) -> Result<BottleSpec, RunError> {
    let effective = &request.effective;
    let places = host_places(request);
    let workdir = request.workplace.directory();
    workdir.map_or(Ok(()), |workdir| places.check_workspace(workdir))?;
    let mut binds = effective.binds.clone();
    binds.extend(request.binds.iter().cloned());
    real_sources(&mut binds, workdir, &places)?;
    let written = workdir.into_iter().chain(held.repository.as_deref());
    for (at, path) in written.filter(|_| held.overlays.is_empty()).enumerate() {
        binds.insert(at, Bind { source: path.to_owned(), target: path.to_owned(), access: Access::ReadWrite });
    }
    for shown in held.overlays.iter().map(|o| &o.source).chain(&held.repository) {
        places.check_bind(shown)?;
    }
    let command = match &request.command[..] {
        [] if goes_on(request) => providers::resumed(&effective.provider, &request.task),
        [] => providers::command(&effective.provider, &request.task),
        command => command.to_vec(),
    };
    let (provider, withheld) = match seed::is_wanted(&effective.provider, &command) {
        true => seed::environment(effective),
        false => Default::default(),
    };
    let faked = faked_secrets(&effective.routes);
    let injected: Vec<SecretName> = faked.into_iter().filter(|name| !withheld.contains(name)).collect();
    let home = request.home.state(&effective.bottle).join("home");
    // Each on the way: whoever may write to one of them could put another directory in the home's place.
    for dir in [request.home.root().join("state"), request.home.state(&effective.bottle), home.clone()] {
        private_dir(&dir)?;
    }
    let host = |name: &str| request.lookup.variable(name).and_then(|v| v.into_string().ok());
    Ok(BottleSpec {
        name: effective.bottle.clone(),
        run: run.clone(),
        command,
        env: environment(EnvironmentParts {
            bottle: &effective.bottle,
            host: &host,
            terminal: request.terminal.clone(),
            trust: carboy_egress::trust_env(),
            provider,
            injected: &injected,
            manifest: &request.env_set,
            flags: &request.env,
        }),
        workdir: request.workplace.inside().to_owned(),
        home,
        binds,
        overlays: held.overlays.clone(),
        files: generated_files(effective, ca_pem, &root).into_iter().chain(request.scripts.iter().cloned()).collect(),
        root,
        limits: effective.limits,
        capture: effective.settings.capture.value,
        route_ports: effective.routes.ports(),
        inside_ports: crate::ports::inside_ports(effective),
        stdio: request.stdio,
        host_ids: request.host_ids.or(effective.settings.bottle_uid.value.map(|id| (id, id))),
    })
}

/// Is it started again, and has its program something to go on with?
fn goes_on(request: &RunRequest) -> bool {
    let home = request.home.state(&request.effective.bottle).join("home");
    let began = |again: &Again| resume::has_conversation(&request.effective.provider, &home, again.before.first_ms);
    request.again.as_ref().is_some_and(began)
}

/// Replaces each source by its real path and asks of that whether it may be shown: what is checked is what is mounted.
/// One that goes through a link in a writable bind is left as it is, and refused by the bottle.
fn real_sources(binds: &mut [Bind], workdir: Option<&Path>, places: &HostPlaces) -> Result<(), RunError> {
    let writable = binds.iter().filter(|b| b.access == Access::ReadWrite).filter_map(|b| b.source.canonicalize().ok());
    let writable: Vec<PathBuf> = writable.chain(workdir.map(Path::to_owned)).collect();
    for bind in binds {
        let unusable = |source| LaunchError::Source { path: bind.source.clone(), source };
        let real = bind.source.canonicalize().map_err(unusable)?;
        places.check_bind(&real)?;
        if !writable.iter().any(|root| bind.source.starts_with(root)) {
            bind.source = real;
        }
    }
    Ok(())
}

/// Certificates over those bundles that the system inside has, and the git identity.
fn generated_files(effective: &Effective, ca_pem: &str, root: &RootSource) -> Vec<GeneratedFile> {
    let trust = carboy_egress::trust_files(ca_pem).into_iter();
    let there = |path: &Path| match root {
        RootSource::Host => path.exists(),
        RootSource::Directory(root) => crate::image::holds(root, path),
    };
    let mut files: Vec<_> = trust
        .filter(|(path, _)| path.starts_with("/etc/carboy") || there(path))
        .map(|(path, content)| GeneratedFile { path, content })
        .collect();
    // M20, read by the system-wide file: the program may still write a ~/.gitconfig of its own.
    let identity = effective.git_user.gitconfig().map(String::into_bytes);
    files.extend(identity.map(|content| GeneratedFile { path: carboy_bottle::GIT_IDENTITY.into(), content }));
    files
}

/// The secrets that routes inject, placeholders' real values among them, once each.
pub(crate) fn injected_secrets(routes: &RouteSet) -> Vec<SecretName> {
    let names: std::collections::BTreeSet<_> = routes.iter().flat_map(Route::secrets).cloned().collect();
    names.into_iter().collect()
}

/// Those that a route sets whatever the program sends: inside, each name holds a fake that says so.
pub(crate) fn faked_secrets(routes: &RouteSet) -> Vec<SecretName> {
    let names: std::collections::BTreeSet<_> =
        routes.iter().filter_map(|route| route.auth.as_ref()).map(|auth| auth.secret.clone()).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_checked_where_its_links_lead() {
        // B51: an earlier bottle, whose workspace this directory was, exchanged it for a link.
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in [".ssh", "tools", "workspace"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(root.join(to), root.join(at)).unwrap();
        link(".ssh", "cache");
        link("tools", "linked");
        link("tools", "workspace/linked");
        let places = HostPlaces { user_home: root.clone(), carboy_home: root.join(".carboy") };
        let real = |below: &str| {
            let source = root.join(below);
            let mut binds = [Bind { target: source.clone(), source, access: Access::ReadOnly }];
            real_sources(&mut binds, Some(&root.join("workspace")), &places).map(|()| binds[0].source.clone())
        };
        assert!(matches!(real("cache"), Err(RunError::Show(_))));
        assert_eq!(real("linked").unwrap(), root.join("tools"));
        // Left for the bottle to refuse.
        assert_eq!(real("workspace/linked").unwrap(), root.join("workspace/linked"));
    }
}
