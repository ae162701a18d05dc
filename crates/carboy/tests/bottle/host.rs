//! What the host shows of processes, for tests that look at a bottle from outside.

use std::fs;

/// Processes that have this text among their arguments.
pub fn processes_with(text: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    pids.filter(has).collect()
}

/// How many PID namespaces a process is in: more than one inside a bottle.
pub fn namespaces_of(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("NSpid:")).map_or(0, |ids| ids.split_whitespace().count())
}

/// The first word of a process's command line.
pub fn program_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(line.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}
