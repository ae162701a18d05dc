//! carboy's command line: arguments, environment and terminal in, text out.
//!
//! *Architecture invariants:* standard output is data, standard error is talk. Arguments, the environment and the
//! terminal are touched in this crate and in no other. Nothing is decided here.

mod allow;
mod args;
mod audit;
mod check;
mod doctor;
mod environment;
mod report;
mod run;
mod runs;
mod terminal;
mod tour;
mod trust;

use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, Command, Shell};
use environment::Environment;
use report::{Exit, Failure, Heading, Palette};

fn main() -> ExitCode {
    // The same binary is the first process of each bottle; that one never comes back from here.
    carboy_control::bottle::run_init_if_asked();
    let matches = args::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let palette = Palette::stderr();
            match failure.heading {
                Heading::Error => eprintln!("{} {}", palette.bad("error:"), failure.message),
                Heading::OfItsOwn => eprintln!("{}", failure.message),
            }
            if let Some(hint) = failure.hint {
                eprintln!("{} {hint}", palette.strong("hint:"));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let environment = || Environment::look(cli.home.clone());
    match cli.command {
        Command::Tour(args) => runtime()?.block_on(tour::tour(args)),
        Command::TourAgent => runtime()?.block_on(tour::agent()),
        Command::Doctor(args) => doctor::doctor(&args, &environment()?),
        Command::Run(args) => {
            let environment = environment()?;
            runtime()?.block_on(run::run(args, environment))
        }
        Command::Ps(args) => runs::ps(&args, &environment()?),
        Command::Logs(args) => runs::logs(&args, &environment()?),
        Command::Stop(args) => runs::stop(&args, &environment()?),
        Command::Allow(args) => allow::allow(&args, &environment()?),
        Command::Audit(args) => audit::audit(args, &environment()?),
        Command::Check(args) => check::check(&args, &environment()?),
        Command::Completions(args) => completions(args.shell),
        Command::Man => man(),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Failed, &e))
}

fn completions(shell: Shell) -> Result<u8, Failure> {
    use clap_complete::{generate, shells};
    let mut command = args::command();
    let mut text = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, "carboy", &mut text),
        Shell::Zsh => generate(shells::Zsh, &mut command, "carboy", &mut text),
        Shell::Fish => generate(shells::Fish, &mut command, "carboy", &mut text),
        Shell::Elvish => generate(shells::Elvish, &mut command, "carboy", &mut text),
        Shell::Powershell => generate(shells::PowerShell, &mut command, "carboy", &mut text),
    }
    print(&text)
}

fn man() -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(args::command()).render(&mut text).map_err(|e| Failure::new(Exit::Failed, &e))?;
    print(&text)
}

/// Writes data to standard output; a reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &[u8]) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Failed, &e)),
        Ok(()) | Err(_) => Ok(0),
    }
}
