//! carboy in a pipeline: its streams are the program's, to the byte, and nothing hangs when one side goes away.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use carboy_sim::SeededBytes;

use crate::world::{Person, World};
use crate::{Case, case};

/// What must not hang ends within this.
const END_WAIT_MAX: Duration = Duration::from_secs(20);

pub fn cases() -> Vec<Case> {
    vec![
        case("a megabyte goes through unchanged, and the end of input arrives", megabyte),
        case("standard error is its own stream", two_outputs),
        case("a reader that goes away ends the program as it would outside", reader_goes_away),
        case("input that stays open does not keep a run alive", input_stays_open),
        case("signals to carboy reach the program", signals),
        case("what nohup started survives the hang-up", nohup),
        case("exit codes of what cannot be run are a shell's", cannot_run),
    ]
}

/// `carboy run` under way, with three pipes.
fn start(world: &World, command: &[&str]) -> Child {
    let arguments = [&["run", "--bottle", "test", "--"], command].concat();
    world.carboy(&arguments).stdin(Stdio::piped()).spawn().unwrap()
}

/// Its exit code; a failure when it takes too long.
fn end(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + END_WAIT_MAX;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn megabyte(person: Person) {
    let world = World::new(person);
    let sent: Vec<u8> = SeededBytes::new(3).take(1_000_003).collect();
    let mut child = start(&world, &["cat"]);
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert_eq!(end(&mut child), Some(0));
    assert!(got == sent, "{} bytes of {} came back", got.len(), sent.len());
}

fn two_outputs(person: Person) {
    let world = World::new(person);
    let script = "tty; for i in 1 2 3; do echo out$i; echo err$i >&2; done; exit 9";
    let output = world.carboy(&["run", "-q", "--bottle", "test", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "not a tty\nout1\nout2\nout3\n");
    // Asked to be quiet, carboy itself says nothing.
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "err1\nerr2\nerr3\n");
}

fn reader_goes_away(person: Person) {
    let world = World::new(person);
    let mut child = start(&world, &["yes"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    // The reader is dropped: `yes` meets SIGPIPE.
    assert_eq!(end(&mut child), Some(141));
}

fn input_stays_open(person: Person) {
    let world = World::new(person);
    let mut child = start(&world, &["true"]);
    assert_eq!(end(&mut child), Some(0));
    drop(child.stdin.take());
}

fn signals(person: Person) {
    let world = World::new(person);
    let script =
        "trap 'echo got INT; exit 3' INT; trap 'echo got TERM; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    for (signal, said, code) in
        [(rustix::process::Signal::INT, "got INT\n", 3), (rustix::process::Signal::TERM, "got TERM\n", 4)]
    {
        let mut child = start(&world, &["sh", "-c", script]);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        line.clear();
        out.read_line(&mut line).unwrap();
        assert_eq!((line.as_str(), end(&mut child)), (said, Some(code)));
    }
}

fn nohup(person: Person) {
    let world = World::new(person);
    let inner = world.carboy(&["run", "--bottle", "test", "--", "sh", "-c", "echo ready; read line; echo $line"]);
    let mut command = Command::new("nohup");
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&world.project).env_clear();
    command.envs(inner.get_envs().map(|(name, value)| (name, value.unwrap())));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    // Ready, and carboy hears its signals by now: a resize is heard and does nothing.
    let pid = rustix::process::Pid::from_child(&child);
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::WINCH] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), end(&mut child)), ("still here\n", Some(0)));
}

fn cannot_run(person: Person) {
    let world = World::new(person);
    world.write("project/data", "no program");
    let missing = world.run(&["no-such-program"]).expect_code(127);
    assert!(missing.stderr.contains("hint: programs are looked up in /"), "{}", missing.stderr);
    world.run(&["./data"]).expect_code(126);
    world.run(&["/etc"]).expect_code(126);
    assert_eq!(world.sh("kill -KILL $$").code, 137);
}
