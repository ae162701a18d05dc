//! `carboy audit`: verify, read and search the log.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use carboy_control::log::{self, Hint, Integrity, Query};
use carboy_core::audit::{ChainHead, Entry, hex};

use crate::args::{AuditCommand, QueryArgs};
use crate::environment::Environment;
use crate::print;
use crate::report::{Exit, Failure, Palette, entry_line};

/// Until a follower looks again.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// Runs one of its commands.
pub fn audit(command: AuditCommand, environment: &Environment) -> Result<u8, Failure> {
    let path = environment.home.audit_log();
    match command {
        AuditCommand::Verify { file, head, json } => {
            verify(file.as_deref().unwrap_or(&path), head.as_deref(), json, environment)
        }
        AuditCommand::Tail { lines, follow, json } => tail(&path, lines, follow, json),
        AuditCommand::Query(args) => query(&path, &args),
        AuditCommand::Path => print(format!("{}\n", path.display()).as_bytes()),
        AuditCommand::Keygen => {
            let mut key = [0; 32];
            getrandom::fill(&mut key)
                .map_err(|e| Failure::words(Exit::Failed, format!("the system gives no random bytes: {e}")))?;
            print(format!("{}\n", hex(&key)).as_bytes())
        }
    }
}

/// A log that is not there yet is nobody's failure; there is only nothing in it.
pub fn failed(error: log::StoreError) -> Failure {
    let exit = if let log::StoreError::Missing { .. } = error { Exit::Found } else { Exit::Failed };
    Failure::new(exit, &error)
}

fn verify(path: &Path, head: Option<&str>, json: bool, environment: &Environment) -> Result<u8, Failure> {
    let kept = head.map(parse_head).transpose()?;
    let report = log::verify(path, &environment.audit_key()?, kept).map_err(failed)?;
    let (word, problem, code) = match (&report.result, report.hint) {
        (Integrity::Valid, _) => ("VALID", None, 0),
        // Nobody can say more of it without its key.
        (Integrity::Tampered(_), Some(Hint::LooksKeyed)) => {
            ("UNVERIFIED", Some("this log is keyed, and AUDIT_INTEGRITY_KEY is not set".to_owned()), Exit::Config as u8)
        }
        (Integrity::Tampered(tampering), _) => ("TAMPERED", Some(tampering.to_string()), Exit::Found as u8),
    };
    let hint = report.hint.as_ref().map(ToString::to_string);
    if json {
        let object = serde_json::json!({
            "result": word, "file": path, "entries": report.entries, "problem": problem, "hint": hint,
            "head": format!("{}:{}", report.head.seq, report.head.hash),
        });
        print(format!("{object}\n").as_bytes())?;
    } else {
        let palette = Palette::stdout();
        let mut out = match &problem {
            None => format!("{}: {} entries\n", palette.good(word), report.entries),
            Some(problem) => format!("{}: {problem}\n", palette.bad(word)),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "head {}:{}", report.head.seq, report.head.hash);
        print(out.as_bytes())?;
        if let Some(hint) = hint {
            say!("{} {hint}", Palette::stderr().strong("hint:"));
        }
    }
    Ok(code)
}

fn parse_head(text: &str) -> Result<ChainHead, Failure> {
    let wrong =
        || Failure::words(Exit::Usage, format!("--head {text}: not SEQ:HASH as `carboy audit verify` prints it"));
    let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
    let seq = seq.parse().map_err(|_| wrong())?;
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    Ok(ChainHead { seq, hash: hash.to_ascii_lowercase() })
}

fn tail(path: &Path, lines: usize, follow: bool, json: bool) -> Result<u8, Failure> {
    if !follow {
        let answer = log::tail(path, lines).map_err(failed)?;
        show(&answer.entries, json)?;
        return warn_unreadable(answer.unreadable);
    }
    let mut follow = log::follow(path, lines).map_err(failed)?;
    loop {
        show(&follow.poll().map_err(failed)?, json)?;
        std::thread::sleep(FOLLOW_EVERY);
    }
}

fn query(path: &Path, args: &QueryArgs) -> Result<u8, Failure> {
    let time = |text: &Option<String>| {
        text.as_deref().map(log::parse_time).transpose().map_err(|e| Failure::new(Exit::Usage, &e))
    };
    let query = Query {
        event_type: args.event_type.clone(),
        result: args.result.clone(),
        reason: args.reason.clone(),
        host: args.host.clone(),
        bottle: args.bottle.clone(),
        run: args.run.clone(),
        since_ms: time(&args.since)?,
        until_ms: time(&args.until)?,
        limit: Some(args.limit),
        ..Query::default()
    };
    let answer = log::query(path, &query).map_err(failed)?;
    show(&answer.entries, args.json)?;
    if answer.entries.is_empty() {
        say!("no entry fits");
    }
    if answer.matched > answer.entries.len() as u64 {
        say!("the last {} of {} that fit; `--limit N` shows more", answer.entries.len(), answer.matched);
    }
    warn_unreadable(answer.unreadable)
}

/// Prints entries for people, or as the lines they are.
pub fn show(entries: &[Entry], json: bool) -> Result<u8, Failure> {
    let palette = Palette::stdout();
    let mut out = Vec::new();
    for entry in entries {
        if json {
            out.extend(entry.to_line());
        } else {
            out.extend(entry_line(entry, palette).into_bytes());
        }
        out.push(b'\n');
    }
    print(&out)
}

fn warn_unreadable(count: u64) -> Result<u8, Failure> {
    if count > 0 {
        say!("{count} lines are no entries; `carboy audit verify` says which is the first");
    }
    Ok(0)
}
