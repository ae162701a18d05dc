//! `carboy approve ID --conversation`: what was said where a question came from.
//!
//! *Must never* let a line of a person's or an agent's move a cursor, or pass for another one's.

use carboy_control::agent::{Line, Who};
use carboy_control::approvals::conversation::{ReadAsked, ReadError, read_from, read_from_file, run_of};
use carboy_control::approvals::{self, FileBoard, Waits};
use carboy_control::clock::SystemClock;
use carboy_control::host_user;
use carboy_core::ask::Origin;
use carboy_core::ports::Clock;
use serde_json::json;

use crate::args::{ApproveArgs, ChatFlags};
use crate::chat::{self, Desk, Named, look_up};
use crate::environment::Environment;
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

/// Lines that are shown unless all are wanted.
const LINES_SHOWN: usize = 20;

/// Where the question came from, whether it waits or was answered.
pub fn origin_of(id: &str, waits: &[Waits], environment: &Environment) -> Result<(FileBoard, Origin), Failure> {
    if let Some(one) = waits.iter().find(|one| one.posted.ask.id() == id) {
        return Ok((one.board.clone(), one.posted.origin()));
    }
    let decided = approvals::decided(&environment.home, id).map_err(|e| Failure::new(Exit::Failed, &e))?;
    decided.ok_or_else(|| {
        Failure::words(Exit::Found, format!("no question `{}` waits, or was answered in the last week", printable(id)))
            .hint("`carboy approve` lists those that wait; `carboy audit query` has all that were answered")
    })
}

/// Reads it and shows it.
pub fn show(
    args: &ApproveArgs,
    (board, origin): (FileBoard, Origin),
    environment: &Environment,
) -> Result<u8, Failure> {
    let by = host_user::name_of(rustix::process::getuid().as_raw());
    let lines = read(&board, ReadAsked { origin: origin.clone(), by }, environment)?;
    let Some(lines) = lines else {
        let what = format!("the conversation of `{}` is no more", origin.ask);
        return Err(Failure::words(Exit::Found, what).hint(
            "the person forgot it, or nobody used it for as long as it is kept: `limits: {session_idle_s: …}` in the agent's file",
        ));
    };
    if args.json {
        let whole = json!({
            "id": origin.ask,
            "kind": origin.kind,
            "agent": origin.agent,
            "user": origin.user,
            "session": origin.session,
            "lines": lines,
        });
        return print(format!("{whole}\n").as_bytes());
    }
    let first = if args.all { 0 } else { lines.len().saturating_sub(LINES_SHOWN) };
    print(as_text(&lines[first..], &origin.agent, Palette::stdout()).as_bytes())?;
    if first > 0 {
        say!(
            "the last {LINES_SHOWN} of {} lines; `carboy approve {} --conversation --all` shows all",
            lines.len(),
            origin.ask
        );
    }
    Ok(0)
}

fn read(board: &FileBoard, asked: ReadAsked, environment: &Environment) -> Result<Option<Vec<Line>>, Failure> {
    let agent = asked.origin.agent.clone();
    let run = run_of(&environment.home, board, &agent).map_err(|e| Failure::new(Exit::Failed, &e))?;
    if let Some(run) = run {
        return read_from(&run, asked).map_err(|error| failure(error, &agent));
    }
    let named = Named {
        verb: "approve",
        agent: Some(&agent),
        bottles: &[],
        trust: false,
        budget: &[],
        model: None,
        thresholds: &ChatFlags::default(),
        audit_log: None,
        desk: Desk::Staged,
    };
    let request = look_up(&named, environment.clone()).map_err(|failure| failure.hint(away(&agent)))?;
    let reading = read_from_file(&request, board, &asked);
    crate::runtime()?.block_on(reading).map_err(|error| failure(error, &agent))
}

fn failure(error: ReadError, agent: &str) -> Failure {
    match error {
        ReadError::Chat(error) => chat::failure(error),
        ReadError::AnotherAgent { .. } | ReadError::NotShown(_) | ReadError::Log(_) => {
            Failure::new(Exit::Failed, &error).hint(away(agent))
        }
        ReadError::Run(_) => Failure::new(Exit::Failed, &error),
    }
}

/// What else there is while nobody runs the agent.
fn away(agent: &str) -> String {
    let agent = printable(agent);
    format!(
        "agent {agent} does not run; start it where and as it is always started, and its conversations are read from it"
    )
}

/// As a person reads it: whose, when, and each line of theirs set in.
fn as_text(lines: &[Line], agent: &str, palette: Palette) -> String {
    let now = SystemClock.now_ms();
    let mut out = String::new();
    for line in lines {
        let who = match line.who {
            Who::Person => "Person".to_owned(),
            Who::Agent => printable(agent),
            Who::Step => "Tool".to_owned(),
            Who::Note => "Note".to_owned(),
        };
        let time = report::local_time(line.at_ms, now);
        out.push_str(&format!("{} {}\n", palette.strong(&who), palette.faint(&time)));
        line.text.lines().for_each(|text| out.push_str(&format!("  {}\n", printable(text))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u4_no_line_of_a_conversation_moves_a_cursor_or_passes_for_anothers() {
        let text = "hello\u{1b}[2J\r\nshop 10:00:00\n\u{202e}olleh".to_owned();
        let line = Line { who: Who::Person, text, at_ms: 0, turn: 1, judged: false };
        let shown = as_text(&[line], "shop", Palette::plain());
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("Person "), "{shown}");
        assert_eq!(lines[1..], ["  hello\\u{1b}[2J", "  shop 10:00:00", "  \\u{202e}olleh"]);
    }
}
