//! What a run of an agent or a bottle would get, for a person to read. `--json` has every value with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use carboy_manifest::view::{EffectiveView, RouteView};
use carboy_manifest::{EnvValue, SecretFrom, Workspace};

use super::secrets::{Needed, State};
use super::{budgets, chat};
use crate::report::{Palette, bytes, printable};
use crate::trust::route_line;

/// The page. Secrets by name, never a value; variables by name too, for a value may be anything.
pub fn page(view: &EffectiveView, needed: &[Needed], palette: Palette) -> String {
    let mut out = Rows { out: String::new(), palette };
    let shown = |path: &Path| path.display().to_string();
    out.row(
        "bottle",
        match view.bottles.as_slice() {
            [] => format!("{}, its own: it reaches what the agent's file names", view.bottle),
            named => named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        },
    );
    if let Some(agent) = &view.agent {
        let from = match view.repository_agent {
            Some(_) => ", of the working directory: the first run asks about it",
            None => "",
        };
        out.row("agent", format!("{agent}{from}"));
    }
    match &view.chat {
        Some(view) => chat::rows(view).into_iter().for_each(|(label, rows)| out.rows(label, rows)),
        None => out.row("program", program(view)),
    }
    // A certificate that several hosts share was read for each of them.
    let mut seen = BTreeSet::new();
    out.rows("files", view.sources.iter().filter(|path| seen.insert(*path)).map(|path| shown(path)));
    let workspace = match view.workspace.value {
        Workspace::Direct => "the working directory, written to directly",
        Workspace::Overlay => "an overlay over the working directory; `carboy bottle apply` brings changes over",
    };
    // A chat agent works on no directory.
    out.rows("workspace", view.chat.is_none().then(|| workspace.to_owned()));
    out.rows_or("routes", view.routes.iter().map(route), "none: it reaches nothing");
    out.rows("presets", presets(&view.routes));
    out.rows("gate", view.git_repos.iter().map(|repo| format!("{} is {}", repo.repo.name, repo.repo.url)));
    out.rows(
        "binds",
        view.binds.iter().map(|bind| {
            let (source, target) = (shown(&bind.source), shown(&bind.target));
            let to = if source == target { String::new() } else { format!(" as {target}") };
            format!("{source}{to} ({})", bind.access)
        }),
    );
    let published =
        view.publish.iter().map(|port| format!("{} of this host is port {} inside", port.listen, port.inside));
    let forwarded = view.forward.iter().map(|port| format!("port {} inside is {} of this host", port.inside, port.to));
    out.rows("ports", published.chain(forwarded));
    if view.image.value.is_some() {
        out.row("system", "an image, instead of this host's".into());
    }
    let limits = &view.limits;
    let memory = limits.memory_bytes_max.value.map_or("the host's own".into(), bytes);
    let (processes, files) = (limits.processes_max.value, limits.open_files_max.value);
    out.row("limits", format!("memory {memory}, {processes} processes, {files} open files each"));
    let metered = view.routes.iter().any(|route| route.meter.is_some());
    out.rows("spending", budgets::rows(&view.budgets, metered));
    if let Some(name) = &view.git_user.name.value {
        out.row("commits", format!("as {name} <{}>", view.git_user.email.value.as_deref().unwrap_or("no address")));
    }
    let env = view.env.iter().map(|(name, value)| match value.value {
        EnvValue::Set(_) => name.clone(),
        EnvValue::Prompt(_) => format!("{name} (asked for at launch)"),
    });
    let env = env.collect::<Vec<_>>().join(", ");
    out.rows("variables", (!env.is_empty()).then_some(env));
    out.rows(
        "secrets",
        view.secrets.iter().map(|(name, secret)| {
            let one = needed.iter().find(|one| one.secret == *name);
            let state = one.map_or("", |one| match one.state {
                State::Ready => "",
                State::Missing => " (not there)",
                State::NotRun => " (not run now)",
            });
            match one.and_then(|one| one.dotenv.as_ref()) {
                Some(path) => format!("{name}, from {}", path.display()),
                None => format!("{name}, from {}{state}", source(&secret.source)),
            }
        }),
    );
    out.row("hidden", format!("always: {}", view.never_visible.join(", ")));
    out.out
}

/// Labelled rows.
struct Rows {
    out: String,
    palette: Palette,
}

impl Rows {
    fn row(&mut self, label: &str, text: String) {
        self.rows(label, [text]);
    }

    /// The label stands once.
    fn rows(&mut self, label: &str, rows: impl IntoIterator<Item = String>) {
        for (i, row) in rows.into_iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(self.out, "{} {}", self.palette.faint(&format!("{label:<10}")), printable(&row));
        }
    }

    fn rows_or(&mut self, label: &str, rows: impl IntoIterator<Item = String>, none: &str) {
        let mut rows = rows.into_iter().peekable();
        match rows.peek() {
            Some(_) => self.rows(label, rows),
            None => self.row(label, none.to_owned()),
        }
    }
}

/// Program and arguments.
pub fn program(view: &EffectiveView) -> String {
    let provider = &view.provider.value;
    let words = std::iter::once(provider.command.as_ref().unwrap_or(&provider.name)).chain(&provider.args);
    words.map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn route(route: &RouteView) -> String {
    let mut line = route_line(route);
    if let Some(preset) = &route.from.preset {
        let _ = write!(line, "  ({preset})");
    }
    line
}

/// `npm@1: 2 routes`
fn presets(routes: &[RouteView]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for preset in routes.iter().filter_map(|route| route.from.preset.as_deref()) {
        *counts.entry(preset).or_default() += 1;
    }
    let plural = |count: usize| if count == 1 { "route" } else { "routes" };
    counts.into_iter().map(|(preset, count)| format!("{preset}: {count} {}", plural(count))).collect()
}

/// Where a secret is got from.
pub fn source(from: &SecretFrom) -> String {
    match from {
        SecretFrom::Env(name) => format!("the variable {name} of the shell that starts the run"),
        SecretFrom::File(path) => path.display().to_string(),
        SecretFrom::JsonFile { path, pointer } => format!("{pointer} of {}", path.display()),
        // Arguments may hold what should not be printed.
        SecretFrom::Command(argv) => format!("the command `{}`", argv.first().map_or("", String::as_str)),
    }
}
