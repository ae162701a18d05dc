//! One shell in which a guide's commands run one after the other, as a person would type them: `cd` and `export` last.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use crate::clients::client;
use crate::world::{RUN_WAIT_MAX, World};

/// Ends what a command has said; its code follows.
const END: &str = "--end-of-step--";

/// See the module.
pub struct Shell<'w> {
    world: &'w World,
    child: Child,
    orders: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    code: i32,
    steps: usize,
}

impl Shell<'_> {
    /// A shell of the person's, in a home that has only what the world wrote there.
    pub fn start(world: &World) -> Shell<'_> {
        let own = world.carboy(&[]);
        let mut words: Vec<_> = std::iter::once(own.get_program()).chain(own.get_args()).collect();
        let binary = std::path::Path::new(words.pop().unwrap()).parent().unwrap().display().to_string();
        words.extend(["bash", "--norc", "--noprofile"].map(std::ffi::OsStr::new));
        let path = format!("{binary}:{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", client("bin"));
        let home = world.dir.join("user");
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(&home).env_clear();
        command.envs([("PATH", path.as_str()), ("LANG", "C.UTF-8"), ("USER", "gardener")]).env("HOME", &home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (output, (send, lines)) = (child.stdout.take().unwrap(), mpsc::channel());
        // Ends with the shell's output, or with the test.
        std::thread::spawn(move || {
            let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            lines.map(|line| String::from_utf8_lossy(&line).into_owned()).find(|line| send.send(line.clone()).is_err())
        });
        let orders = child.stdin.take();
        Shell { world, child, orders, lines, code: 0, steps: 0 }
    }

    /// What a command says, on both streams, and its code.
    pub fn run(&mut self, command: &str) -> (String, i32) {
        self.steps += 1;
        let file = format!("steps/{}", self.steps);
        self.world.write(&file, command);
        let file = self.world.dir.join(file);
        // In this shell, so that `cd` lasts; from a file, so that it cannot read what comes after it.
        let order =
            format!("(exit {}); . '{}' </dev/null 2>&1; printf '\\n%s %s\\n' {END} $?\n", self.code, file.display());
        self.orders.as_mut().unwrap().write_all(order.as_bytes()).unwrap();
        let (mut said, deadline) = (String::new(), Instant::now() + RUN_WAIT_MAX);
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|e| panic!("{command}\ndoes not end ({e}); it said:\n{said}"));
            if let Some(code) = line.strip_prefix(END) {
                self.code = code.trim().parse().unwrap();
                return (said.trim_end().to_owned(), self.code);
            }
            said.push_str(&line);
            said.push('\n');
        }
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        drop(self.orders.take());
        // A command that did not end is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
