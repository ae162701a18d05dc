//! `carboy explain ID`: why something was refused, whether it would be now, and what would allow it.

use std::fmt::Write as _;

use carboy_control::explain::{Allow, Explanation, Lasting, Now, explain as explained};
use carboy_control::log::SEARCH_BYTES_MAX;
use carboy_control::refusal::{Asked, Refusal, look_up};
use carboy_control::registry::{self, Answer};
use carboy_core::ids::RefusalId;

use crate::applications::ProgramFiles;
use crate::audit::failed;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

/// Explains one refusal.
pub fn explain(id: &RefusalId, json: bool, environment: &Environment) -> Result<u8, Failure> {
    let refusals = found(id, environment)?;
    let several = refusals.len() > 1;
    let all: Vec<Explanation> = refusals
        .into_iter()
        .map(|refusal| {
            let living = living(&refusal, environment);
            let grants: Vec<_> = living.iter().flat_map(|run| run.grants.iter().cloned()).collect();
            let mut one = explained(refusal, &ProgramFiles, &environment.places, &grants);
            if let (Allow::By(commands), true) = (&mut one.allow, living.is_empty()) {
                // What opens something in living runs would fail where none lives.
                commands.retain(|command| command.lasting == Lasting::ForGood);
            }
            one
        })
        .collect();
    if json {
        let mut out = String::new();
        for one in &all {
            out.push_str(&serde_json::to_string(one).map_err(|e| Failure::new(Exit::Failed, &e))?);
            out.push('\n');
        }
        return print(out.as_bytes());
    }
    if several {
        say!("{} refusals have this id, the latest first: ids are random, and two met", all.len());
    }
    let palette = Palette::stdout();
    let pages: Vec<String> = all.iter().map(|one| page(one, palette)).collect();
    print(report::wrapped(&pages.join("\n"), report::columns(std::io::stdout())).as_bytes())
}

/// The refusals of this id, the latest first; a failure when there is none.
pub fn found(id: &RefusalId, environment: &Environment) -> Result<Vec<Refusal>, Failure> {
    let search = look_up(&environment.home.audit_log(), id).map_err(failed)?;
    if !search.refusals.is_empty() {
        return Ok(search.refusals);
    }
    let failure = Failure::words(Exit::Found, format!("the log has no refusal {id}"));
    Err(if search.not_searched > 0 {
        failure.hint(format!("only the last {} GiB were searched", SEARCH_BYTES_MAX >> 30))
    } else {
        failure.hint("ids look like x-4k7m2q; `carboy logs --refused` shows those of the latest run")
    })
}

/// The runs of its bottle that live.
fn living(refusal: &Refusal, environment: &Environment) -> Vec<Answer> {
    // Not to know them makes the answer narrower, never wider.
    let runs = registry::live_runs(&environment.home).unwrap_or_default();
    runs.into_iter().filter(|run| Some(&run.record.bottle) == refusal.bottle.as_ref()).collect()
}

fn page(one: &Explanation, palette: Palette) -> String {
    let refusal = &one.refusal;
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        // Writing to a String cannot fail. Whatever was asked for was chosen in a bottle.
        let _ = writeln!(out, "{} {}", palette.faint(&format!("{label:<9}")), text);
    };
    let shown = |text: &Option<String>| printable(text.as_deref().unwrap_or("-"));
    line("refusal", format!("{}, {}", palette.strong(&refusal.id), printable(&refusal.when)));
    let agent = refusal.agent.as_ref().map(|agent| format!(", agent {}", printable(agent))).unwrap_or_default();
    line("by", format!("run {} of bottle {}{agent}", shown(&refusal.run), shown(&refusal.bottle)));
    line("asked", printable(&asked(&refusal.asked)));
    line("why", format!("{}: {}", palette.bad(refusal.reason.code()), one.what));
    if let Some(detail) = &refusal.detail {
        line("", printable(detail));
    }
    for finding in &refusal.findings {
        line("found", printable(finding));
    }
    if let Some(rule) = &refusal.rule {
        let misfit = if refusal.misfit.is_empty() {
            String::new()
        } else {
            format!("; what did not fit: {}", refusal.misfit.join(", "))
        };
        line("rule", printable(&format!("{rule}{misfit}")));
    }
    match &one.now {
        Now::Allowed { route } => line("now", palette.good(&printable(&format!("allowed, by route {route}")))),
        Now::NotTheRoutes => line("now", "the routes have nothing against it; it was refused for what it was".into()),
        Now::Refused { reason, what, nearest } => {
            line("now", format!("refused: {}, {what}", palette.bad(reason)));
            if let Some(near) = nearest {
                let misfit = near.misfit.join("; ");
                line("nearest", printable(&format!("route {}; what does not fit: {misfit}", near.route)));
            }
        }
        Now::Unknown { why, route: _ } => line("now", palette.warn(&printable(why))),
    }
    match &one.allow {
        Allow::By(commands) => {
            for command in commands {
                line("to allow", palette.strong(&printable(&command.command)));
                line("", printable(&command.opens));
            }
        }
        Allow::Nothing(why) => line("to allow", printable(why)),
    }
    line("more", one.docs.clone());
    out
}

fn asked(asked: &Asked) -> String {
    match asked {
        Asked::Name { host, query } => format!("the name {host} ({query})"),
        Asked::Connection { host, port } => format!("a connection to {host} port {port}"),
        Asked::Request { host, port, method, path, path_altered, git } => {
            let git = git.as_ref().map(|git| format!(", git {git}")).unwrap_or_default();
            let altered = if *path_altered { " (shortened, or something was taken out)" } else { "" };
            format!("{method} {path} on {host} port {port}{git}{altered}")
        }
        Asked::Port { way, inside, outside } => {
            format!("a connection through `{way}`: port {inside} inside and {outside} outside")
        }
    }
}
