//! `carboy top`: every run and every budget of this home, live, and what can be done about them.
//!
//! ```text
//!  carboy_control::snapshot::Feed ──► State ──► draw ──► screen
//!  keys ────────────────────────────►   │
//!                                       └─ Action, confirmed ──► stop, resume, budget
//! ```
//!
//! *Must never* query anything itself, act without a yes, or leave the terminal other than it was.

mod act;
mod draw;
mod figures;
mod keys;
mod plain;
mod rows;
mod screen;
mod state;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use carboy_control::controller_client::Role;
use carboy_control::registry::Answer;
use carboy_control::snapshot::{Feed, once};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use act::Doing;
use draw::canvas::Look;
use screen::{Mouse, Screen};
use state::{Banner, Effect, State};

use crate::args::{ResumeArgs, TopArgs};
use crate::environment::Environment;
use crate::report::{Exit, Failure, local_time};
use crate::signals::{Heard, next};
use crate::{budget, print, resume, runtime, terminal};

/// How long a key is waited for before news are looked at.
const KEY_WAIT_MAX: Duration = Duration::from_millis(100);
/// How long the screen has to end by itself when its terminal was hung up.
const HANGUP_GRACE: Duration = Duration::from_millis(500);
/// Signals that wait to be heeded.
const SIGNALS_MAX: usize = 8;

/// Shows it.
pub fn top(args: &TopArgs, environment: Environment) -> Result<u8, Failure> {
    let look = look(args);
    if args.json || args.once || args.line {
        let snapshot = runtime()?.block_on(once(&environment.home));
        let text = if args.json {
            serde_json::to_string(&snapshot).map_err(|e| Failure::new(Exit::Failed, &e))? + "\n"
        } else if args.line {
            plain::line(&snapshot, look)
        } else {
            plain::frame(snapshot, look, terminal_columns())
        };
        return print(text.as_bytes());
    }
    if !terminal::is_interactive() {
        return Err(Failure::words(Exit::Usage, "`carboy top` is a screen, and there is no terminal")
            .hint("`carboy top --once` prints one frame, `--json` one snapshot, `--line` one line"));
    }
    let environment = Arc::new(environment);
    let runtime = runtime()?;
    let mut state = State::new(args.read_only);
    if !args.read_only {
        // Whoever looks wants figures; where it cannot be started the runs are shown all the same.
        let started = runtime.block_on(budget::line(&environment, Role::Observer));
        state.banner = started.err().map(|failure| act::banner(vec![Err(failure)]));
    }
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, &e);
    let mouse = if args.no_mouse { Mouse::Terminals } else { Mouse::Ours };
    let mut screen = Screen::take(mouse).map_err(failed)?;
    let shown = Shown { state, look, interval: args.interval };
    show(shown, &mut screen, &runtime, &environment).map_err(failed)?;
    drop(screen);
    // A run that does not answer is not waited for.
    runtime.shutdown_background();
    Ok(0)
}

fn look(args: &TopArgs) -> Look {
    let said = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(said).unwrap_or_default().to_lowercase();
    let utf8 = locale.contains("utf-8") || locale.contains("utf8");
    let colour = said("NO_COLOR").is_none() && said("TERM").is_none_or(|term| term != "dumb");
    Look { colour, ascii: args.ascii || !utf8, local: local_time }
}

fn terminal_columns() -> Option<u16> {
    crate::report::columns(std::io::stdout()).and_then(|columns| u16::try_from(columns).ok())
}

/// What a signal means here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    End,
    /// It was stopped by somebody, and the terminal may be anyhow.
    Continued,
}

fn listen(runtime: &Runtime) -> Receiver<Word> {
    let (said, heard) = sync_channel(SIGNALS_MAX);
    let _inside = runtime.enter();
    let mut signals = Heard::from_now_on();
    let mut continued = signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw())).ok();
    let say = |said: &SyncSender<Word>, word| {
        // So many that wait say the same.
        let _ = said.try_send(word);
    };
    runtime.spawn(async move {
        loop {
            tokio::select! {
                () = next(&mut signals.terminate) => say(&said, Word::End),
                () = next(&mut signals.hangup) => {
                    say(&said, Word::End);
                    // The screen may be in the middle of reading a terminal that is no more. Nothing is left to give back.
                    tokio::time::sleep(HANGUP_GRACE).await;
                    std::process::exit(i32::from(Exit::Failed as u8));
                }
                () = next(&mut signals.interrupt) => say(&said, Word::End),
                () = next(&mut continued) => say(&said, Word::Continued),
            }
        }
    });
    heard
}

/// What is shown, and how.
struct Shown {
    state: State,
    look: Look,
    interval: Duration,
}

/// Until a person quits.
fn show(shown: Shown, screen: &mut Screen, runtime: &Runtime, environment: &Arc<Environment>) -> std::io::Result<()> {
    let Shown { mut state, look, interval } = shown;
    let mut feed = {
        let _inside = runtime.enter();
        Feed::open(&environment.home, interval)
    };
    let doing = Doing::new(runtime.handle().clone(), Arc::clone(environment));
    let signals = listen(runtime);
    let mut stale = true;
    loop {
        if let Some(snapshot) = feed.take() {
            state.show(snapshot);
            stale = true;
        }
        if let Some(banner) = doing.result() {
            state.banner = Some(banner);
            stale = true;
        }
        for word in signals.try_iter() {
            match word {
                Word::End => return Ok(()),
                Word::Continued => screen.enter()?,
            }
            stale = true;
        }
        if std::mem::take(&mut stale) {
            feed.focus(&state.selected);
            screen.draw(|buffer| draw::draw(buffer, &state, look))?;
        }
        for key in screen.keys(KEY_WAIT_MAX)? {
            match state.key(key, screen.area()) {
                Effect::None => continue,
                Effect::Draw => {}
                Effect::Quit => return Ok(()),
                Effect::Suspend => screen.suspend()?,
                Effect::Act(action) => {
                    let frozen = doing.begin(action);
                    if !frozen.is_empty() {
                        state.banner = Some(start_again(screen, &frozen, runtime, environment)?);
                    }
                }
            }
            stale = true;
        }
    }
}

/// Starts frozen runs again, outside of the screen: what they ask is asked there, and what they say stands there.
fn start_again(
    screen: &mut Screen,
    frozen: &[Answer],
    runtime: &Runtime,
    environment: &Environment,
) -> std::io::Result<Banner> {
    screen.leave();
    let mut all = Vec::new();
    for run in frozen {
        let own = Environment::look(Some(environment.home.root().to_owned()));
        let args = ResumeArgs::detached(&run.record.run);
        let went = own.and_then(|own| runtime.block_on(resume::resume(args, own)));
        all.push(match went {
            Ok(0) => Ok(format!("{} was started again", run.record.run)),
            Ok(code) => {
                let message = format!("{} was not started again (exit code {code})", run.record.run);
                Err(Failure::words(Exit::Failed, message).hint(format!("carboy resume {}", run.record.run)))
            }
            Err(failure) => Err(failure),
        });
    }
    if all.iter().any(Result::is_err) {
        // What was said above is the reason, and nobody could read it.
        say_part!("Enter goes back to the dashboard ");
        let _ = std::io::stderr().flush();
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    screen.enter()?;
    Ok(act::banner(all))
}
