//! A repository's agent before it runs: what it selects is shown, and a person answers (M39).

use std::fmt::Write as _;

use carboy_control::home::Home;
use carboy_control::supervisor::RunError;
use carboy_control::trust::TrustStore;
use carboy_manifest::view::RouteView;
use carboy_manifest::{Effective, LoadError, Manifest, NeedsTrust, Request};

use crate::applications::ProgramFiles;
use crate::report::{Exit, Failure, printable};
use crate::terminal;

/// Most lines of a prompt, and most routes, that are shown; the file is named for the rest.
const LINES_MAX: usize = 12;

/// Who answers the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The person at the terminal, if there is one.
    Ask,
    /// `--trust` has answered it.
    Yes,
}

/// Loads what is to be run, after the question has been answered where there is one.
pub fn load(request: &Request, home: &Home, answer: Answer) -> Result<Effective, Failure> {
    let mut store = TrustStore::open(home).map_err(|e| Failure::new(Exit::Config, &e))?;
    let asked = match Manifest::load_trusting(&ProgramFiles, request, &store) {
        Ok(effective) => return Ok(effective),
        Err(error) => needed(error)?,
    };
    say_part!("{}", shown(&asked));
    if answer == Answer::Ask && !agreed(&asked)? {
        return Err(Failure::words(Exit::Refused, format!("agent `{}` was not started", asked.agent)));
    }
    store.remember(&asked.file.file, &asked.file.sha256).map_err(|e| Failure::new(Exit::Failed, &e))?;
    // Read again: what has changed in the meantime is not what was agreed to.
    Manifest::load_trusting(&ProgramFiles, request, &store).map_err(|error| match needed(error) {
        Ok(_) => Failure::words(Exit::Refused, format!("{} has changed just now", asked.file.file.display()))
            .hint("start it again, and look at it again"),
        Err(failure) => failure,
    })
}

fn needed(error: LoadError) -> Result<Box<NeedsTrust>, Failure> {
    match error {
        LoadError::NeedsTrust(asked) => Ok(asked),
        LoadError::Invalid(diagnostics) => Err(crate::run::failure(RunError::Manifest(diagnostics))),
    }
}

fn agreed(asked: &NeedsTrust) -> Result<bool, Failure> {
    match terminal::confirm("Run it? [y/N] ") {
        Ok(yes) => Ok(yes),
        Err(_) => Err(Failure::words(Exit::Refused, LoadError::NeedsTrust(Box::new(asked.clone())).to_string())
            .hint("there is no terminal to ask on: look at the file, then add `--trust`")),
    }
}

/// One route as a person reads it, here and in `carboy check`: `a.example port 443: GET /v1; with API_KEY`.
pub fn route_line(route: &RouteView) -> String {
    let ports: Vec<String> = route.ports.iter().map(u16::to_string).collect();
    let allowed = match (route.matches.is_empty(), route.git_fetch) {
        (true, false) => "all requests".to_owned(),
        (true, true) => "all requests; git clone and fetch".to_owned(),
        (false, false) => route.matches.join("; "),
        (false, true) => format!("{}; git clone and fetch", route.matches.join("; ")),
    };
    let private = if route.private { ", at private addresses too" } else { "" };
    let set = route.auth.iter().map(|auth| format!("; with {}", auth.secret));
    let placeholders =
        route.credentials.iter().map(|one| format!("; with {} for its placeholder in ${}", one.words(), one.env));
    let credentials: String = set.chain(placeholders).collect();
    format!("{} port {}: {allowed}{private}{credentials}", route.host, ports.join(", "))
}

/// The question for people.
fn shown(asked: &NeedsTrust) -> String {
    let mut out = String::new();
    let bottles: Vec<&str> = asked.bottles.iter().map(|name| name.as_str()).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "agent {} comes from the working directory, and is new or has changed:", asked.agent);
    let _ = writeln!(out, "  file       {}", printable(&asked.file.file.display().to_string()));
    let _ = writeln!(out, "  sha256     {}", asked.file.sha256);
    let _ = writeln!(out, "  bottle     {}", bottles.join(", "));
    for (i, route) in asked.routes.iter().take(LINES_MAX).enumerate() {
        let label = if i == 0 { "routes" } else { "" };
        let _ = writeln!(out, "  {label:<10} {}", printable(&route_line(route)));
    }
    match asked.routes.len() {
        0 => out.push_str("  routes     none: it reaches nothing\n"),
        count if count > LINES_MAX => {
            let _ =
                writeln!(out, "             and {} more; `carboy check {}` shows all", count - LINES_MAX, asked.agent);
        }
        _ => {}
    }
    if let (Some(name), email) = (&asked.git_user.name, &asked.git_user.email) {
        let line = format!("{name} <{}>", email.as_deref().unwrap_or("no address"));
        let _ = writeln!(out, "  commits as {}", printable(&line));
    }
    for (i, line) in asked.runs.iter().enumerate() {
        let _ = writeln!(out, "  {:<10} {}", if i == 0 { "runs" } else { "" }, printable(line));
    }
    for (i, line) in asked.prompt.lines().take(LINES_MAX).enumerate() {
        let _ = writeln!(out, "  {:<10} {}", if i == 0 { "prompt" } else { "" }, printable(line));
    }
    if asked.prompt.lines().count() > LINES_MAX {
        out.push_str("             and so on; the file has all of it\n");
    }
    out
}
