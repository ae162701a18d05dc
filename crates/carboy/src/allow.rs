//! `carboy allow`: a route added to a bottle's file, after the change has been read back and compared.

use carboy_control::disk::DiskFiles;
use carboy_control::home::write_private;
use carboy_core::host::{HostError, HostPattern};
use carboy_core::ids::RouteId;
use carboy_core::route::Route;
use carboy_manifest::edit::{NewRoute, add_route, adds_one_route};
use carboy_manifest::files::{Changed, FILE_BYTES_MAX};
use carboy_manifest::{Effective, Manifest, ManifestFiles, Request};

use crate::args::AllowArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, printable};

/// Adds the route, or shows what would be added.
pub fn allow(args: &AllowArgs, environment: &Environment) -> Result<u8, Failure> {
    let host = HostPattern::parse(&args.host).map_err(|e| not_a_host(&args.host, &e))?;
    let places = environment.places.clone();
    let path = places.bottles().join(format!("{}.md", args.bottle));
    let request = Request { agent: None, bottles: vec![args.bottle.clone()], places };
    let invalid = |e: carboy_manifest::Diagnostics| Failure::diagnostics(Exit::Config, &e);
    let before = Manifest::load(&DiskFiles, &request).map_err(invalid)?;
    let text = DiskFiles.read(&path, FILE_BYTES_MAX).map_err(|e| Failure::new(Exit::Failed, &e))?.unwrap_or_default();
    let text = String::from_utf8(text).map_err(|e| Failure::new(Exit::Config, &e))?;
    let route = NewRoute {
        host: host.to_string(),
        ports: args.port.clone(),
        paths: args.path.clone(),
        methods: args.method.iter().map(|m| m.to_ascii_uppercase()).collect(),
        git_fetch: args.git_fetch,
    };
    let changed =
        add_route(&text, &route).map_err(|e| Failure::words(Exit::Config, format!("{}: {e}", path.display())))?;
    let files = Changed { files: &DiskFiles, path: &path, content: changed.as_bytes() };
    let after = Manifest::load(&files, &request).map_err(invalid)?;
    if !adds_one_route(&before, &after) {
        return Err(Failure::words(Exit::Failed, format!("{}: the change would touch other routes", path.display()))
            .hint("add the route by hand; docs/manifest.md shows how"));
    }
    if already_there(&before, &after) {
        eprintln!("{} allows {host} already; nothing was changed", path.display());
        return Ok(0);
    }
    let added: String = added_lines(&text, &changed).iter().map(|line| format!("+ {line}\n")).collect();
    print(added.as_bytes())?;
    if args.dry_run {
        return Ok(0);
    }
    // A link into somebody's own collection stays a link: the file behind it is what changes.
    let file = path.canonicalize().map_err(|e| Failure::words(Exit::Failed, format!("{}: {e}", path.display())))?;
    write_private(&file, changed.as_bytes()).map_err(|e| Failure::new(Exit::Failed, &e))?;
    eprintln!("{} now allows {host}; runs that live take it over within a second", path.display());
    Ok(0)
}

/// The lines between what both texts begin with and what both end with.
fn added_lines<'t>(before: &str, after: &'t str) -> Vec<&'t str> {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let front = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    let (before, after) = (&before[front..], &after[front..]);
    let back = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    after[..after.len() - back].to_vec()
}

/// Is the route that was added the same as one that stood there? Their numbers aside.
fn already_there(before: &Effective, after: &Effective) -> bool {
    let plain = |effective: &Effective| -> Vec<String> {
        let whole = |route: &Route| Route { id: RouteId::new(0, &route.host), ..route.clone() };
        effective.routes.iter().map(|route| format!("{:?}", whole(route))).collect()
    };
    let before = plain(before);
    plain(after).iter().all(|route| before.contains(route))
}

fn not_a_host(text: &str, error: &HostError) -> Failure {
    let said = printable(text);
    // What people paste is an address of a page, or a host with its port.
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, format!(" --port {port}")),
        Some(_) | None => (host, String::new()),
    };
    match HostPattern::parse(host) {
        Ok(host) => Failure::words(Exit::Usage, format!("{said} is not a host alone"))
            .hint(format!("give the host alone: `carboy allow {host}{port} …`")),
        Err(_) => Failure::words(Exit::Usage, format!("{said}: {error}"))
            .hint("give a host, as in `example.org`, or every name below a zone, as in `'*.example.org'`"),
    }
}
