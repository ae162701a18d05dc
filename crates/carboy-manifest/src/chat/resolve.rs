//! One order everywhere (U5): default < settings < manifest < `.env` < environment < flag, each value with its origin.
//!
//! *Must never* let a nearer place loosen what the machine's settings say, nor a file that came with a checked-out repository
//! loosen anything: its manifest and the `.env` beside it can make things stricter, and that alone.

use std::collections::{BTreeMap, BTreeSet};

use carboy_core::chat::ChatSpec;
use carboy_core::ids::SecretName;

use super::AUDIT_INTEGRITY_KEY;
use super::dotenv::Dotenv;
use super::file::{ChatFile, Whose};
use super::knobs::{KNOBS, Knob};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt, listed};
use crate::origin::{Origin, Sourced};

/// Where each value was said, by its name: a knob's, or a key of the file.
pub type Origins = BTreeMap<String, Origin>;

/// Values that belong together (G72, G72b).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Fewer requests, an earlier alarm.
    Strict,
    /// For building: more requests, nothing is blocked for its looks.
    Dev,
    /// For customers: all on, and the log keyed.
    Production,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 3] = [Preset::Strict, Preset::Dev, Preset::Production];

    /// As in `--preset`.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Strict => "strict",
            Preset::Dev => "dev",
            Preset::Production => "production",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Preset> {
        Preset::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// What it sets: knob and value.
    pub fn values(self) -> &'static [(&'static str, u32)] {
        match self {
            Preset::Strict => &[("injection_percent", 30), ("block_suspicious_inputs", 1), ("requests_per_hour", 50)],
            Preset::Dev => &[
                ("injection_percent", 70),
                ("block_suspicious_inputs", 0),
                ("requests_per_hour", 1_000),
                ("requests_per_ip_per_hour", 1_000),
            ],
            Preset::Production => &[
                ("injection_percent", 50),
                ("block_suspicious_inputs", 1),
                ("requests_per_hour", 100),
                ("filter_secrets", 1),
                ("filter_pii", 1),
            ],
        }
    }

    /// Secrets that have to be there.
    pub fn requires(self) -> &'static [&'static str] {
        match self {
            Preset::Strict | Preset::Dev => &[],
            Preset::Production => &[AUDIT_INTEGRITY_KEY],
        }
    }
}

/// What a command line says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--preset`
    pub preset: Option<Preset>,
    /// `--set NAME=VALUE`, by a knob's name or one of its aliases.
    pub values: BTreeMap<String, String>,
}

/// Everything around a file that has a say.
pub struct Surroundings<'a> {
    /// The `.env` beside it, where there is one.
    pub dotenv: Option<&'a Dotenv>,
    /// The real environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The command line.
    pub flags: &'a Flags,
}

/// A chat agent with every value settled.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The agent.
    pub spec: ChatSpec,
    /// Where each value was said.
    pub origins: Origins,
    /// The preset that was chosen.
    pub preset: Option<Preset>,
    /// Secrets that it names or may have; none is in here.
    pub secrets: BTreeSet<SecretName>,
    /// What somebody should look at.
    pub warnings: Diagnostics,
}

/// Settles every value.
///
/// # Errors
/// Values that cannot be read, values that loosen what may not be loosened, and secrets that a preset needs and that are
/// nowhere.
pub fn resolve(file: &ChatFile, around: &Surroundings<'_>) -> Result<Resolved, Diagnostics> {
    let mut out = Diagnostics::default();
    let mut spec = file.spec.clone();
    let mut origins: Origins = file.origins.clone();
    let flags = flags(around.flags, &mut out);
    for knob in KNOBS {
        let own = Sourced::default_of(knob.get(&spec.limits, &spec.screening));
        let settled = settled(knob, own, file, around, &flags, &mut out);
        knob.set(&mut spec.limits, &mut spec.screening, settled.value);
        origins.insert(knob.name.to_owned(), settled.origin);
    }
    if let Some(preset) = around.flags.preset {
        for name in preset.requires() {
            required(name, preset, file, around, &mut out);
        }
    }
    if out.has_errors() {
        return Err(out);
    }
    Ok(Resolved { spec, origins, preset: around.flags.preset, secrets: file.secrets(), warnings: out })
}

/// One knob through all places, the nearest last.
fn settled(
    knob: &'static Knob,
    own: Sourced<u32>,
    file: &ChatFile,
    around: &Surroundings<'_>,
    flags: &BTreeMap<&'static str, Sourced<u32>>,
    out: &mut Diagnostics,
) -> Sourced<u32> {
    let mut now = own;
    let mut say = |said: Option<Sourced<u32>>| {
        if let Some(said) = said {
            now = said;
        }
        now.clone()
    };
    say(file.settings.get(knob.name).cloned());
    let manifest = file.knobs.get(knob.name).cloned();
    let stands = say(None);
    say(manifest.filter(|said| file.whose != Whose::Repository || is_kept(knob, said, &stands, file, out)));
    let dotenv = around.dotenv.and_then(|dotenv| dotenv.knobs.get(knob.name)).cloned();
    let stands = say(None);
    say(dotenv.filter(|said| file.whose == Whose::User || is_kept(knob, said, &stands, file, out)));
    say(from_environment(knob, around.env, out));
    say(around.flags.preset.and_then(|preset| of_preset(knob, preset)));
    let settled = say(flags.get(knob.name).cloned());
    match file.machine.get(knob.name) {
        Some(machine) if knob.is_looser(settled.value, machine.value) => {
            if settled.origin != Origin::Default {
                let message = format!(
                    "`{}` is {} by the machine's settings, and what is said nearer ({}) is looser and does not count",
                    knob.name,
                    knob.shown(machine.value),
                    knob.shown(settled.value)
                );
                out.push(Diagnostic::warning(Code::Loosens, message, "ask whoever keeps the machine's settings"));
            }
            machine.clone()
        }
        Some(_) | None => settled,
    }
}

/// A value of a checked-out file counts where it loosens nothing.
fn is_kept(knob: &Knob, said: &Sourced<u32>, stands: &Sourced<u32>, file: &ChatFile, out: &mut Diagnostics) -> bool {
    if !knob.is_looser(said.value, stands.value) {
        return true;
    }
    let message = format!(
        "`{}` of agent `{}` is {}, looser than the {} that holds without it",
        knob.name,
        file.name,
        knob.shown(said.value),
        knob.shown(stands.value)
    );
    let fix = "a file of the working directory makes nothing looser; say it in settings.yml, by a variable or a flag";
    let error = Diagnostic::error(Code::Loosens, message, fix);
    out.push(match &said.origin {
        Origin::File { file, line } => error.at(file, Position { line: *line, column: 1 }),
        Origin::Default | Origin::Environment { .. } | Origin::Flag { .. } => error,
    });
    false
}

fn from_environment(knob: &Knob, env: &dyn Fn(&str) -> Option<String>, out: &mut Diagnostics) -> Option<Sourced<u32>> {
    let mut found = knob.variables().into_iter().filter_map(|variable| Some((env(&variable)?, variable)));
    let (text, variable) = found.find(|(text, _)| !text.trim().is_empty())?;
    match knob.parse(&variable, &text) {
        Ok(value) => Some(Sourced { value, origin: Origin::Environment { variable } }),
        Err(error) => {
            out.push(error);
            None
        }
    }
}

fn of_preset(knob: &Knob, preset: Preset) -> Option<Sourced<u32>> {
    let (_, value) = preset.values().iter().find(|(name, _)| *name == knob.name)?;
    Some(Sourced { value: *value, origin: Origin::Flag { flag: format!("--preset {}", preset.name()) } })
}

fn flags(flags: &Flags, out: &mut Diagnostics) -> BTreeMap<&'static str, Sourced<u32>> {
    let mut said = BTreeMap::new();
    for (name, text) in &flags.values {
        let Some(knob) = Knob::named(name) else {
            let message = format!("`--set` names {}, which is no threshold", excerpt(name));
            let fix = format!("use one of {}", listed(KNOBS.iter().map(|knob| knob.name)));
            out.push(Diagnostic::error(Code::UnknownKey, message, fix));
            continue;
        };
        match knob.parse(name, text) {
            Ok(value) => {
                let origin = Origin::Flag { flag: format!("--set {name}") };
                if said.insert(knob.name, Sourced { value, origin }).is_some() {
                    let message = format!("`--set` says `{}` twice, under two of its names", knob.name);
                    out.push(Diagnostic::error(Code::DuplicateKey, message, "say it once"));
                }
            }
            Err(error) => out.push(error),
        }
    }
    said
}

/// A secret that the preset needs is somewhere: in the settings, the environment or the `.env`.
fn required(name: &str, preset: Preset, file: &ChatFile, around: &Surroundings<'_>, out: &mut Diagnostics) {
    let Ok(secret) = SecretName::parse(name) else { return };
    let in_env = (around.env)(name).is_some_and(|value| !value.is_empty());
    let in_dotenv = around.dotenv.is_some_and(|dotenv| dotenv.secret(&secret).is_some());
    if !in_env && !in_dotenv && !file.known_secrets.contains(&secret) {
        let message = format!("`--preset {}` needs {name}, and it is not set", preset.name());
        let fix = format!(
            "make one by `carboy audit keygen` and set {name}, in the environment, the `.env` or settings' `secrets`"
        );
        out.push(Diagnostic::error(Code::MissingSecret, message, fix));
    }
}
