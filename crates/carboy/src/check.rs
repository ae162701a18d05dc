//! `carboy check`: every bottle, every agent and the settings, with every error at its place.

use std::fmt::Write as _;

use carboy_control::disk::DiskFiles;
use carboy_manifest::{Request, check as check_files};

use crate::args::CheckArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette};

/// Checks and says.
pub fn check(args: &CheckArgs, environment: &Environment) -> Result<u8, Failure> {
    let places = environment.places.clone();
    let request = Request { agent: args.agent.clone(), bottles: args.bottles.clone(), places };
    let report = check_files(&DiskFiles, &request);
    let code = if report.ok { 0 } else { Exit::Config as u8 };
    if args.json {
        let text = serde_json::to_string(&report).map_err(|e| Failure::new(Exit::Failed, &e))?;
        print(format!("{text}\n").as_bytes())?;
        return Ok(code);
    }
    let palette = Palette::stdout();
    let mut out = String::new();
    // Writing to a String cannot fail.
    for diagnostic in report.diagnostics.iter() {
        let _ = writeln!(out, "{diagnostic}");
    }
    if let Some(effective) = &report.effective {
        let _ =
            writeln!(out, "{}", serde_json::to_string_pretty(effective).map_err(|e| Failure::new(Exit::Failed, &e))?);
    }
    let (count, broken) = (report.files.len(), report.files.iter().filter(|file| !file.ok).count());
    let files = if count == 1 { "file" } else { "files" };
    if count == 0 {
        let places = &environment.places;
        let at = places.bottles().join("NAME.md");
        eprintln!("nothing is there to check yet: write a bottle, {}", at.display());
    }
    let _ = match report.ok {
        true => writeln!(out, "{}: {count} {files} checked", palette.good("valid")),
        false => {
            let errors = match report.diagnostics.error_count() {
                1 => "1 error".to_owned(),
                errors => format!("{errors} errors"),
            };
            writeln!(out, "{} in {broken} of {count} {files}", palette.bad(&errors))
        }
    };
    print(out.as_bytes())?;
    Ok(code)
}
