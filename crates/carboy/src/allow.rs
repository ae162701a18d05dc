//! `carboy allow`: a route added to a bottle's file, after the change has been read back and compared.

use carboy_control::disk::DiskFiles;
use carboy_control::home::write_private;
use carboy_core::host::HostPattern;
use carboy_manifest::edit::{NewRoute, add_route, adds_one_route};
use carboy_manifest::files::{Changed, FILE_BYTES_MAX};
use carboy_manifest::{Manifest, ManifestFiles, Request};

use crate::args::AllowArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure};

/// Adds the route, or shows what would be added.
pub fn allow(args: &AllowArgs, environment: &Environment) -> Result<u8, Failure> {
    let host =
        HostPattern::parse(&args.host).map_err(|e| Failure::words(Exit::Usage, format!("{}: {e}", args.host)))?;
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
    let added: String =
        changed.lines().filter(|line| !text.lines().any(|old| old == *line)).map(|l| format!("+ {l}\n")).collect();
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
