//! `carboy bottle apply` and `undo`.

use std::fmt::Write as _;

use carboy_control::operator::decision;
use carboy_control::workspace::apply::{Outcome, apply as bring};
use carboy_control::workspace::plan::{Conflicts, Left, LeftSort, Plan, Steering, Wanted, plan};
use carboy_control::workspace::steering::{Judged, Merged};
use carboy_control::workspace::text::{Lines, look};
use carboy_control::workspace::undo::{Undone, undo as take_back};
use carboy_control::workspace::{Layer, alone, chosen, discard, journal};
use carboy_core::ports::Clock;

use super::diff::{whole, word};
use super::{agreed, failed, json, place, selections, shown};
use crate::args::{ApplyArgs, UndoArgs};
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette, printable};

/// Most lines of a list that are printed for a person.
const LIST_LINES_MAX: usize = 200;

pub(super) fn apply(args: &ApplyArgs, environment: &Environment) -> Result<u8, Failure> {
    let home = &environment.home;
    let layers = chosen(home, &args.name, args.workspace.as_deref(), &environment.places.cwd).map_err(failed)?;
    let paths = selections(&layers, &args.paths, &environment.places.cwd)?;
    let _alone = alone(home, &args.name).map_err(failed)?;
    let mut plans = Vec::new();
    for (layer, paths) in layers.iter().zip(paths) {
        if !layer.is_overlay() {
            return Err(direct(args.name.as_str(), layer, "apply"));
        }
        if !args.paths.is_empty() && paths.is_empty() {
            continue;
        }
        let wanted = Wanted {
            paths,
            conflicts: if args.force { Conflicts::Overwrite } else { Conflicts::Keep },
            steering: if args.steering { Steering::Apply } else { Steering::Hold },
        };
        plans.push((layer, plan(layer, &wanted).map_err(failed)?));
    }
    let count: usize = plans.iter().map(|(_, plan)| plan.actions.len()).sum();
    if !args.json {
        for (layer, plan) in &plans {
            show_plan(layer, plan, args)?;
        }
    }
    if args.dry_run || count == 0 {
        return ended(args, plans.into_iter().map(|(layer, plan)| planned(layer, plan)).collect());
    }
    agreed(args.yes, &format!("Apply {count} changes?"))?;
    for (layer, plan) in &plans {
        let decision = decision(args.name.as_str(), "bottle_apply")
            .with("workspace", layer.record.workspace.display().to_string())
            .with("changes", plan.actions.len() as u64)
            .with("steering", args.steering)
            .with("force", args.force);
        environment.write_down(decision)?;
    }
    let id = carboy_control::clock::SystemClock.now_ms().to_string();
    let mut done = Vec::new();
    for (layer, plan) in plans {
        let left = plan.left.clone();
        let mut outcome = bring(layer, plan, &id).map_err(failed)?;
        let failures = outcome.left.len();
        for left in &outcome.left {
            say!("not applied: {}: {}", shown(&left.path), printable(&left.why));
        }
        outcome.left.splice(0..0, left);
        if !args.json {
            say!(
                "{} changes applied to {}; `carboy bottle undo {}` takes them back",
                outcome.done.len(),
                place(layer),
                args.name
            );
        }
        done.push((layer, outcome, failures));
    }
    ended(args, done)
}

fn direct(name: &str, layer: &Layer, what: &str) -> Failure {
    Failure::words(
        Exit::Found,
        format!("bottle {name} writes to {} directly: there is nothing to {what}", place(layer)),
    )
    .hint(
        "`carboy bottle diff` names what changed and git takes it back (`git restore`, `git stash`); with \
         `workspace: overlay` or `run --overlay` the changes wait",
    )
}

fn planned(layer: &Layer, plan: Plan) -> (&Layer, Outcome, usize) {
    (layer, Outcome { done: Vec::new(), left: plan.left }, 0)
}

fn ended(args: &ApplyArgs, done: Vec<(&Layer, Outcome, usize)>) -> Result<u8, Failure> {
    let conflict = |left: &Left| left.sort == LeftSort::Conflict;
    let code = u8::from(done.iter().any(|(_, outcome, failures)| *failures > 0 || outcome.left.iter().any(conflict)));
    if args.json {
        let objects: Vec<_> = done
            .iter()
            .map(|(layer, outcome, _)| {
                serde_json::json!({
                    "workspace": layer.record.workspace.display().to_string(),
                    "dry_run": args.dry_run,
                    "done": outcome.done,
                    "left": outcome.left,
                })
            })
            .collect();
        json(&objects)?;
    }
    Ok(code)
}

fn show_plan(layer: &Layer, plan: &Plan, args: &ApplyArgs) -> Result<(), Failure> {
    let (upper, host) = layer.roots().map_err(failed)?;
    let palette = Palette::stdout();
    let mut out = String::new();
    if plan.actions.is_empty() && plan.left.is_empty() {
        say!("nothing is to be applied to {}", place(layer));
        return Ok(());
    }
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", palette.strong(&place(layer)));
    for action in plan.actions.iter().take(LIST_LINES_MAX) {
        let look = look(&upper, &host, &action.change, Lines::LeftOut);
        let out_of_it = plan.leading_out.iter().find(|(path, _)| *path == action.change.path);
        let note = out_of_it.map_or(String::new(), |(_, to)| format!("  (a link out of it, to {})", printable(to)));
        let _ = writeln!(out, "  {:<9} {}{}", word(&look), shown(&action.change.path), palette.warn(&note));
    }
    if plan.actions.len() > LIST_LINES_MAX {
        let _ = writeln!(out, "  … and {} more", plan.actions.len() - LIST_LINES_MAX);
    }
    let sorts = [
        (LeftSort::Steering, "held back (name it, or `--steering`)"),
        (LeftSort::Conflict, "conflict (`--force` overwrites)"),
        (LeftSort::Unusable, "cannot be applied"),
    ];
    for (sort, heading) in sorts {
        let of_sort = || plan.left.iter().filter(|left| left.sort == sort);
        if of_sort().next().is_some() {
            let _ = writeln!(out, "{}", palette.warn(heading));
        }
        for left in of_sort().take(LIST_LINES_MAX) {
            let _ = writeln!(out, "  {}: {}", shown(&left.path), printable(&left.why));
        }
        let more = of_sort().count().saturating_sub(LIST_LINES_MAX);
        if more > 0 {
            let _ = writeln!(out, "  … and {more} more");
        }
    }
    // What will steer programs of this host is read before it is agreed to.
    let merged = Merged { upper: &upper, host: &host };
    for action in plan.actions.iter().filter(|_| args.steering || !args.paths.is_empty()) {
        if merged.judge(&action.change) != Judged::Free {
            whole(&mut out, &look(&upper, &host, &action.change, Lines::Compared), palette);
        }
    }
    print(out.as_bytes())?;
    Ok(())
}

pub(super) fn undo(args: &UndoArgs, environment: &Environment) -> Result<u8, Failure> {
    let home = &environment.home;
    let layers = chosen(home, &args.name, args.workspace.as_deref(), &environment.places.cwd).map_err(failed)?;
    let _alone = alone(home, &args.name).map_err(failed)?;
    let last = |layer: &Layer| {
        let ids = journal::ids(&layer.applies());
        ids.map(|mut ids| ids.pop()).map_err(|e| Failure::words(Exit::Failed, format!("{}: {e}", place(layer))))
    };
    let lasts = layers.iter().map(last).collect::<Result<Vec<_>, _>>()?;
    let Some(newest) = lasts.iter().flatten().max().cloned() else { return throw_away(args, &layers, environment) };
    agreed(args.yes, &format!("Take the last apply to {} back?", place(&layers[0])))?;
    let workspace = layers[0].record.workspace.display().to_string();
    environment.write_down(decision(args.name.as_str(), "bottle_undo").with("workspace", workspace))?;
    let conflicts = if args.force { Conflicts::Overwrite } else { Conflicts::Keep };
    let mut all: Vec<Undone> = Vec::new();
    for (layer, last) in layers.iter().zip(lasts) {
        if last.as_ref() != Some(&newest) {
            continue;
        }
        let Some(undone) = take_back(layer, conflicts).map_err(failed)? else { continue };
        for left in &undone.left {
            say!("not taken back: {}: {}", shown(&left.path), printable(&left.why));
        }
        say!("{} changes of {} taken back; the layer still holds them", undone.done.len(), place(layer));
        all.push(undone);
    }
    if args.json {
        json(&all)?;
    }
    Ok(u8::from(all.iter().any(|undone| !undone.left.is_empty())))
}

/// Nothing was applied: what there is to undo is the layer itself.
fn throw_away(args: &UndoArgs, layers: &[Layer], environment: &Environment) -> Result<u8, Failure> {
    if let Some(layer) = layers.iter().find(|layer| !layer.is_overlay()) {
        return Err(direct(args.name.as_str(), layer, "undo"));
    }
    let question = format!("Nothing was applied. Throw away all changes kept for {}?", place(&layers[0]));
    agreed(args.yes, &question)?;
    let workspace = layers[0].record.workspace.display().to_string();
    environment.write_down(decision(args.name.as_str(), "bottle_discard").with("workspace", workspace))?;
    for layer in layers {
        discard(layer).map_err(failed)?;
        say!("the changes kept for {} are gone", place(layer));
    }
    if args.json { json(&serde_json::json!({ "discarded": true })) } else { Ok(0) }
}
