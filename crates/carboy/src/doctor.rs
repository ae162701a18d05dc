//! `carboy doctor`: what this machine can give a bottle, and how to mend what is missing.

use std::fmt::Write as _;

use carboy_control::doctor::{HostReport, Standing, probe};

use crate::args::JsonFlag;
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette};

/// Looks and says.
pub fn doctor(args: &JsonFlag, environment: &Environment) -> Result<u8, Failure> {
    let report = probe(&environment.home.root().join("state"));
    let code = if report.tier.is_some() { 0 } else { Exit::HostNotCapable as u8 };
    if args.json {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|f| serde_json::json!({"topic": f.topic.to_string(), "standing": word(f.standing), "seen": f.seen, "fix": f.fix}))
            .collect();
        let tier = report.tier.map(|t| format!("{t:?}"));
        print(format!("{}\n", serde_json::json!({"tier": tier, "findings": findings})).as_bytes())?;
    } else {
        print(render(&report, Palette::stdout()).as_bytes())?;
    }
    Ok(code)
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Good => "good",
        Standing::Weaker => "weaker",
        Standing::Blocking => "blocking",
    }
}

fn render(report: &HostReport, palette: Palette) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let mark = match finding.standing {
            Standing::Good => palette.good("ok  "),
            Standing::Weaker => palette.warn("weak"),
            Standing::Blocking => palette.bad("no  "),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{mark}  {:<20} {}", finding.topic.to_string(), finding.seen);
        for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
            let _ = writeln!(out, "      {}", palette.faint(line));
        }
    }
    let _ = match report.tier {
        Some(tier) => writeln!(out, "\nBottles here: {}", palette.good(&format!("tier {tier:?}, {}", tier.meaning()))),
        None => {
            writeln!(out, "\n{}", palette.bad("No bottle can be made here until the lines marked `no` are mended."))
        }
    };
    out
}
