//! M35: how the model is paid for, and where the key or token is.
//!
//! *Must never* print a key, take one as an argument, or put it into a file that others can read.

use std::io::Read;
use std::path::Path;

use carboy_control::setup::{Surroundings, login as found};
use carboy_core::ids::SecretName;
use carboy_core::secret::SecretText;
use carboy_manifest::edit::settings::NewEntry;
use carboy_manifest::host_paths::expand;
use carboy_manifest::starter::{Login, Program, Vendor};
use carboy_manifest::{SecretFrom, Settings};

use super::answers::Answers;
use super::drafts::secret_file;
use crate::args::{InitArgs, LoginKind};
use crate::environment::Environment;
use crate::report::{Exit, Failure};

/// Largest key, in bytes; the vault takes no more either.
const KEY_BYTES_MAX: usize = 64 * 1024;
/// How a token of `claude setup-token` begins.
const CLAUDE_TOKEN_BEGINS: &str = "sk-ant-oat";

/// What was settled.
pub struct Settled {
    /// How.
    pub login: Login,
    /// What the settings have to say of its secret.
    pub entry: Option<NewEntry>,
    /// A key that was typed or piped in, and its name.
    pub typed: Option<(String, SecretText)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Where a key is.
enum Key {
    /// Where the settings say already, or the variable of its own name.
    AsItIs,
    /// Here.
    From(SecretFrom),
    /// Here it is.
    Given(SecretText),
}

/// What this host and its person bring.
pub struct Desk<'a> {
    /// The command line.
    pub args: &'a InitArgs,
    /// Who answers.
    pub answers: &'a Answers,
    /// The host.
    pub host: &'a Surroundings,
    /// The settings as they are.
    pub settings: &'a Settings,
    /// Where things are.
    pub environment: &'a Environment,
}

/// Asks, or takes what is there.
pub fn settle(desk: &Desk<'_>, program: Option<Program>) -> Result<Settled, Failure> {
    let login = match program {
        Some(program) => login_of(desk, program)?,
        None => match desk.args.login {
            None | Some(LoginKind::None) => Login::None,
            Some(LoginKind::Subscription | LoginKind::ApiKey) => {
                return Err(Failure::words(Exit::Usage, "a shell speaks to no model, so it has no login")
                    .hint("name an agent: `carboy init claude`"));
            }
        },
    };
    let mut settled = Settled { login, entry: None, typed: None, notes: vec![] };
    let Some(name) = login.secret() else {
        if program.is_some() {
            settled.notes.push("no login: no model can be reached until a route to one is written".into());
        }
        return Ok(settled);
    };
    match key_of(desk, login, name, &mut settled.notes)? {
        Key::AsItIs => {}
        Key::From(from) => settled.entry = Some(entry(desk, name, &from)),
        Key::Given(secret) => {
            let file = SecretFrom::File(secret_file(&desk.environment.places, name));
            let known = desk.settings.secrets.get(&secret_name(name)?).map(|known| known.value.clone());
            settled.entry = Some(entry(desk, name, &file)).filter(|_| known != Some(file.clone()));
            if known.is_some_and(|known| known != file) {
                return Err(said_already(name));
            }
            settled.typed = Some((name.to_owned(), secret));
        }
    }
    Ok(settled)
}

fn entry(desk: &Desk<'_>, name: &str, from: &SecretFrom) -> NewEntry {
    let why = "the model's key: read outside, at each launch";
    NewEntry::secret(name, from, &desk.environment.places.home, why)
}

fn secret_name(name: &str) -> Result<SecretName, Failure> {
    SecretName::parse(name).map_err(|e| Failure::new(Exit::Usage, &e))
}

fn said_already(name: &str) -> Failure {
    Failure::words(Exit::Usage, format!("settings.yml says already where {name} comes from"))
        .hint("leave `--key-from` out to keep that, or change the line by hand")
}

/// Is there something for this login already?
fn is_at_hand(desk: &Desk<'_>, login: Login) -> bool {
    let named = login.secret().is_some_and(|name| {
        desk.host.variable(name).is_some() || desk.settings.secrets.keys().any(|known| known.as_str() == name)
    });
    named || (login == Login::ChatGptSubscription && found::codex(desk.host).is_some())
}

/// The logins that a program can have, the usual one first.
fn possible(program: Program) -> Vec<Login> {
    match program {
        Program::Claude => vec![Login::ClaudeSubscription, Login::ApiKey(Vendor::Anthropic)],
        Program::Codex => vec![Login::ChatGptSubscription, Login::ApiKey(Vendor::Openai)],
        Program::Gemini => vec![Login::ApiKey(Vendor::Gemini)],
        Program::Opencode => Vendor::ALL.into_iter().map(Login::ApiKey).collect(),
    }
}

fn login_of(desk: &Desk<'_>, program: Program) -> Result<Login, Failure> {
    let possible = possible(program);
    let at_hand = possible.iter().position(|login| is_at_hand(desk, *login));
    let fits = |login: &&Login| match (desk.args.login, login) {
        (Some(LoginKind::Subscription), Login::ClaudeSubscription | Login::ChatGptSubscription) => true,
        (Some(LoginKind::ApiKey), Login::ApiKey(_)) => true,
        (Some(LoginKind::Subscription | LoginKind::ApiKey | LoginKind::None) | None, _) => false,
    };
    match desk.args.login {
        Some(LoginKind::None) => return Ok(Login::None),
        Some(LoginKind::Subscription | LoginKind::ApiKey) => {
            let mut fitting = possible.iter().filter(fits);
            let found = fitting.clone().find(|login| is_at_hand(desk, **login)).or_else(|| fitting.next());
            return found.copied().ok_or_else(|| {
                Failure::words(Exit::Usage, format!("{} has no login of that kind here", program.name()))
                    .hint("use `--login api-key` or `--login none`")
            });
        }
        None => {}
    }
    if !desk.answers.asks() {
        // With a key's source given, what it is for is the usual login.
        let given = desk.args.key_from.as_ref().map(|_| 0);
        return at_hand.or(given).and_then(|i| possible.get(i)).copied().ok_or_else(|| no_login(program));
    }
    let mut choices: Vec<(&str, Login, String)> = possible.iter().map(|login| described(*login)).collect();
    choices.push(("none", Login::None, "settle it later".into()));
    desk.answers.one_of("How is the model paid for?", &choices, at_hand.unwrap_or(0)).copied()
}

fn described(login: Login) -> (&'static str, Login, String) {
    match login {
        Login::ClaudeSubscription => {
            ("subscription", login, "a Claude subscription, by a token of `claude setup-token`".into())
        }
        Login::ChatGptSubscription => {
            ("subscription", login, "a ChatGPT subscription, as `codex login` keeps it".into())
        }
        Login::ApiKey(vendor) => (vendor.preset(), login, format!("an API key, {}", vendor.key_name())),
        Login::None => ("none", login, String::new()),
    }
}

fn no_login(program: Program) -> Failure {
    let of_program = match program {
        Program::Claude => "`--login subscription --key-from stdin` with a token of `claude setup-token`",
        Program::Codex => "`codex login`, then `--login subscription`",
        Program::Gemini | Program::Opencode => "`--login api-key --key-from env:NAME`",
    };
    Failure::words(Exit::Usage, format!("no login for {} was found, and nobody is asked", program.name())).hint(format!(
        "give {of_program}, `--login api-key --key-from env:NAME|file:PATH|command:PROGRAM|stdin`, or `--login none`"
    ))
}

fn key_of(desk: &Desk<'_>, login: Login, name: &str, notes: &mut Vec<String>) -> Result<Key, Failure> {
    let known = desk.settings.secrets.get(&secret_name(name)?).map(|known| &known.value);
    if let Some(given) = &desk.args.key_from {
        return match (given_key(desk, given, name, notes)?, known) {
            (Key::From(from), Some(known)) if from == *known => Ok(Key::AsItIs),
            (Key::From(_), Some(_)) => Err(said_already(name)),
            (key, _) => Ok(key),
        };
    }
    if known.is_some() {
        return Ok(Key::AsItIs);
    }
    if login == Login::ChatGptSubscription {
        let file = found::codex(desk.host).ok_or_else(|| {
            Failure::words(Exit::Usage, "no ChatGPT subscription is set up here")
                .hint("run `codex login`, then this again")
        })?;
        if file.open_to_others {
            notes.push(format!(
                "others can read {0}, and no run takes it like that: `chmod 600 {0}`",
                file.path.display()
            ));
        }
        let pointer = found::CODEX_POINTER.to_owned();
        return Ok(Key::From(SecretFrom::JsonFile { path: file.path, pointer }));
    }
    match (desk.answers.asks(), desk.host.variable(name).is_some()) {
        (false, true) => {
            notes.push(of_variable(name));
            Ok(Key::AsItIs)
        }
        (false, false) => Err(Failure::words(Exit::Usage, format!("nothing says where {name} is"))
            .hint("give `--key-from env:NAME|file:PATH|command:PROGRAM|stdin`; never the key itself")),
        (true, _) => asked_key(desk, login, name, notes),
    }
}

fn of_variable(name: &str) -> String {
    format!("{name} is taken from the environment of each launch; `--key-from stdin` keeps it in a file instead")
}

/// How a person says where a key is.
#[derive(Clone, Copy)]
enum Way {
    Variable,
    Typed,
    File,
    Command,
}

fn asked_key(desk: &Desk<'_>, login: Login, name: &str, notes: &mut Vec<String>) -> Result<Key, Failure> {
    let mut choices: Vec<(&str, Way, String)> = Vec::new();
    if desk.host.variable(name).is_some() {
        choices.push(("variable", Way::Variable, format!("{name} of the shell that starts a run; it is set here")));
    }
    choices.push(("typed", Way::Typed, "typed in now, kept in a file that you alone can read".into()));
    choices.push(("file", Way::File, "in a file".into()));
    choices.push(("command", Way::Command, "printed by a command, as in `pass show anthropic`".into()));
    match desk.answers.one_of(&format!("Where is {name}?"), &choices, 0)? {
        Way::Variable => {
            notes.push(of_variable(name));
            Ok(Key::AsItIs)
        }
        Way::Typed => {
            if login == Login::ClaudeSubscription {
                say!(
                    "  `claude setup-token`, in another terminal, prints a token that begins with {CLAUDE_TOKEN_BEGINS}."
                );
            }
            loop {
                match checked(desk.answers.secret(&format!("  {name} (not shown): "))?) {
                    Ok(secret) => {
                        looks_right(login, &secret, notes);
                        return Ok(Key::Given(secret));
                    }
                    Err(why) => say!("  {why}"),
                }
            }
        }
        Way::File => given_key(desk, &format!("file:{}", desk.answers.line("  file", "")?), name, notes),
        Way::Command => given_key(desk, &format!("command:{}", desk.answers.line("  command", "")?), name, notes),
    }
}

/// `--key-from`.
fn given_key(desk: &Desk<'_>, text: &str, name: &str, notes: &mut Vec<String>) -> Result<Key, Failure> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let rest = rest.trim();
    let bad = |what: &str| {
        Failure::words(Exit::Usage, format!("--key-from: {what}"))
            .hint("use `env`, `env:NAME`, `file:PATH`, `command:PROGRAM ARGUMENTS` or `stdin`; never the key itself")
    };
    match (kind, rest) {
        ("env", variable) => {
            let variable = if variable.is_empty() { name } else { variable };
            secret_name(variable).map_err(|_| bad("that is no variable's name"))?;
            if desk.host.variable(variable).is_none() {
                notes.push(format!("{variable} is not set in this shell; a run needs it"));
            }
            Ok(if variable == name { Key::AsItIs } else { Key::From(SecretFrom::Env(variable.to_owned())) })
        }
        ("file", "") | ("command", "") => Err(bad("it names nothing")),
        ("file", path) => {
            let places = &desk.environment.places;
            let path =
                expand(path, &places.home).or_else(|| expand(&places.cwd.join(path).to_string_lossy(), &places.home));
            let path = path.ok_or_else(|| bad("that is no path"))?;
            if !Path::new(&path).is_file() {
                notes.push(format!("there is no file {} yet; a run needs it, readable by you alone", path.display()));
            }
            Ok(Key::From(SecretFrom::File(path)))
        }
        ("command", words) => Ok(Key::From(SecretFrom::Command(words.split_whitespace().map(str::to_owned).collect()))),
        ("stdin", "") => {
            let mut text = String::new();
            let read = std::io::stdin().take(KEY_BYTES_MAX as u64 + 1).read_to_string(&mut text);
            let text = SecretText::new(text);
            read.map_err(|e| Failure::new(Exit::Failed, &e))?;
            checked(text).map(Key::Given).map_err(|why| Failure::words(Exit::Usage, format!("standard input: {why}")))
        }
        _ => Err(bad("it does not say what it is")),
    }
}

/// One line without space in it.
fn checked(text: SecretText) -> Result<SecretText, &'static str> {
    let trimmed = text.expose().trim();
    if trimmed.is_empty() {
        return Err("that is empty");
    }
    if trimmed.len() > KEY_BYTES_MAX || trimmed.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("that is no key: a key is one word");
    }
    Ok(SecretText::new(trimmed.to_owned()))
}

fn looks_right(login: Login, secret: &SecretText, notes: &mut Vec<String>) {
    if login == Login::ClaudeSubscription && !secret.expose().starts_with(CLAUDE_TOKEN_BEGINS) {
        notes.push(format!("tokens of `claude setup-token` begin with {CLAUDE_TOKEN_BEGINS}; this one does not"));
    }
}
