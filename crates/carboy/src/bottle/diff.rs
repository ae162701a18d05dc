//! `carboy bottle diff`.

use std::fmt::Write as _;

use carboy_control::workspace::change::What;
use carboy_control::workspace::index::Index;
use carboy_control::workspace::text::{Lines, Look, look, since};
use carboy_control::workspace::tree::{Kind, Rel, Root};
use carboy_control::workspace::{Layer, alone, chosen, plan};

use super::{failed, json, place, selections};
use crate::args::DiffArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette, printable};

/// Most of a difference that is printed.
const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) fn diff(args: &DiffArgs, environment: &Environment) -> Result<u8, Failure> {
    let home = &environment.home;
    let layers = chosen(home, &args.name, args.workspace.as_deref(), &environment.places.cwd).map_err(failed)?;
    let paths = selections(&layers, &args.paths, &environment.places.cwd)?;
    let _alone = alone(home, &args.name).map_err(failed)?;
    let mut objects = Vec::new();
    for (layer, paths) in layers.iter().zip(&paths) {
        if !args.paths.is_empty() && paths.is_empty() {
            continue;
        }
        let looks = if layer.is_overlay() { overlay(layer, paths, args)? } else { direct(layer, paths)? };
        if args.json {
            objects.push(serde_json::json!({
                "workspace": layer.record.workspace.display().to_string(),
                "mode": if layer.is_overlay() { "overlay" } else { "direct" },
                "run": layer.record.run,
                "changes": looks,
            }));
            continue;
        }
        if layers.len() > 1 && !looks.is_empty() {
            say!("{}:", place(layer));
        }
        if looks.is_empty() {
            say!("nothing is changed in {}", place(layer));
        } else {
            print(rendered(&looks, args, layer.is_overlay()).as_bytes())?;
        }
    }
    if args.json { json(&objects) } else { Ok(0) }
}

fn is_wanted(path: &Rel, paths: &[Rel]) -> bool {
    paths.is_empty() || paths.iter().any(|wanted| path.is_at_or_below(wanted))
}

fn overlay(layer: &Layer, paths: &[Rel], args: &DiffArgs) -> Result<Vec<Look>, Failure> {
    let found = plan::pending(layer).map_err(failed)?;
    if found.truncated {
        say!("more changes than are told apart: only the first ones follow");
    }
    let (upper, host) = layer.roots().map_err(failed)?;
    let lines = if args.name_only { Lines::LeftOut } else { Lines::Compared };
    let wanted = found.list.iter().filter(|change| is_wanted(&change.path, paths));
    let (mut looks, mut bytes) = (Vec::new(), 0);
    for change in wanted {
        let lines = if bytes > TEXT_BYTES_MAX { Lines::LeftOut } else { lines };
        let look = look(&upper, &host, change, lines);
        bytes += look.diff.as_ref().map_or(0, String::len);
        looks.push(look);
    }
    if bytes > TEXT_BYTES_MAX {
        say!("more than 64 MiB of differences: the rest is only named");
    }
    Ok(looks)
}

fn direct(layer: &Layer, paths: &[Rel]) -> Result<Vec<Look>, Failure> {
    let io = |e: std::io::Error| Failure::words(Exit::Failed, format!("{}: {e}", place(layer)));
    let index = Index::read(&layer.index()).map_err(io)?;
    let index = index.ok_or_else(|| Failure::words(Exit::Found, "the run left no start index to compare with"))?;
    let host = Root::open(&layer.record.workspace).map_err(io)?;
    let (looks, cut) = since(&host, &index);
    say!(
        "{} was written to directly: these are names, sizes and times since {} began; `git diff` shows lines",
        place(layer),
        printable(&layer.record.run)
    );
    if cut {
        say!("the directory is too large to be known whole: there may be more");
    }
    let wanted = |look: &Look| {
        paths.is_empty()
            || paths.iter().any(|p| look.path == p.shown() || look.path.starts_with(&format!("{}/", p.shown())))
    };
    Ok(looks.into_iter().filter(wanted).collect())
}

fn rendered(looks: &[Look], args: &DiffArgs, overlay: bool) -> String {
    let palette = Palette::stdout();
    let mut out = String::new();
    for look in looks {
        if args.name_only {
            let _ = writeln!(out, "{}", printable(&look.path));
        } else if args.stat || !overlay {
            let counts =
                if look.diff.is_some() { format!("  +{} -{}", look.added, look.removed) } else { String::new() };
            let note = look.note.as_ref().map_or(String::new(), |note| format!("  ({})", printable(note)));
            let _ = writeln!(out, "{:<9} {}{counts}{note}", word(look), printable(&look.path));
        } else {
            whole(&mut out, look, palette);
        }
    }
    if args.stat {
        let sum = |of: fn(&Look) -> usize| looks.iter().map(of).sum::<usize>();
        let _ = writeln!(out, "{} changed, +{} -{}", looks.len(), sum(|l| l.added), sum(|l| l.removed));
    }
    out
}

pub(super) fn word(look: &Look) -> &'static str {
    match look.what {
        What::Added => "added",
        What::Modified => "modified",
        What::Mode => "mode",
        What::Deleted => "deleted",
        What::Unusable => "unusable",
    }
}

/// As `diff -u` and `patch` know it, with a line of carboy's own for what those have no words for.
pub(super) fn whole(out: &mut String, look: &Look, palette: Palette) {
    let path = printable(&look.path);
    let kind = |kind: Kind| match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::Whiteout | Kind::Special => "special file",
    };
    let side = look.after.as_ref().or(look.before.as_ref());
    let what = side.map_or("", |side| kind(side.kind));
    let _ = write!(out, "{}", palette.strong(&format!("{} {what} {path}", word(look))));
    if let (Some(before), Some(after)) = (&look.before, &look.after) {
        if before.mode != after.mode {
            let _ = write!(out, ", mode {} → {}", before.mode, after.mode);
        }
    } else if let (Some(after), What::Added) = (&look.after, look.what) {
        let _ = write!(out, ", mode {}", after.mode);
    }
    out.push('\n');
    let (before, after) = (look.before.as_ref(), look.after.as_ref());
    for (sign, target) in [('-', before.and_then(|s| s.target.as_ref())), ('+', after.and_then(|s| s.target.as_ref()))]
    {
        if let Some(target) = target {
            let _ = writeln!(out, "{sign}→ {}", printable(target));
        }
    }
    if let Some(note) = &look.note {
        let sizes = |s: Option<&carboy_control::workspace::text::Side>| s.map_or(0, |s| s.size);
        let _ = writeln!(out, "  ({}; {} → {} bytes)", printable(note), sizes(before), sizes(after));
    }
    let Some(diff) = look.diff.as_ref().filter(|diff| !diff.is_empty()) else { return };
    let name = |there: bool, letter: char| if there { format!("{letter}/{path}") } else { "/dev/null".to_owned() };
    let file = |s: Option<&carboy_control::workspace::text::Side>| s.is_some_and(|s| s.kind == Kind::File);
    let _ = writeln!(out, "--- {}\n+++ {}", name(file(before), 'a'), name(file(after), 'b'));
    lines(out, diff, palette);
}

/// The hunks, coloured.
pub(super) fn lines(out: &mut String, diff: &str, palette: Palette) {
    for line in diff.lines() {
        // Tabs are as they were; everything else that moves a cursor was replaced when the lines were compared.
        let text = line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
        let text = match line.as_bytes().first() {
            Some(b'+') => palette.good(&text),
            Some(b'-') => palette.bad(&text),
            Some(b'@') => palette.faint(&text),
            Some(_) | None => text,
        };
        let _ = writeln!(out, "{text}");
    }
}
