//! Programs that some tests need: where one is missing, the test is counted as skipped in the closing line.

use std::path::Path;
use std::process::{Command, Stdio};

/// Is it there? Where it is not, the test is noted as left out.
pub fn program(test: &str, command: &[&str]) -> bool {
    let run = Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = run.is_ok_and(|status| status.success());
    note(test, if there { None } else { Some(format!("{} is not there", command[0])) });
    there
}

/// Notes a test as left out, or takes the note back.
pub fn note(test: &str, why: Option<String>) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let file = dir.join(format!("serve-{test}"));
    std::fs::create_dir_all(&dir).unwrap();
    match why {
        Some(why) => {
            println!("skipped: {test}: {why}");
            std::fs::write(file, format!("serve::{test}: {why}\n")).unwrap();
        }
        None => {
            // It may never have been left out.
            let _ = std::fs::remove_file(file);
        }
    }
}
