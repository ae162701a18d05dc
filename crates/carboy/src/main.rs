//! carboy's command line: arguments, environment and terminal in, text out.
//!
//! *Architecture invariants:* standard output is data, standard error is talk. Arguments, the environment and the
//! terminal are touched in this crate and in no other. Nothing is decided here.

#![warn(clippy::print_stderr, clippy::print_stdout)]

#[macro_use]
mod said;

mod allow;
mod apart;
mod applications;
mod approve;
mod args;
mod audit;
mod bottle;
mod budget;
mod chat;
mod chat_file;
mod check;
mod client;
mod completions;
mod controller;
mod doctor;
mod environment;
mod explain;
mod init;
mod lit;
mod logs;
mod ports;
mod proxy;
mod report;
mod resume;
mod run;
mod runs;
mod serve;
mod signals;
mod summary_file;
mod task;
mod terminal;
mod top;
mod tour;
mod trust;
mod uninstall;
mod watching;

use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, Command};
use environment::Environment;
use report::{Exit, Failure, Heading, Palette};

fn main() -> ExitCode {
    // The same binary is the first process of each bottle; that one never comes back from here.
    carboy_control::bottle::run_init_if_asked();
    carboy_control::bottle::load_no_name_service();
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
                Heading::Error => say!("{} {}", palette.bad("error:"), failure.message),
                Heading::OfItsOwn => say!("{}", failure.message),
            }
            if let Some(hint) = failure.hint {
                say!("{} {hint}", palette.strong("hint:"));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let environment = || Environment::look(cli.home.clone());
    match cli.command {
        Command::Tour(args) => tour::tour(args, runtime()?),
        Command::TourAgent => runtime()?.block_on(tour::agent()),
        Command::Init(args) => init::init(&args, &environment()?),
        Command::Doctor(args) => doctor::doctor(&args, &environment()?),
        Command::Run(args) => {
            let environment = environment()?;
            runtime()?.block_on(run::run(*args, environment))
        }
        Command::Serve(args) => {
            let environment = environment()?;
            runtime()?.block_on(serve::serve(&args, environment))
        }
        Command::Proxy(args) => {
            let environment = environment()?;
            runtime()?.block_on(proxy::proxy(&args, environment))
        }
        Command::Resume(args) => {
            let environment = environment()?;
            runtime()?.block_on(resume::resume(args, environment))
        }
        Command::Attach(args) => {
            let environment = environment()?;
            runtime()?.block_on(async { watching::attach(&args, &environment) })
        }
        Command::Exec(args) => {
            let environment = environment()?;
            runtime()?.block_on(async { watching::exec(&args, &environment) })
        }
        Command::Wait(args) => watching::wait(&args, &environment()?),
        Command::Supervise(args) => runtime()?.block_on(apart::supervise(args)),
        Command::Top(args) => top::top(&args, environment()?),
        Command::Ps(args) => runs::ps(&args, &environment()?),
        Command::Logs(args) => logs::logs(&args, &environment()?),
        Command::Stop(args) => runs::stop(&args, &environment()?),
        Command::Explain(args) => explain::explain(&args, &environment()?),
        Command::Approve(args) => approve::approve(&args, &environment()?),
        Command::Allow(args) => allow::allow(&args, &environment()?),
        Command::Audit(args) => audit::audit(args, &environment()?),
        Command::Bottle(command) => bottle::bottle(command, &environment()?),
        Command::Budget(command) => budget::budget(command, &environment()?),
        Command::Controller(command) => controller::controller(command, &environment()?),
        Command::Check(args) if args.attack => {
            let environment = environment()?;
            runtime()?.block_on(check::attack(&args, environment))
        }
        Command::Check(args) => check::check(&args, &environment()?),
        Command::Lit(command) => lit::lit(command),
        Command::Help(args) => help(&args.command),
        Command::Completions(args) => print(&completions::completions_of(args.shell)),
        Command::Names(args) => completions::names(args.kind, &environment()?),
        Command::Man => print(&man_page()?),
        Command::Uninstall(args) => uninstall::uninstall(&args, &environment()?),
    }
}

/// `carboy help run` is `carboy run --help`.
fn help(command: &[String]) -> Result<u8, Failure> {
    let words = ["carboy"].into_iter().chain(command.iter().map(String::as_str)).chain(["--help"]);
    match args::command().try_get_matches_from(words) {
        Err(said) => said.exit(),
        // `--help` always ends the reading of arguments.
        Ok(_) => Ok(0),
    }
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Failed, &e))
}

/// One page for everything: there is no `carboy-run(1)` to send the reader to.
pub(crate) fn man_page() -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, &e);
    let mut command = args::visible();
    command.build();
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone());
    page.render_title(&mut text).map_err(failed)?;
    page.render_name_section(&mut text).map_err(failed)?;
    page.render_synopsis_section(&mut text).map_err(failed)?;
    page.render_options_section(&mut text).map_err(failed)?;
    for sub in command.get_subcommands() {
        man_section(sub, &mut text).map_err(failed)?;
        for sub in sub.get_subcommands() {
            man_section(sub, &mut text).map_err(failed)?;
        }
    }
    Ok(text)
}

/// A command's part of the page: its sections, one level down, under its name.
fn man_section(command: &clap::Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_uppercase();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let own = command.clone().mut_args(|arg| {
        // What every command takes stands once, at the top.
        let everywhere = arg.is_global_set() || arg.get_id() == "help";
        arg.hide(everywhere)
    });
    let page = clap_mangen::Man::new(own);
    let mut parts = Vec::new();
    page.render_synopsis_section(&mut parts)?;
    if command.get_arguments().any(|arg| !arg.is_global_set() && arg.get_id() != "help") {
        page.render_options_section(&mut parts)?;
    }
    if command.get_after_help().is_some() {
        page.render_extra_section(&mut parts)?;
    }
    // Terminals without UTF-8 have no ellipsis.
    let parts = String::from_utf8_lossy(&parts).replace(".SH EXTRA", ".SH NOTES").replace(".SH ", ".SS ");
    let parts = parts.replace('…', "...");
    writeln!(text, ".SH \"{name}\"\n{about}\n{parts}")
}

/// Writes data to standard output; a reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &[u8]) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Failed, &e)),
        Ok(()) | Err(_) => Ok(0),
    }
}
