//! What goes wrong outside: no room on the disk, a home that cannot be written, few descriptors, a neighbour that uses up
//! whatever it can. What cannot be written down does not happen, everybody is told why, and afterwards all goes on.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::clients::{client, needs};
use crate::world::{Agent, Person, RUN_WAIT_MAX, World, reason, wait};
use crate::{Case, case_with};

/// The home of a test that fills its disk.
const HOME_BYTES: &str = "size=6m,mode=700";
/// What is over within this, by far.
const RECOVERED_MAX: Duration = Duration::from_secs(30);
/// Descriptors of a process on a small machine.
const FEW_DESCRIPTORS: &str = "--nofile=256:256";

pub fn cases() -> Vec<Case> {
    vec![
        case_with("a full disk refuses everything in words, loses nothing, and is got over", &["root"], full_disk),
        case_with("a home that cannot be written starts nothing, and says so", &["root"], read_only),
        case_with(
            "a process with few descriptors takes fewer connections, and goes on when they are let go of",
            &["prlimit", "/usr/bin/python3"],
            few_descriptors,
        ),
        case_with("a bottle that floods what it can slows no other one down", needs(&["venv/bin/python"]), neighbour),
    ]
}

/// The home of a world on a file system of its own.
struct Disk<'w> {
    world: &'w World,
    home: PathBuf,
}

impl Disk<'_> {
    fn under(world: &World) -> Disk<'_> {
        let home = world.dir.join("home");
        let copy = world.dir.join("copy");
        run("cp", &["-a", home.to_str().unwrap(), copy.to_str().unwrap()]);
        run("mount", &["-t", "tmpfs", "-o", HOME_BYTES, "tmpfs", home.to_str().unwrap()]);
        run("cp", &["-a", &format!("{}/.", copy.display()), home.to_str().unwrap()]);
        Disk { world, home }
    }

    fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.home.to_str().unwrap()]);
    }

    /// Writes until nothing more goes on it.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.home.join("filler")).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.home.join("filler")).unwrap();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("mount").args(["-o", "remount,rw"]).arg(&self.home).status();
        let _ = std::fs::remove_file(self.home.join("filler"));
        let _ = self.world.carboy(&["controller", "stop", "--force"]).output();
        let _ = Command::new("umount").arg("-l").arg(&self.home).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Asks until it is answered with what is wanted; the answers before that.
fn until(agent: &mut Agent<'_>, path: &str, wanted: impl Fn(&carboy_sim::probe::Report) -> bool) -> usize {
    let begin = Instant::now();
    let mut asked = 0;
    loop {
        asked += 1;
        let report = agent.http("POST", &format!("https://notes.example/sink?{path}"), &[], b"x");
        if wanted(&report) {
            return asked;
        }
        assert!(begin.elapsed() < RECOVERED_MAX, "{report:?}");
    }
}

fn full_disk(person: Person) {
    let world = World::new(person);
    let disk = Disk::under(&world);
    let mut agent = world.agent();
    assert_eq!(until(&mut agent, "before", |report| report.status == Some(200)), 1);
    disk.fill();
    // What was in the chain before the disk was full may still go; then nothing does.
    until(&mut agent, "full", |report| report.status == Some(503) && reason(report) == Some("audit_unavailable"));
    let arrived = world.provider.requests();
    for _ in 0..5 {
        let report = agent.http("POST", "https://notes.example/sink?never", &[], b"x");
        assert_eq!((report.status, reason(&report)), (Some(503), Some("audit_unavailable")), "{report:?}");
        assert!(report.body.contains("make room on the disk"), "{report:?}");
    }
    let call = br#"{"model":"claude-opus-4-8","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}"#;
    let headers = [("x-api-key", "carboy-placeholder-anthropic-api-key"), ("anthropic-version", "2023-06-01")];
    let metered = agent.http("POST", "https://api.anthropic.com/v1/messages", &headers, call);
    let no_room = ["audit_unavailable", "ledger_unavailable"];
    assert!(reason(&metered).is_some_and(|reason| no_room.contains(&reason)), "{metered:?}");
    assert_eq!(world.provider.requests(), arrived, "something went without a log");
    disk.make_room();
    until(&mut agent, "after", |report| report.status == Some(200));
    let metered = agent.http("POST", "https://api.anthropic.com/v1/messages", &headers, call);
    assert_eq!(metered.status, Some(200), "{metered:?}");
    let ran = agent.finish().expect_code(0);
    // Whatever arrived outside is in the log, and the log is one chain.
    let allowed = ran.entries.iter().filter(|entry| entry.text("action") == Some("request"));
    let allowed = allowed.filter(|entry| entry.text("result") == Some("allowed")).count();
    assert_eq!(allowed as u64, world.provider.requests(), "{}", ran.summary);
    let verified = world.carboy(&["audit", "verify"]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

fn read_only(person: Person) {
    let world = World::new(person);
    let disk = Disk::under(&world);
    let mut command = world.carboy(&["run", "--bottle", "test", "--", "echo", "started"]);
    disk.remount("ro");
    let output = wait(command.spawn().unwrap(), RUN_WAIT_MAX);
    disk.remount("rw");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "it ran without a log: {told}");
    assert!(told.contains("Read-only file system") && told.contains("/home/"), "{told}");
    assert_eq!(world.sh("echo started").expect_code(0).stdout, "started\n");
}

fn few_descriptors(person: Person) {
    let world = World::new(person);
    // More than the gateway may take, held until it has been told so for a while, and let go of.
    let script = "
import socket, time
held = [socket.create_connection(('notes.example', 443)) for _ in range(150)]
closed = 0
for one in held:
    one.settimeout(0.05)
    try:
        closed += one.recv(1) == b''
    except TimeoutError:
        pass
    except OSError:
        closed += 1
print('closed' if closed > 50 else closed)
";
    let both = format!("ulimit -n; /usr/bin/python3 -c \"{script}\"; curl -sS https://notes.example/page/clean");
    let inner = world.carboy(&["run", "--bottle", "test", "--", "sh", "-c", &both]);
    let mut command = Command::new("prlimit");
    command
        .arg(FEW_DESCRIPTORS)
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(&world.project)
        .env_clear();
    command.envs(inner.get_envs().map(|(name, value)| (name, value.unwrap())));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = wait(command.spawn().unwrap(), RUN_WAIT_MAX);
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{told}");
    assert!(said.starts_with("256\nclosed\n") && said.contains("Growing tomatoes"), "{said}\n{told}");
    assert!(told.contains("limit_reached"), "{told}");
}

/// How long each of so many requests took, sorted.
fn took(agent: &mut Agent<'_>, count: usize) -> Vec<Duration> {
    let call = br#"{"model":"claude-opus-4-8","max_tokens":64,"messages":[{"role":"user","content":"hi"}]}"#;
    let headers = [("x-api-key", "carboy-placeholder-anthropic-api-key"), ("anthropic-version", "2023-06-01")];
    let mut took: Vec<Duration> = (0..count)
        .map(|number| {
            let begin = Instant::now();
            let report = match number % 2 {
                0 => agent.http("GET", "https://notes.example/page/clean", &[], b""),
                _ => agent.http("POST", "https://api.anthropic.com/v1/messages", &headers, call),
            };
            assert_eq!(report.status, Some(200), "{report:?}");
            begin.elapsed()
        })
        .collect();
    took.sort_unstable();
    took
}

fn neighbour(person: Person) {
    const REQUESTS: usize = 100;
    let world = World::new(person);
    world.write("project/flood.py", include_str!("programs/flood.py"));
    let mut agent = world.agent();
    let alone = took(&mut agent, REQUESTS);
    let python = client("venv/bin/python");
    let arguments = ["run", "-q", "--another", "--bottle", "test", "--", &python, "flood.py"];
    let mut flood = world.carboy(&arguments).spawn().unwrap();
    let mut said = BufReader::new(flood.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "flooding\n");
    let beside = took(&mut agent, REQUESTS);
    agent.finish().expect_code(0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&flood), rustix::process::Signal::TERM).unwrap();
    wait(flood, RUN_WAIT_MAX);
    let (p50, p99) = (REQUESTS / 2, REQUESTS * 99 / 100);
    println!(
        "alone p50 {:?}, p99 {:?}; beside a flood p50 {:?}, p99 {:?}",
        alone[p50], alone[p99], beside[p50], beside[p99]
    );
    // Far from any figure of speed, and as far from waiting for the other's end.
    assert!(beside[p99] < Duration::from_secs(5), "{beside:?}");
}
