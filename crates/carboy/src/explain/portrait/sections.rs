//! What a page says of an agent's policy: tables for everything, a diagram where something flows.
//!
//! *Must never* leave a route, a cap or a bind out: what is not on the page is not allowed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use carboy_manifest::origin::Origin;
use carboy_manifest::view::{EffectiveView, RouteView};
use carboy_manifest::{EnvValue, Workspace};
use carboy_weave::fault::Problem;
use carboy_weave::page::{Cell, Page};

use super::chat;
use crate::check::{budget_rows, program, secret_source};
use crate::report::bytes;

/// Hosts that the diagram names one by one; the table has all.
const HOSTS_DRAWN_MAX: usize = 10;

/// Writes every section.
pub fn write(page: &mut Page, view: &EffectiveView, who: &str) -> Result<(), Problem> {
    identity(page, view);
    if let Some(chat) = &view.chat {
        chat::tools(page, chat, who)?;
        chat::layers(page, chat)?;
        chat::texts(page, chat);
    }
    reach(page, view, who)?;
    spending(page, view)?;
    match &view.chat {
        Some(chat) => {
            layers(page)?;
            chat::bounds(page, chat);
        }
        None => {
            asked(page, view);
            layers(page)?;
            sight(page, view);
        }
    }
    Ok(())
}

fn identity(page: &mut Page, view: &EffectiveView) {
    page.heading(2, "Who it is");
    let joined = |names: Vec<String>| names.join(", ");
    let mut rows = Vec::new();
    if let Some(agent) = &view.agent {
        rows.push(vec![Cell::text("Agent"), Cell::code(agent.as_str())]);
    }
    let bottles: Vec<String> = view.bottles.iter().map(ToString::to_string).collect();
    if !bottles.is_empty() {
        rows.push(vec![Cell::text("Bottle"), Cell::code(joined(bottles))]);
    }
    if let Some(chat) = &view.chat {
        rows.extend(chat::identity(chat));
        page.table("Who it is", &["What", "Which"], &rows);
        return;
    }
    rows.push(vec![Cell::text("Program"), Cell::code(program(view))]);
    let workspace = match view.workspace.value {
        Workspace::Direct => "the working directory, written to directly",
        Workspace::Overlay => "an overlay over the working directory: a person brings changes over",
    };
    rows.push(vec![Cell::text("Works on"), Cell::text(workspace)]);
    if let Some(name) = &view.git_user.name.value {
        let email = view.git_user.email.value.as_deref().unwrap_or("no address");
        rows.push(vec![Cell::text("Commits as"), Cell::text(format!("{name} <{email}>"))]);
    }
    page.table("Who it is", &["What", "Which"], &rows);
}

fn reach(page: &mut Page, view: &EffectiveView, who: &str) -> Result<(), Problem> {
    page.heading(2, "What it may reach");
    if view.routes.is_empty() {
        page.paragraph("Nothing: no route is open, so no name resolves and no connection leaves.");
        return Ok(());
    }
    page.paragraph(
        "Everything that it sends is captured, whatever program sends it. These routes let something through, the first that fits; what \
         fits none is refused, written down, and can be opened by the operator.",
    );
    page.diagram(&drawn_routes(view, who), 1)?;
    let rows: Vec<Vec<Cell>> = view.routes.iter().map(route_row).collect();
    page.table("Routes", &["Host", "Requests", "Credential", "Said in"], &rows);
    let rows: Vec<Vec<Cell>> = view.routes.iter().map(scanned_row).collect();
    page.table("What is looked for", &["Host", "In what leaves", "In what comes back", "Tokens counted as"], &rows);
    if !view.secrets.is_empty() {
        page.paragraph("Credentials never enter the bottle: the gateway sets them, for the host of their route alone.");
        let rows: Vec<Vec<Cell>> = view
            .secrets
            .iter()
            .map(|(name, secret)| {
                vec![Cell::code(name.as_str()), Cell::text(secret_source(&secret.source)), origin(&secret.origin)]
            })
            .collect();
        page.table("Credentials by name", &["Name", "Read from", "Said in"], &rows);
    }
    Ok(())
}

fn route_row(route: &RouteView) -> Vec<Cell> {
    let mut requests = if route.matches.is_empty() { "all".to_owned() } else { route.matches.join("; ") };
    if route.git_fetch {
        requests.push_str("; git clone and fetch");
    }
    if route.websocket {
        requests.push_str("; WebSockets");
    }
    if route.private {
        requests.push_str("; at private addresses too");
    }
    let ports: Vec<String> = route.ports.iter().map(u16::to_string).collect();
    let _ = write!(requests, "; port {}", ports.join(", "));
    let set = route.auth.as_ref().map(|auth| format!("{} in {}", auth.secret.as_str(), auth.header));
    let placeholders =
        route.credentials.iter().map(|one| format!("{}, by its placeholder in ${}", one.words(), one.env));
    let credential: Vec<String> = set.into_iter().chain(placeholders).collect();
    let credential = if credential.is_empty() { "none".to_owned() } else { credential.join("; ") };
    let preset = route.from.preset.as_ref().map(|preset| format!("preset {preset}"));
    vec![
        Cell::code(route.host.clone()),
        Cell::text(requests),
        Cell::text(credential),
        preset.map_or_else(|| origin(&route.from.origin), Cell::text),
    ]
}

fn scanned_row(route: &RouteView) -> Vec<Cell> {
    let list = |names: &[&str]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    let out = match route.outbound_detectors.as_slice() {
        [] => list(&[]),
        some => format!("{}: {}", list(some), route.outbound_on_match),
    };
    vec![
        Cell::code(route.host.clone()),
        Cell::text(out),
        Cell::text(list(&route.inbound_detectors)),
        Cell::text(route.meter.as_deref().unwrap_or("not counted")),
    ]
}

/// The agent, its gateway, and the hosts behind it.
fn drawn_routes(view: &EffectiveView, who: &str) -> String {
    let mut hosts: BTreeMap<&str, Vec<&RouteView>> = BTreeMap::new();
    for route in &view.routes {
        hosts.entry(&route.host).or_default().push(route);
    }
    let mut out = String::from("flowchart LR\n");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  agent[\"{}\"] --> gate{{\"gateway\"}}", plain(who));
    for (n, (host, routes)) in hosts.iter().take(HOSTS_DRAWN_MAX).enumerate() {
        let secret = |route: &&RouteView| {
            let set = route.auth.as_ref().map(|auth| auth.secret.clone());
            set.or_else(|| route.credentials.first().map(|one| one.from.clone()))
        };
        let key = routes.iter().find_map(secret);
        let key = key.map(|secret| format!("|\"with {}\"|", plain(secret.as_str()))).unwrap_or_default();
        let _ = writeln!(out, "  gate -->{key} h{n}[\"{}\"]", plain(host));
    }
    if hosts.len() > HOSTS_DRAWN_MAX {
        let _ = writeln!(out, "  gate --> more[\"and {} more\"]", hosts.len() - HOSTS_DRAWN_MAX);
    }
    out.push_str("  gate -.->|\"everything else\"| no([\"refused and written down\"])\n");
    out
}

fn spending(page: &mut Page, view: &EffectiveView) -> Result<(), Problem> {
    page.heading(2, "What it may spend");
    let metered = view.routes.iter().any(|route| route.meter.is_some());
    let rows = budget_rows(&view.budgets, metered);
    if rows.is_empty() {
        page.paragraph("Nothing: no route of it is a model's.");
        return Ok(());
    }
    page.paragraph(
        "What a request to a model may cost at most is held before a byte of it leaves, and what it did cost is read from the answer.",
    );
    if !view.budgets.caps.is_empty() {
        let mut out = String::from("flowchart LR\n  run[\"this run\"]");
        for (n, scope) in view.budgets.chain.iter().enumerate() {
            let capped = view.budgets.caps.iter().filter(|cap| cap.binds && &cap.scope == scope).count();
            let caps = match capped {
                0 => "no cap of its own".to_owned(),
                1 => "1 cap".to_owned(),
                more => format!("{more} caps"),
            };
            let _ = write!(out, " --> s{n}[\"{}<br/>{caps}\"]", plain(scope));
        }
        out.push('\n');
        page.diagram(&out, 1)?;
    }
    page.list(&rows.into_iter().map(Cell::text).collect::<Vec<_>>());
    Ok(())
}

fn asked(page: &mut Page, view: &EffectiveView) {
    page.heading(2, "Who is asked");
    let mut items = Vec::new();
    let supervised = view.routes.iter().filter(|route| route.outbound_on_match == "supervise").count();
    if supervised > 0 {
        items.push(Cell::text(format!(
            "What looks like a credential on {supervised} of its routes is refused until an operator has decided."
        )));
    }
    items.push(Cell::text(
        "A route that it misses is the operator's to open: each refusal has an id, and carboy allow takes it.",
    ));
    if matches!(view.workspace.value, Workspace::Overlay) {
        items.push(Cell::text(
            "Its changes to the workspace wait until a person has looked: carboy bottle diff, apply.",
        ));
    }
    let prompts = view.env.iter().filter_map(|(name, value)| match &value.value {
        EnvValue::Prompt(_) => Some(name.as_str()),
        EnvValue::Set(_) => None,
    });
    let prompts: Vec<&str> = prompts.collect();
    if !prompts.is_empty() {
        items.push(Cell::text(format!("At launch the person is asked for {}.", prompts.join(", "))));
    }
    page.list(&items);
}

/// The steps of `crates/carboy-egress/src/pipeline.rs`, in its order.
fn layers(page: &mut Page) -> Result<(), Problem> {
    page.heading(2, "What every request passes");
    page.diagram(
        "sequenceDiagram\n  autonumber\n  participant P as program\n  participant G as gateway\n  participant L as ledger\n  \
         participant U as host\n  P->>G: request, captured\n  G->>G: name, TLS and Host agree\n  G->>G: a route allows it\n  \
         G->>G: every byte scanned\n  G->>L: hold the worst case\n  L-->>G: held, on disk\n  G->>U: with the credential\n  \
         U-->>G: answer, metered and scanned\n  G->>L: charge what it cost\n  G-->>P: answer\n",
        1,
    )?;
    page.paragraph("Each step needs the result of the one before it. A refusal at any of them is in the log before the program hears of it.");
    Ok(())
}

fn sight(page: &mut Page, view: &EffectiveView) {
    page.heading(2, "What it can see");
    let shown = |path: &std::path::Path| path.display().to_string();
    let binds: Vec<Vec<Cell>> = view
        .binds
        .iter()
        .map(|bind| {
            let access = if bind.access == "rw" { "may change it" } else { "looks only" };
            vec![
                Cell::code(shown(&bind.source)),
                Cell::code(shown(&bind.target)),
                Cell::text(access),
                origin(&bind.origin),
            ]
        })
        .collect();
    if !binds.is_empty() {
        page.table("Paths of the host", &["On the host", "Inside", "Access", "Said in"], &binds);
    }
    let published =
        view.publish.iter().map(|port| format!("{} of the host is port {} inside", port.listen, port.inside));
    let forwarded = view.forward.iter().map(|port| format!("port {} inside is {} of the host", port.inside, port.to));
    let ports: Vec<Cell> = published.chain(forwarded).map(Cell::text).collect();
    if !ports.is_empty() {
        page.list(&ports);
    }
    let limits = &view.limits;
    let memory = limits.memory_bytes_max.value.map_or("the host's own bound on".to_owned(), bytes);
    page.paragraph(&format!(
        "It has {memory} memory, {} processes and {} open files each. Variables that it is given: {}.",
        limits.processes_max.value,
        limits.open_files_max.value,
        names(view)
    ));
    page.paragraph(&format!("Never visible, whatever a file says: {}.", view.never_visible.join(", ")));
}

fn names(view: &EffectiveView) -> String {
    let names: Vec<&str> = view.env.keys().map(String::as_str).collect();
    if names.is_empty() { "none of its own".to_owned() } else { names.join(", ") }
}

pub fn origin(origin: &Origin) -> Cell {
    match origin {
        Origin::Default => Cell::text("carboy's own"),
        Origin::File { file, line } => {
            let name = file.file_name().map_or_else(|| file.display().to_string(), |name| name.display().to_string());
            Cell::code(format!("{name}:{line}"))
        }
        Origin::Environment { variable } => Cell::code(variable.clone()),
        Origin::Flag { flag } => Cell::code(flag.clone()),
    }
}

/// A label that ends neither its quotes nor its line.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c == '<' || c == '>' || c.is_control() { ' ' } else { c }).take(80).collect()
}
