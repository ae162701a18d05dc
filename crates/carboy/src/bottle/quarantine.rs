//! `carboy bottle quarantine`.

use std::fmt::Write as _;

use carboy_control::bottles::kept::{Entry, Shown};
use carboy_control::bottles::{look, put_back, quarantine_of, quarantined};
use carboy_control::operator::decision;
use carboy_control::workspace::text::compare;
use carboy_core::ids::BottleName;
use carboy_core::ports::Clock;

use super::diff::lines;
use super::{agreed, failed, json};
use crate::args::{QuarantineArgs, QuarantineCommand};
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

pub(super) fn quarantine(args: &QuarantineArgs, environment: &Environment) -> Result<u8, Failure> {
    match &args.what {
        None => list(args, environment),
        Some(QuarantineCommand::Show { id }) => {
            let entry = one(&args.name, id, environment)?;
            show(args, &entry, environment)
        }
        Some(QuarantineCommand::Restore { id, yes }) => {
            let mut entry = one(&args.name, id, environment)?;
            show(args, &entry, environment)?;
            agreed(*yes, &format!("Put it back to {}?", printable(&entry.path().display().to_string())))?;
            let path = entry.path().display().to_string();
            environment.write_down(decision(args.name.as_str(), "quarantine_restore").with("path", path))?;
            put_back(&environment.home, &args.name, &mut entry).map_err(|e| Failure::new(Exit::Refused, &e))?;
            say!("{} is back", printable(&entry.path().display().to_string()));
            Ok(0)
        }
    }
}

fn one(name: &BottleName, id: &str, environment: &Environment) -> Result<Entry, Failure> {
    let entries = quarantined(&environment.home, name).map_err(failed)?;
    entries.into_iter().find(|entry| entry.id == id).ok_or_else(|| {
        Failure::words(Exit::Found, format!("bottle {name} has no `{}` in quarantine", printable(id)))
            .hint(format!("`carboy bottle quarantine {name}` lists what it has"))
    })
}

fn list(args: &QuarantineArgs, environment: &Environment) -> Result<u8, Failure> {
    let entries = quarantined(&environment.home, &args.name).map_err(failed)?;
    if args.json {
        let objects: Vec<_> = entries.iter().map(|entry| object(entry, &args.name, environment)).collect();
        return json(&objects);
    }
    if entries.is_empty() {
        say!("nothing of bottle {} is in quarantine", args.name);
    }
    let (palette, now) = (Palette::stdout(), carboy_control::clock::SystemClock.now_ms());
    let mut out = String::new();
    for entry in &entries {
        let back = if entry.restored_ms.is_some() { palette.faint(", put back") } else { String::new() };
        let path = printable(&entry.path().display().to_string());
        let when = report::local_time(entry.at_ms, now);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}  {when}  {}  {path}{back}", palette.strong(&entry.id), printable(&entry.run));
        for change in &entry.changes {
            let _ = writeln!(out, "      {}", palette.warn(&printable(change)));
        }
    }
    print(out.as_bytes())
}

fn object(entry: &Entry, name: &BottleName, environment: &Environment) -> serde_json::Value {
    serde_json::json!({
        "id": entry.id,
        "run": entry.run,
        "at_ms": entry.at_ms,
        "path": entry.path().display().to_string(),
        "changes": entry.changes,
        "kept_at": entry.kept_at(&quarantine_of(&environment.home, name)).display().to_string(),
        "restored_ms": entry.restored_ms,
    })
}

fn show(args: &QuarantineArgs, entry: &Entry, environment: &Environment) -> Result<u8, Failure> {
    let found = look(&environment.home, &args.name, entry).map_err(failed)?;
    let mut out = String::new();
    let path = printable(&entry.path().display().to_string());
    let palette = Palette::stdout();
    let text = match &found {
        Shown::Texts { now, then } => Some(compare(now.as_deref().unwrap_or_default(), then).text),
        Shown::Directory(_) | Shown::Other(_) => None,
    };
    if args.json {
        let mut object = object(entry, &args.name, environment);
        object["diff"] = text.into();
        return json(&object);
    }
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} of {}: {path}", palette.strong(&entry.id), printable(&entry.run));
    for change in &entry.changes {
        let _ = writeln!(out, "  {}", palette.warn(&printable(change)));
    }
    match (found, text) {
        (_, Some(text)) => {
            let _ = writeln!(out, "--- {path} (now)\n+++ {path} (put back)");
            lines(&mut out, &text, palette);
        }
        (Shown::Directory(names), None) => {
            for name in names {
                let _ = writeln!(out, "+ {}", printable(&name));
            }
        }
        (Shown::Other(words), None) => {
            let _ = writeln!(out, "  {}", printable(&words));
        }
        (Shown::Texts { .. }, None) => {}
    }
    print(out.as_bytes())
}
