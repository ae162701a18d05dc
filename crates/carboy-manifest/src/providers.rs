//! M19, M37: the agent programs that carboy starts by itself: their command lines, their variables for unattended use,
//! and what stands in their home before the first launch.
//!
//! ```text
//!   Provider (manifest) + Task ──▶ command       program, its own flags, the manifest's arguments, the task
//!   Provider + Login           ──▶ environment   unattended use; a fake where the program looks for a key
//!   Provider + Facts           ──▶ seeds         first-run questions answered, the agent file's text, fake logins
//! ```
//!
//! The flags that skip a program's own questions and sandbox are right here and nowhere else: the bottle is the
//! sandbox, one inside the other cannot be made, and nobody is there to answer in the night.
//!
//! *Must never* hold or be given a real credential: what is written here is read by the bottle.

pub mod seed;

use carboy_core::ids::SecretName;
use carboy_core::route::{Route, RouteSet};
use serde_json::{Value, json};

use crate::provider::Provider;
use seed::{How, Seed};

/// Longest task in bytes: one argument of a program is at most 128 KiB (execve(2)).
pub const TASK_BYTES_MAX: usize = 100 * 1024;

/// The variable in which Claude Code takes the token of `claude setup-token`.
const CLAUDE_TOKEN: &str = "CLAUDE_CODE_OAUTH_TOKEN";
/// Where a ChatGPT subscription's requests go.
const CHATGPT_HOST: &str = "chatgpt.com";
/// How much of an API key's end Claude Code remembers as agreed to.
const CLAUDE_KEY_TAIL: usize = 20;
/// A date long after any token's end, so that no program tries to renew a fake.
const NEVER: &str = "2100-01-01T00:00:00Z";
const NEVER_SECONDS: u64 = 4_102_444_800;

/// What the program is started for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Task {
    /// Somebody sits in front of it.
    #[default]
    Interactive,
    /// It does this and ends.
    Headless(String),
}

/// The providers that need no `command`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// Claude Code.
    Claude,
    /// OpenAI's Codex.
    Codex,
    /// Google's Gemini CLI.
    Gemini,
    /// opencode.
    OpenCode,
    /// No agent: a shell, for trying things. Its task is a script.
    Shell,
}

impl BuiltIn {
    /// All, in the order in which they are told.
    pub const ALL: [BuiltIn; 5] = [BuiltIn::Claude, BuiltIn::Codex, BuiltIn::Gemini, BuiltIn::OpenCode, BuiltIn::Shell];

    /// Its name in `agent_provider`.
    pub fn name(self) -> &'static str {
        match self {
            BuiltIn::Claude => "claude",
            BuiltIn::Codex => "codex",
            BuiltIn::Gemini => "gemini",
            BuiltIn::OpenCode => "opencode",
            BuiltIn::Shell => "shell",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<BuiltIn> {
        BuiltIn::ALL.into_iter().find(|provider| provider.name() == name)
    }

    /// The program that it is.
    pub fn program(self) -> &'static str {
        match self {
            BuiltIn::Shell => "bash",
            BuiltIn::Claude | BuiltIn::Codex | BuiltIn::Gemini | BuiltIn::OpenCode => self.name(),
        }
    }

    /// Where its program keeps its conversations, and a flag that goes on with the last one is known.
    fn conversations(self) -> Option<Conversations> {
        let (below, named) = match self {
            BuiltIn::Claude => (".claude/projects", ".jsonl"),
            BuiltIn::Codex => (".codex/sessions", ".jsonl"),
            BuiltIn::Gemini => (".gemini/tmp", "chats/"),
            BuiltIn::OpenCode => (".local/share/opencode", "opencode.db"),
            BuiltIn::Shell => return None,
        };
        Some(Conversations { below, named })
    }

    /// What makes it work through the night.
    fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            BuiltIn::Claude => &[
                // Without it the flag that skips questions is refused wherever it looks like root.
                ("IS_SANDBOX", "1"),
                ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
                ("CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY", "1"),
                ("DISABLE_AUTOUPDATER", "1"),
                ("DISABLE_INSTALLATION_CHECKS", "1"),
                ("DISABLE_TELEMETRY", "1"),
                ("DISABLE_ERROR_REPORTING", "1"),
            ],
            BuiltIn::Gemini => &[("GEMINI_CLI_TRUST_WORKSPACE", "true"), ("GEMINI_TELEMETRY_ENABLED", "false")],
            BuiltIn::OpenCode => &[
                ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
                ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
                ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
                ("OPENCODE_DISABLE_SHARE", "1"),
            ],
            BuiltIn::Codex | BuiltIn::Shell => &[],
        }
    }
}

/// Program and arguments. A manifest's own `command` takes the program's place, its `args` stand after carboy's and
/// before the task. Of a provider that carboy does not know, the task is the last argument.
pub fn command(provider: &Provider, task: &Task) -> Vec<String> {
    started(provider, task, &[])
}

/// The same for a program that goes on with its last conversation of this directory, as there has to be one ([`conversations`]).
/// One that carboy does not know, and a shell, begin anew.
pub fn resumed(provider: &Provider, task: &Task) -> Vec<String> {
    let Some(known) = BuiltIn::named(&provider.name).filter(|known| known.conversations().is_some()) else {
        return command(provider, task);
    };
    let flags: &[&str] = match known {
        BuiltIn::Claude | BuiltIn::OpenCode => &["--continue"],
        BuiltIn::Codex => &["resume", "--last"],
        BuiltIn::Gemini => &["--resume", "latest"],
        BuiltIn::Shell => &[],
    };
    let task = match task {
        Task::Interactive => Task::Interactive,
        Task::Headless(text) => Task::Headless(format!("{GO_ON}{text}")),
    };
    started(provider, &task, flags)
}

/// Where the provider's program keeps its conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversations {
    /// A directory below its home.
    pub below: &'static str,
    /// What the path of one has in it, below that.
    pub named: &'static str,
}

/// Where a conversation is that [`resumed`] would go on with; `None` where there is none to go on with.
pub fn conversations(provider: &Provider) -> Option<Conversations> {
    BuiltIn::named(&provider.name)?.conversations()
}

/// What stands before the task of a program that was stopped in the middle of it.
const GO_ON: &str = "You were stopped in the middle of this task, and everything you wrote is as you left it. Look where you were, \
                     and go on until it is done. The task was:\n\n";

/// `resuming` stands after the manifest's arguments: Codex has a command of its own for it.
fn started(provider: &Provider, task: &Task, resuming: &[&str]) -> Vec<String> {
    let known = BuiltIn::named(&provider.name);
    let usual = known.map_or(provider.name.as_str(), |known| known.program());
    let program = provider.command.as_deref().unwrap_or(usual);
    // Before the manifest's arguments, and before the task: `--` keeps a task that begins with `-` from being a flag.
    let (flags, before_task): (&[&str], &[&str]) = match (known, task) {
        (Some(BuiltIn::Claude), Task::Interactive) => (&["--dangerously-skip-permissions"], &[]),
        (Some(BuiltIn::Claude), Task::Headless(_)) => (&["--dangerously-skip-permissions", "--print"], &["--"]),
        (Some(BuiltIn::Codex), Task::Interactive) => (&["--dangerously-bypass-approvals-and-sandbox"], &[]),
        (Some(BuiltIn::Codex), Task::Headless(_)) => {
            (&["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"], &["--"])
        }
        (Some(BuiltIn::Gemini), _) => (&["--yolo"], &[]),
        (Some(BuiltIn::OpenCode), Task::Headless(_)) => (&["run"], &["--"]),
        (Some(BuiltIn::Shell), Task::Headless(_)) => (&[], &["-c"]),
        (Some(BuiltIn::OpenCode | BuiltIn::Shell) | None, _) => (&[], &[]),
    };
    let task = match task {
        Task::Interactive => None,
        // Its parser takes no `--` before a value.
        Task::Headless(text) if known == Some(BuiltIn::Gemini) => Some(format!("--prompt={text}")),
        Task::Headless(text) => Some(text.clone()),
    };
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let task = task.into_iter().collect();
    [vec![program.to_owned()], own(flags), provider.args.clone(), own(resuming), own(before_task), task].concat()
}

/// Is this what the provider would start? Somebody may write `-- claude --model …` by hand and means the same program.
pub fn is_program_of(provider: &Provider, program: &str) -> bool {
    let usual = BuiltIn::named(&provider.name).map_or(provider.name.as_str(), |known| known.program());
    let file_name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let own = provider.command.as_deref().unwrap_or(usual);
    program == own || file_name(program) == usual
}

/// Whose models a login is for, and how it is shown to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Anthropic, by API key or by the token of `claude setup-token`.
    Anthropic,
    /// OpenAI, by API key.
    OpenAi,
    /// OpenAI, by a ChatGPT subscription.
    ChatGpt,
    /// Google, by API key.
    Gemini,
}

/// M35: a credential that a route adds outside; inside there is a fake of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Whose models.
    pub service: Service,
    /// Its name; the value stays outside.
    pub secret: SecretName,
}

/// The logins of these routes, in their order, one for each service.
pub fn logins(routes: &RouteSet) -> Vec<Login> {
    let mut logins: Vec<Login> = Vec::new();
    for route in routes.iter() {
        if let (Some(service), Some(auth)) = (service_of(route), &route.auth)
            && !logins.iter().any(|login| login.service == service)
        {
            logins.push(Login { service, secret: auth.secret.clone() });
        }
    }
    logins
}

fn service_of(route: &Route) -> Option<Service> {
    match route.meter.as_ref()?.as_str() {
        "anthropic" => Some(Service::Anthropic),
        "openai" if route.host.to_string() == CHATGPT_HOST => Some(Service::ChatGpt),
        "openai" => Some(Service::OpenAi),
        "gemini" => Some(Service::Gemini),
        _ => None,
    }
}

/// The provider's variables: unattended use, and each login's fake under the names that the program looks for.
/// `fake` is what stands inside in a secret's place.
pub fn environment(
    provider: &Provider,
    logins: &[Login],
    fake: &dyn Fn(&SecretName) -> String,
) -> Vec<(&'static str, String)> {
    let Some(known) = BuiltIn::named(&provider.name) else { return Vec::new() };
    let fixed = known.environment().iter().map(|(name, value)| (*name, (*value).to_owned()));
    let fakes = logins.iter().flat_map(|login| {
        let names: &'static [&'static str] = match login.service {
            Service::Anthropic if login.secret.as_str() == CLAUDE_TOKEN => &[CLAUDE_TOKEN],
            Service::Anthropic => &["ANTHROPIC_API_KEY"],
            Service::OpenAi => &["OPENAI_API_KEY"],
            Service::Gemini => &["GEMINI_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"],
            Service::ChatGpt => &[],
        };
        names.iter().map(move |name| (*name, fake(&login.secret)))
    });
    let fakes: Vec<_> = if known == BuiltIn::Shell { Vec::new() } else { fakes.collect() };
    fixed.chain(fakes).collect()
}

/// Secrets whose fake must not stand in a variable of their own name: Codex would take one in `CODEX_ACCESS_TOKEN` for
/// another kind of login than the one in its file.
pub fn not_in_environment(provider: &Provider, logins: &[Login]) -> Vec<SecretName> {
    let codex = BuiltIn::named(&provider.name) == Some(BuiltIn::Codex);
    let subscription = logins.iter().filter(|login| codex && login.service == Service::ChatGpt);
    subscription.map(|login| login.secret.clone()).collect()
}

/// What of a ChatGPT login is no credential and has to be the real one: the account that is asked for, and its plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatGptAccount {
    /// The account's id.
    pub id: String,
    /// `plus`, `pro`, `team`…
    pub plan: String,
}

/// What seeds are made from.
pub struct Facts<'a> {
    /// The workspace's path inside.
    pub workdir: &'a str,
    /// The agent file's text, or the empty text.
    pub prompt: &'a str,
    /// The logins of the bottle's routes.
    pub logins: &'a [Login],
    /// What stands inside in a secret's place.
    pub fake: &'a dyn Fn(&SecretName) -> String,
    /// The account of the ChatGPT login, where it is known.
    pub account: Option<&'a ChatGptAccount>,
}

impl Facts<'_> {
    fn fake_of(&self, service: Service) -> Option<String> {
        self.logins.iter().find(|login| login.service == service).map(|login| (self.fake)(&login.secret))
    }
}

/// The files that the program finds in its home, by their path below it.
pub fn seeds(provider: &Provider, facts: &Facts<'_>) -> Vec<Seed> {
    match BuiltIn::named(&provider.name) {
        Some(BuiltIn::Claude) => claude(facts),
        Some(BuiltIn::Codex) => codex(facts),
        Some(BuiltIn::Gemini) => gemini(facts),
        Some(BuiltIn::OpenCode) => opencode(facts),
        Some(BuiltIn::Shell) | None => Vec::new(),
    }
}

fn claude(facts: &Facts<'_>) -> Vec<Seed> {
    let mut ours = json!({
        "hasCompletedOnboarding": true,
        "bypassPermissionsModeAccepted": true,
        "projects": { facts.workdir: {"hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true} },
    });
    if let Some(key) = facts.fake_of(Service::Anthropic) {
        // "Do you want to use this API key?" is answered by the key's end.
        let tail: String = key.chars().skip(key.chars().count().saturating_sub(CLAUDE_KEY_TAIL)).collect();
        ours["customApiKeyResponses"] = json!({"approved": [tail]});
    }
    vec![
        Seed { path: ".claude.json", how: How::Json { ours, first: json!({"theme": "dark"}) } },
        Seed {
            path: ".claude/settings.json",
            how: How::Json { ours: json!({"skipDangerousModePermissionPrompt": true}), first: Value::Null },
        },
        prompt(".claude/CLAUDE.md", facts),
    ]
}

/// Codex's settings: read by it alone, written once and then its own.
const CODEX_CONFIG: &str = "\
approval_policy = \"never\"
sandbox_mode = \"danger-full-access\"
check_for_update_on_startup = false
cli_auth_credentials_store = \"file\"

[analytics]
enabled = false

[feedback]
enabled = false

[features]
api_key_model_discovery = false
apps = false
enable_request_compression = false
in_app_updates = false
plugins = false

[notice]
hide_full_access_warning = true
";

fn codex(facts: &Facts<'_>) -> Vec<Seed> {
    let header = format!("[projects.{}]", seed::toml_text(facts.workdir));
    let trusted = How::Toml { first: CODEX_CONFIG, header, body: String::from("trust_level = \"trusted\"\n") };
    let mut seeds = vec![Seed { path: ".codex/config.toml", how: trusted }, prompt(".codex/AGENTS.md", facts)];
    let login = match (facts.fake_of(Service::ChatGpt), facts.fake_of(Service::OpenAi)) {
        (Some(fake), _) => Some(chatgpt_login(&fake, facts.account)),
        (None, Some(fake)) => Some(json!({"auth_mode": "apikey", "OPENAI_API_KEY": fake})),
        (None, None) => None,
    };
    seeds.extend(login.map(|login| Seed { path: ".codex/auth.json", how: How::Replace(seed::pretty(&login)) }));
    seeds
}

/// A login of the right shape in which nothing is real but the account's id: it names the account to the service and is
/// worth nothing without a token.
fn chatgpt_login(fake: &str, account: Option<&ChatGptAccount>) -> Value {
    let (id, plan) = account.map_or((fake, "plus"), |account| (&account.id, &account.plan));
    let claims = json!({
        "email": "agent@carboy.invalid",
        "exp": NEVER_SECONDS,
        "https://api.openai.com/auth": {
            "chatgpt_account_id": id, "chatgpt_plan_type": plan, "chatgpt_user_id": "agent", "user_id": "agent",
        },
    });
    // In the place of the signature stands the fake itself, so that scanners know what it is.
    let part = |value: &Value| seed::base64url(value.to_string().as_bytes());
    let token = format!("{}.{}.{fake}", part(&json!({"alg": "none", "typ": "JWT"})), part(&claims));
    json!({
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": null,
        "tokens": {"id_token": token, "access_token": token, "refresh_token": fake, "account_id": id},
        "last_refresh": NEVER,
    })
}

fn gemini(facts: &Facts<'_>) -> Vec<Seed> {
    let ours = json!({
        "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": false}},
        "general": {"enableAutoUpdate": false, "enableAutoUpdateNotification": false},
        "privacy": {"usageStatisticsEnabled": false},
        "telemetry": {"enabled": false},
        "ide": {"hasSeenNudge": true},
    });
    let settings = How::Json { ours, first: json!({"ui": {"theme": "Default"}}) };
    vec![Seed { path: ".gemini/settings.json", how: settings }, prompt(".gemini/GEMINI.md", facts)]
}

fn opencode(facts: &Facts<'_>) -> Vec<Seed> {
    let ours = json!({"autoupdate": false, "share": "disabled", "permission": "allow"});
    let settings = How::Json { ours, first: json!({"$schema": "https://opencode.ai/config.json"}) };
    let path = ".config/opencode/opencode.json";
    vec![Seed { path, how: settings }, prompt(".config/opencode/AGENTS.md", facts)]
}

/// The agent file's text in the file that the program reads before each conversation.
fn prompt(path: &'static str, facts: &Facts<'_>) -> Seed {
    Seed { path, how: How::Section(facts.prompt.trim().to_owned()) }
}

#[cfg(test)]
mod tests;
