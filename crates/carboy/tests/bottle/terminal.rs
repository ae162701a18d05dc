//! A person at a real terminal (tmux's): prompt, window size, job control, full-screen programs, and the terminal as
//! it was when all is over.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::world::{Person, REAL_KEY, World};
use crate::{Case, case_with};

/// Longest wait for something to appear.
const APPEAR_WAIT_MAX: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// Without anybody's own settings.
const BASH: &[&str] = &["bash", "--norc", "--noprofile", "-i"];
/// bash's prompt without settings, from its version on.
const PROMPT: &str = "bash-";

pub fn cases() -> Vec<Case> {
    let tmux = &["tmux", "bash"];
    vec![
        case_with("a shell in a bottle has a terminal of its own that follows the window", tmux, window),
        case_with("Ctrl-C and Ctrl-Z reach the program and not carboy", tmux, job_control),
        case_with("a full-screen editor works", &["tmux", "bash", "vim"], editor),
        case_with("the outer terminal is as it was, and the summary stands under it", tmux, restored),
        case_with("SIGTERM to carboy ends the bottle and gives the terminal back", tmux, terminated),
        case_with("M18 E12 a `?` variable is asked for at launch, and what is typed is not shown", tmux, asked),
        case_with("--no-tty gives no terminal", tmux, no_tty),
        case_with("at the head of a pipeline a typed line and a typed end arrive", tmux, head_of_pipeline),
        case_with("a person at a terminal is told of a changed file, and the screen stays in order", tmux, told),
    ]
}

/// A tmux of its own with one window, and in it a shell that has started carboy.
pub struct Screen<'w> {
    world: &'w World,
}

impl Screen<'_> {
    /// `carboy ARGUMENTS…` in a window of 30 rows and 100 columns. When it has ended a shell says so and goes on.
    pub fn open<'w>(world: &'w World, arguments: &[&str]) -> Screen<'w> {
        Screen::open_in(world, arguments, "")
    }

    /// The same as the head of a pipeline.
    pub fn open_in<'w>(world: &'w World, arguments: &[&str], rest: &str) -> Screen<'w> {
        let command = world.carboy(arguments);
        let quoted = |word: &OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"));
        let mut words = vec!["env".to_owned(), "-i".to_owned(), "TERM=tmux".to_owned()];
        for (name, value) in command.get_envs() {
            words.push(format!("{}={}", name.to_str().unwrap(), quoted(value.unwrap())));
        }
        words.push(quoted(command.get_program()));
        words.extend(command.get_args().map(quoted));
        let line = format!("{}{rest}; echo \"over with $?\"; PS1='outer> ' exec sh -i", words.join(" "));
        world.write("tmux.conf", "set -g status off\nset -g default-terminal tmux\n");
        let screen = Screen { world };
        let project = world.project.to_str().unwrap();
        screen.tmux(&["new-session", "-d", "-x", "100", "-y", "30", "-c", project, &line]);
        screen
    }

    /// A command of tmux's.
    pub fn tmux(&self, arguments: &[&str]) -> String {
        let (socket, conf) = (self.world.dir.join("tmux.sock"), self.world.dir.join("tmux.conf"));
        let output = Command::new("tmux").arg("-S").arg(socket).arg("-f").arg(conf).args(arguments).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is on the screen, history included; lines that were too long are joined.
    fn text(&self) -> String {
        let lines = self.tmux(&["capture-pane", "-p", "-J", "-S", "-200"]);
        lines.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    }

    /// Waits until it is on the screen.
    pub fn see(&self, what: &str) -> String {
        self.see_where(what, |text| text.contains(what))
    }

    /// The same with a condition of one's own.
    pub fn see_where(&self, what: &str, shown: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + APPEAR_WAIT_MAX;
        loop {
            let text = self.text();
            if shown(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "`{what}` did not appear on:\n{text}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Types a line.
    pub fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.key("Enter");
    }

    /// Presses a key by tmux's name for it.
    pub fn key(&self, name: &str) {
        self.tmux(&["send-keys", name]);
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let socket = self.world.dir.join("tmux.sock");
        // It may be gone already, when its last window was closed.
        let _ = Command::new("tmux").arg("-S").arg(&socket).arg("kill-server").output();
        // It says that it goes before it has gone, and the next one has the same socket.
        let deadline = Instant::now() + APPEAR_WAIT_MAX;
        while std::os::unix::net::UnixStream::connect(&socket).is_ok() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// The supervisor's process, from the record of the one run that lives.
fn supervisor(world: &World) -> rustix::process::Pid {
    let records = std::fs::read_dir(world.dir.join("home/run")).unwrap().flatten().map(|entry| entry.path());
    let record = records.into_iter().find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let pid = i32::try_from(record["supervisor_pid"].as_i64().unwrap()).unwrap();
    rustix::process::Pid::from_raw(pid).unwrap()
}

/// Waits until no run of this world lives.
fn see_no_run(world: &World) {
    let deadline = Instant::now() + APPEAR_WAIT_MAX;
    loop {
        let ps = world.carboy(&["ps", "--json"]).output().unwrap();
        if ps.stdout == b"[]\n" {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {}", String::from_utf8_lossy(&ps.stdout));
        std::thread::sleep(LOOK_EVERY);
    }
}

fn run_bash() -> Vec<&'static str> {
    [&["run", "--bottle", "test", "--"], BASH].concat()
}

fn window(person: Person) {
    let world = World::new(person);
    let screen = Screen::open(&world, &run_bash());
    screen.see(PROMPT);
    screen.line("tty; stty size");
    screen.see("/dev/pts/0\n30 100\n");
    screen.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    // The size travels through two signals: it is asked for until it is there.
    screen.line("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo now $LINES $(stty size)");
    screen.see("now 40 40 120");
    // A child that sleeps is told by SIGWINCH, as outside.
    screen.line("bash -c 'trap \"echo told\" WINCH; echo waiting for it; while :; do read -t 0.1; done'");
    screen.see("\nwaiting for it\n");
    screen.tmux(&["resize-window", "-x", "90", "-y", "25"]);
    screen.see("\ntold\n");
}

fn job_control(person: Person) {
    let world = World::new(person);
    let screen = Screen::open(&world, &run_bash());
    screen.see(PROMPT);
    // Each says itself that it is in the foreground; before that, a key would reach nobody, as outside.
    screen.line("sh -c 'echo slee\"\"ping; exec sleep 100'");
    screen.see("\nsleeping\n");
    screen.key("C-c");
    screen.see("\n^C\nbash-");
    screen.line("echo first $?");
    screen.see("\nfirst 130\n");
    screen.line("sh -c 'trap \"echo go\"ing\"\" CONT; echo do\"\"zing; while :; do sleep 0.1; done'");
    screen.see("\ndozing\n");
    screen.key("C-z");
    screen.see("Stopped");
    screen.line("jobs | wc -l; fg");
    screen.see("\n1\nsh -c");
    screen.see("\ngoing\n");
    screen.key("C-c");
    screen.line("echo second $?");
    screen.see("\nsecond 130\n");
    screen.key("C-d");
    screen.see("over with 0");
}

fn editor(person: Person) {
    let world = World::new(person);
    let screen = Screen::open(&world, &["run", "--bottle", "test", "--", "vim", "-u", "NONE", "-N", "note.txt"]);
    screen.see("\n~\n");
    screen.tmux(&["send-keys", "-l", "ihello"]);
    screen.key("Escape");
    screen.see("hello");
    screen.line(":wq");
    screen.see("over with 0");
    assert_eq!(std::fs::read_to_string(world.project.join("note.txt")).unwrap(), "hello\n");
}

fn restored(person: Person) {
    let world = World::new(person);
    let screen = Screen::open(&world, &run_bash());
    screen.see(PROMPT);
    // What it does to its own terminal stays with it.
    screen.line("curl -s https://collector.example/; stty raw -echo; exit 3");
    let text = screen.see("over with 3");
    assert!(text.contains("of bottle test ended with code 3"), "{text}");
    assert!(text.contains("collector.example") && text.contains("carboy allow x-"), "{text}");
    screen.see("outer>");
    screen.line("stty -a; echo shown $((20+3))");
    let text = screen.see("\nshown 23\n");
    for mode in ["icanon", "echo", "isig", "opost", "icrnl"] {
        assert!(text.split_whitespace().any(|word| word == mode), "`{mode}` is off:\n{text}");
    }
    // Lines of the summary begin at the left edge: the terminal was cooked again when it was printed.
    assert!(text.contains("\n  requests "), "{text}");
}

fn terminated(person: Person) {
    let world = World::new(person);
    let script = "trap 'echo asked to end; exit 5' TERM; stty raw -echo; echo ready; while :; do sleep 0.05; done";
    let screen = Screen::open(&world, &["run", "--bottle", "test", "--", "sh", "-c", script]);
    screen.see("ready\n");
    rustix::process::kill_process(supervisor(&world), rustix::process::Signal::TERM).unwrap();
    let text = screen.see("over with 5");
    assert!(text.contains("asked to end"), "{text}");
    screen.line("stty -a; echo shown $((20+3))");
    assert!(screen.see("\nshown 23\n").contains(" icanon"));
    see_no_run(&world);
}

fn asked(person: Person) {
    let world = World::new(person);
    world.bottle("env: {TICKET: \"?Which ticket is it\"}\n");
    let script = "test \"$TICKET\" = secret-4711 && echo it is ${#TICKET} long";
    let screen = Screen::open(&world, &["run", "--bottle", "test", "--", "sh", "-c", script]);
    screen.see("Which ticket is it:");
    screen.line("secret-4711");
    let text = screen.see("over with 0");
    assert!(text.contains("it is 11 long") && !text.contains("secret-4711"), "{text}");
    screen.line("stty -a; echo shown $((20+3))");
    assert!(screen.see("\nshown 23\n").contains(" echo "));
}

fn no_tty(person: Person) {
    let world = World::new(person);
    let screen = Screen::open(&world, &["run", "--no-tty", "--bottle", "test", "--", "sh", "-c", "tty; echo $TERM."]);
    let text = screen.see("over with 0");
    assert!(text.contains("not a tty\n.\n"), "{text}");
    assert!(!text.contains(REAL_KEY));
}

/// Standard input is the terminal, standard output is a pipe.
fn head_of_pipeline(person: Person) {
    let world = World::new(person);
    let screen =
        Screen::open_in(&world, &["run", "--bottle", "test", "--", "sh", "-c", "tty; cat"], " | sed s/^/got:/");
    screen.see("got:");
    screen.line("hello there");
    screen.see("got:hello there");
    screen.key("C-d");
    screen.see("over with 0");
    screen.line("echo shown $((20+3))");
    screen.see("\nshown 23\n");
}

fn told(person: Person) {
    let world = World::new(person);
    let screen = Screen::open(&world, &run_bash());
    screen.see(PROMPT);
    world.bottle("egress: {routes: [{host: \"not a host\"}]}\n");
    let text = screen.see("the old routes stay");
    assert!(text.contains("\ncarboy: the changed file is not valid"), "{text}");
    screen.see("test.md:2:");
    screen.line("echo shown $((20+3))");
    screen.see("\nshown 23\n");
}
