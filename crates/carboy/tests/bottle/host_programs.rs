//! Programs of the host that carboy runs for the person: what is in the workspace has no say in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::runs::{stderr, stdout, within};
use crate::world::{Person, World};
use crate::{Case, case};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

pub fn cases() -> Vec<Case> {
    vec![
        case("a notice on the desktop is never shown by a program out of the workspace", desktop),
        case("a secret's command neither runs in the workspace nor is found there", secrets),
        case("a directory in the place of a provider's file is put aside, and said", directory_aside),
    ]
}

fn program(world: &World, path: &str, script: &str) {
    world.write(path, &format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(world.dir.join(path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The person's shell: `PATH` begins with what a project brings.
fn at_work(command: &mut Command, world: &World) {
    let project = world.project.display();
    let path = format!("{project}/.venv/bin:.venv/bin:.::{}/own:{SYSTEM_PATH}", world.dir.display());
    command.env("PATH", path).env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
}

fn desktop(person: Person) {
    let world = World::new(person);
    world.settings("notify: {desktop: true}\n");
    let (told, stolen) = (world.dir.join("told"), world.dir.join("stolen"));
    program(
        &world,
        "own/notify-send",
        &format!("pwd > {0}.new; echo \"$@\" >> {0}.new; mv {0}.new {0}", told.display()),
    );
    let script = format!(
        "mkdir -p .venv/bin; printf '#!/bin/sh\\ntouch {}\\n' > .venv/bin/notify-send; cp .venv/bin/notify-send .venv/bin/pwd; \
         cp .venv/bin/notify-send .venv/bin/mv; chmod 755 .venv/bin/*; cp .venv/bin/notify-send .; printf '\\007'; \
         until [ -e go ]; do sleep 0.05; done",
        stolen.display()
    );
    // There from the start, too: a run before this one may have left it.
    program(&world, "project/.venv/bin/notify-send", &format!("touch {}", stolen.display()));
    let mut start = world.carboy(&["run", "-d", "--bottle", "test", "--", "sh", "-c", &script]);
    at_work(&mut start, &world);
    let started = start.output().unwrap();
    assert_eq!(started.status.code(), Some(0), "{started:?}");
    let run = stdout(&started).trim_end().to_owned();
    let said = within(HAPPEN_WAIT_MAX, "a notice", || fs::read_to_string(&told).ok());
    assert!(said.starts_with("/\n--app-name=carboy") && said.contains("waits for you"), "{said}");
    fs::write(world.project.join("go"), "").unwrap();
    let ended = world.carboy(&["wait", &run]).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    within(HAPPEN_WAIT_MAX, "the end", || {
        fs::read_to_string(&told).ok().filter(|said| said.contains("ended with code 0"))
    });
    assert!(world.project.join(".venv/bin/pwd").exists() && !stolen.exists());
    // Only in the workspace: nothing is shown, and the log says why.
    fs::remove_file(world.dir.join("own/notify-send")).unwrap();
    let mut only = world.carboy(&["run", "--bottle", "test", "--", "sh", "-c", "printf '\\007'"]);
    at_work(&mut only, &world);
    only.env("PATH", format!("{}/.venv/bin:.venv/bin:{SYSTEM_PATH}", world.project.display()));
    let only = only.output().unwrap();
    assert_eq!(only.status.code(), Some(0), "{only:?}");
    let log = fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap();
    assert!(log.lines().any(|line| line.contains("\"failed\"") && line.contains("notify-send ")), "{log}");
    assert!(!stolen.exists());
}

fn secrets(person: Person) {
    let world = World::new(person);
    let url = format!("http://{}/sink", world.provider.addr);
    let settings = |command: &str| {
        world.settings(&format!(
            "secrets: {{HOOK: {{command: {command}}}}}\nnotify: {{webhook: {{url: \"{url}\", token_env: HOOK}}}}\n"
        ));
    };
    let stolen = world.dir.join("stolen");
    let run = || {
        let mut run = world.carboy(&["run", "--bottle", "test", "--", "true"]);
        at_work(&mut run, &world);
        run.output().unwrap()
    };
    // What a program loads from where it runs, and what it calls by name.
    world.write("project/planted", "theirs");
    program(&world, "project/.venv/bin/helper", &format!("touch {}", stolen.display()));
    program(&world, "own/helper", "echo real-token-of-the-hook");
    settings(&format!("[sh, -c, 'test -e planted && touch {}; helper']", stolen.display()));
    let ran = run();
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let bearer = b"Bearer real-token-of-the-hook".to_vec();
    let sent = world.provider.received();
    assert!(sent.iter().any(|r| r.path == "/sink" && r.headers.contains(&("authorization".into(), bearer.clone()))));
    program(&world, "project/tool", &format!("touch {}; echo theirs", stolen.display()));
    program(&world, "project/.venv/bin/tool", &format!("touch {}; echo theirs", stolen.display()));
    let absolute = world.project.join("tool").display().to_string();
    for (command, why) in [
        ("[./tool]", "is a relative path"),
        (".venv/bin/tool", "is a relative path"),
        ("[tool]", "keep it elsewhere"),
        (absolute.as_str(), "keep it elsewhere"),
    ] {
        settings(&format!("[{}]", command.trim_matches(['[', ']'])));
        let refused = run();
        assert_ne!(refused.status.code(), Some(0), "{command}: {refused:?}");
        let said = stderr(&refused);
        assert!(said.contains("secret HOOK: command") && said.contains(why), "{command}: {said}");
    }
    assert!(!stolen.exists());
}

fn directory_aside(person: Person) {
    let world = World::new(person);
    program(&world, "project/claude", "cat ~/.claude.json; ls -d ~/.claude.json*");
    let claude = world.project.join("claude");
    world.bottle(&format!("agent_provider: {{name: claude, command: {}}}\n", claude.display()));
    world
        .sh("rm -rf ~/.claude.json; mkdir ~/.claude.json; echo kept > ~/.claude.json/x; chmod 0 ~/.claude.json")
        .expect_code(0);
    let ran = world.run_with(&[], &[]).expect_code(0);
    assert!(ran.stdout.contains("hasCompletedOnboarding"), "{ran:?}");
    let aside = "a directory stood in the place of ~/.claude.json in the bottle; it is .claude.json.carboy-aside-1";
    assert!(ran.stderr.contains(aside), "{}", ran.stderr);
    let ran = world.run_with(&[], &[]).expect_code(0);
    assert!(!ran.stderr.contains("carboy-aside") && ran.stdout.contains(".claude.json.carboy-aside-1"), "{ran:?}");
    let kept = "chmod 700 ~/.claude.json.carboy-aside-1; cat ~/.claude.json.carboy-aside-1/x";
    assert_eq!(world.sh(kept).expect_code(0).stdout.trim_end(), "kept");
}
