//! `carboy check`: every bottle, every agent and the settings, with every error at its place; and what one of them would
//! give, as a page.
//!
//! *Must never* print a secret's value, or run a command to get one.

mod attack;
mod budgets;
mod chat;
mod page;
mod secrets;

use std::fmt::Write as _;

use carboy_manifest::view::EffectiveView;
use carboy_manifest::{CheckReport, Request, check as check_files};

use crate::applications::ProgramFiles;
use crate::args::CheckArgs;
use crate::chat_file;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette};

pub use attack::attack;
pub use budgets::rows as budget_rows;
pub use chat::{
    SEEN as SEEN_BY_TOOLS, authorization as authorization_in_words, in_bottle as has_tools_in_bottle,
    rule as rules_in_words, tool as tool_in_words,
};
pub use page::{program, source as secret_source};

/// Checks and says.
pub fn check(args: &CheckArgs, environment: &Environment) -> Result<u8, Failure> {
    let places = environment.places.clone();
    let request = Request { agent: args.agent.clone(), bottles: args.bottles.clone(), places };
    let mut report = check_files(&ProgramFiles, &request);
    let mut beside = None;
    match report.chat.take() {
        Some(file) => {
            let lookup = environment.lookup.as_ref();
            let settled = chat_file::settle(&file, &environment.places, lookup, &args.chat.flags());
            beside = Some(secrets::Beside { path: file.dotenv(&environment.places), read: settled.dotenv });
            report = report.with_chat(settled.chat);
        }
        None if !args.chat.is_empty() && report.ok => {
            return Err(Failure::words(Exit::Usage, "`--preset` and `--set` are for a chat agent, and none was named")
                .hint("name one: `carboy check AGENT --set NAME=VALUE`"));
        }
        None => {}
    }
    let needed = match (&report.effective, args.agent.is_some() || !args.bottles.is_empty()) {
        (Some(effective), _) => secrets::of_one(effective, environment, beside.as_ref()),
        (None, false) => secrets::of_all(&report, environment),
        (None, true) => Vec::new(),
    };
    let code = if report.ok { 0 } else { Exit::Config as u8 };
    if args.json {
        let failed = |e: serde_json::Error| Failure::new(Exit::Failed, &e);
        let mut whole = serde_json::to_value(&report).map_err(failed)?;
        if let Some(object) = whole.as_object_mut() {
            object.insert("secrets".into(), serde_json::to_value(&needed).map_err(failed)?);
        }
        print(format!("{whole}\n").as_bytes())?;
        return Ok(code);
    }
    let palette = Palette::stdout();
    let mut out = String::new();
    // Writing to a String cannot fail.
    for diagnostic in report.diagnostics.iter() {
        let _ = writeln!(out, "{diagnostic}");
    }
    if let Some(effective) = &report.effective {
        out.push_str(&page::page(effective, &needed, palette));
    }
    out.push_str(&secrets::told(&needed, palette));
    if report.files.is_empty() {
        let at = environment.places.bottles().join("NAME.md");
        say!("nothing is there to check yet: write a bottle, {}", at.display());
    }
    out.push_str(&verdict(&report, palette));
    print(report::wrapped(&out, report::columns(std::io::stdout())).as_bytes())?;
    Ok(code)
}

/// What one agent or bottle would get, as `check NAME` shows it.
pub fn agent_page(view: &EffectiveView, environment: &Environment, palette: Palette) -> String {
    page::page(view, &secrets::of_one(view, environment, None), palette)
}

/// The last line.
fn verdict(report: &CheckReport, palette: Palette) -> String {
    let (count, broken) = (report.files.len(), report.files.iter().filter(|file| !file.ok).count());
    let files = if count == 1 { "file" } else { "files" };
    if report.ok {
        return format!("{}: {count} {files} checked\n", palette.good("valid"));
    }
    let errors = match report.diagnostics.error_count() {
        1 => "1 error".to_owned(),
        errors => format!("{errors} errors"),
    };
    match broken {
        // Files are as they should be; what was asked for is not.
        0 => format!("{} in what was asked for; {count} {files} checked\n", palette.bad(&errors)),
        broken => format!("{} in {broken} of {count} {files}\n", palette.bad(&errors)),
    }
}
