//! A repository's agent runs only after somebody has agreed to exactly its content.

mod support;

use std::cell::RefCell;
use std::path::Path;

use carboy_core::audit::{hex, sha256};
use carboy_manifest::{Code, LoadError, Manifest, MapFiles, NeedsTrust, Trust, Trusted, check};
use support::{codes, files, places, request};

const AGENT: &str = "---\nbottle: dev\ngit-gate: {user: {name: Repo}}\n---\nDo as you are told.\n";
const BOTTLE: &str = "---\negress: {routes: [{host: a.example}]}\n---\n";

/// Agreed to one hash; remembers what it was asked.
struct Agreed(Option<String>, RefCell<Vec<String>>);

impl Trust for Agreed {
    fn of(&self, file: &Path, sha256: &str) -> Trusted {
        self.1.borrow_mut().push(format!("{} {sha256}", file.display()));
        match self.0.as_deref() == Some(sha256) {
            true => Trusted::Yes,
            false => Trusted::Unknown,
        }
    }
}

fn repository(agent: &str) -> MapFiles {
    files(&[("bottles/dev.md", BOTTLE), ("bottles/other.md", BOTTLE), ("/repo/.carboy/agents/a.md", agent)])
}

fn asked(agent: &str, bottles: &[&str], trust: &Agreed) -> Option<Box<NeedsTrust>> {
    match Manifest::load_trusting(&repository(agent), &request(Some("a"), bottles), trust) {
        Ok(_) => None,
        Err(LoadError::NeedsTrust(asked)) => Some(asked),
        Err(LoadError::Invalid(errors)) => panic!("{errors}"),
    }
}

#[test]
fn an_unknown_agent_of_a_repository_is_a_question_that_shows_what_it_selects() {
    // M39
    let nobody = Agreed(None, RefCell::default());
    let question = asked(AGENT, &[], &nobody).expect("a question");
    assert_eq!(question.file.file, Path::new("/repo/.carboy/agents/a.md"));
    assert_eq!(question.file.sha256, hex(&sha256(AGENT.as_bytes())));
    assert_eq!(question.bottles.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["dev"]);
    assert_eq!(question.routes.iter().map(|route| route.host.as_str()).collect::<Vec<_>>(), ["a.example"]);
    assert_eq!((question.git_user.name.as_deref(), question.prompt.as_str()), (Some("Repo"), "Do as you are told."));
    // A bottle of the command line changes what is selected, not whose prompt it is.
    let other = asked(AGENT, &["other"], &nobody).expect("a question");
    assert_eq!(other.bottles.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["other"]);
}

#[test]
fn what_was_agreed_to_runs_until_a_byte_of_it_changes() {
    // M39
    let agreed = Agreed(Some(hex(&sha256(AGENT.as_bytes()))), RefCell::default());
    assert!(asked(AGENT, &[], &agreed).is_none());
    assert!(asked(&AGENT.replace("told", "t0ld"), &[], &agreed).is_some());
    let asked_for = agreed.1.borrow();
    assert!(asked_for.len() == 2 && asked_for.iter().all(|line| line.starts_with("/repo/.carboy/agents/a.md ")));
}

#[test]
fn without_anybody_to_ask_it_is_refused() {
    // M39
    let errors = Manifest::load(&repository(AGENT), &request(Some("a"), &[])).expect_err("refused");
    assert_eq!(codes(&errors), [Code::NeedsTrust]);
    // Errors come first: nobody is asked about a file that would not run.
    let broken = Manifest::load(&repository("---\nbottle: dev\nenv: {}\n---\n"), &request(Some("a"), &[]));
    assert_eq!(codes(&broken.expect_err("an error")), [Code::BottleKeyInAgent]);
}

#[test]
fn the_users_own_agents_and_bottles_need_no_answer() {
    // M39, M5
    let own = files(&[("bottles/dev.md", BOTTLE), ("agents/a.md", AGENT)]);
    let nobody = Agreed(None, RefCell::default());
    assert!(Manifest::load_trusting(&own, &request(Some("a"), &[]), &nobody).is_ok());
    assert!(Manifest::load_trusting(&repository(AGENT), &request(None, &["dev"]), &nobody).is_ok());
    // The home as working directory is no repository.
    let at_home = carboy_manifest::Places { cwd: places().home, ..places() };
    let request = carboy_manifest::Request { agent: Some("a".into()), bottles: vec![], places: at_home };
    assert!(Manifest::load_trusting(&own, &request, &nobody).is_ok());
    assert!(nobody.1.borrow().is_empty());
}

#[test]
fn a_check_shows_an_agent_of_a_repository_without_asking() {
    // M39
    let report = check(&repository(AGENT), &request(Some("a"), &[]));
    assert!(report.ok, "{}", report.diagnostics);
    let json = serde_json::to_value(report.effective.expect("one")).expect("JSON");
    assert_eq!(json["repository_agent"]["file"], "/repo/.carboy/agents/a.md");
    assert_eq!(json["repository_agent"]["sha256"], hex(&sha256(AGENT.as_bytes())));
}
