//! The last word of `cargo test`: which tests could not run on this machine, and why. The harnesses that leave tests out
//! note each of them in a file of their own below the target directory; this one reads them.
//!
//! *Must never* fail: a test that could not run is no failure, but one that nobody sees is a hole.

use std::path::Path;

fn main() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    match lines.len() {
        0 => println!("\nEvery test could run on this machine."),
        count => {
            println!("\nNot run on this machine: {count}");
            for line in &lines {
                println!("  {line}");
            }
            println!("`cargo xtask test` installs what they need.");
        }
    }
}
