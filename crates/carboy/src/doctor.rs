//! `carboy doctor`: what this machine can give a bottle, and how to mend what is missing.

mod production;

use std::fmt::Write as _;

use carboy_control::doctor::{HostReport, Standing, probe};
use carboy_control::setup::agents::{InstalledAgent, installed};

use crate::args::DoctorArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

/// Looks and says.
pub fn doctor(args: &DoctorArgs, environment: &Environment) -> Result<u8, Failure> {
    match &args.production {
        Some(agent) => return production::production(agent, args, environment),
        None if !args.chat.is_empty() => {
            return Err(Failure::words(Exit::Usage, "`--preset` and `--set` are for a chat agent, and none was named")
                .hint("name one: `carboy doctor --production AGENT`"));
        }
        None => {}
    }
    let host = probe(&environment.home.root().join("state"));
    let agents = installed(&environment.surroundings());
    let code = if host.tier.is_some() { 0 } else { Exit::HostNotCapable as u8 };
    if args.json {
        let findings: Vec<_> = host
            .findings
            .iter()
            .map(|f| serde_json::json!({"topic": f.topic.to_string(), "standing": word(f.standing), "seen": f.seen, "fix": f.fix}))
            .collect();
        let tier = host.tier.map(|t| format!("{t:?}"));
        print(format!("{}\n", serde_json::json!({"tier": tier, "findings": findings, "agents": agents})).as_bytes())?;
    } else {
        let palette = Palette::stdout();
        let told = format!("{}{}", render(&host, palette), render_agents(&agents, palette));
        print(report::wrapped(&told, report::columns(std::io::stdout())).as_bytes())?;
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

/// The agent programs of this host, and whether a bottle can have them.
fn render_agents(agents: &[InstalledAgent], palette: Palette) -> String {
    let mut out = String::from("\nAgents here:\n");
    for agent in agents {
        let version = printable(agent.version.as_deref().unwrap_or("says no version"));
        let path = printable(&agent.path.display().to_string());
        let (mark, what) = match &agent.inside {
            Ok(inside) => {
                let binds: Vec<String> =
                    inside.binds.iter().map(|bind| printable(&bind.source.display().to_string())).collect();
                let shows =
                    if binds.is_empty() { String::new() } else { format!("; a bottle is shown {}", binds.join(", ")) };
                (palette.good("ok  "), format!("{version}, {path}{shows}"))
            }
            Err(why) => (palette.warn("weak"), format!("{version}, {path}: {}", printable(why))),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{mark}  {:<20} {what}", agent.program.name());
    }
    match agents.first() {
        None => out.push_str("      none found on PATH or in the usual places; `carboy init shell` needs none\n"),
        Some(first) => {
            let next = format!("`carboy init {}` writes a bottle and an agent for it", first.program.name());
            let _ = writeln!(out, "      {}", palette.faint(&next));
        }
    }
    out
}
