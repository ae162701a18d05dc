//! `carboy check`: every bottle, every agent and the settings, with every error at its place.

use std::fmt::Write as _;

use carboy_control::disk::DiskFiles;
use carboy_manifest::{Manifest, Request, check as check_files};

use crate::args::CheckArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette};

/// Checks and says.
pub fn check(args: &CheckArgs, environment: &Environment) -> Result<u8, Failure> {
    let mut report = check_files(&DiskFiles, &environment.places);
    let mut effective = None;
    if args.agent.is_some() || !args.bottles.is_empty() {
        let request = Request { agent: args.agent.clone(), bottles: args.bottles.clone() };
        match Manifest::load(&DiskFiles, &environment.places, &request) {
            Ok(found) => effective = Some(found),
            Err(diagnostics) => report.diagnostics = diagnostics,
        }
    }
    let ok = !report.diagnostics.has_errors();
    if args.json {
        let object = serde_json::json!({
            "ok": ok, "files": report.files, "diagnostics": report.diagnostics, "effective": effective,
        });
        print(format!("{object}\n").as_bytes())?;
        return Ok(if ok { 0 } else { Exit::Config as u8 });
    }
    let palette = Palette::stdout();
    let mut out = String::new();
    for diagnostic in report.diagnostics.iter() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{diagnostic}");
    }
    if let Some(effective) = effective {
        out.push_str(&effective.to_string());
    }
    let count = report.files.len();
    let _ = match ok {
        true => writeln!(out, "{}: {count} {} checked", palette.good("valid"), if count == 1 { "file" } else { "files" }),
        false => writeln!(out, "{}: {} of {count} files", palette.bad(&format!("{} errors", report.diagnostics.error_count())), "in some"),
    };
    print(out.as_bytes())?;
    Ok(if ok { 0 } else { Exit::Config as u8 })
}
