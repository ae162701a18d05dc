//! `--task`: what an agent is to do, from the command line, a file or standard input. And where its program is on this
//! host, when the bottle does not see it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use carboy_control::setup::Surroundings;
use carboy_control::setup::agents::{self, Inside};
use carboy_manifest::providers::{TASK_BYTES_MAX, Task};
use carboy_manifest::starter::Program;

use crate::report::{Exit, Failure, printable};

/// The task of `--task TEXT|@FILE|-`.
pub fn of(spec: Option<&str>) -> Result<Task, Failure> {
    let Some(spec) = spec else { return Ok(Task::Interactive) };
    let usage = |what: String| Failure::words(Exit::Usage, format!("--task: {what}"));
    let text = match spec.strip_prefix('@') {
        Some(path) => std::fs::File::open(path).and_then(text).map_err(|e| usage(format!("{}: {e}", printable(path)))),
        None if spec == "-" => text(std::io::stdin().lock()).map_err(|e| usage(format!("standard input: {e}"))),
        None => Ok(spec.to_owned()),
    }?;
    if text.trim().is_empty() {
        return Err(usage("there is nothing to do in it".into()).hint("`--task TEXT`, `--task @FILE`, or `--task -`"));
    }
    if text.len() > TASK_BYTES_MAX {
        return Err(usage(format!("larger than {TASK_BYTES_MAX} bytes"))
            .hint("put the long part into a file of the workspace and let the task name it"));
    }
    if text.contains('\0') {
        return Err(usage("it has a zero byte in it, which no argument of a program can have".into()));
    }
    Ok(Task::Headless(text))
}

/// No more than one byte over the limit, so that the limit can be told.
fn text(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(TASK_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Where an agent program of this host is, and what shows it to the bottle; nothing for other programs.
pub fn where_it_is(program: &str, workspace: &Path) -> Vec<String> {
    let name = program.rsplit('/').next().unwrap_or_default();
    let Some(known) = Program::ALL.into_iter().find(|known| known.name() == name) else { return Vec::new() };
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()) else {
        return Vec::new();
    };
    let host = Surroundings {
        carboy_home: std::env::var_os("CARBOY_HOME").map_or_else(|| home.join(".carboy"), PathBuf::from),
        home,
        workspace: workspace.to_owned(),
        environment: std::env::vars_os().collect(),
        etc: "/etc".into(),
    };
    let Some(found) = agents::find(&host, known) else {
        return vec![format!(
            "`{name}` was not found on this host either; install it, or set `command` of `agent_provider`"
        )];
    };
    let place = printable(&found.path.display().to_string());
    match found.inside {
        Ok(inside) => shown(name, &place, &inside),
        Err(why) => vec![format!("it is at {place} on this host, and cannot be shown: {}", printable(&why))],
    }
}

/// The lines of the bottle's file that show it.
fn shown(name: &str, place: &str, inside: &Inside) -> Vec<String> {
    let mut hints = vec![format!("it is at {place} on this host; in the bottle's file, these lines show it:")];
    if !inside.binds.is_empty() {
        let binds = inside.binds.iter().map(|bind| match &bind.target {
            Some(target) => format!("{}: {target}", bind.source.display()),
            None => format!("{}: ro", bind.source.display()),
        });
        let entries: Vec<String> = binds.map(|bind| printable(&bind)).collect();
        hints.push(format!("    binds: {{{}}}", entries.join(", ")));
    }
    if let Some(command) = &inside.command {
        let command = printable(&command.display().to_string());
        hints.push(format!("    agent_provider: {{name: {name}, command: {command}}}"));
    }
    hints
}
