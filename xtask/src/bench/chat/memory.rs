//! Processes with all that they started: their CPU time and their memory.

use std::collections::BTreeMap;
use std::fs;

use super::super::process;

/// Memory in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident: pages that processes share are counted for each.
    pub rss: f64,
    /// Proportional: such a page is counted once, in parts. `None` where this user may not look.
    pub pss: Option<f64>,
}

/// These processes and everything that descends from them.
pub fn family(roots: &[u32]) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that ended meanwhile has no parent and is nobody's.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let mut all = roots.to_vec();
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        all.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    all
}

/// CPU time of these and their descendants so far, in seconds.
pub fn cpu_seconds(roots: &[u32]) -> Result<f64, String> {
    family(roots).into_iter().map(process::cpu_seconds).sum()
}

/// What they take together.
pub fn of(roots: &[u32]) -> Result<Memory, String> {
    let mut all = Memory { rss: 0.0, pss: Some(0.0) };
    for pid in family(roots) {
        all.rss += process::resident_mib(pid)?;
        all.pss = all.pss.zip(proportional_mib(pid)).map(|(sum, one)| sum + one);
    }
    Ok(all)
}

fn proportional_mib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
