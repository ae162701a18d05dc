//! `carboy init --from bot-bottle` (M40): the files of bot-bottle as files of carboy, and everything that did not fit.

use std::fmt::Write as _;

use carboy_control::disk::DiskFiles;
use carboy_manifest::import::{NoteKind, bot_bottle};
use serde_json::json;

use super::difference;
use super::drafts::{Action, Drafts, draft};
use crate::args::InitArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette, printable};

/// Takes them over, or shows what would be.
pub fn import(args: &InitArgs, environment: &Environment) -> Result<u8, Failure> {
    let places = &environment.places;
    let imported = bot_bottle(&DiskFiles, places);
    if imported.files.is_empty() && imported.notes.is_empty() {
        let root = places.home.join(".bot-bottle");
        return Err(Failure::words(Exit::Usage, format!("there is nothing of bot-bottle in {}", root.display()))
            .hint("`carboy init` writes a starter instead"));
    }
    let all = imported.files.into_iter().map(|(below, text)| draft(places.carboy_home.join(below), text));
    let drafts = Drafts { all: all.collect::<Result<Vec<_>, _>>()? };
    let replaced: Vec<_> = drafts.all.iter().filter(|draft| draft.action == Action::Replace).collect();
    let writes = !args.dry_run && (args.force || replaced.is_empty());
    if args.json {
        let notes: Vec<_> = imported
            .notes
            .iter()
            .map(|n| json!({"kind": word(n.kind), "file": n.file, "line": n.line, "key": n.key, "what": n.what, "fix": n.fix}))
            .collect();
        let files: Vec<_> = drafts
            .all
            .iter()
            .map(|draft| json!({"path": draft.path, "action": draft.action, "content": draft.text()}))
            .collect();
        print(format!("{}\n", json!({"files": files, "notes": notes, "written": writes})).as_bytes())?;
    } else {
        say_part!("{}", told(&imported.notes));
    }
    if writes {
        let written = drafts.write(environment)?;
        if !args.json {
            print(written.iter().map(|path| format!("{}\n", path.display())).collect::<String>().as_bytes())?;
            say!("\nNext: carboy check");
        }
        return Ok(0);
    }
    if args.dry_run {
        if !args.json {
            print(drafts.shown(&places.home).as_bytes())?;
        }
        return Ok(0);
    }
    if !args.json {
        say_part!("{}", difference::of_drafts(&replaced));
    }
    let path = replaced.first().map(|draft| draft.path.display().to_string()).unwrap_or_default();
    Err(Failure::words(Exit::Usage, format!("{path} is there already and would change; nothing was written"))
        .hint("`--force` replaces it, `--dry-run` shows all files"))
}

fn word(kind: NoteKind) -> &'static str {
    match kind {
        NoteKind::Rewritten => "rewritten",
        NoteKind::LeftOut => "left-out",
        NoteKind::NotCopied => "not-copied",
    }
}

/// Each note with its place, what was not taken over last: that is what a person has to act on.
fn told(notes: &[carboy_manifest::import::Note]) -> String {
    let palette = Palette::stderr();
    let mut out = String::new();
    for (kind, heading) in [
        (NoteKind::Rewritten, "written in another way, same meaning:"),
        (NoteKind::LeftOut, "left out, kept as a comment:"),
        (NoteKind::NotCopied, "not taken over:"),
    ] {
        let of_kind: Vec<_> = notes.iter().filter(|note| note.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", palette.strong(heading));
        for line in of_kind.iter().flat_map(|note| note.to_string().lines().map(printable).collect::<Vec<_>>()) {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}
