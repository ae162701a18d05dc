//! From the command line and the agent's file to what a host of chat agents is asked for.
//!
//! *Must never* take a flag that means something for bottles alone and let it pass as if it did something here, or read a
//! secret of a `.env` before settings and environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use carboy_control::chat::{ChatRequest, Conversations, Deployment, ModelMode, TERMINAL_USER};
use carboy_control::home::Home;
use carboy_control::host_programs::Program;
use carboy_control::vault::Lookup;
use carboy_core::audit::ChainKey;
use carboy_core::chat::{ChatFormat, ChatSpec, ToolSource};
use carboy_core::ids::{AgentName, BottleName, SecretName};
use carboy_manifest::chat::{AUDIT_INTEGRITY_KEY, Dotenv, Preset};
use carboy_manifest::{Effective, Request};

use super::operator_log;
use crate::applications::{self, ProgramFiles};
use crate::args::{ChatFlags, RunArgs};
use crate::chat_file::{self, Settled};
use crate::environment::Environment;
use crate::report::{Exit, Failure};
use crate::{chat, trust};

/// `--model` of this name is no provider's.
const OFFLINE: &str = "offline";
/// Longest name of a person or a model, in characters.
const NAME_CHARS_MAX: usize = 128;

/// What a conversation is made of.
pub struct Wanted {
    /// For the host.
    pub request: ChatRequest,
    /// Who asks.
    pub who: String,
    /// Where the agent's conversations are kept.
    pub place: PathBuf,
}

/// Flags of bottles say nothing here, and are not passed over.
pub fn refuse_others(args: &RunArgs) -> Result<(), Failure> {
    let given = [
        ("--overlay", args.overlay),
        ("--env", !args.env.is_empty()),
        ("--bind", !args.binds.is_empty()),
        ("--publish", !args.publish.is_empty()),
        ("--forward", !args.forward.is_empty()),
        ("--learn", args.learn),
        ("--detach", args.detach),
        ("--rm", args.rm),
        ("-- COMMAND", !args.command.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let what = format!("`{flag}` is for programs in a bottle, and this is a chat agent");
            Err(Failure::words(Exit::Usage, what).hint("leave it out; `carboy run --help` says what chat agents take"))
        }
    }
}

/// What a command line says of a chat agent, however it speaks with people.
pub struct Named<'a> {
    /// `run`, `serve`.
    pub verb: &'static str,
    /// The agent.
    pub agent: Option<&'a str>,
    /// `-b`
    pub bottles: &'a [String],
    /// `--trust`
    pub trust: bool,
    /// `--budget`
    pub budget: &'a [String],
    /// `--model`
    pub model: Option<&'a str>,
    /// `--preset`, `--set`
    pub thresholds: &'a ChatFlags,
    /// `--audit-log`
    pub audit_log: Option<&'a Path>,
    /// Whose records an application's tools are opened over.
    pub desk: Desk,
}

/// Records of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desk {
    /// Those that people ask.
    Open,
    /// None: whoever looks it up brings tools over others.
    Staged,
}

/// Looks everything up for a conversation at a terminal.
pub fn of(args: &RunArgs, environment: Environment) -> Result<Wanted, Failure> {
    let who = name("--user", args.user.as_deref().unwrap_or(TERMINAL_USER))?;
    let named = Named {
        verb: "run",
        agent: args.agent.as_deref(),
        bottles: &args.bottles,
        trust: args.trust,
        budget: &args.budget,
        model: args.chat.model.as_deref(),
        thresholds: &args.chat.thresholds,
        audit_log: args.chat.audit_log.as_deref(),
        desk: Desk::Open,
    };
    let mut request = look_up(&named, environment)?;
    let place = place_of(&request.home, &request.effective.bottle, request.spec.name.as_str());
    request.lines = operator_log::at(&place);
    Ok(Wanted { request, who, place })
}

/// Where an agent's conversations are kept.
fn place_of(home: &Home, bottle: &BottleName, agent: &str) -> PathBuf {
    home.state(bottle).join("chat").join(agent)
}

/// The file that says why tools of this agent failed in a terminal, where there is one.
pub fn why_tools_failed(home: &Home, bottle: &str, agent: &str) -> Option<PathBuf> {
    let (bottle, agent) = (BottleName::parse(bottle).ok()?, AgentName::parse(agent).ok()?);
    let path = operator_log::path_in(&place_of(home, &bottle, agent.as_str()));
    path.is_file().then_some(path)
}

/// Looks everything up.
pub fn look_up(args: &Named<'_>, environment: Environment) -> Result<ChatRequest, Failure> {
    let places = environment.places.clone();
    let agent = args.agent.map(str::to_owned);
    let manifest = Request { agent, bottles: args.bottles.to_vec(), places: places.clone() };
    let answer = if args.trust { trust::Answer::Yes } else { trust::Answer::Ask };
    let mut effective = trust::load(&manifest, &environment.home, answer)?;
    crate::budget::take_flag(args.budget, &mut effective)?;
    chat::warn(&effective.warnings);
    let (mut spec, preset, dotenv) = settled(args, &environment, &effective)?;
    let model = who_answers(args.model, &mut spec)?;
    let lookup = Arc::new(WithDotenv::new(environment.lookup.clone(), dotenv));
    let audit_key = audit_key(&environment, &lookup)?;
    let workdir = places
        .cwd
        .canonicalize()
        .map_err(|e| Failure::words(Exit::Usage, format!("working directory {}: {e}", places.cwd.display())))?;
    let state = environment.home.state(&effective.bottle);
    let application = match args.desk == Desk::Open && spec.tools.contains(&ToolSource::Application) {
        true => applications::tools(spec.name.as_str(), &state)?,
        false => Vec::new(),
    };
    let mut command = vec![args.verb.into(), spec.name.to_string()];
    // Whoever looks at what was spent sees by whom it was answered.
    command.extend(args.model.iter().flat_map(|model| ["--model".to_owned(), model.to_string()]));
    Ok(ChatRequest {
        command,
        audit_log: args.audit_log.map(|log| places.cwd.join(log)),
        home: environment.home,
        places,
        effective,
        spec,
        workdir,
        lookup,
        files: Arc::new(ProgramFiles),
        audit_key,
        keeping: Default::default(),
        model,
        deployment: if preset == Some(Preset::Production) { Deployment::Production } else { Deployment::Development },
        conversations: Conversations::OnDisk,
        application,
        tell: Arc::new(|text| {
            // The terminal may be raw: a carriage return brings the cursor back.
            say_part!("\r\ncarboy: {}\r\n", text.replace('\n', "\r\n"));
        }),
        lines: Arc::new(|line| say!("{line}")),
    })
}

/// The agent with every value settled; its warnings are said.
fn settled(
    args: &Named<'_>,
    environment: &Environment,
    effective: &Effective,
) -> Result<(ChatSpec, Option<Preset>, Option<Dotenv>), Failure> {
    let Some(file) = &effective.chat else {
        return Err(Failure::words(Exit::Usage, "this agent is no chat agent any more: its file has changed just now"));
    };
    let (lookup, flags) = (environment.lookup.as_ref(), args.thresholds.flags());
    let Settled { dotenv, chat } = chat_file::settle(file, &environment.places, lookup, &flags);
    let resolved = chat.map_err(|errors| Failure::diagnostics(Exit::Config, &errors))?;
    chat::warn(&resolved.warnings);
    Ok((resolved.spec, resolved.preset, dotenv))
}

/// `--model`: another of the same provider, because routes, keys and budgets are the provider's.
fn who_answers(named: Option<&str>, spec: &mut ChatSpec) -> Result<ModelMode, Failure> {
    let Some(named) = named else { return Ok(ModelMode::Provider) };
    if named == OFFLINE {
        return Ok(ModelMode::Offline);
    }
    let whose = [("claude", ChatFormat::Anthropic), ("gpt", ChatFormat::OpenAi), ("chatgpt", ChatFormat::OpenAi)];
    let whose = whose.iter().find(|(prefix, _)| named.starts_with(prefix)).map(|(_, format)| *format);
    let host = spec.model.host.to_string();
    let is_providers_own = matches!(host.as_str(), "api.anthropic.com" | "api.openai.com");
    if is_providers_own && whose.is_some_and(|whose| whose != spec.model.format) {
        return Err(Failure::words(
            Exit::Usage,
            format!("--model {named}: this agent asks {host}, which has no such model"),
        )
        .hint(format!("say `model: {named}` in the agent's file, which opens its route and names its key")));
    }
    spec.model.model = name("--model", named)?;
    Ok(ModelMode::Provider)
}

fn name(flag: &str, name: &str) -> Result<String, Failure> {
    let fits = !name.trim().is_empty() && name.chars().count() <= NAME_CHARS_MAX && !name.chars().any(char::is_control);
    let no = || Failure::words(Exit::Usage, format!("{flag}: a name of 1 to {NAME_CHARS_MAX} characters is needed"));
    fits.then(|| name.to_owned()).ok_or_else(no)
}

/// The chain's key: of the environment, else of the `.env` beside the agent.
fn audit_key(environment: &Environment, lookup: &WithDotenv) -> Result<ChainKey, Failure> {
    match environment.audit_key()? {
        ChainKey::Plain => match lookup.beside(AUDIT_INTEGRITY_KEY) {
            Some(text) => ChainKey::from_hex(&text.to_string_lossy()).map_err(|e| Failure::new(Exit::Config, &e)),
            None => Ok(ChainKey::Plain),
        },
        key @ ChainKey::Keyed(_) => Ok(key),
    }
}

/// The host, and behind its environment the `.env` beside the agent.
pub struct WithDotenv {
    host: Arc<dyn Lookup>,
    dotenv: Option<Arc<Dotenv>>,
}

impl WithDotenv {
    /// `dotenv` is asked where the environment has nothing.
    pub fn new(host: Arc<dyn Lookup>, dotenv: Option<Dotenv>) -> WithDotenv {
        WithDotenv { host, dotenv: dotenv.map(Arc::new) }
    }

    /// What stands in the `.env` alone.
    fn beside(&self, name: &str) -> Option<OsString> {
        let name = SecretName::parse(name).ok()?;
        Some(self.dotenv.as_ref()?.secret(&name)?.expose().into())
    }
}

impl Lookup for WithDotenv {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.host.variable(name).filter(|value| !value.is_empty()).or_else(|| self.beside(name))
    }

    fn find(&self, name: &str) -> Result<Program, String> {
        self.host.find(name)
    }

    fn command(&self, argv: &[String], wait_max: Duration) -> Result<Vec<u8>, String> {
        self.host.command(argv, wait_max)
    }

    fn fenced(&self, never: &[PathBuf]) -> Arc<dyn Lookup> {
        Arc::new(WithDotenv { host: self.host.fenced(never), dotenv: self.dotenv.clone() })
    }
}
