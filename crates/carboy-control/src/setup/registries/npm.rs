//! npm: `npm config get registry`, and the registries of scopes, which stand in `.npmrc` files alone.

use std::path::{Path, PathBuf};

use super::{Configured, Manager, Whose};
use crate::setup::{Surroundings, read_own, read_repository};

/// What an `.npmrc` says, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct NpmRc {
    registry: Option<String>,
    /// Scope and address.
    scopes: Vec<(String, String)>,
    holds_credentials: bool,
}

pub(super) fn configured(host: &Surroundings) -> Option<Configured> {
    let npm = host.find("npm", &[])?;
    let mut found = Configured::new(Manager::Npm);
    let user = host.variable("NPM_CONFIG_USERCONFIG").map_or_else(|| host.home.join(".npmrc"), PathBuf::from);
    let of_user = read_own(&user).map(|text| parse(&text)).unwrap_or_default();
    let by_variable = ["npm_config_registry", "NPM_CONFIG_REGISTRY"].iter().any(|name| host.variable(name).is_some());
    let said = "`npm config get registry`";
    match host.ask(&npm, &["config", "get", "registry"]) {
        Some(url) => {
            let address = found.add(&url, said, Whose::Person);
            // The bottle does not see where this is said; what npm brings along it uses by itself.
            if let Some(address) = address.filter(|_| by_variable || of_user.registry.is_some()) {
                found.variable("npm_config_registry", format!("{}/", address.url()), said);
            }
        }
        None => found.notes.push(format!("npm: {said} gave no answer")),
    }
    for name in ["npm_config_audit", "npm_config_update_notifier"] {
        found.variable(name, "false".into(), "a question that the preset does not let through: it only reads packages");
    }
    rc(&mut found, &of_user, &user, Whose::Person);
    let project = host.workspace.join(".npmrc");
    if let Some(text) = read_repository(&project) {
        let of_project = parse(&text);
        if let Some(url) = &of_project.registry {
            found.add(url, "the project's .npmrc", Whose::Project);
        }
        rc(&mut found, &of_project, &project, Whose::Project);
    }
    Some(found)
}

fn rc(found: &mut Configured, rc: &NpmRc, file: &Path, whose: Whose) {
    let name = match whose {
        Whose::Person => "your .npmrc",
        Whose::Project => "the project's .npmrc",
    };
    for (scope, url) in &rc.scopes {
        let added = found.add(url, &format!("{name}, for {scope}"), whose);
        if let Some(address) = added.filter(|_| whose == Whose::Person) {
            found.notes.push(format!(
                "npm: {scope} comes from {}: say so in the project's .npmrc, the bottle does not see yours",
                address.url()
            ));
        }
    }
    if rc.holds_credentials {
        let told = match whose {
            Whose::Person => "it is not copied",
            Whose::Project => "every program that works in the project can read it",
        };
        let next = "a registry that asks for one gets it by `token_env` of the preset (docs/init.md)";
        found.notes.push(format!("npm: {} holds a credential; {told}; {next}", file.display()));
    }
}

fn parse(text: &str) -> NpmRc {
    let mut rc = NpmRc::default();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
        // `//host/:_authToken=…`, `_auth=…`, `//host/:_password=…`
        let last = key.rsplit(':').next().unwrap_or(key);
        if matches!(last, "_authToken" | "_auth" | "_password" | "_authtoken") {
            rc.holds_credentials = true;
        } else if key == "registry" {
            rc.registry = Some(value.to_owned());
        } else if let Some(scope) = key.strip_suffix(":registry").filter(|scope| scope.starts_with('@')) {
            rc.scopes.push((scope.to_owned(), value.to_owned()));
        }
    }
    rc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_npmrc_gives_its_registries_and_that_it_holds_a_token_and_no_more() {
        let text = "; mine\nregistry = \"https://r.example/npm/\"\n@acme:registry=https://acme.example\n\
                    //r.example/npm/:_authToken=npm_secret\nfund=false\n";
        let want = NpmRc {
            registry: Some("https://r.example/npm/".into()),
            scopes: vec![("@acme".into(), "https://acme.example".into())],
            holds_credentials: true,
        };
        assert_eq!(parse(text), want);
        assert_eq!(parse("# registry=https://x.example\n//x/:always-auth=true"), NpmRc::default());
    }
}
