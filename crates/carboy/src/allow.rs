//! `carboy allow`: opens what was refused, a host, or what a run proposes: for good in the bottle's file, or for a while in
//! its living runs.
//!
//! *Must never* open more than it shows: the change is printed with its consequence, read back by the reader of bottles
//! and compared before it is made.

mod diff;
mod grants;
mod save;

use carboy_control::explain::opens;
use carboy_control::refusal::{NoRoute, Opening, Refusal};
use carboy_control::registry::Answer;
use carboy_core::host::{HostError, HostPattern};
use carboy_core::ids::{RefusalId, RunId};
use carboy_manifest::edit::{NewMatch, NewPath, NewRoute};

use crate::args::AllowArgs;
use crate::environment::Environment;
use crate::explain::found;
use crate::report::{Exit, Failure, printable};
use crate::terminal;

pub use save::proposed_diff;

/// Decides what is meant and does it.
pub fn allow(args: &AllowArgs, environment: &Environment) -> Result<u8, Failure> {
    if let Some(run) = &args.list {
        return grants::list(run.as_deref(), args.json, environment);
    }
    if let Some(id) = &args.revoke {
        return grants::revoke(id, environment);
    }
    let target = args.target.as_deref().unwrap_or_default();
    let wanted = match Target::of(target)? {
        Target::Refusal(id) => of_refusal(&id, args, environment)?,
        Target::Run(run) => return proposal(&run, args, environment),
        Target::Host(host) => Wanted { bottle: named_bottle(args)?, route: of_host(&host, args), refusal: None },
    };
    match args.duration {
        Some(time) => grants::open(&wanted, time, args, environment),
        None => {
            say!("opens {}", printable(&opens(&wanted.route)));
            save::save(&wanted.bottle, &[wanted.route], save::How::of(args), environment)
        }
    }
}

/// What is to be opened, and where.
struct Wanted {
    bottle: String,
    route: NewRoute,
    refusal: Option<String>,
}

enum Target {
    Refusal(RefusalId),
    Run(RunId),
    Host(HostPattern),
}

impl Target {
    fn of(text: &str) -> Result<Target, Failure> {
        // A host has a dot or is an address; what looks like an id is one, or a slip of the finger.
        if text.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(RefusalId::PREFIX)) && !text.contains('.') {
            return RefusalId::parse(text).map(Target::Refusal).map_err(|e| Failure::new(Exit::Usage, &e));
        }
        if text.starts_with("r-") && !text.contains('.') {
            return RunId::parse(text).map(Target::Run).map_err(|e| Failure::new(Exit::Usage, &e));
        }
        HostPattern::parse(text).map(Target::Host).map_err(|e| not_a_host(text, &e))
    }
}

fn named_bottle(args: &AllowArgs) -> Result<String, Failure> {
    args.bottle.clone().ok_or_else(|| {
        Failure::words(Exit::Usage, "which bottle?")
            .hint("name it with `--bottle NAME`; for a refusal's id it is known: `carboy allow x-…`")
    })
}

fn of_host(host: &HostPattern, args: &AllowArgs) -> NewRoute {
    let only =
        NewMatch { paths: args.path.iter().cloned().map(NewPath::Prefix).collect(), methods: args.method.clone() };
    NewRoute {
        host: host.to_string(),
        ports: args.port.clone(),
        matches: if only == NewMatch::default() { Vec::new() } else { vec![only] },
        git_fetch: args.git_fetch,
        private: args.private,
    }
}

fn of_refusal(id: &RefusalId, args: &AllowArgs, environment: &Environment) -> Result<Wanted, Failure> {
    let refusals = found(id, environment)?;
    let (refusal, others) = refusals.split_first().expect("a search that found nothing is a failure");
    if others.iter().any(|other| !same(refusal, other)) {
        let text = format!("{id} names {} different refusals: ids are random, and two met", refusals.len());
        return Err(Failure::words(Exit::Found, text)
            .hint(format!("`carboy explain {id}` shows them; allow the host that is meant, with `--bottle NAME`")));
    }
    let opening = Opening { paths: args.path.clone(), methods: args.method.clone(), private: args.private };
    let mut route = refusal.route(&opening).map_err(|why| no_route(id, &why))?;
    if !args.port.is_empty() {
        route.ports.clone_from(&args.port);
    }
    route.git_fetch |= args.git_fetch;
    let bottle = args.bottle.clone().or_else(|| refusal.bottle.clone());
    let bottle = bottle.map_or_else(|| named_bottle(args), Ok)?;
    Ok(Wanted { bottle, route, refusal: Some(id.to_string()) })
}

fn same(one: &Refusal, other: &Refusal) -> bool {
    (&one.bottle, &one.asked) == (&other.bottle, &other.asked)
}

fn no_route(id: &RefusalId, why: &NoRoute) -> Failure {
    let exit = match why {
        NoRoute::NoPath => Exit::Usage,
        NoRoute::Leak
        | NoRoute::NotARoutes(_)
        | NoRoute::Inside(_)
        | NoRoute::Private(_)
        | NoRoute::NoHost(_)
        | NoRoute::Push => Exit::Refused,
    };
    Failure::words(exit, format!("{id}: {}", printable(&why.to_string())))
        .hint(format!("`carboy explain {id}` says what happened"))
}

/// What a run that learned proposes.
fn proposal(run: &RunId, args: &AllowArgs, environment: &Environment) -> Result<u8, Failure> {
    let narrowed =
        [!args.path.is_empty(), !args.method.is_empty(), !args.port.is_empty(), args.private, args.git_fetch];
    if args.duration.is_some() || narrowed.contains(&true) {
        return Err(Failure::words(Exit::Usage, "a proposal is applied as it stands, and for good")
            .hint("edit the file that the run's summary names, then say `carboy allow RUN`"));
    }
    let (bottle, routes) = save::read_proposal(run, environment)?;
    for route in &routes {
        say!("opens {}", printable(&opens(route)));
    }
    let bottle = args.bottle.clone().unwrap_or(bottle);
    save::save(&bottle, &routes, save::How::of(args), environment)
}

/// The person's yes, or that of `--yes`: where nobody can be asked, nothing is opened.
fn agreed(yes: bool) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    terminal::confirm("Open it? [y/N] ")
        .map_err(|_| Failure::words(Exit::Refused, "nothing was opened: there is no terminal to ask on; add `--yes`"))
}

/// Living runs of a bottle, or the one of this id.
fn living<'r>(runs: &'r [Answer], of: &str) -> Vec<&'r Answer> {
    runs.iter().filter(|run| run.record.run == of || run.record.bottle == of).collect()
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
        Err(_) => Failure::words(Exit::Usage, format!("{said}: {error}")).hint(
            "give a refusal's id (x-…), a host, as in `example.org`, or every name below a zone, as in `'*.example.org'`",
        ),
    }
}
