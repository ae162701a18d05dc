//! `carboy run` of a chat agent: a conversation at this terminal, or line by line between pipes.
//!
//! ```text
//!  args ─▶ request ─▶ ChatHost ─▶ input ─▶ talk ─▶ Engine::turn ─▶ page ─▶ stdout: what is answered
//!                                   ▲        └─▶ card, y/N ─▶ Engine::confirm      stderr: tools at work, warnings
//!                                   └── editor at a terminal, lines between pipes
//! ```
//!
//! *Must never* answer a card for a person who is not there, let a model's words move the cursor, or say that a provider
//! answers where the offline model does.

mod banner;
mod card;
mod history;
mod input;
mod operator_log;
mod page;
mod request;
mod session;
mod talk;
mod words;

use std::path::Path;

use carboy_control::chat::{ChatError, ChatHost};
use carboy_control::summary::{Ended, Summary};
use carboy_control::vault::VaultError;
use carboy_manifest::providers::Task;
use carboy_manifest::trust::{LoadError, Trust, Trusted};
use carboy_manifest::{Diagnostics, Manifest, Request};

use crate::applications::ProgramFiles;
use crate::args::RunArgs;
use crate::environment::Environment;
use crate::report::{Exit, Failure, Palette};
use crate::signals::Heard;
use crate::summary_file::SummaryTo;
use crate::task;

use input::{Input, Source};
use page::Page;
pub use request::{Desk, Named, WithDotenv, look_up, why_tools_failed};
use talk::{Talk, Went};

/// Exit code of a conversation that `carboy stop --kill` ended, as a shell has it for SIGKILL.
const SIGKILL: u8 = 9;

/// That of one that Ctrl-C ended, before its first word or after it.
pub const INTERRUPTED: u8 = 130;

/// For looking whether it is a chat agent, not for running it.
pub struct Looking;

impl Trust for Looking {
    fn of(&self, _file: &Path, _sha256: &str) -> Trusted {
        Trusted::Yes
    }
}

/// Does `run` name a chat agent? Of a file that is wrong nobody knows; what is wrong is the answer.
pub fn is_one(args: &RunArgs, environment: &Environment) -> Result<bool, Diagnostics> {
    if args.agent.is_none() {
        return Ok(false);
    }
    let mut places = environment.places.clone();
    if let Some(dir) = &args.workdir {
        places.cwd = places.cwd.join(dir);
    }
    let request = Request { agent: args.agent.clone(), bottles: args.bottles.clone(), places };
    match Manifest::load_trusting(&ProgramFiles, &request, &Looking) {
        Ok(effective) => Ok(effective.chat.is_some()),
        Err(LoadError::Invalid(errors)) => Err(errors),
        Err(LoadError::NeedsTrust(_)) => Ok(false),
    }
}

/// Talks until there is nothing more to say, and gives the exit code.
pub async fn run(args: RunArgs, mut environment: Environment) -> Result<u8, Failure> {
    request::refuse_others(&args)?;
    let summary_to = args.summary_json.as_deref().map(SummaryTo::open).transpose()?;
    if let Some(dir) = &args.workdir {
        environment.places.cwd = environment.places.cwd.join(dir);
    }
    let source = match task::of(args.task.as_deref())? {
        Task::Headless(text) => Source::One(text),
        Task::Interactive if args.no_tty || !crate::terminal::is_interactive() => Source::Lines,
        Task::Interactive => Source::Person,
    };
    let wanted = request::of(&args, environment)?;
    let (who, place) = (wanted.who.clone(), wanted.place.clone());
    let mut heard = Heard::from_now_on();
    let host = match ChatHost::start_unless(wanted.request, heard.ending()).await {
        Err(ChatError::Interrupted) => return Ok(INTERRUPTED),
        started => started.map_err(failure)?,
    };
    let page = Page::new(&source, host.is_offline(), host.engine().spec());
    let said = session::begin(&place, &who, args.chat.session);
    let conversation = match said {
        Ok(conversation) => conversation,
        Err(failure) => {
            ended(host, Ended::Code(Exit::Failed as u8)).await?;
            return Err(failure);
        }
    };
    if !args.quiet {
        page.opening(host.engine().spec(), conversation.goes_on());
    }
    let mut input = Input::open(source, place.join(history::FILE)).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let mut talk = Talk::new(&host, &mut input, &page, conversation);
    let went = talk.go_on(&mut heard).await;
    input.give_back();
    let summary = ended(host, how(went)).await?;
    if let Some(to) = summary_to {
        to.write(&summary)?;
    }
    if !args.quiet {
        page.closing(&summary);
    }
    Ok(match went {
        Went::ToTheEnd | Went::Asked => 0,
        Went::Failed => Exit::Failed as u8,
        Went::Interrupted => INTERRUPTED,
        Went::Killed => summary.ended.shell_code(),
    })
}

fn how(went: Went) -> Ended {
    match went {
        Went::ToTheEnd | Went::Asked => Ended::Code(0),
        Went::Failed => Ended::Code(Exit::Failed as u8),
        Went::Interrupted => Ended::Signal(2),
        Went::Killed => Ended::Signal(SIGKILL),
    }
}

async fn ended(host: ChatHost, how: Ended) -> Result<Summary, Failure> {
    host.end(how).await.map_err(failure)
}

/// Why it did not start, with an exit code and the next step.
pub fn failure(error: ChatError) -> Failure {
    match error {
        ChatError::Run(error) => crate::run::failure(error),
        ChatError::Vault(ref secret) => {
            let failure = Failure::new(Exit::Config, &error);
            let beside = match secret {
                VaultError::Unset { variable, .. } => {
                    format!("write {variable}=… into the `.env` beside the agent's file, ")
                }
                VaultError::Missing { .. }
                | VaultError::Random { .. }
                | VaultError::File { .. }
                | VaultError::Json { .. }
                | VaultError::Command { .. }
                | VaultError::Unusable { .. } => String::new(),
            };
            let step = secret.next_step().map(|step| format!("{beside}{step}"));
            step.into_iter().fold(failure, |failure, step| failure.hint(crate::report::printable(&step)))
        }
        ChatError::NoModelKey { .. }
        | ChatError::NoSessionSecret { .. }
        | ChatError::NoKeptSecret { .. }
        | ChatError::Engine(_)
        | ChatError::Webhooks(_) => Failure::new(Exit::Config, &error),
        ChatError::Offline(_)
        | ChatError::Interrupted
        | ChatError::Sessions(_)
        | ChatError::Shelf { .. }
        | ChatError::Tools { .. }
        | ChatError::Home(_)
        | ChatError::Authority(_) => Failure::new(Exit::Failed, &error),
    }
}

/// Warnings of a file, before the conversation begins.
fn warn(warnings: &Diagnostics) {
    for warning in warnings.iter() {
        say!("{}", Palette::stderr().warn(&warning.to_string()));
    }
}
