//! `carboy approve`: the questions that wait for whoever runs agents, shown and answered.
//!
//! ```text
//!  asks/*.json ─▶ table, or one question ─▶ yes or no ─▶ answer file ─▶ (its agent takes it) ─▶ what came of it
//! ```
//!
//! *Must never* answer for somebody who did not say so: without a terminal an answer is a flag. Nor show words of others that move
//! a cursor.

mod conversation;

use std::time::Duration;

use carboy_control::approvals::conversation::run_of;
use carboy_control::approvals::{self, AnswerError, Waits};
use carboy_control::clock::SystemClock;
use carboy_control::host_user;
use carboy_core::ask::{Answered, Word};
use carboy_core::ports::Clock;
use serde_json::{Value, json};

use crate::args::ApproveArgs;
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, Side, printable};
use crate::terminal;

/// How long an agent that runs may take to take an answer: a turn that is under way ends first.
const TAKEN_WAIT_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether it has.
const TAKEN_LOOK: Duration = Duration::from_millis(100);
const HEAD: [(&str, Side); 6] = [
    ("ID", Side::Left),
    ("WHAT", Side::Left),
    ("AGENT", Side::Left),
    ("FOR", Side::Left),
    ("WAITS", Side::Left),
    ("QUESTION", Side::Left),
];

/// Lists, shows or answers.
pub fn approve(args: &ApproveArgs, environment: &Environment) -> Result<u8, Failure> {
    let waits = approvals::all(&environment.home).map_err(|e| Failure::new(Exit::Failed, &e))?;
    let Some(id) = &args.id else { return list(&waits, args.json) };
    if args.conversation {
        return conversation::show(args, conversation::origin_of(id, &waits, environment)?, environment);
    }
    let Some(one) = waits.iter().find(|one| one.posted.ask.id() == id) else {
        return Err(Failure::words(Exit::Found, format!("no question `{}` waits", printable(id)))
            .hint("`carboy approve` lists those that do; `carboy audit query` has those that were answered, and `--conversation` shows what was said in theirs"));
    };
    let word = match (args.yes, args.no) {
        (true, _) => Some(Word::Approved),
        (false, true) => Some(Word::Declined),
        (false, false) => None,
    };
    if word.is_none() && args.json {
        return print(format!("{}\n", as_json(one)).as_bytes());
    }
    if !args.json {
        say_part!("{}", shown(one, Palette::stderr()));
    }
    let asked = || match terminal::confirm("  Approve it? [y/N, Ctrl-C leaves it] ") {
        Ok(true) => Some(Word::Approved),
        Ok(false) => Some(Word::Declined),
        Err(_) => None,
    };
    let open = one.answer.is_none();
    let Some(word) = word.or_else(|| if open { asked() } else { None }) else {
        if open {
            say!("answer it with `carboy approve {id} --yes`, or `--no`; `--conversation` shows what was said");
        }
        return Ok(0);
    };
    answer(one, word, args, environment)
}

fn answer(one: &Waits, word: Word, args: &ApproveArgs, environment: &Environment) -> Result<u8, Failure> {
    let id = one.posted.ask.id();
    let by = host_user::name_of(rustix::process::getuid().as_raw());
    let answered = Answered { word, by, say: args.say.clone(), at_ms: SystemClock.now_ms() };
    one.board.answer(&one.posted, &answered).map_err(|error| match error {
        AnswerError::Answered { .. } | AnswerError::Over { .. } | AnswerError::Gone { .. } => {
            Failure::new(Exit::Found, &error)
        }
        AnswerError::Home(_) => Failure::new(Exit::Failed, &error),
    })?;
    let run = run_of(&environment.home, &one.board, &one.posted.agent);
    let runs = run.map_err(|e| Failure::new(Exit::Failed, &e))?.is_some();
    let came = if runs { came_of(one)? } else { None };
    if args.json {
        let word = match word {
            Word::Approved => "approved",
            Word::Declined => "declined",
        };
        return print(format!("{}\n", json!({"id": id, "answer": word, "by": answered.by, "came": came})).as_bytes());
    }
    match came {
        Some(came) => print(format!("{}\n", printable(&came)).as_bytes()),
        None => {
            say!("kept: it is carried out when agent {} runs, and while its conversation is there", one.posted.agent);
            Ok(0)
        }
    }
}

fn came_of(one: &Waits) -> Result<Option<String>, Failure> {
    let looks = TAKEN_WAIT_MAX.as_millis() / TAKEN_LOOK.as_millis();
    for _ in 0..looks {
        let came = one.board.came_of(one.posted.ask.id()).map_err(|e| Failure::new(Exit::Failed, &e))?;
        if came.is_some() {
            return Ok(came);
        }
        std::thread::sleep(TAKEN_LOOK);
    }
    Ok(None)
}

fn list(waits: &[Waits], json: bool) -> Result<u8, Failure> {
    if json {
        let all: Vec<Value> = waits.iter().map(as_json).collect();
        return print(format!("{}\n", Value::from(all)).as_bytes());
    }
    if waits.is_empty() {
        say!("nothing waits for you");
        return Ok(0);
    }
    let now = SystemClock.now_ms();
    let row = |one: &Waits| {
        let posted = &one.posted;
        let title = match &one.answer {
            Some(answer) => format!("{} (answered by {})", posted.title, answer.by),
            None => posted.title.clone(),
        };
        vec![
            posted.ask.id().to_owned(),
            posted.ask.kind().as_str().replace('_', "-"),
            printable(&posted.agent),
            printable(&posted.user),
            report::duration(now.saturating_sub(posted.ask.opened_ms())),
            printable(&title),
        ]
    };
    let rows: Vec<Vec<String>> = waits.iter().map(row).collect();
    let mut out = String::new();
    let palette = Palette::stdout();
    let window = report::columns(std::io::stdout());
    let mut lines = report::table(&HEAD, &rows, window).into_iter();
    out.extend(lines.next().map(|head| format!("{}\n", palette.faint(&head))));
    out.extend(lines.map(|line| format!("{line}\n")));
    print(out.as_bytes())?;
    say!("`carboy approve ID` shows one and asks; with `--conversation` it shows what was said");
    Ok(0)
}

fn as_json(one: &Waits) -> Value {
    let posted = &one.posted;
    let rows: Vec<Value> = posted.rows.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "id": posted.ask.id(),
        "kind": posted.ask.kind(),
        "agent": posted.agent,
        "user": posted.user,
        "session": posted.session,
        "tool": posted.tool,
        "title": posted.title,
        "rows": rows,
        "opened_ms": posted.ask.opened_ms(),
        "expires_ms": posted.ask.expires_ms(),
        "answer": one.answer,
    })
}

fn shown(one: &Waits, palette: Palette) -> String {
    let (posted, now) = (&one.posted, SystemClock.now_ms());
    let mut out = format!("{}\n", palette.strong(&printable(&posted.title)));
    let mut rows = posted.rows.clone();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("agent", posted.agent.clone());
    posted.tool.iter().for_each(|tool| row("tool", tool.clone()));
    row("for", format!("{}, conversation {}", posted.user, posted.session));
    let left = posted.ask.expires_ms().checked_sub(now).map_or_else(|| "is over".to_owned(), report::duration);
    row("waits", format!("since {}, for {left} more", report::local_time(posted.ask.opened_ms(), now)));
    if let Some(answer) = &one.answer {
        let word = match answer.word {
            Word::Approved => "yes",
            Word::Declined => "no",
        };
        row("answer", format!("{word}, by {}; its agent has not taken it yet", answer.by));
    }
    let width = rows.iter().map(|(name, _)| printable(name).chars().count()).max().unwrap_or(0);
    for (name, value) in &rows {
        out.push_str(&format!("  {:<width$}  {}\n", printable(name), printable(value)));
    }
    out
}
