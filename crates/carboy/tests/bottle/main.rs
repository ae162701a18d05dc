//! Tests in real bottles, through the built binary: once as the user who runs them and, when that is root, once more
//! as an ordinary user. A test that cannot run here is counted as skipped, with the reason, in the closing lines.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

mod attack;
mod audit;
mod bodies;
mod cli;
mod clients;
mod escape_host;
mod escape_kernel;
mod escape_leaks;
mod escape_names;
mod escape_network;
mod escape_scan;
mod faults;
mod git;
mod guides;
mod host;
mod host_programs;
mod hostile;
mod http2;
mod image;
mod init;
mod matrix;
mod metered;
mod overspend;
mod placeholders;
mod plane;
mod ports;
mod programs;
mod providers;
mod registries;
mod run;
mod runs;
mod seeing;
mod stopping;
mod streams;
mod terminal;
mod tier2;
mod tonight;
mod tools;
mod top;
mod trust;
mod unattended;
mod uninstall;
#[path = "../support/waiting.rs"]
mod waiting;
mod workspace;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};

use world::{ORDINARY_USER, Person};

/// A test: its name, what it needs, what it does.
pub struct Case {
    name: &'static str,
    needs: &'static [&'static str],
    body: fn(Person),
}

/// A test that needs nothing but a bottle.
pub const fn case(name: &'static str, body: fn(Person)) -> Case {
    Case { name, needs: &[], body }
}

/// A test that needs these programs or files on the machine.
pub const fn case_with(name: &'static str, needs: &'static [&'static str], body: fn(Person)) -> Case {
    Case { name, needs, body }
}

fn main() {
    // The doctor's trial bottle is made from this very program.
    carboy_control::bottle::run_init_if_asked();
    let arguments = Arguments::from_args();
    let mut skipped = Vec::new();
    let mut trials = Vec::new();
    let people: &[(&str, Person)] =
        if world::is_root() { &[("root", Person::Me), ("user", Person::Ordinary)] } else { &[("user", Person::Me)] };
    let cases: Vec<Case> = [
        run::cases(),
        clients::cases(),
        bodies::cases(),
        git::cases(),
        faults::cases(),
        workspace::cases(),
        streams::cases(),
        terminal::cases(),
        tier2::cases(),
        tonight::cases(),
        tools::cases(),
        metered::cases(),
        top::cases(),
        trust::cases(),
        unattended::cases(),
        hostile::cases(),
        runs::cases(),
        seeing::cases(),
        stopping::cases(),
        overspend::cases(),
        placeholders::cases(),
        plane::cases(),
        ports::cases(),
        programs::cases(),
        providers::cases(),
        registries::cases(),
        uninstall::cases(),
        guides::cases(),
        cli::cases(),
        audit::cases(),
        image::cases(),
        init::cases(),
        escape_network::cases(),
        escape_names::cases(),
        escape_scan::cases(),
        escape_host::cases(),
        host_programs::cases(),
        escape_kernel::cases(),
        escape_leaks::cases(),
        matrix::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    for case in &cases {
        for (label, person) in people {
            let name = format!("[{label}] {}", case.name);
            match why_not(case, *person) {
                Some(why) => {
                    skipped.push(format!("{name}: {why}"));
                    trials.push(Trial::test(name, || Ok(())).with_ignored_flag(true));
                }
                None => {
                    let (body, person) = (case.body, *person);
                    trials.push(Trial::test(name, move || guarded(body, person)));
                }
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for line in &skipped {
        println!("skipped: {line}");
    }
    note_skipped(&skipped);
    world::clean_up();
    conclusion.exit();
}

/// For the last word of `cargo test` (`xtask/tests/skipped.rs`).
fn note_skipped(lines: &[String]) {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("carboy-bottle-cli.txt"), lines.join("\n")).unwrap();
}

/// A panic in a test is that test's failure.
fn guarded(body: fn(Person), person: Person) -> Result<(), Failed> {
    std::panic::catch_unwind(|| body(person)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default().into()
    })
}

fn why_not(case: &Case, person: Person) -> Option<String> {
    if person == Person::Ordinary && world::ordinary_ids().is_none() {
        return Some(format!("user `{ORDINARY_USER}` does not exist; `cargo xtask test` creates it"));
    }
    static STANDS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let scratch = std::env::temp_dir();
    if !STANDS.get_or_init(|| carboy_control::doctor::probe(&scratch).tier.is_some()) {
        return Some("no bottle can be made on this host; `carboy doctor` says why".into());
    }
    if case.needs.contains(&"root") && !world::is_root() {
        return Some("it changes what the machine looks like to carboy, which needs root".into());
    }
    let missing = |need: &&&str| {
        if **need == "root" {
            return false;
        }
        let path = std::path::Path::new(need);
        if path.is_absolute() {
            return !path.exists();
        }
        !["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(need).exists())
    };
    case.needs
        .iter()
        .find(missing)
        .map(|need| format!("`{need}` is not on this machine; `cargo xtask test` installs it"))
}
