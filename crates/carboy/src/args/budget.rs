//! `carboy budget …` and `carboy controller …`.

use std::net::SocketAddr;
use std::time::Duration;

use carboy_core::budget::{Count, ROLLING_MS, Unit, Window, Zone};
use carboy_core::ids::MeterName;
use carboy_manifest::budget::{METERS, meter_named, parse_duration};
use clap::{Args, Subcommand, ValueEnum};

/// See the help.
#[derive(Debug, Subcommand)]
pub enum BudgetCommand {
    /// What was spent and is held, and what may yet be: host, bottles, agents, runs
    Show(ShowArgs),
    /// Set a cap over what the files say, at once and for every run
    Set(SetArgs),
    /// Let the files' cap hold again
    Unset(UnsetArgs),
    /// Give an amount on top of a cap, in its present window
    TopUp(TopUpArgs),
}

/// What `SCOPE` is, for the help of each.
const SCOPES: &str = "SCOPE is host, bottle:NAME, agent:NAME, run:ID, or a name alone where only one thing is called so. \
                      METER is anthropic (claude), openai (codex), gemini or unknown. AMOUNT is in tokens: 500k, 2M, 1_000_000. \
                      Exit codes: 0 done; 1 nothing is called so, or there is no such cap; 2 bad usage; 70 the controller cannot be \
                      started; 77 it refuses, because nothing can be written.";

#[derive(Debug, Args)]
#[command(after_help = SCOPES)]
pub struct ShowArgs {
    /// Only this one and what is below it
    pub scope: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = SCOPES)]
pub struct SetArgs {
    /// Whose
    pub scope: String,
    /// How much: AMOUNT for each meter by itself, METER=AMOUNT for one
    #[arg(value_name = "[METER=]AMOUNT", allow_negative_numbers = true)]
    pub amount: String,
    /// A ceiling: it always binds, and nothing nearer lifts it
    #[arg(long)]
    pub ceiling: bool,
    /// Over which time: lifetime, day, week, month, each with @ZONE, or 5h [default: as the file says]
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    pub window: Option<Window>,
    /// How tokens are counted [default: as the file says]
    #[arg(long)]
    pub count: Option<Counting>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = SCOPES)]
pub struct UnsetArgs {
    /// Whose
    pub scope: String,
    /// Of which meter [default: of each]
    #[arg(value_name = "METER", value_parser = meter)]
    pub meter: Option<MeterName>,
    /// The ceiling, and not the budget
    #[arg(long)]
    pub ceiling: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = SCOPES)]
pub struct TopUpArgs {
    /// Whose
    pub scope: String,
    /// How much: METER=AMOUNT, or AMOUNT where only one meter has a cap there
    #[arg(value_name = "[METER=]AMOUNT", allow_negative_numbers = true)]
    pub amount: String,
    /// The ceiling, and not the budget
    #[arg(long)]
    pub ceiling: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Counting {
    /// A cached token read is a tenth, one written a quarter more
    Weighted,
    /// Every reported token is one
    Raw,
}

impl From<Counting> for Count {
    fn from(counting: Counting) -> Count {
        match counting {
            Counting::Weighted => Count::Weighted,
            Counting::Raw => Count::Raw,
        }
    }
}

/// See the help.
#[derive(Debug, Subcommand)]
pub enum ControllerCommand {
    /// Be the controller, in the foreground, until it is stopped
    Run(ControllerRunArgs),
    /// How it is, and what stands in the way
    #[command(
        after_help = "Exit codes: 0 it serves; 1 none runs, or it can hold nothing just now; 2 bad usage; 70 it is lost."
    )]
    Status(super::JsonFlag),
    /// End it; the first run that needs it starts it again
    #[command(
        after_help = "Exit codes: 0 it has ended, or none ran; 2 bad usage; 70 it does not end; 77 runs are connected: --force."
    )]
    Stop(ControllerStopArgs),
    /// Print a service for the user's systemd, and how it is enabled
    Install,
}

#[derive(Debug, Args)]
pub struct ControllerRunArgs {
    /// Answer GET /metrics here, in Prometheus' text format
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Also where other machines can reach it
    #[arg(long, requires = "metrics")]
    pub metrics_anywhere: bool,
    /// End when nobody has been connected for so long [default: never; 10m when a run started it]
    #[arg(long, value_name = "DURATION", env = "CARBOY_CONTROLLER_IDLE", value_parser = super::values::duration)]
    pub idle: Option<Duration>,
    /// Started by a run: standard input is a channel
    #[arg(long, hide = true)]
    pub on_demand: bool,
}

#[derive(Debug, Args)]
pub struct ControllerStopArgs {
    /// Also while runs are connected: their next request that is metered waits until it is there again
    #[arg(long)]
    pub force: bool,
}

/// `lifetime`, `day`, `week`, `month`, `month@Europe/Berlin`, `5h`.
pub(super) fn window(text: &str) -> Result<Window, String> {
    let (name, zone) = text.split_once('@').map_or((text, None), |(name, zone)| (name, Some(zone)));
    let unit = match name {
        "day" => Some(Unit::Day),
        "week" => Some(Unit::Week),
        "month" => Some(Unit::Month),
        _ => None,
    };
    match (unit, zone) {
        (Some(unit), zone) => {
            let tz = Zone::parse(zone.unwrap_or("UTC")).map_err(|e| e.to_string())?;
            Ok(Window::Calendar { unit, tz })
        }
        (None, None) if name == "lifetime" => Ok(Window::Lifetime),
        (None, None) => match parse_duration(name) {
            Some(ms) if ROLLING_MS.contains(&ms) => Ok(Window::Rolling { ms }),
            Some(_) => Err("a rolling window is from 1m to 366d".into()),
            None => Err("write lifetime, day, week, month, month@Europe/Berlin, or a span such as 5h".into()),
        },
        (None, Some(_)) => Err("only day, week and month have a zone".into()),
    }
}

pub(super) fn meter(text: &str) -> Result<MeterName, String> {
    meter_named(text).ok_or_else(|| format!("no such meter; write one of {}", METERS.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_unit_of_the_calendar_with_its_place_or_a_span() {
        let utc = Zone::parse("UTC").unwrap();
        assert_eq!(window("day"), Ok(Window::Calendar { unit: Unit::Day, tz: utc }));
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        assert_eq!(window("month@Europe/Berlin"), Ok(Window::Calendar { unit: Unit::Month, tz: berlin }));
        assert_eq!(window("5h"), Ok(Window::Rolling { ms: 18_000_000 }));
        assert_eq!(window("lifetime"), Ok(Window::Lifetime));
        for wrong in ["", "year", "5h@UTC", "lifetime@UTC", "10s", "400d", "day@Middle/Earth", "5"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }
}
