//! A thousand processes that ignore what can be ignored, and how long it takes until they stand or are gone.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::super::process::Process;
use super::super::home::Home;
use super::sent_at;

/// Processes beside the shell.
const MANY: usize = 1000;
/// The longest that is waited for anything.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Milliseconds from the request that lowers the cap to the state that `how` leads to.
pub fn ended(home: &Home, operator: &mut Process, name: &str, how: &str) -> Result<f64, String> {
    let bottle = "egress: {routes: [{host: bench.example}]}\nbudget: {unknown: 1000000M}\n";
    home.bottle(name, &format!("{bottle}shutdown: {how}\nlimits: {{processes: 2000}}\n"))?;
    let script = format!(
        "trap '' TERM INT HUP; i=0; while [ $i -lt {MANY} ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait"
    );
    let mut run = home.run(name, &["sh", "-c", &script])?;
    run.expect("ready")?;
    let pids = all_sleepers(run.pid())?;
    let frozen = pids.first().and_then(|pid| events_of(*pid));
    operator.tell(&format!("{name} unknown 0"))?;
    let begun = Instant::now();
    for pid in &pids {
        while !(is_gone(*pid) || how == "pause" && (state(*pid) == Some('T') || is_frozen(frozen.as_ref()))) {
            if begun.elapsed() > WAIT_MAX {
                return Err(format!("process {pid} goes on {WAIT_MAX:?} after a crossing with `{how}`"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    let over = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    let gone = pids.iter().filter(|pid| is_gone(**pid)).count();
    if how == "pause" && gone > 0 {
        return Err(format!("{gone} processes ended instead of standing still"));
    }
    let sent = sent_at(operator)?.unwrap_or(over);
    Ok(over.saturating_sub(sent) as f64 / 1e3)
}

/// Every one of them; the shell goes on before the last has become what it is to be.
fn all_sleepers(root: u32) -> Result<Vec<u32>, String> {
    let begun = Instant::now();
    loop {
        let pids = sleepers(root);
        if pids.len() == MANY {
            return Ok(pids);
        }
        if begun.elapsed() > WAIT_MAX {
            return Err(format!("{} processes of {MANY} are there", pids.len()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All descendants that sleep.
fn sleepers(root: u32) -> Vec<u32> {
    let (mut open, mut found) = (vec![root], Vec::new());
    while let Some(pid) = open.pop() {
        if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep") {
            found.push(pid);
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

fn state(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

fn is_gone(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Where the kernel says whether the control group of a process is frozen, on hosts with the unified hierarchy.
fn events_of(pid: u32) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?.split(' ').nth(1)?.to_owned();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = PathBuf::from(mount).join(group.trim_start_matches('/')).join("cgroup.events");
    path.exists().then_some(path)
}

fn is_frozen(events: Option<&PathBuf>) -> bool {
    events.and_then(|path| fs::read_to_string(path).ok()).is_some_and(|text| text.contains("frozen 1"))
}
