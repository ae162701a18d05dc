//! Files of bot-bottle, taken over.

mod support;

use std::path::PathBuf;

use carboy_core::budget::Shutdown;
use carboy_core::ids::{MeterName, SecretName};
use carboy_manifest::import::{Imported, NoteKind, bot_bottle};
use carboy_manifest::{Code, Effective, Manifest, MapFiles, check};
use support::{files, places, request};

const HOME: &str = "/home/u/.bot-bottle";

fn imported(list: &[(&str, &str)]) -> Imported {
    let below = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("{HOME}/{path}") };
    let files: MapFiles = list.iter().map(|(path, text)| (below(path), *text)).collect();
    bot_bottle(&files, &places())
}

/// The result as carboy reads it.
fn loaded(imported: &Imported, agent: Option<&str>, bottles: &[&str]) -> Effective {
    let list: Vec<(&str, &str)> =
        imported.files.iter().map(|(path, text)| (path.to_str().expect("a plain path"), text.as_str())).collect();
    let home = files(&list);
    let report = check(&home, &request(None, &[]));
    assert!(!report.diagnostics.has_errors(), "{}", report.diagnostics);
    Manifest::load(&home, &request(agent, bottles)).unwrap_or_else(|errors| panic!("{errors}\n{imported:#?}"))
}

fn text<'a>(imported: &'a Imported, path: &str) -> &'a str {
    let found = imported.files.iter().find(|(known, _)| known == &PathBuf::from(path));
    &found.unwrap_or_else(|| panic!("no {path} in {imported:#?}")).1
}

#[test]
fn a_file_that_reads_the_same_is_taken_over_byte_for_byte() {
    // M40, M11, M17, M18, M20, M22, M23, M24, M26
    let base = "---\n# what everybody needs\nenv: {TICKET: \"?Which ticket?\"}\nsupervise: false   # by night\n---\n\nFor all.\n";
    let dev = "---\nextends: base\negress:\n  log: full\n  routes:\n    # the model\n    - host: api.example.org\n      \
               auth_scheme: Bearer\n      token_env: API_KEY\n      matches:\n        - paths: [{type: prefix, value: /v1}]\n          \
               methods: [POST]\n      dlp: {outbound_on_match: block}\n    - host: git.example.org\n      git: {fetch: true}\n\
               git-gate:\n  user: {name: Ada}\n  repos:\n    app: {url: \"ssh://git@h.example/app.git\", identity: ~/.ssh/k, host_key: ssh-ed25519 AAAA}\n---\n";
    let agent = "---\nbottle: dev\ngit-gate: {user: {email: a@example.org}}\n---\n\nMend what is broken.\n";
    let all = imported(&[("bottles/base.md", base), ("bottles/dev.md", dev), ("agents/fix.md", agent)]);
    assert_eq!(all.notes, []);
    assert_eq!((text(&all, "bottles/base.md"), text(&all, "bottles/dev.md")), (base, dev));
    assert_eq!(text(&all, "agents/fix.md"), agent);
    let effective = loaded(&all, Some("fix"), &[]);
    assert_eq!(effective.routes.iter().count(), 2);
    assert!(!effective.supervise);
    assert_eq!(effective.prompt, "Mend what is broken.");
    assert_eq!(effective.git_user.email.as_deref(), Some("a@example.org"));
}

#[test]
fn removed_keys_become_what_replaced_them() {
    // M40, M12, M13, M14, M15
    let all = imported(&[(
        "bottles/dev.md",
        "---\nruntime: runsc\ngit_user: {name: Ada, email: a@x.example}\ngit:\n  user: {name: Other}\n  remotes:\n    \
         app: {url: \"ssh://git@h.example/app.git\", IdentityFile: ~/.ssh/k, KnownHostKey: ssh-ed25519 AAAA}\nssh:\n  \
         github: {Hostname: h.example}\n---\nprose\n",
    )]);
    let effective = loaded(&all, None, &["dev"]);
    assert_eq!(
        (effective.git_user.name.as_deref(), effective.git_user.email.as_deref()),
        (Some("Ada"), Some("a@x.example"))
    );
    let repo = &effective.git_repos[0];
    assert_eq!((repo.name.as_str(), repo.url.as_str()), ("app", "ssh://git@h.example/app.git"));
    assert_eq!((repo.identity.as_deref(), repo.host_key.as_deref()), (Some("~/.ssh/k"), Some("ssh-ed25519 AAAA")));
    let told: Vec<_> = all.notes.iter().map(|note| (note.line, note.key.as_str(), note.kind)).collect();
    assert_eq!(
        told,
        [
            (2, "runtime", NoteKind::Rewritten),
            (3, "git_user", NoteKind::Rewritten),
            (4, "git", NoteKind::Rewritten),
            (9, "ssh.github", NoteKind::LeftOut),
        ]
    );
    let new = text(&all, "bottles/dev.md");
    for line in ["# bot-bottle: runtime: runsc", "# bot-bottle:   github: {Hostname: h.example}", "prose"] {
        assert!(new.contains(line), "{new}");
    }
}

#[test]
fn older_spellings_of_routes_and_providers_are_brought_up_to_date() {
    // M40, M19, M23, E5
    let all = imported(&[(
        "bottles/dev.md",
        "---\nagent_provider: {template: codex, dockerfile: ~/images/dev/Dockerfile}\negress:\n  routes:\n    \
         - {host: a.example, auth: {scheme: Bearer, token_ref: KEY}, path_allowlist: [/v1, /v2]}\n---\n",
    )]);
    let effective = loaded(&all, None, &["dev"]);
    assert_eq!(effective.provider.name, "codex");
    assert_eq!(format!("{:?}", effective.image), "Some(Dockerfile(\"/home/u/images/dev/Dockerfile\"))");
    let route = effective.routes.iter().next().unwrap();
    assert_eq!(route.auth.as_ref().unwrap().secret, SecretName::parse("KEY").unwrap());
    assert_eq!(route.matches[0].paths.len(), 2);
    assert!(all.notes.iter().all(|note| note.kind == NoteKind::Rewritten), "{:#?}", all.notes);
}

#[test]
fn a_route_of_which_a_part_is_not_understood_is_left_out_whole() {
    // M40: without the part it would allow more than it did.
    let all = imported(&[(
        "bottles/dev.md",
        "---\negress:\n  routes:\n    - {host: a.example}\n    - {host: b.example, only_on: [monday]}\n    - {host: c.example, matches: [{paths: [{type: glob, value: /x}]}]}\n\
         env: {GOOD: x, BAD: 3}\n---\n",
    )]);
    let effective = loaded(&all, None, &["dev"]);
    let hosts: Vec<String> = effective.routes.iter().map(|route| route.host.to_string()).collect();
    assert_eq!(hosts, ["a.example"]);
    assert_eq!(effective.env.keys().collect::<Vec<_>>(), ["GOOD"]);
    let told: Vec<_> = all.notes.iter().map(|note| (note.line, note.key.as_str())).collect();
    assert_eq!(told, [(5, "egress.routes"), (6, "egress.routes"), (7, "env.BAD")]);
    assert!(all.notes[0].what.contains("only_on"), "{}", all.notes[0]);
    assert!(text(&all, "bottles/dev.md").contains("# bot-bottle:     - {host: b.example, only_on: [monday]}"));
}

#[test]
fn budgets_are_taken_over_and_keys_without_a_counterpart_are_told() {
    // M40, M34, C9
    let all = imported(&[
        ("bottles/dev.md", "---\nbudget: {claude: 5, mistral: 6}\nmystery: 1\n---\n"),
        ("agents/fix.md", "---\nbottle: dev\nskills: [a]\n---\nDo.\n"),
        ("settings.yml", "budget: {claude: 5000000, codex: 2000000}\nshutdown: freeze\nceiling: {cursor: 1}\n"),
    ]);
    let effective = loaded(&all, Some("fix"), &[]);
    let caps = |meter: &str| {
        let found = effective.budgets.caps.get(&MeterName::parse(meter).unwrap()).into_iter().flatten();
        found.map(|cap| format!("{} {}", cap.scope, cap.amount.tokens_down())).collect::<Vec<_>>()
    };
    assert_eq!(caps("anthropic"), ["bottle:dev 5", "host 5000000"]);
    assert_eq!((caps("openai"), effective.budgets.terms.shutdown), (vec!["host 2000000".into()], Shutdown::Freeze));
    let told: Vec<String> =
        all.notes.iter().map(|note| format!("{} {}:{}", note.key, note.file.display(), note.line)).collect();
    assert_eq!(
        told,
        [
            format!("skills {HOME}/agents/fix.md:3"),
            format!("budget.mistral {HOME}/bottles/dev.md:2"),
            format!("mystery {HOME}/bottles/dev.md:3"),
            format!("ceiling.cursor {HOME}/settings.yml:3"),
        ]
    );
    assert!(text(&all, "settings.yml").contains("budget: {claude: 5000000, codex: 2000000}\nshutdown: freeze\n"));
    assert!(text(&all, "bottles/dev.md").contains("# bot-bottle: budget: {claude: 5, mistral: 6}"));
}

#[test]
fn the_stale_json_file_is_read_and_gives_way_to_files_of_the_same_name() {
    // M6, M8, M40
    let json = r#"{
      "bottles": {
        "dev": {"env": {"A": "one"}},
        "json": {"egress": {"routes": [{"host": "a.example"}]}, "runtime": "runsc", "depth": 1.5}
      },
      "agents": {"fix": {"bottle": "json", "prompt": "Mend \"it\".\nThen stop.\n"}},
      "version": 2
    }"#;
    let all = imported(&[("bottles/dev.md", "---\nenv: {A: two}\n---\n"), ("/home/u/bot-bottle.json", json)]);
    let effective = loaded(&all, Some("fix"), &[]);
    assert_eq!((effective.routes.iter().count(), effective.prompt.as_str()), (1, "Mend \"it\".\nThen stop."));
    assert!(text(&all, "bottles/dev.md").contains("two"));
    let told: Vec<_> = all.notes.iter().map(|note| (note.key.as_str(), note.line, note.kind)).collect();
    assert_eq!(
        told,
        [
            ("", 1, NoteKind::NotCopied),
            ("depth", 4, NoteKind::LeftOut),
            ("runtime", 4, NoteKind::Rewritten),
            ("version", 7, NoteKind::LeftOut),
        ]
    );
}

#[test]
fn what_cannot_be_read_or_does_not_stand_alone_is_told_with_its_place() {
    // M40, M31
    let all = imported(&[
        ("bottles/Mixed Case.md", "---\nsupervise: False\n---\n"),
        ("bottles/anchors.md", "---\nenv: &a {A: b}\n---\n"),
        ("bottles/child.md", "---\nextends: [Mixed Case, anchors]\n---\n"),
        ("bottles/plain.md", "no front matter"),
        ("bottles/round.md", "---\nextends: round\n---\n"),
        ("agents/a.md", "---\nbottle: Mixed Case\n---\nDo.\n"),
        ("/repo/bot-bottle.json", "{"),
    ]);
    assert!(!loaded(&all, Some("a"), &[]).supervise);
    let paths: Vec<_> = all.files.iter().map(|(path, _)| path.display().to_string()).collect();
    assert_eq!(paths, ["agents/a.md", "bottles/mixed-case.md"]);
    for (file, line, words) in [
        ("bottles/Mixed Case.md", 1, "it is called `mixed-case` now"),
        ("bottles/Mixed Case.md", 2, "it is written `false` now"),
        ("bottles/anchors.md", 2, "anchors"),
        ("bottles/child.md", 1, "there is no bottle `anchors`"),
        ("bottles/plain.md", 1, "does not begin with a `---` line"),
        ("bottles/round.md", 1, "round"),
        ("/repo/bot-bottle.json", 1, "no JSON"),
    ] {
        let file = if file.starts_with('/') { PathBuf::from(file) } else { PathBuf::from(HOME).join(file) };
        let told =
            all.notes.iter().any(|note| note.file == file && note.line == line && note.to_string().contains(words));
        assert!(told, "{} {words}: {:#?}", file.display(), all.notes);
    }
}

#[test]
fn without_files_nothing_is_made_and_the_hint_names_the_command() {
    // M6, M40
    assert_eq!(imported(&[]), Imported::default());
    let home = files(&[("/home/u/.bot-bottle/bottles/dev.md", "---\n---\n")]);
    let errors = Manifest::load(&home, &request(None, &["dev"])).err().unwrap();
    let hint = errors.iter().find(|one| one.code == Code::ForeignFiles).unwrap();
    assert!(hint.fix.contains("carboy init --from bot-bottle"), "{hint}");
}
