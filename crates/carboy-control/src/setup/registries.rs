//! The registries that the installed package managers are configured to use: hosts for the presets, from each tool's own
//! mouth or file. No registry's host stands in this source.
//!
//! *Must never* copy a credential: an address loses what stands before its `@`, and a line that holds a token is told of by
//! its place alone.

pub mod address;
mod apt;
mod cargo;
mod go;
mod npm;
mod pip;

use carboy_manifest::starter::{BindLine, VariableLine};
use serde::Serialize;

use super::Surroundings;
pub use address::Address;

/// Package managers with a preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// npm's registry.
    Npm,
    /// Python's index.
    Pip,
    /// Rust's registries.
    Cargo,
    /// Go's module proxy.
    Go,
    /// Debian's archive.
    Apt,
}

impl Manager {
    /// All of them.
    pub const ALL: [Manager; 5] = [Manager::Npm, Manager::Pip, Manager::Cargo, Manager::Go, Manager::Apt];

    /// The preset's name.
    pub fn name(self) -> &'static str {
        match self {
            Manager::Npm => "npm",
            Manager::Pip => "pip",
            Manager::Cargo => "cargo",
            Manager::Go => "go",
            Manager::Apt => "apt",
        }
    }
}

/// Who says that a registry is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// The person, by configuration or by having installed the tool.
    Person,
    /// A file of the project: whoever wrote that would open a host of their choice.
    Project,
}

/// One registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registry {
    /// Where it is.
    pub address: Address,
    /// How that is known, for a person.
    pub said: String,
    /// Who says it.
    pub whose: Whose,
}

/// What one package manager is configured to use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Configured {
    /// Which.
    pub manager: Manager,
    /// Its registries, those of the person first.
    pub registries: Vec<Registry>,
    /// What makes the tool inside use them too.
    pub env: Vec<VariableLine>,
    /// Configuration files without a credential that the tool needs inside.
    pub binds: Vec<BindLine>,
    /// What a person should know: credentials that are not copied, registries that no preset reaches.
    pub notes: Vec<String>,
}

impl Configured {
    fn new(manager: Manager) -> Configured {
        Configured { manager, registries: vec![], env: vec![], binds: vec![], notes: vec![] }
    }

    /// Adds the registry at `url`; what is no address is told.
    fn add(&mut self, url: &str, said: &str, whose: Whose) -> Option<Address> {
        let Some(address) = Address::parse(url) else {
            self.notes.push(format!("{}: {said} names a registry that is no http address", self.manager.name()));
            return None;
        };
        if address.credentials {
            self.notes.push(format!(
                "{}: {said} holds a credential for {}, which is not copied; see `token_env` of the preset in docs/init.md",
                self.manager.name(),
                address.host
            ));
        }
        if !self.registries.iter().any(|known| known.address == address) {
            self.registries.push(Registry { address: address.clone(), said: said.to_owned(), whose });
        }
        Some(address)
    }

    fn variable(&mut self, name: &str, value: String, why: &str) {
        self.env.push(VariableLine { name: name.to_owned(), value, why: why.to_owned() });
    }
}

/// What this package manager is configured to use; `None` when it is not installed.
pub fn configured(host: &Surroundings, manager: Manager) -> Option<Configured> {
    let mut found = match manager {
        Manager::Npm => npm::configured(host),
        Manager::Pip => pip::configured(host),
        Manager::Cargo => cargo::configured(host),
        Manager::Go => go::configured(host),
        Manager::Apt => apt::configured(host),
    }?;
    found.registries.sort_by_key(|registry| registry.whose == Whose::Project);
    Some(found)
}
