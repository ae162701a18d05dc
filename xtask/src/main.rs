//! Repository chores: `cargo xtask COMMAND`. One module per command; nothing of the product depends on this.

mod bench;
mod book;
mod dist;
mod files;
mod layers;
mod lit;
mod matrix;
mod needs;
mod soak;
mod table;
mod test;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  layers           check who depends on whom, and what keeps each crate in its place
  files            check the size of source files, their first lines, and words that do not belong
  table            write docs/checklist.md: which test proves which row
  table --check    fail if it is out of date, or a row that is not pending has no test
  matrix           write docs/bypass-matrix.md from what the bypass matrix of the tests found
  matrix --check   fail if it is not what they found
  test             install what the tests need (asks first, unless CI=true), then check and test everything
  book             write the documents as a static book to target/book; a broken link or an orphan page fails
  book --check     the same without writing
  lit              check that documents and the programs in them say the same; differences are shown
  dist             the release: a static archive, a Debian package and their sums, in target/dist
  dist --check     try the packaging with the program of the tests
  soak attack [ROUNDS] [--seed N]
                   attack Bookly with a model that means harm, a million times where nobody says how many
  soak [ROUNDS] [--seed N] [--minutes N]
                   kill the ledger's process again and again (10000 times, 40 minutes at most) and look for what is lost
  bench start|proxy|budget [--write]
                   measure beside other programs, which are installed first (asks, unless CI=true); --write puts the
                   figures into docs/benchmarks.md";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["layers"] => layers::run(),
        ["files"] => files::run(),
        ["table"] => table::run(table::Mode::Write),
        ["table", "--check"] => table::run(table::Mode::Check),
        ["matrix"] => matrix::run(matrix::Mode::Write),
        ["matrix", "--check"] => matrix::run(matrix::Mode::Check),
        ["test"] => test::run(),
        ["book"] => book::run(book::Mode::Write),
        ["book", "--check"] => book::run(book::Mode::Check),
        ["lit"] => lit::run(),
        ["dist"] => dist::run(),
        ["dist", "--check"] => dist::check(),
        ["bench", ref rest @ ..] => bench::run(rest),
        ["soak", "attack", ref rest @ ..] => soak::attack(rest),
        ["soak", ref rest @ ..] => soak::run(rest),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// One text of many complaints, or none.
fn complain(what: &str, complaints: Vec<String>) -> Result<(), String> {
    if complaints.is_empty() {
        return Ok(());
    }
    let lines: String = complaints.iter().map(|line| format!("  {line}\n")).collect();
    Err(format!("{what}: {} complaints\n{lines}", complaints.len()))
}
