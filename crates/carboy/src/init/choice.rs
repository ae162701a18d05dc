//! From the command line, the host and the answers: what a starter is made of.

use std::path::PathBuf;

use carboy_control::setup::agents::{self, InstalledAgent};
use carboy_control::setup::project::git_user;
use carboy_control::setup::propose::{Pinned, binds_of, path_variable};
use carboy_core::ids::BottleName;
use carboy_core::secret::SecretText;
use carboy_manifest::edit::settings::NewEntry;
use carboy_manifest::starter::{BindLine, Program, Starter, VariableLine};
use carboy_manifest::{Manifest, Request, Settings};

use super::answers::Answers;
use super::drafts::Drafted;
use super::login::{Desk, Settled, settle};
use super::{program_of, registries};
use crate::args::InitArgs;
use crate::environment::Environment;
use crate::report::{Exit, Failure};

/// Everything that is decided.
pub struct Choice {
    /// What the files are made of.
    pub starter: Starter,
    /// The agent program, when it is installed.
    pub agent: Option<InstalledAgent>,
    /// What the settings have to say.
    pub settings: Vec<NewEntry>,
    /// A key to keep, and its name.
    pub typed: Option<(String, SecretText)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Looks, asks and decides.
pub fn choose(args: &InitArgs, environment: &Environment, answers: &Answers) -> Result<Choice, Failure> {
    let host = environment.surroundings();
    let settings = settings(environment)?;
    let (program, agent) = program(args, &host, answers)?;
    let name = name(args, program)?;
    let mut notes = Vec::new();
    if let Some(program) = program {
        told(program, agent.as_ref(), answers, &mut notes);
    }
    let desk = Desk { args, answers, host: &host, settings: &settings, environment };
    let Settled { login, entry, typed, notes: of_login } = settle(&desk, program)?;
    notes.extend(of_login);
    let opened = registries::open(&desk)?;
    notes.extend(opened.notes);

    let inside = agent.as_ref().and_then(|agent| agent.inside.as_ref().ok());
    let mut binds = binds_of(inside, &opened.chosen);
    binds.extend(args.binds.iter().map(|spec| bind(spec, environment)).collect::<Result<Vec<_>, _>>()?);
    let of_agent = inside.map(|inside| inside.path.clone()).unwrap_or_default();
    let dirs: Vec<PathBuf> =
        of_agent.into_iter().chain(opened.chosen.iter().flat_map(|one| one.path.clone())).collect();
    let mut env: Vec<VariableLine> = path_variable(&dirs).into_iter().collect();
    env.extend(opened.chosen.iter().flat_map(|one| one.env.clone()));
    // One mirror may serve several tools.
    let mut pins: Vec<&Pinned> = Vec::new();
    for pin in opened.chosen.iter().flat_map(|one| &one.pinned) {
        if !pins.iter().any(|known| (&known.host, known.port) == (&pin.host, pin.port)) {
            pins.push(pin);
        }
    }
    Ok(Choice {
        settings: entry.into_iter().chain(pins.into_iter().map(Pinned::entry)).collect(),
        starter: Starter {
            name,
            program,
            command: inside.and_then(|inside| inside.command.clone()),
            login,
            presets: opened.chosen.iter().flat_map(|one| one.lines.clone()).collect(),
            offered: opened.offered,
            binds,
            env,
            git_user: git_user(&host),
            home: environment.places.home.clone(),
        },
        agent,
        typed,
        notes,
    })
}

/// The settings as they are; broken ones are not added to.
fn settings(environment: &Environment) -> Result<Settings, Failure> {
    let places = environment.places.clone();
    let file = places.bottles().join("carboy-init-reads-the-settings.md");
    let drafted = Drafted([(file, b"---\n---\n".to_vec())].into());
    let bottles = vec!["carboy-init-reads-the-settings".to_owned()];
    let loaded = Manifest::load(&drafted, &Request { agent: None, bottles, places });
    loaded.map(|effective| effective.settings).map_err(|e| Failure::diagnostics(Exit::Config, &e))
}

fn program(
    args: &InitArgs,
    host: &carboy_control::setup::Surroundings,
    answers: &Answers,
) -> Result<(Option<Program>, Option<InstalledAgent>), Failure> {
    if let Some(kind) = args.kind {
        let program = program_of(kind);
        return Ok((program, program.and_then(|program| agents::find(host, program))));
    }
    let installed = agents::installed(host);
    if !answers.asks() {
        return match installed.as_slice() {
            [one] => Ok((Some(one.program), Some(one.clone()))),
            several => {
                let names: Vec<&str> = several.iter().map(|one| one.program.name()).collect();
                let found = if names.is_empty() { "no agent".into() } else { names.join(" and ") };
                Err(Failure::words(Exit::Usage, format!("{found} found on this host, and nobody is asked which"))
                    .hint("name one, as in `carboy init claude`; `carboy init shell` needs none"))
            }
        };
    }
    let described = |one: &InstalledAgent| {
        let version = one.version.as_deref().unwrap_or("no version");
        (one.program.name(), Some(one.program), format!("{version}, {}", one.path.display()))
    };
    let mut choices: Vec<(&str, Option<Program>, String)> = installed.iter().map(described).collect();
    choices.push(("shell", None, "no agent: a bottle for trying things".into()));
    let program = *answers.one_of("What is the bottle for?", &choices, 0)?;
    Ok((program, installed.into_iter().find(|one| Some(one.program) == program)))
}

fn name(args: &InitArgs, program: Option<Program>) -> Result<String, Failure> {
    let name = args.name.clone().unwrap_or_else(|| program.map_or("shell", Program::name).to_owned());
    BottleName::parse(&name).map(|_| name).map_err(|e| Failure::new(Exit::Usage, &e))
}

/// What was found of the agent, for the person who is asked; what is wrong with it, for everybody.
fn told(program: Program, agent: Option<&InstalledAgent>, answers: &Answers, notes: &mut Vec<String>) {
    let name = program.name();
    match agent {
        None => notes.push(format!(
            "{name} was not found on this host: install it, then `carboy init {name} --force` shows it to the bottle"
        )),
        Some(InstalledAgent { path, inside: Err(why), .. }) => {
            notes.push(format!("{} cannot be shown to a bottle: {why}", path.display()));
        }
        Some(InstalledAgent { path, version, inside: Ok(_), .. }) if answers.asks() => {
            let version = version.as_deref().unwrap_or_default();
            say!(
                "{name}: {} {}",
                crate::report::printable(&path.display().to_string()),
                crate::report::printable(version)
            );
        }
        Some(InstalledAgent { inside: Ok(_), .. }) => {}
    }
}

/// `SOURCE` or `SOURCE:TARGET`, read-only.
fn bind(spec: &str, environment: &Environment) -> Result<BindLine, Failure> {
    let (source, target) = spec.split_once(':').map_or((spec, None), |(source, target)| (source, Some(target)));
    let places = &environment.places;
    let source = match source.strip_prefix("~/") {
        Some(below) => places.home.join(below),
        None => places.cwd.join(source),
    };
    if !source.exists() {
        return Err(Failure::words(Exit::Usage, format!("--bind {spec}: there is no {}", source.display()))
            .hint("give a path of this host, and after a `:` its path inside"));
    }
    let target = target.filter(|target| !target.is_empty()).map(str::to_owned);
    Ok(BindLine { source, target, why: "as `carboy init --bind` was told".into() })
}
