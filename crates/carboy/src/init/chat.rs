//! `carboy init chat`: a chat agent with a policy, a refusal, examples and one script of tools (G87).
//!
//! *Must never* write a key: `.env.example` holds names.

use carboy_control::vault::Lookup;
use carboy_core::ids::AgentName;
use carboy_manifest::chat::starter::{self, ChatStarter, Script, StarterModel};
use serde_json::json;

use super::answers::Answers;
use super::drafts::{Action, Drafts, draft, extended};
use super::{agreed, replaces};
use crate::args::{InitArgs, ScriptKind};
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure};

/// The agent's name where none is given.
const NAME: &str = "chat";
/// The model where none is given, by the key that is set.
const MODEL: &str = "claude-sonnet-4-5";
const MODEL_OF_OPENAI: &str = "gpt-5";

/// Writes the starter's files, or shows them.
pub fn init(args: &InitArgs, environment: &Environment) -> Result<u8, Failure> {
    refuse_others(args)?;
    let starter = starter_of(args, environment)?;
    let places = &environment.places;
    let agent = draft(places.agents().join(format!("{}.md", starter.name)), starter::agent(&starter))?;
    let example = places.agents().join(".env.example");
    // The agents beside it have their lines in it.
    let example =
        extended(example, starter::env_example(&starter), |there| starter::env_example_extended(&starter, there))?;
    let drafts = Drafts { all: vec![agent, example] };
    drafts.read_back(places, &starter.name, true)?;
    if args.json {
        return as_json(args, environment, &starter, &drafts);
    }
    if args.dry_run {
        print(drafts.shown(&places.home).as_bytes())?;
        return Ok(0);
    }
    if drafts.all.iter().all(|draft| draft.action == Action::Keep) {
        say!("nothing to change: the files are there as they would be written");
        say_part!("{}", next_steps(&starter, environment));
        return Ok(0);
    }
    agreed(args, &Answers::of(args), &drafts, environment)?;
    let written = drafts.write(environment)?;
    print(written.iter().map(|path| format!("{}\n", path.display())).collect::<String>().as_bytes())?;
    say_part!("{}", next_steps(&starter, environment));
    Ok(0)
}

/// Flags of coding agents say nothing here, and are not passed over.
fn refuse_others(args: &InitArgs) -> Result<(), Failure> {
    let given = [
        ("--login", args.login.is_some()),
        ("--key-from", args.key_from.is_some()),
        ("--preset", !args.presets.is_empty()),
        ("--no-presets", args.no_presets),
        ("--bind", !args.binds.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Failure::words(Exit::Usage, format!("`{flag}` is for agents that work in a bottle"))
            .hint("a chat agent reaches what its file names; its key goes into the `.env` beside it")),
    }
}

fn starter_of(args: &InitArgs, environment: &Environment) -> Result<ChatStarter, Failure> {
    let name = args.name.clone().unwrap_or_else(|| NAME.to_owned());
    AgentName::parse(&name).map_err(|e| Failure::new(Exit::Usage, &e))?;
    let set = |name: &str| environment.lookup.variable(name).is_some_and(|value| !value.is_empty());
    let usual = if set("OPENAI_API_KEY") && !set("ANTHROPIC_API_KEY") { MODEL_OF_OPENAI } else { MODEL };
    let model = match (&args.model, &args.model_at) {
        (Some(name), Some(base_url)) => StarterModel::At { base_url: base_url.clone(), name: name.clone() },
        (None, Some(_)) => {
            return Err(Failure::words(Exit::Usage, "`--model-at` needs the name of the model there")
                .hint("add `--model NAME`, as in `--model qwen3`"));
        }
        (Some(name), None) => StarterModel::Named(name.clone()),
        (None, None) => StarterModel::Named(usual.to_owned()),
    };
    let script = match args.script {
        Some(ScriptKind::Node) => Script::Node,
        Some(ScriptKind::Python) | None => Script::Python,
    };
    let mut title: String = name.replace(['-', '_'], " ");
    if let Some(first) = title.get(..1).map(str::to_ascii_uppercase) {
        title.replace_range(..1, &first);
    }
    Ok(ChatStarter { name, title, model, script })
}

fn as_json(args: &InitArgs, environment: &Environment, starter: &ChatStarter, drafts: &Drafts) -> Result<u8, Failure> {
    let writes = !args.dry_run && (args.force || !replaces(drafts));
    if writes {
        drafts.write(environment)?;
    }
    let files =
        drafts.all.iter().map(|draft| json!({"path": draft.path, "action": draft.action, "content": draft.text()}));
    let report = json!({
        "name": starter.name,
        "files": files.collect::<Vec<_>>(),
        "next": commands(starter, environment).into_iter().map(|(command, _)| command).collect::<Vec<_>>(),
        "written": writes,
    });
    print(format!("{report}\n").as_bytes())?;
    Ok(if writes || args.dry_run { 0 } else { Exit::Usage as u8 })
}

fn next_steps(starter: &ChatStarter, environment: &Environment) -> String {
    let commands = commands(starter, environment);
    let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    let lines = commands.iter().map(|(command, what)| format!("  {command:<width$}  {what}\n"));
    std::iter::once("\nNext:\n".to_owned()).chain(lines).collect()
}

/// What to do next, and what that is.
fn commands(starter: &ChatStarter, environment: &Environment) -> Vec<(String, &'static str)> {
    let (name, home) = (&starter.name, &environment.places.home);
    let env = carboy_manifest::starter::path_text(&environment.places.agents().join(".env"), home);
    let mut commands = Vec::new();
    if let StarterModel::Named(_) = starter.model {
        commands.push((format!("cp {env}.example {env} && chmod 600 {env}"), "then put the model's key into it"));
    }
    commands.push((format!("carboy check {name}"), "what it may reach, and every rule"));
    commands.push((format!("carboy run {name} --model offline"), "a first look, without a key"));
    commands.push((format!("carboy run {name}"), "in this terminal"));
    commands.push((format!("carboy serve {name}"), "over HTTP"));
    commands
}
