//! Flags of chat agents, wherever one is named.

use carboy_manifest::chat::{Flags, Preset};
use clap::{Args, ValueEnum};

/// What a command line says of a chat agent's thresholds.
#[derive(Debug, Default, Args)]
pub struct ChatFlags {
    /// Thresholds of a chat agent that belong together
    #[arg(long, value_name = "PRESET")]
    pub preset: Option<PresetKind>,
    /// One threshold of a chat agent, by its name or old name (docs/defaults.md has them)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
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
