//! `carboy uninstall`: what is carboy's on this machine is shown, a person agrees, and it goes.
//!
//! *Must never* remove anything while a run lives, nor without an answer, nor anything that `carboy_control::uninstall`
//! does not list, except for completions and a man page that are word for word this program's own.

mod outside;

use std::fmt::Write as _;

use carboy_control::home::Home;
use carboy_control::registry;
use carboy_control::uninstall::{Inventory, Log, Written, inventory, remove};

use crate::args::UninstallArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};
use crate::terminal;

use outside::Outside;

/// Looks, shows, asks, removes.
pub fn uninstall(args: &UninstallArgs, environment: &Environment) -> Result<u8, Failure> {
    let home = &environment.home;
    let log = if args.keep_log { Log::Keep } else { Log::Remove };
    let written = if args.all { Written::Remove } else { Written::Keep };
    let found = inventory(home, log, written).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let outside = Outside::look(&environment.places.home);
    if args.json {
        let object = object(&found, &outside);
        print(format!("{object}\n").as_bytes())?;
    } else {
        let told = shown(&found, &outside, Palette::stdout());
        print(report::wrapped(&told, report::columns(std::io::stdout())).as_bytes())?;
    }
    nothing_lives(home)?;
    if args.dry_run {
        return Ok(0);
    }
    if !args.yes && !agreed()? {
        return Err(Failure::words(Exit::Refused, "nothing was removed"));
    }
    // The answer may have taken its time.
    nothing_lives(home)?;
    // Nothing lives that would start it again.
    crate::controller::end(environment)?;
    let mut left = remove(home, &found);
    left.extend(outside.remove());
    for left in &left {
        say!("not removed: {}: {}", printable(&left.path.display().to_string()), left.why);
    }
    if !left.is_empty() {
        return Err(Failure::words(Exit::Failed, format!("{} of these could not be removed", left.len()))
            .hint("remove them by hand, as the user who owns them"));
    }
    say!("removed");
    Ok(0)
}

fn nothing_lives(home: &Home) -> Result<(), Failure> {
    let runs = registry::live_runs(home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    if runs.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = runs.iter().map(|run| run.record.run.as_str()).collect();
    let message =
        format!("{} of carboy's runs live: {}; nothing was removed", runs.len(), printable(&names.join(", ")));
    Err(Failure::words(Exit::Refused, message).hint("end them with `carboy stop --all`, then uninstall again"))
}

fn agreed() -> Result<bool, Failure> {
    terminal::confirm("Remove all of this for good? [y/N] ").map_err(|_| {
        Failure::words(Exit::Refused, "nothing was removed: there is no terminal to ask on")
            .hint("look at what `carboy uninstall --dry-run` shows, then add `--yes`")
    })
}

/// For people.
fn shown(found: &Inventory, outside: &Outside, palette: Palette) -> String {
    let mut out = palette.strong("Goes:") + "\n";
    // Writing to a String cannot fail.
    for item in &found.items {
        let entries = match item.entries {
            None => String::new(),
            Some(1) => ", 1 entry".to_owned(),
            Some(count) => format!(", {count} entries"),
        };
        let _ =
            writeln!(out, "  {}  {}{entries}", printable(&item.path.display().to_string()), palette.faint(item.what));
    }
    for file in &outside.files {
        let _ = writeln!(out, "  {}  {}", printable(&file.path.display().to_string()), palette.faint(file.what));
    }
    if found.items.is_empty() && outside.files.is_empty() {
        out.push_str("  nothing\n");
    }
    let stays = found.kept.iter().map(|path| (path, "kept"));
    let stays = stays.chain(found.unknown.iter().map(|path| (path, "not carboy's")));
    for (i, (path, why)) in stays.enumerate() {
        if i == 0 {
            let _ = writeln!(out, "{}", palette.strong("Stays:"));
        }
        let _ = writeln!(out, "  {}  {}", printable(&path.display().to_string()), palette.faint(why));
    }
    for (i, bottle) in found.interrupted.iter().enumerate() {
        if i == 0 {
            let _ = writeln!(out, "{}", palette.warn("Look first:"));
        }
        let bottle = printable(bottle);
        let _ = writeln!(
            out,
            "  the last run of bottle {bottle} was cut short and may have left empty stubs in its workspace; \
             `carboy run --bottle {bottle} -- true` there puts them in order"
        );
    }
    for (i, step) in outside.steps.iter().enumerate() {
        if i == 0 {
            let _ = writeln!(out, "{}", palette.strong("Left to you:"));
        }
        let _ = writeln!(out, "  {}\n      {}", step.what, printable(&step.command));
    }
    out
}

fn object(found: &Inventory, outside: &Outside) -> serde_json::Value {
    let paths =
        |paths: &[std::path::PathBuf]| -> Vec<String> { paths.iter().map(|p| p.display().to_string()).collect() };
    let goes = found.items.iter().map(|item| (&item.path, item.what));
    let goes = goes.chain(outside.files.iter().map(|file| (&file.path, file.what)));
    let goes: Vec<_> =
        goes.map(|(path, what)| serde_json::json!({"path": path.display().to_string(), "what": what})).collect();
    let steps: Vec<_> =
        outside.steps.iter().map(|step| serde_json::json!({"what": step.what, "command": step.command})).collect();
    serde_json::json!({
        "goes": goes,
        "kept": paths(&found.kept),
        "unknown": paths(&found.unknown),
        "interrupted": found.interrupted,
        "left_to_you": steps,
    })
}
