//! Programs that run beside the bench: talked to in lines, looked at through `/proc`, ended with it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Clock ticks in a second, as `/proc/PID/stat` counts them: the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;
/// How long a program may take to end once its input is closed.
const END_MAX: Duration = Duration::from_secs(3);

/// A program with its input and output in our hands.
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it; what it says on standard error is shown.
    pub fn start(name: &str, command: &mut Command) -> Result<Process, String> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start {name}: {error}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| format!("{name} has no output"))?;
        Ok(Process { name: name.to_owned(), child, input, output: BufReader::new(output) })
    }

    /// Its next line.
    pub fn hear(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err(format!("{} ended too early; its complaint stands above", self.name)),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(format!("cannot hear {}: {error}", self.name)),
        }
    }

    /// Its next line has to be this one.
    pub fn expect(&mut self, word: &str) -> Result<(), String> {
        let line = self.hear()?;
        if line == word { Ok(()) } else { Err(format!("{} said `{line}`, not `{word}`", self.name)) }
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or_else(|| format!("{} has no input", self.name))?;
        writeln!(input, "{line}").map_err(|error| format!("{} does not listen: {error}", self.name))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        let begun = Instant::now();
        while begun.elapsed() < END_MAX {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // It had its time; gone already is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of a process in seconds so far, all of its threads, user and system.
pub fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    // The name in parentheses may hold anything; fields are counted from behind it. User and system time are the 14th
    // and 15th of all, the 12th and 13th of these.
    let ticks = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>));
    let ticks: Option<Vec<f64>> = ticks.and_then(|numbers| numbers.collect::<Result<_, _>>().ok());
    ticks.map(|ticks| ticks.iter().sum::<f64>() / TICKS).ok_or_else(|| format!("{path} is not as expected"))
}

/// Resident memory of a process in MiB.
pub fn resident_mib(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| format!("{path} has no VmRSS"))
}
