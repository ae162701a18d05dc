//! Is each secret that a route needs there, now and here? Said before a run fails for it; as far as no command has to
//! be run to know.
//!
//! *Must never* print a secret's value or run its command.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use carboy_control::vault::{Presence, VaultError, look};
use carboy_core::ids::{BottleName, SecretName};
use carboy_manifest::chat::Dotenv;
use carboy_manifest::view::EffectiveView;
use carboy_manifest::{CheckReport, Manifest, Request, SecretFrom};
use serde::Serialize;

use crate::applications::ProgramFiles;
use crate::environment::Environment;
use crate::report::{Palette, printable};

/// One secret. As JSON: `{secret, bottles, state, dotenv?, what?, fix?}`.
#[derive(Debug, Serialize)]
pub struct Needed {
    /// Its name.
    pub secret: SecretName,
    /// Bottles that need it.
    pub bottles: Vec<BottleName>,
    /// Is it there?
    pub state: State,
    /// The `.env` that holds it, where nothing else does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dotenv: Option<PathBuf>,
    /// What is the matter, or what was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// The next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Is a secret there?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A run that starts now finds it.
    Ready,
    /// A run that starts now ends for it.
    Missing,
    /// A command gives it, which was not run.
    NotRun,
}

/// The `.env` of a chat agent: where it is or would be, and what was read of it.
pub struct Beside {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub read: Option<Dotenv>,
}

/// Those of the one that was asked for.
pub fn of_one(effective: &EffectiveView, environment: &Environment, beside: Option<&Beside>) -> Vec<Needed> {
    // A chat agent without a bottle runs in one of its own.
    let bottles = || match effective.bottles.as_slice() {
        [] => vec![effective.bottle.clone()],
        named => named.to_vec(),
    };
    let found = effective.secrets.iter().map(|(name, from)| {
        let needed = needed(name, &from.source, bottles(), environment);
        match (beside, &from.source, needed.state) {
            (Some(beside), SecretFrom::Env(variable), State::Missing) => of_dotenv(needed, beside, variable),
            (Some(_) | None, _, _) => needed,
        }
    });
    found.collect()
}

/// What the environment does not have and the `.env` may.
fn of_dotenv(needed: Needed, beside: &Beside, variable: &str) -> Needed {
    let name = SecretName::parse(variable).unwrap_or_else(|_| needed.secret.clone());
    let (read, path) = (beside.read.as_ref(), printable(&beside.path.display().to_string()));
    if read.is_some_and(|dotenv| dotenv.secret(&name).is_some()) {
        return Needed { state: State::Ready, dotenv: Some(beside.path.clone()), what: None, fix: None, ..needed };
    }
    let other = "or say another place under `secrets:` in settings.yml";
    let fix = format!("write {name}=… into {path}, `export {name}=…` in the shell that starts it, {other}");
    let what = match (needed.what, read.is_some_and(|dotenv| dotenv.is_empty_line(&name))) {
        (Some(what), true) => Some(format!("{what}, and its line in {path} is empty")),
        (what, _) => what,
    };
    Needed { what, fix: Some(fix), ..needed }
}

/// Those of every bottle that is good.
pub fn of_all(report: &CheckReport, environment: &Environment) -> Vec<Needed> {
    let stems = report.files.iter().filter(|file| file.ok && file.path.parent() == Some(&environment.places.bottles()));
    let names = stems.filter_map(|file| BottleName::parse(file.path.file_stem()?.to_str()?).ok());
    let mut all: BTreeMap<SecretName, (SecretFrom, Vec<BottleName>)> = BTreeMap::new();
    for name in names {
        let request = Request { agent: None, bottles: vec![name.to_string()], places: environment.places.clone() };
        let Ok(effective) = Manifest::load(&ProgramFiles, &request) else { continue };
        for (secret, from) in effective.secrets() {
            all.entry(secret).or_insert_with(|| (from, Vec::new())).1.push(name.clone());
        }
    }
    all.into_iter().map(|(secret, (from, bottles))| needed(&secret, &from, bottles, environment)).collect()
}

fn needed(secret: &SecretName, from: &SecretFrom, bottles: Vec<BottleName>, environment: &Environment) -> Needed {
    let (state, what, fix) = match look(secret, from, environment.lookup.as_ref()) {
        Ok(Presence::Ready) => (State::Ready, None, None),
        Ok(Presence::NotRun { program }) => {
            (State::NotRun, Some(format!("{secret}: the command `{}` was not run", printable(&program))), None)
        }
        Err(error) => (State::Missing, Some(what(&error)), error.next_step().map(|step| printable(&step))),
    };
    Needed { secret: secret.clone(), bottles, state, dotenv: None, what, fix }
}

/// What is the matter, the secret first.
fn what(error: &VaultError) -> String {
    let error = match error {
        VaultError::Unset { name, variable } if variable == name.as_str() => return format!("{name}: not set here"),
        VaultError::Unset { name, variable } => format!("{name}: the variable {variable} is not set here"),
        VaultError::Missing { .. }
        | VaultError::Random { .. }
        | VaultError::File { .. }
        | VaultError::Json { .. }
        | VaultError::Command { .. }
        | VaultError::Unusable { .. } => error.to_string(),
    };
    printable(error.strip_prefix("secret ").unwrap_or(&error))
}

/// Warnings of those that are not there, notes of those that nobody looked for.
pub fn told(all: &[Needed], palette: Palette) -> String {
    let mut out = String::new();
    for one in all {
        let label = match one.state {
            State::Ready => continue,
            State::Missing => palette.warn("warning:"),
            State::NotRun => palette.faint("note:"),
        };
        let bottles: Vec<&str> = one.bottles.iter().map(BottleName::as_str).collect();
        let plural = if bottles.len() == 1 { "bottle" } else { "bottles" };
        let what = one.what.as_deref().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label} {what} ({plural} {})", bottles.join(", "));
        if let Some(fix) = &one.fix {
            let _ = writeln!(out, "  fix: {fix}");
        }
    }
    out
}
