//! `carboy bottle ls`, `show`, `du` and `rm`.

use std::fmt::Write as _;

use carboy_control::bottles::{self, Bottle, Measure};
use carboy_control::operator::decision;
use carboy_core::ports::Clock;

use super::{agreed, failed, json};
use crate::args::{DuArgs, LsArgs, OneArgs, RmArgs};
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

pub(super) fn ls(args: &LsArgs, environment: &Environment) -> Result<u8, Failure> {
    let measure = if args.size { Measure::Yes } else { Measure::No };
    let all = bottles::list(&environment.home, measure).map_err(failed)?;
    if args.json {
        return json(&all);
    }
    if all.is_empty() {
        say!("no bottle has a file or keeps anything");
        return Ok(0);
    }
    let (palette, now) = (Palette::stdout(), carboy_control::clock::SystemClock.now_ms());
    let size = if args.size { format!("{:>10}  ", "SIZE") } else { String::new() };
    let mut out = palette.strong(&format!("{:<20} {size}{:<12} {}", "BOTTLE", "LAST RUN", "WHEN"));
    out.push('\n');
    for bottle in &all {
        let size = if args.size { format!("{:>10}  ", report::bytes(bytes(bottle))) } else { String::new() };
        let (run, when) = bottle
            .last_run
            .as_ref()
            .map_or(("-", "-".to_owned()), |last| (last.run.as_str(), report::local_time(last.started_ms, now)));
        let live = if bottle.live.is_empty() { String::new() } else { format!("  {}", palette.good("lives")) };
        let bare = if bottle.file.is_none() { palette.faint("  (no file)") } else { String::new() };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:<20} {size}{:<12} {when}{live}{bare}", bottle.name, printable(run));
    }
    print(out.as_bytes())
}

fn bytes(bottle: &Bottle) -> u64 {
    bottle.parts.iter().map(|part| part.size.bytes).sum()
}

fn known(args_name: &carboy_core::ids::BottleName, environment: &Environment) -> Result<Bottle, Failure> {
    let bottle = bottles::show(&environment.home, args_name, Measure::Yes).map_err(failed)?;
    if bottle.file.is_none() && bottle.state.is_none() {
        return Err(Failure::words(Exit::Found, format!("there is no bottle {args_name}"))
            .hint("`carboy bottle ls` lists those that there are"));
    }
    Ok(bottle)
}

pub(super) fn show(args: &OneArgs, environment: &Environment) -> Result<u8, Failure> {
    let bottle = known(&args.name, environment)?;
    if args.json {
        return json(&bottle);
    }
    let now = carboy_control::clock::SystemClock.now_ms();
    let path = |path: &std::path::Path| printable(&path.display().to_string());
    let mut out = Palette::stdout().strong(&bottle.name) + "\n";
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  file      {}", bottle.file.as_deref().map_or("none".into(), path));
    let _ = writeln!(out, "  state     {}", bottle.state.as_deref().map_or("none".into(), path));
    if let Some(last) = &bottle.last_run {
        let _ = writeln!(out, "  last run  {}, {}", printable(&last.run), report::local_time(last.started_ms, now));
    }
    if !bottle.live.is_empty() {
        let _ = writeln!(out, "  lives     {}", printable(&bottle.live.join(", ")));
    }
    parts(&mut out, &bottle);
    print(out.as_bytes())
}

fn parts(out: &mut String, bottle: &Bottle) {
    for part in &bottle.parts {
        let more = if part.size.incomplete { " and more" } else { "" };
        let _ = writeln!(
            out,
            "  {:>10}{more}  {}: {}",
            report::bytes(part.size.bytes),
            printable(&part.what),
            printable(&part.path.display().to_string())
        );
    }
}

pub(super) fn du(args: &DuArgs, environment: &Environment) -> Result<u8, Failure> {
    let all = match &args.name {
        Some(name) => vec![known(name, environment)?],
        None => bottles::list(&environment.home, Measure::Yes).map_err(failed)?,
    };
    if args.json {
        return json(&all);
    }
    let mut out = String::new();
    for bottle in all.iter().filter(|bottle| bottle.state.is_some()) {
        let _ = writeln!(out, "{:>12}  {}", report::bytes(bytes(bottle)), bottle.name);
        if args.name.is_some() {
            parts(&mut out, bottle);
        }
    }
    print(out.as_bytes())
}

pub(super) fn rm(args: &RmArgs, environment: &Environment) -> Result<u8, Failure> {
    let bottle = known(&args.name, environment)?;
    let Some(state) = &bottle.state else {
        say!("bottle {} keeps nothing", args.name);
        return Ok(0);
    };
    if !args.json {
        let mut out = String::new();
        parts(&mut out, &bottle);
        say_part!("{out}");
    }
    let question = format!(
        "Remove {} with all of it ({})? Its file stays.",
        printable(&state.display().to_string()),
        report::bytes(bytes(&bottle))
    );
    // Before anybody is asked: it would be for nothing.
    drop(carboy_control::workspace::alone(&environment.home, &args.name).map_err(failed)?);
    agreed(args.yes, &question)?;
    environment.write_down(decision(args.name.as_str(), "bottle_rm"))?;
    bottles::remove(&environment.home, &args.name).map_err(failed)?;
    say!("what bottle {} kept is gone", args.name);
    if args.json { json(&serde_json::json!({ "removed": bytes(&bottle) })) } else { Ok(0) }
}
