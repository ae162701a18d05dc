//! Which files are read, which win, and what is said when there is nothing to run.

mod support;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use carboy_manifest::files::FileError;
use carboy_manifest::{Code, Manifest, ManifestFiles, MapFiles, Places, Request, Reread, check, reread};
use support::{codes, files, load_trusted, places, request};

const EMPTY: &str = "---\n---\n";

/// Remembers which files were opened.
struct Watched(MapFiles, RefCell<Vec<PathBuf>>);

impl ManifestFiles for Watched {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        self.0.list(dir)
    }
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        let found = self.0.read(path, bytes_max);
        if matches!(found, Ok(Some(_))) {
            self.1.borrow_mut().push(path.to_path_buf());
        }
        found
    }
    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.0.read_of_root(path, bytes_max)
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }
    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        self.0.same_directory(a, b)
    }
}

#[test]
fn an_agent_file_is_its_name_its_bottle_and_its_prompt() {
    // M1, M9, M21
    let home = files(&[
        ("agents/coder.md", "---\nbottle: dev\ngit-gate: {user: {name: Coder}}\n---\n\nBe kind.\n"),
        ("bottles/dev.md", "---\ngit-gate: {user: {name: Dev, email: d@example.org}}\n---\n"),
    ]);
    let loaded = Manifest::load(&home, &request(Some("coder"), &[])).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        (loaded.agent.unwrap().as_str(), loaded.bottle.as_str(), loaded.prompt.as_str()),
        ("coder", "dev", "Be kind.")
    );
    assert_eq!(
        (loaded.git_user.name.as_deref(), loaded.git_user.email.as_deref()),
        (Some("Coder"), Some("d@example.org"))
    );
    let sources = ["bottles/dev.md", "agents/coder.md"].map(|path| places().carboy_home.join(path));
    assert_eq!(loaded.sources, sources);
}

#[test]
fn names_come_from_both_roots_and_only_names_that_are_valid() {
    // M1, M2, M4
    let home = files(&[
        ("agents/a.md", "x"),
        ("agents/b.md", "x"),
        ("agents/README.md", "x"),
        ("agents/notes.txt", "x"),
        ("/repo/.carboy/agents/b.md", "x"),
        ("/repo/.carboy/agents/c.md", "x"),
        ("bottles/dev.md", "x"),
    ]);
    let agents = Manifest::agent_names(&home, &places());
    assert_eq!(agents.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let bottles = Manifest::bottle_names(&home, &places());
    assert_eq!(bottles.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["dev"]);
}

#[test]
fn bottles_under_the_working_directory_are_ignored_with_one_warning() {
    // M3
    let home = files(&[
        ("bottles/dev.md", EMPTY),
        ("/repo/.carboy/bottles/z.md", "---\negress: {routes: [{host: evil.example}]}\n---\n"),
        ("/repo/.carboy/bottles/dev.md", "---\negress: {routes: [{host: evil.example}]}\n---\n"),
    ]);
    let loaded = Manifest::load(&home, &request(None, &["dev"])).unwrap();
    assert_eq!(loaded.routes.iter().count(), 0);
    assert_eq!(codes(&loaded.warnings), [Code::BottleIgnored]);
    let warning = loaded.warnings.iter().next().unwrap();
    assert!(warning.message.ends_with(": `/repo/.carboy/bottles/dev.md`, `/repo/.carboy/bottles/z.md`"), "{warning}");
    assert!(warning.fix.contains("/home/u/.carboy/bottles"), "{warning}");
    let errors = Manifest::load(&home, &request(None, &["z"])).err().unwrap();
    assert_eq!(codes(&errors), [Code::BottleIgnored, Code::NoSuchBottle]);
}

#[test]
fn the_working_directory_s_agent_wins() {
    // M4
    let home = files(&[
        ("bottles/dev.md", EMPTY),
        ("agents/coder.md", "---\nbottle: dev\n---\nof home"),
        ("/repo/.carboy/agents/coder.md", "---\nbottle: dev\n---\nof the repository"),
    ]);
    let loaded = load_trusted(&home, &request(Some("coder"), &[])).unwrap();
    assert_eq!(loaded.prompt, "of the repository");
    assert_eq!(loaded.agent_file, Some("/repo/.carboy/agents/coder.md".into()));
}

#[test]
fn a_working_directory_that_is_the_home_is_not_looked_at_twice() {
    // M5
    let home = files(&[("bottles/dev.md", EMPTY), ("agents/a.md", "---\nbottle: dev\n---\n")]);
    let places = Places { cwd: "/home/u".into(), ..places() };
    let request = Request { agent: Some("a".into()), bottles: vec![], places };
    assert!(Manifest::load(&home, &request).unwrap().warnings.is_empty());
    assert_eq!(check(&home, &request).files.len(), 2);
}

#[test]
fn only_chosen_files_are_opened() {
    // M7
    let broken = "no front matter";
    let home = files(&[
        ("bottles/dev.md", EMPTY),
        ("bottles/broken.md", broken),
        ("agents/a.md", "---\nbottle: dev\n---\n"),
        ("agents/broken.md", broken),
    ]);
    let watched = Watched(home, RefCell::default());
    assert!(Manifest::load(&watched, &request(Some("a"), &[])).is_ok());
    let opened: Vec<_> = watched.1.borrow().clone();
    assert_eq!(opened, ["agents/a.md", "bottles/dev.md"].map(|path| places().carboy_home.join(path)));
    watched.1.borrow_mut().clear();
    Manifest::agent_names(&watched, &places());
    assert!(watched.1.borrow().is_empty());
}

#[test]
fn a_check_reads_everything() {
    // M8
    let home = files(&[
        ("bottles/dev.md", EMPTY),
        ("bottles/broken.md", "---\nzzz: 1\n---\n"),
        ("bottles/Read Me.md", "x"),
        ("agents/lost.md", "---\nbottle: gone\n---\n"),
        ("settings.yml", "capture: t3\n"),
    ]);
    let report = check(&home, &request(None, &["dev"]));
    let want = [Code::BadValue, Code::FileIgnored, Code::UnknownKey, Code::NoSuchBottle];
    assert_eq!((codes(&report.diagnostics).as_slice(), report.ok), (want.as_slice(), false));
    let ok: Vec<_> =
        report.files.iter().map(|file| (file.path.file_name().unwrap().to_str().unwrap(), file.ok)).collect();
    assert_eq!(ok, [("settings.yml", false), ("broken.md", false), ("dev.md", true), ("lost.md", false)]);
    assert!(report.effective.is_none());
}

#[test]
fn a_check_of_an_agent_reads_that_agent_and_what_it_builds_on_alone() {
    // M7, M8
    let broken = "---\nzzz: 1\n---\n";
    let list = [
        ("bottles/base.md", EMPTY),
        ("bottles/dev.md", "---\nextends: base\n---\n"),
        ("bottles/broken.md", broken),
        ("bottles/Read Me.md", "x"),
        ("agents/good.md", "---\nbottle: dev\n---\n"),
        ("agents/broken.md", broken),
        ("agents/lost.md", "---\nbottle: broken\n---\n"),
        ("agents/gone.md", "---\nbottle: gone\n---\n"),
        ("rules/broken.yml", "zzz: 1\n"),
    ];
    let of = |agent: &str, bottles: &[&str]| {
        let report = check(&files(&list), &request(Some(agent), bottles));
        let names = report.files.iter().map(|file| {
            let name = file.path.file_name().unwrap().to_str().unwrap();
            (name.to_owned(), file.ok)
        });
        (report.ok, codes(&report.diagnostics), names.collect::<Vec<_>>())
    };
    let file = |name: &str, ok: bool| (name.to_owned(), ok);
    let dev = [file("base.md", true), file("dev.md", true), file("good.md", true)];
    assert_eq!(of("good", &[]), (true, vec![], dev.to_vec()));
    assert_eq!(of("lost", &[]), (false, vec![Code::UnknownKey], vec![file("broken.md", false), file("lost.md", true)]));
    assert!(of("lost", &["dev"]).0, "a bottle that is named stands in the place of its own");
    assert_eq!(of("gone", &[]), (false, vec![Code::NoSuchBottle], vec![file("gone.md", false)]));
    assert_eq!(of("broken", &[]).1.first(), Some(&Code::UnknownKey));
    assert_eq!(of("nobody", &[]).1.last(), Some(&Code::NoSuchAgent));
}

#[test]
fn the_json_of_a_check_has_its_shape() {
    // M8
    let home = files(&[
        (
            "bottles/dev.md",
            "---\nenv: {A: b}\negress: {routes: [{host: a.example, auth_scheme: Bearer, token_env: KEY, matches: [{methods: [GET], paths: [/v1]}]}]}\n---\n",
        ),
        (
            "settings.yml",
            "secrets: {KEY: {file: ~/key}}\nupstreams: {a.example: {address: \"127.0.0.1:1\", tls: false}}\ncapture: allow-t2\n",
        ),
        ("agents/Bad.md", "x"),
    ]);
    let report = check(&home, &request(None, &["dev"]));
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
}

#[test]
fn the_command_line_s_bottle_wins_over_the_agent_s() {
    // M9
    let home = files(&[
        ("bottles/dev.md", EMPTY),
        ("bottles/other.md", EMPTY),
        ("agents/a.md", "---\nbottle: dev\n---\n"),
        ("agents/none.md", EMPTY),
    ]);
    assert_eq!(Manifest::load(&home, &request(Some("a"), &["other"])).unwrap().bottle.as_str(), "other");
    assert_eq!(Manifest::load(&home, &request(Some("none"), &["dev"])).unwrap().bottle.as_str(), "dev");
    let codes_of = |agent, bottles: &[&str]| codes(&Manifest::load(&home, &request(agent, bottles)).err().unwrap());
    assert_eq!(codes_of(Some("none"), &[]), [Code::NothingToRun]);
    assert_eq!(codes_of(None, &[]), [Code::NothingToRun]);
    assert_eq!(codes_of(None, &["dev", "gone", "lost"]), [Code::NoSuchBottle, Code::NoSuchBottle]);
    assert_eq!(codes_of(None, &["gone"]), [Code::NoSuchBottle]);
    assert_eq!(codes_of(Some("gone"), &[]), [Code::NoSuchAgent]);
    assert_eq!(codes_of(Some("../a"), &[]), [Code::BadName]);
}

#[test]
fn with_nothing_to_run_the_error_shows_a_file_that_works() {
    // M9
    let errors = Manifest::load(&MapFiles::default(), &request(None, &[])).err().unwrap();
    insta::assert_snapshot!(errors.to_string());
    let home = files(&[("bottles/dev.md", carboy_manifest::lookup::EXAMPLE)]);
    assert!(Manifest::load(&home, &request(None, &["dev"])).unwrap().warnings.is_empty());
}

#[test]
fn an_agent_file_selects_and_never_widens() {
    // M10, M39
    let of = |yaml: &str| {
        let text = format!("---\nbottle: dev\n{yaml}\n---\n");
        let home = files(&[("bottles/dev.md", EMPTY), ("/repo/.carboy/agents/a.md", &text)]);
        let errors = load_trusted(&home, &request(Some("a"), &[])).err();
        errors.map(|errors| codes(&errors)).unwrap_or_default()
    };
    for yaml in [
        "env: {}",
        "egress: {routes: []}",
        "binds: {}",
        "agent_provider: codex",
        "git-gate: {repos: {}}",
        "publish: [80]",
        "forward: {80: \"127.0.0.1:80\"}",
        "image: /i/x",
        "backend: namespaces",
        "workspace: overlay",
        "ceiling: 2M",
        "shutdown: cutoff",
        "extends: dev",
        "presets: [github-read]",
    ] {
        assert_eq!(of(yaml), [Code::BottleKeyInAgent], "{yaml}");
    }
    for yaml in ["title: x", "tools: []", "identity: x", "requires: []", "confirm: []", "prompt: x", "limits: {}"] {
        assert_eq!(of(yaml), [Code::NotAvailable], "{yaml}");
    }
    assert_eq!(of("secrets: {}"), [Code::UnknownKey]);
    assert_eq!(of("git-gate: {user: {name: a}}"), []);
}

#[test]
fn files_of_the_tool_before_are_pointed_at() {
    // M6, M40
    let hints = |list: &[(&str, &str)]| {
        let errors = Manifest::load(&files(list), &request(None, &["dev"]));
        let all = errors.map_or_else(|errors| errors, |loaded| loaded.warnings);
        all.iter().filter(|d| d.code == Code::ForeignFiles).map(|d| d.message.clone()).collect::<Vec<_>>()
    };
    let old = ("/home/u/.bot-bottle/bottles/dev.md", "x");
    let of_home = "found `/home/u/.bot-bottle` of your home, which carboy does not read";
    assert_eq!(hints(&[old]), [of_home]);
    // What carboy makes by itself is no sign that somebody has moved.
    assert_eq!(hints(&[old, ("audit/audit.jsonl", ""), ("ca/ca.pem", "")]), [of_home]);
    for written in ["bottles/dev.md", "agents/a.md", "settings.yml"] {
        assert_eq!(hints(&[old, (written, EMPTY)]), [""; 0]);
    }
    let both = [("/home/u/bot-bottle.json", "{}"), ("/repo/bot-bottle.json", "{}")];
    let want = "found `/home/u/bot-bottle.json` of your home and `/repo/bot-bottle.json` of the working directory, which \
                carboy does not read";
    assert_eq!(hints(&both), [want]);
    assert_eq!(hints(&[("/repo/bot-bottle.json", "{}"), ("/repo/.carboy/agents/a.md", EMPTY)]), [""; 0]);
    // M5: the home as working directory is looked at once.
    let at_home = Request { places: Places { cwd: "/home/u".into(), ..places() }, ..request(None, &["dev"]) };
    let errors = Manifest::load(&files(&both), &at_home).err().unwrap();
    let hint = errors.iter().next().unwrap();
    assert_eq!(hint.message, "found `/home/u/bot-bottle.json` of your home, which carboy does not read");
    assert!(hint.fix.contains("`carboy init --from bot-bottle`"), "{hint}");
}

#[test]
fn a_file_is_bounded_text_with_front_matter() {
    // M1, M32
    let big = format!("---\n---\n{}", "x".repeat(256 * 1024));
    for (text, code, place) in [
        (big.as_bytes(), Code::FileTooLarge, (1, 1)),
        (b"---\na: \xff\n---\n".as_slice(), Code::NotUtf8, (2, 4)),
        (b"hello".as_slice(), Code::FrontMatter, (1, 1)),
        (b"---\nenv: {}\n".as_slice(), Code::FrontMatter, (1, 1)),
        (b"---\n- a\n---\n".as_slice(), Code::WrongType, (2, 1)),
    ] {
        let mut home = MapFiles::default();
        home.insert("/home/u/.carboy/bottles/dev.md", text);
        let errors = Manifest::load(&home, &request(None, &["dev"])).err().unwrap();
        let one = errors.iter().next().unwrap();
        assert_eq!((one.code, one.line.zip(one.column)), (code, Some(place)));
    }
    let dos = files(&[("bottles/dev.md", "\u{feff}---\r\nenv:\r\n  A: b\r\n---\r\n")]);
    assert_eq!(Manifest::load(&dos, &request(None, &["dev"])).unwrap().env.len(), 1);
}

#[test]
fn routes_are_read_anew_with_a_new_generation_or_not_at_all() {
    let good = files(&[("bottles/dev.md", "---\negress: {routes: [{host: a.example}]}\n---\n")]);
    let running = Manifest::load(&good, &request(None, &["dev"])).unwrap();
    let Reread { routes, warnings, bottle_files, .. } = reread(&good, &places(), &running, 7).unwrap();
    assert_eq!((routes.generation(), routes.iter().count(), warnings.is_empty()), (7, 1, true));
    assert_eq!(bottle_files, [places().carboy_home.join("bottles/dev.md")]);
    let bad = files(&[("bottles/dev.md", "---\negress: {routes: [{host: a.example}, {hosts: b}]}\n---\n")]);
    assert_eq!(codes(&reread(&bad, &places(), &running, 8).err().unwrap()), [Code::MissingKey, Code::UnknownKey]);
    assert_eq!(codes(&reread(&MapFiles::default(), &places(), &running, 8).err().unwrap()), [Code::NoSuchBottle]);
}
