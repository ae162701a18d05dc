//! What figures mean nothing without: the machine, the versions, the command.

use std::fs;
use std::process::Command;

use super::Bench;
use crate::needs;

/// A line or two of Markdown.
pub fn of_this_machine(bench: &Bench, what: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    // The version alone: what a distribution or a provider appends says nothing about speed.
    let release = read("/proc/sys/kernel/osrelease");
    let kernel = release.split(['-', '+']).next().unwrap_or_default();
    let load = read("/proc/loadavg");
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field("/proc/meminfo", "MemTotal").and_then(|kib| kib.split(' ').next()?.parse::<f64>().ok());
    let user = if needs::is_root() { "root" } else { "an ordinary user" };
    let mut versions = vec![first_line("rustc", &["--version"])];
    versions.push(first_line("bwrap", &["--version"]));
    versions.extend(fs::read_to_string(bench.peers.join("versions")).unwrap_or_default().lines().map(str::to_owned));
    format!(
        "Measured by `cargo xtask bench {what}` as {user}: {cores} cores ({processor}), {:.1} GiB, Linux {kernel}; load over \
         the last minute at the end {}. Versions: carboy {}, {}.",
        memory.unwrap_or(0.0) / 1024.0 / 1024.0,
        load.split(' ').next().unwrap_or_default(),
        env!("CARGO_PKG_VERSION"),
        versions.join(", "),
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| format!("{program} of unknown version"), str::to_owned)
}
