//! Flags of chat agents, wherever one is named.

use std::net::SocketAddr;
use std::path::PathBuf;

use carboy_control::serve::Network;
use carboy_manifest::chat::{Flags, Preset};
use clap::{Args, ValueEnum};

/// What a command line says of a chat agent's thresholds.
#[derive(Clone, Debug, Default, Args)]
pub struct ChatFlags {
    /// Thresholds of a chat agent that belong together
    #[arg(long, value_name = "PRESET")]
    pub preset: Option<PresetKind>,
    /// One threshold of a chat agent, by its name or old name (docs/defaults.md has them)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// What `run` says of a chat agent besides.
#[derive(Clone, Debug, Default, Args)]
pub struct TalkFlags {
    /// Who answers a chat agent: `offline` for a look without a key, or another model of the same provider
    #[arg(long, value_name = "offline|NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub thresholds: ChatFlags,
    /// Of a chat agent: another log than this user's
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Of a chat agent: a new conversation, or the last one of this user [default: new]
    #[arg(long, value_name = "WHICH")]
    pub session: Option<Resumed>,
}

impl TalkFlags {
    /// The first that was given: a coding agent takes none of them.
    pub fn first(&self) -> Option<&'static str> {
        let given = [
            ("--model", self.model.is_some()),
            ("--preset", self.thresholds.preset.is_some()),
            ("--set", !self.thresholds.set.is_empty()),
            ("--audit-log", self.audit_log.is_some()),
            ("--session", self.session.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 it was asked to end (Ctrl-C, SIGTERM, `carboy stop`), 2 usage, 70 it could not be served, 78 its file is not \
                  in order. docs/serving.md has routes, errors, nginx and embedding."
)]
pub struct ServeArgs {
    /// The agent: a file of yours, or one that comes along (assistant, bookly)
    pub agent: String,
    /// Where to listen; another address than loopback's wants `--listen-anywhere` too
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", value_parser = super::values::listen)]
    pub listen: SocketAddr,
    /// Let other machines connect: put a proxy that speaks TLS in front
    #[arg(long)]
    pub listen_anywhere: bool,
    /// Who answers: `offline` for a look without a key, or another model of the same provider
    #[arg(long, value_name = "offline|NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub thresholds: ChatFlags,
    /// A proxy, or a network of them, whose word on a client's address, scheme and name is taken; may be repeated
    #[arg(long = "trusted-proxy", value_name = "ADDR[/BITS]")]
    pub trusted_proxies: Vec<Network>,
    /// Answer GET /metrics, in Prometheus' text format, to whoever reaches the port
    #[arg(long)]
    pub metrics: bool,
    /// Another log than this user's
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// What this service may spend on tokens: 500k or 2M for each meter by itself, claude=2M for one; lifts no ceiling
    #[arg(long, value_name = "AMOUNT", value_parser = super::values::budget)]
    pub budget: Vec<String>,
    /// How long answers under way may take once it is asked to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(..=600))]
    pub grace: u16,
    /// Agree to an agent file of the working directory without being asked
    #[arg(long)]
    pub trust: bool,
}

/// Which conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resumed {
    /// None: a new one
    New,
    /// The last one of this user with this agent
    Last,
}

/// G72: thresholds that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetKind {
    /// Fewer requests, an earlier alarm
    Strict,
    /// For building: more requests, nothing is blocked for its looks
    Dev,
    /// For customers: everything on, and the log keyed
    Production,
}

impl ChatFlags {
    /// As the manifest's resolver takes them; of one name that is given twice the later value counts.
    pub fn flags(&self) -> Flags {
        let preset = self.preset.map(|preset| match preset {
            PresetKind::Strict => Preset::Strict,
            PresetKind::Dev => Preset::Dev,
            PresetKind::Production => Preset::Production,
        });
        Flags { preset, values: self.set.iter().cloned().collect() }
    }

    /// Was any of them given?
    pub fn is_empty(&self) -> bool {
        self.preset.is_none() && self.set.is_empty()
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        Some(_) | None => Err("write NAME=VALUE, as in requests_per_hour=50".into()),
    }
}
