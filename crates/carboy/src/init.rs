//! `carboy init`: a starter bottle and agent from what this host has, read back before they are written.
//!
//! ```text
//!   arguments, answers ─▶ choice ─▶ drafts ─▶ read by the manifest's own reader ─▶ shown ─▶ one yes ─▶ written
//! ```
//!
//! *Must never* overwrite a file that a person has not given up (`--force`, or a yes to its difference); *must never* put a
//! key into an argument, a manifest or the settings: one that is typed in goes into a file of mode 0600.

mod answers;
mod chat;
mod choice;
mod difference;
mod drafts;
mod import;
mod login;
mod registries;

use std::fmt::Write as _;

use carboy_control::setup::agents::InstalledAgent;
use carboy_manifest::starter::{self, Program};
use serde::Serialize;

use crate::args::{InitArgs, InitKind};
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette, printable};
use answers::Answers;
use choice::Choice;
use drafts::{Action, Draft, Drafts};

/// Writes the starter files, or shows them.
pub fn init(args: &InitArgs, environment: &Environment) -> Result<u8, Failure> {
    if args.from.is_some() {
        return import::import(args, environment);
    }
    if args.kind == Some(InitKind::Chat) {
        return chat::init(args, environment);
    }
    if args.script.is_some() || args.model.is_some() || args.model_at.is_some() {
        return Err(Failure::words(Exit::Usage, "`--model`, `--model-at` and `--script` are for `carboy init chat`")
            .hint("leave them out: an agent that works in a bottle chooses its model itself"));
    }
    let answers = Answers::of(args);
    let choice = choice::choose(args, environment, &answers)?;
    let drafts = drafts::of(&choice, environment)?;
    for note in &choice.notes {
        say!("{} {}", Palette::stderr().warn("note:"), printable(note));
    }
    if args.json {
        return as_json(args, environment, &choice, &drafts);
    }
    if args.dry_run {
        print(drafts.shown(&environment.places.home).as_bytes())?;
        return Ok(0);
    }
    if drafts.all.iter().all(|draft| draft.action == Action::Keep) {
        say!("nothing to change: the files are there as they would be written");
        say_part!("{}", next_steps(&choice));
        return Ok(0);
    }
    agreed(args, &answers, &drafts, environment)?;
    let written = drafts.write(environment)?;
    print(written.iter().map(|path| format!("{}\n", path.display())).collect::<String>().as_bytes())?;
    say_part!("{}", next_steps(&choice));
    Ok(0)
}

/// The one question: are these files to be written? A file that would be replaced needs a yes of its own or `--force`.
fn agreed(args: &InitArgs, answers: &Answers, drafts: &Drafts, environment: &Environment) -> Result<(), Failure> {
    let replaced: Vec<&Draft> = drafts.all.iter().filter(|draft| draft.action == Action::Replace).collect();
    if !answers.asks() {
        return match replaced.first() {
            Some(draft) if !args.force => {
                say_part!("{}", difference::of_drafts(&replaced));
                Err(Failure::words(Exit::Usage, format!("{} is there already and would change", draft.path.display()))
                    .hint("`--force` replaces it; another NAME leaves it alone"))
            }
            Some(_) | None => Ok(()),
        };
    }
    say_part!("\n{}", drafts.shown(&environment.places.home));
    let question = match replaced.len() {
        0 => "Write these files?",
        _ if args.force => "Write these files, and replace those that are there?",
        _ => "Some are there already and would change as shown. Replace them?",
    };
    let usual = if replaced.is_empty() || args.force { answers::Usual::Yes } else { answers::Usual::No };
    match answers.yes_or_no(question, usual)? {
        true => Ok(()),
        false => Err(Failure::words(Exit::Refused, "nothing was written")),
    }
}

/// `{name, login, agent, files, notes, budget?, next, written}`.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    login: carboy_manifest::starter::Login,
    agent: Option<&'a InstalledAgent>,
    files: Vec<FileReport>,
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<&'static str>,
    next: Vec<String>,
    written: bool,
}

#[derive(Serialize)]
struct FileReport {
    path: std::path::PathBuf,
    action: Action,
    /// Absent for a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Would a file that is there become another?
fn replaces(drafts: &Drafts) -> bool {
    drafts.all.iter().any(|draft| draft.action == Action::Replace)
}

fn as_json(args: &InitArgs, environment: &Environment, choice: &Choice, drafts: &Drafts) -> Result<u8, Failure> {
    let writes = !args.dry_run && (args.force || !replaces(drafts));
    if writes {
        drafts.write(environment)?;
    }
    let files = drafts.all.iter().map(|draft| FileReport {
        path: draft.path.clone(),
        action: draft.action,
        content: draft.text().map(str::to_owned),
    });
    let report = Report {
        name: &choice.starter.name,
        login: choice.starter.login,
        agent: choice.agent.as_ref(),
        files: files.collect(),
        notes: &choice.notes,
        budget: budget_of(choice),
        next: commands(choice).into_iter().map(|(command, _)| command).collect(),
        written: writes,
    };
    let text = serde_json::to_string(&report).map_err(|e| Failure::new(Exit::Failed, &e))?;
    print(format!("{text}\n").as_bytes())?;
    Ok(if writes || args.dry_run { 0 } else { Exit::Usage as u8 })
}

fn next_steps(choice: &Choice) -> String {
    let mut out = budget_of(choice)
        .map(|buys| format!("\nBudget: {buys}; `budget` in its bottle changes it\n"))
        .unwrap_or_default();
    out.push_str("\nNext:\n");
    let commands = commands(choice);
    let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    for (command, what) in commands {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {command:<width$}  {what}");
    }
    out
}

/// What its bottle may spend, in words.
fn budget_of(choice: &Choice) -> Option<&'static str> {
    starter::has_budget(&choice.starter).then_some(starter::BUDGET_BUYS)
}

/// What to do next, and what that is.
fn commands(choice: &Choice) -> Vec<(String, &'static str)> {
    let name = &choice.starter.name;
    let mut commands = vec![(format!("carboy check --bottle {name}"), "what it may reach, see and use")];
    match choice.starter.program {
        None => {
            commands.push((format!("carboy run --bottle {name}"), "a shell in the bottle; `-- COMMAND` for another"))
        }
        Some(_) => {
            commands.push((format!("carboy run {name}"), "in this terminal"));
            commands.push((format!("carboy run -d {name} --task \"…\""), "unattended; `carboy logs` tells of it"));
        }
    }
    commands
}

/// The agent program that was asked for; `None` for a shell.
fn program_of(kind: InitKind) -> Option<Program> {
    match kind {
        InitKind::Shell | InitKind::Chat => None,
        InitKind::Claude => Some(Program::Claude),
        InitKind::Codex => Some(Program::Codex),
        InitKind::Gemini => Some(Program::Gemini),
        InitKind::Opencode => Some(Program::Opencode),
    }
}
