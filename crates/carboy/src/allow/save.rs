//! For good: routes added to a bottle's file.
//!
//! *Must never* write a change that was not shown, or that the manifest's reader does not accept.

use carboy_control::disk::DiskFiles;
use carboy_control::home::{read_private, write_private};
use carboy_control::operator::decision;
use carboy_control::propose::FILE;
use carboy_control::summary::Summary;
use carboy_core::ids::{BottleName, RouteId, RunId};
use carboy_core::route::Route;
use carboy_manifest::edit::{NewRoute, add_route, adds_routes, alone};
use carboy_manifest::files::{Changed, FILE_BYTES_MAX};
use carboy_manifest::{Effective, Manifest, ManifestFiles, Places, Request};

use super::agreed;
use super::diff::unified;
use crate::args::AllowArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, printable};

/// How far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The change is shown, and that is all.
    Show,
    /// It is made; a person at a terminal is asked first.
    Ask,
    /// It is made.
    Yes,
}

impl How {
    pub fn of(args: &AllowArgs) -> How {
        match (args.dry_run, args.yes) {
            (true, _) => How::Show,
            (false, true) => How::Yes,
            (false, false) => How::Ask,
        }
    }
}

/// A change that was read back and compared.
struct Change {
    path: std::path::PathBuf,
    before: String,
    after: String,
}

/// Adds routes to a bottle's file, or shows what would be added.
pub fn save(bottle: &str, routes: &[NewRoute], how: How, environment: &Environment) -> Result<u8, Failure> {
    let hosts: Vec<&str> = routes.iter().map(|route| route.host.as_str()).collect();
    let (shown, hosts) = (printable(bottle), printable(&hosts.join(", ")));
    let Some(change) = prepare(bottle, routes, &environment.places)? else {
        say!("bottle {shown} allows {hosts} already; nothing was changed");
        return Ok(0);
    };
    print(unified(&change.path.display().to_string(), &change.before, &change.after).as_bytes())?;
    if how == How::Show {
        return Ok(0);
    }
    if !agreed(how == How::Yes)? {
        say!("nothing was changed");
        return Ok(Exit::Refused as u8);
    }
    // A link into somebody's own collection stays a link: the file behind it is what changes.
    let path = &change.path;
    let file = path.canonicalize().map_err(|e| Failure::words(Exit::Failed, format!("{}: {e}", path.display())))?;
    let hosts_allowed: Vec<String> = routes.iter().map(|route| route.host.clone()).collect();
    let decision = decision(bottle, "allow").with("file", path.display().to_string()).with("hosts", hosts_allowed);
    environment.write_down(decision)?;
    write_private(&file, change.after.as_bytes()).map_err(|e| Failure::new(Exit::Failed, &e))?;
    say!("{} now allows {hosts}; runs that live take it over within a second", path.display());
    Ok(0)
}

/// What applying a run's proposal would change, to be shown below its summary; empty where there is nothing to show.
pub fn proposed_diff(summary: &Summary) -> String {
    // The proposal stands in `state/<bottle>/runs/<run>/` below the home that the run was of.
    let file = summary.proposed.as_ref().and_then(|proposed| proposed.file.as_ref());
    let Some(home) = file.and_then(|file| file.ancestors().nth(5)) else { return String::new() };
    let diff = || -> Result<Option<String>, Failure> {
        let environment = Environment::look(Some(home.to_owned()))?;
        let run = RunId::parse(&summary.run).map_err(|e| Failure::new(Exit::Failed, &e))?;
        let (bottle, routes) = read_proposal(&run, &environment)?;
        let change = prepare(&bottle, &routes, &environment.places)?;
        Ok(change.map(|change| unified(&change.path.display().to_string(), &change.before, &change.after)))
    };
    match diff() {
        Ok(diff) => diff.unwrap_or_default(),
        Err(failure) => format!("{}\n", failure.message),
    }
}

/// None when everything is allowed already.
fn prepare(bottle: &str, routes: &[NewRoute], places: &Places) -> Result<Option<Change>, Failure> {
    let invalid = |e: carboy_manifest::Diagnostics| Failure::diagnostics(Exit::Config, &e);
    let request = Request { agent: None, bottles: vec![bottle.to_owned()], places: places.clone() };
    let before = Manifest::load(&DiskFiles, &request).map_err(invalid)?;
    // Loaded, so it is a name and no path; only this directory's files are ever changed.
    let path = places.bottles().join(format!("{bottle}.md"));
    let bytes = DiskFiles.read(&path, FILE_BYTES_MAX).map_err(|e| Failure::new(Exit::Failed, &e))?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|e| Failure::new(Exit::Config, &e))?;
    let mut changed = text.clone();
    let mut added = 0;
    for route in routes {
        let with =
            add_route(&changed, route).map_err(|e| Failure::words(Exit::Config, format!("{}: {e}", path.display())))?;
        let files = Changed { files: &DiskFiles, path: &path, content: with.as_bytes() };
        let after = Manifest::load(&files, &request).map_err(invalid)?;
        if !already_there(&before, &after) {
            (changed, added) = (with, added + 1);
        }
    }
    if added == 0 {
        return Ok(None);
    }
    let files = Changed { files: &DiskFiles, path: &path, content: changed.as_bytes() };
    let after = Manifest::load(&files, &request).map_err(invalid)?;
    if !adds_routes(&before, &after, added) {
        return Err(Failure::words(Exit::Failed, format!("{}: the change would touch other routes", path.display()))
            .hint("add the route by hand; docs/manifest.md shows how"));
    }
    Ok(Some(Change { path, before: text, after: changed }))
}

/// Is every route of the second one, the numbers aside, one of the first?
fn already_there(before: &Effective, after: &Effective) -> bool {
    let plain = |effective: &Effective| -> Vec<String> {
        let whole = |route: &Route| Route { id: RouteId::new(0, &route.host), ..route.clone() };
        effective.routes.iter().map(|route| format!("{:?}", whole(route))).collect()
    };
    let before = plain(before);
    plain(after).iter().all(|route| before.contains(route))
}

/// A run's proposal, as it stands on disk now: a person may have edited it.
pub fn read_proposal(run: &RunId, environment: &Environment) -> Result<(String, Vec<NewRoute>), Failure> {
    let states = std::fs::read_dir(environment.home.states()).into_iter().flatten().flatten();
    let names = states.filter_map(|entry| BottleName::parse(entry.file_name().to_str()?).ok());
    let kept = names.map(|name| (environment.home.run_dir(&name, run).join(FILE), name));
    let Some((file, bottle)) = kept.into_iter().find(|(file, _)| file.exists()) else {
        return Err(Failure::words(Exit::Found, format!("run {run} has no proposal"))
            .hint("`carboy run --learn …` makes one when something was refused"));
    };
    let failed = |what: String| Failure::words(Exit::Config, format!("{}: {what}", file.display()));
    if std::fs::symlink_metadata(&file).is_ok_and(|meta| meta.len() > FILE_BYTES_MAX) {
        return Err(failed(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    let bytes = read_private(&file).map_err(|e| Failure::new(Exit::Failed, &e))?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|e| failed(e.to_string()))?;
    let routes = alone::read(&text).map_err(|e| Failure::diagnostics(Exit::Config, &e))?;
    let by_hand = |route: &Route| failed(format!("route {} says more than a proposal can", route.id));
    let routes = routes.iter().map(|route| NewRoute::of(route).ok_or_else(|| by_hand(route)));
    Ok((bottle.to_string(), routes.collect::<Result<_, _>>()?))
}
