//! A bottle ends as a whole, however it ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio as Piped};
use std::time::{Duration, Instant};

use carboy_bottle::ExitOutcome;
use libtest_mimic::Trial;

use crate::harness::{Outcome, Sketch, needs, trial};

/// Processes that ignore what can be ignored.
pub fn many() -> String {
    "trap '' TERM INT HUP; i=0; while [ $i -lt 1000 ]; do sleep 1000 & i=$((i+1)); done; touch ready; wait".to_owned()
}

/// Forks as fast as it may, for good, in every one of its processes.
pub const BOMB: &str = "perl -e 'while (1) { fork }' & touch ready; wait";

fn outlives(script: &str, paused: bool) -> Outcome {
    let mut supervisor = Command::new(std::env::current_exe()?);
    supervisor.env("CARBOY_BOTTLE_PART", script).stdin(Piped::null()).stdout(Piped::piped());
    if paused {
        supervisor.env("CARBOY_BOTTLE_PAUSED", "1");
    }
    let mut supervisor = supervisor.spawn()?;
    let mut line = String::new();
    BufReader::new(supervisor.stdout.take().unwrap()).read_line(&mut line)?;
    let init: i32 = line.trim().parse()?;
    assert!(Path::new(&format!("/proc/{init}")).exists());
    supervisor.kill()?;
    // From here on: init is the last of its namespace to go.
    assert!(gone_within(init, Duration::from_secs(1)));
    supervisor.wait()?;
    Ok(())
}

pub fn gone_within(pid: i32, wait: Duration) -> bool {
    let end = Instant::now() + wait;
    // A zombie that its new parent has not collected yet runs nothing.
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    };
    while runs() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

pub fn trials() -> Vec<Trial> {
    vec![
        trial("kill ends everything inside at once", || {
            let sketch = Sketch::shell("setsid sleep 1000 & sleep 1000");
            let bottle = sketch.launch()?;
            bottle.start()?;
            bottle.kill()?;
            assert_eq!(bottle.wait().outcome, ExitOutcome::Killed);
            assert!(gone_within(bottle.pid(), Duration::from_secs(1)));
            Ok(())
        }),
        trial("what the program left behind ends with it", || {
            let ran = Sketch::shell("setsid sh -c 'sleep 1000' >/dev/null 2>&1 </dev/null & exit 0").run()?;
            ran.expect_code(0)
        }),
        trial("zombies are reaped", || {
            let script = "for i in 1 2 3 4 5; do (sh -c 'exit 0' &) ; done; sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
            Sketch::shell(script).run()?.expect_output("0")
        }),
        trial("dropping a bottle kills it", || {
            let bottle = Sketch::shell("sleep 1000").launch()?;
            bottle.start()?;
            let (pid, watcher) = (bottle.pid(), bottle.watcher());
            drop(bottle);
            assert_eq!(watcher.wait().outcome, ExitOutcome::Killed);
            assert!(gone_within(pid, Duration::from_secs(1)));
            Ok(())
        }),
        trial("C10 nothing outlives a supervisor that is killed with -9", || {
            outlives("sleep 1000 & touch ready; sleep 1000", false)
        }),
        trial("C10 nor a thousand processes that ignore every signal", || outlives(&many(), false)),
        trial("C10 nor a paused thousand", || outlives(&many(), true)),
        needs(
            "perl",
            trial("C10 nor a fork bomb, running or paused", || {
                outlives(BOMB, false)?;
                outlives(BOMB, true)
            }),
        ),
        trial("init cannot be killed from inside", || {
            Sketch::shell("kill -9 1; kill -TERM 1; kill -INT 1; sleep 0.1; echo alive").run()?.expect_output("alive")
        }),
    ]
}
