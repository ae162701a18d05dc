//! M38: which presets are opened, with the hosts that the installed tools are configured to use.

use carboy_control::setup::project::{Project, look};
use carboy_control::setup::propose::{GITHUB_READ, Proposal};
use carboy_control::setup::registries::Manager;
use carboy_core::host::Host;
use carboy_manifest::Settings;
use carboy_manifest::starter::PresetLine;

use super::answers::{Answers, Usual};
use super::login::Desk;
use crate::report::{Exit, Failure};

/// What is opened, and what is told of in a comment.
#[derive(Default)]
pub struct Opened {
    /// Opened.
    pub chosen: Vec<Proposal>,
    /// Not opened.
    pub offered: Vec<PresetLine>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// `--preset NAME` or `--preset NAME=HOST,HOST`.
struct Wanted {
    name: String,
    hosts: Vec<String>,
}

/// Looks, asks, and gives what is opened.
pub fn open(desk: &Desk<'_>) -> Result<Opened, Failure> {
    if desk.args.no_presets {
        return Ok(Opened::default());
    }
    let wanted = desk.args.presets.iter().map(|text| wanted(text)).collect::<Result<Vec<_>, _>>()?;
    let project = look(desk.host);
    let proposals = all(desk, &project);
    let names = if wanted.is_empty() { asked(desk.answers, &proposals, &project)? } else { vec![] };
    let mut opened = Opened::default();
    for proposal in proposals {
        let own = wanted.iter().find(|one| one.name == proposal.preset);
        if own.is_some() || names.contains(&proposal.preset) {
            let hosts = own.map(|own| own.hosts.clone()).unwrap_or_default();
            let proposal = settled(desk, proposal, hosts, &mut opened.notes)?;
            opened.notes.extend(proposal.notes.iter().cloned());
            opened.chosen.push(proposal);
        } else {
            opened.offered.extend(proposal.lines);
        }
    }
    for own in &wanted {
        if opened.chosen.iter().any(|chosen| chosen.preset == own.name) {
            continue;
        }
        if own.hosts.is_empty() {
            return Err(Failure::words(Exit::Usage, format!("--preset {}: the tool is not installed here", own.name))
                .hint(format!("name its hosts: `--preset {}=HOST`", own.name)));
        }
        opened.chosen.push(of_hosts(&own.name, own.hosts.clone()));
    }
    Ok(opened)
}

fn wanted(text: &str) -> Result<Wanted, Failure> {
    let (name, hosts) = text.split_once('=').unwrap_or((text, ""));
    let known = Manager::ALL.iter().any(|manager| manager.name() == name);
    if !known && (name != GITHUB_READ || !hosts.is_empty()) {
        let names: Vec<&str> = Manager::ALL.iter().map(|manager| manager.name()).chain([GITHUB_READ]).collect();
        return Err(Failure::words(Exit::Usage, format!("--preset {text}: no such preset"))
            .hint(format!("use one of {}; `NAME=HOST` names the hosts of a package manager", names.join(", "))));
    }
    let hosts = hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
    Ok(Wanted { name: name.to_owned(), hosts })
}

/// Every proposal of this host, in the order of presets. The tools are asked at the same time: each takes its moment.
fn all(desk: &Desk<'_>, project: &Project) -> Vec<Proposal> {
    let host = desk.host;
    let mut proposals: Vec<Proposal> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            Manager::ALL.into_iter().map(|manager| scope.spawn(move || Proposal::of_manager(host, manager))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    });
    proposals.retain(|proposal| {
        let used = project.managers.iter().any(|(manager, _)| manager.name() == proposal.preset);
        used || !proposal.lines.is_empty() || desk.args.presets.iter().any(|text| text.starts_with(&proposal.preset))
    });
    for proposal in &mut proposals {
        if let Some((_, file)) = project.managers.iter().find(|(manager, _)| manager.name() == proposal.preset) {
            for line in proposal.lines.iter_mut().take(1) {
                line.why.insert(0, format!("{}, because of {file}", proposal.preset));
            }
        }
    }
    proposals.push(Proposal::github());
    proposals
}

fn asked(answers: &Answers, proposals: &[Proposal], project: &Project) -> Result<Vec<String>, Failure> {
    let used = |name: &str| match name {
        GITHUB_READ => project.github,
        name => project.managers.iter().any(|(manager, _)| manager.name() == name),
    };
    let all: Vec<&str> = proposals.iter().map(|proposal| proposal.preset.as_str()).collect();
    let usual: Vec<&str> = all.iter().copied().filter(|name| used(name)).collect();
    let usual = if usual.is_empty() { "none".to_owned() } else { usual.join(" ") };
    loop {
        let question = format!("What to open, read-only? {}, or none", all.join(", "));
        let answer = answers.line(&question, &usual)?;
        let names: Vec<String> =
            answer.split([',', ' ']).filter(|name| !name.is_empty() && *name != "none").map(str::to_owned).collect();
        match names.iter().find(|name| !all.contains(&name.as_str())) {
            None => return Ok(names),
            Some(name) if answers.asks() => say!("  {name} is none of them"),
            Some(_) => return Ok(Vec::new()),
        }
    }
}

/// What is opened of a proposal, after the questions about addresses and about what the project asks for.
fn settled(
    desk: &Desk<'_>,
    mut proposal: Proposal,
    hosts: Vec<String>,
    notes: &mut Vec<String>,
) -> Result<Proposal, Failure> {
    let answers = desk.answers;
    if !hosts.is_empty() {
        return Ok(Proposal {
            lines: of_hosts(&proposal.preset, hosts).lines,
            asked_by_project: vec![],
            pinned: vec![],
            ..proposal
        });
    }
    let mut kept = Vec::new();
    for line in std::mem::take(&mut proposal.lines) {
        let question = format!("{} is in a private network. May the bottle reach it there?", line.hosts.join(", "));
        if !line.private || answers.yes_or_no(&question, Usual::Yes)? {
            kept.push(line);
        }
    }
    proposal.lines = kept;
    let mut pinned = Vec::new();
    for pin in std::mem::take(&mut proposal.pinned) {
        if is_pinned(desk.settings, &pin.host, pin.port) {
            continue;
        }
        let (host, ip) = (&pin.host, pin.address);
        let question =
            format!("{host} is at {ip}, which no route opens by itself. Add it to `upstreams` of settings.yml?");
        if answers.yes_or_no(&question, Usual::Yes)? {
            if !answers.asks() {
                notes.push(format!(
                    "{host} is at {ip}, which no route opens by itself: settings.yml names it under `upstreams`"
                ));
            }
            pinned.push(pin);
        }
    }
    proposal.pinned = pinned;
    for line in std::mem::take(&mut proposal.asked_by_project) {
        let (what, hosts) = (line.why.join("; "), line.hosts.join(","));
        let question = format!("The project asks for more ({what}). Whoever wrote it chose that host. Open it?");
        if answers.yes_or_no(&question, Usual::No)? {
            proposal.lines.push(line);
        } else {
            notes.push(format!("not opened: {what}; `--preset {}={hosts}` opens it alone", proposal.preset));
        }
    }
    Ok(proposal)
}

fn is_pinned(settings: &Settings, host: &str, port: u16) -> bool {
    Host::parse(host).is_ok_and(|host| settings.upstreams.get(&host, port).is_some())
}

fn of_hosts(name: &str, hosts: Vec<String>) -> Proposal {
    let why = vec!["as `carboy init --preset` was told".to_owned()];
    let line = PresetLine { name: name.to_owned(), hosts, private: false, why };
    Proposal { preset: name.to_owned(), lines: vec![line], ..Proposal::github() }
}
