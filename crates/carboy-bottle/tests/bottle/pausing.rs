//! A bottle stands still as a whole, goes on where it stood, and is killed in any state.
//!
//! As root by a control group, where the host has the unified hierarchy; as the ordinary user by init's signals.

use std::path::Path;
use std::time::{Duration, Instant};

use carboy_bottle::{Bottle, ExitOutcome, Stdio, Stillness};
use carboy_core::plan::StdioMode;
use libtest_mimic::Trial;

use crate::ending::{BOMB, gone_within, many};
use crate::exec::{Waiting, output, request};
use crate::harness::{Outcome, Sketch, needs, read_all, trial, write_all};
use crate::streams::Screen;

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long nothing may move.
const STILL: Duration = Duration::from_millis(150);
/// C10: everything stands within this, and is dead within a second. Measured in a debug build on a shared machine, so the
/// bounds that fail a test are looser than those that are published.
const PAUSED_WITHIN: Duration = Duration::from_secs(1);
const DEAD_WITHIN: Duration = Duration::from_secs(1);

/// Counts as fast as a shell can.
const COUNTS: &str = "i=0; while :; do i=$((i+1)); echo $i > count.part; mv count.part count; done";

pub fn trials() -> Vec<Trial> {
    let mut all = standing();
    all.extend(asked());
    all.extend(hostile());
    all
}

fn wait_for(file: &Path) {
    let end = Instant::now() + HAPPEN_WAIT_MAX;
    while !file.exists() {
        assert!(Instant::now() < end, "{} did not appear", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// What a file says does not change for a while.
fn stands(file: &Path) {
    let before = read(file);
    let end = Instant::now() + STILL;
    while Instant::now() < end {
        assert_eq!(read(file), before, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn goes_on(file: &Path) {
    let (before, end) = (read(file), Instant::now() + HAPPEN_WAIT_MAX);
    while read(file) == before {
        assert!(Instant::now() < end, "it does not go on");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn started(sketch: &Sketch, file: &str) -> Result<Bottle, libtest_mimic::Failed> {
    let bottle = sketch.launch()?;
    bottle.start()?;
    wait_for(&sketch.workspace.join(file));
    Ok(bottle)
}

fn standing() -> Vec<Trial> {
    vec![
        trial("C10 a paused program makes no progress, and goes on where it stood", || {
            let sketch = Sketch::shell(COUNTS);
            let bottle = started(&sketch, "count")?;
            let count = sketch.workspace.join("count");
            for _ in 0..3 {
                assert_eq!(bottle.pause()?, Stillness::Whole);
                stands(&count);
                let stood: u64 = read(&count).trim().parse()?;
                // Said twice it is paused once.
                assert_eq!(bottle.pause()?, Stillness::Whole);
                bottle.thaw()?;
                goes_on(&count);
                assert!(read(&count).trim().parse::<u64>()? > stood, "it began anew");
            }
            Ok(())
        }),
        trial("C10 what was started beside the program stands with it", || {
            let sketch = Sketch::new(&["cat"]);
            let count = sketch.workspace.join("count");
            let here = Waiting::start(sketch)?;
            let _beside = here.bottle.exec(&request(&["sh", "-c", COUNTS]))?;
            wait_for(&count);
            assert_eq!(here.bottle.pause()?, Stillness::Whole);
            stands(&count);
            here.bottle.thaw()?;
            goes_on(&count);
            Ok(())
        }),
        trial("C10 what had stopped itself before stays so", || {
            // The inner shell stops itself; whoever continues it makes it say so.
            let script = "sh -c 'kill -STOP $$; touch woken' & while ! grep -q '^State:.T' /proc/$!/status; do :; done; touch ready; cat";
            let sketch = Sketch::shell(script);
            let bottle = started(&sketch, "ready")?;
            assert_eq!(bottle.pause()?, Stillness::Whole);
            bottle.thaw()?;
            // A command that starts and ends after the thaw: the other had its chance.
            output(&bottle, &request(&["sleep", "0.1"]))?;
            assert!(!sketch.workspace.join("woken").exists());
            Ok(())
        }),
        trial("C10 nothing is paused before it has started, or after its end", || {
            let mut bottle = Sketch::new(&["cat"]).launch()?;
            assert_eq!(bottle.pause().unwrap_err().to_string(), "the bottle's program has not been started yet");
            let streams = bottle.take_stdio();
            bottle.start()?;
            drop(streams);
            bottle.wait();
            assert_eq!(
                bottle.pause().unwrap_err().to_string(),
                "the bottle's program has ended, and the bottle with it"
            );
            Ok(())
        }),
    ]
}

fn asked() -> Vec<Trial> {
    vec![
        trial("C10 exec and connections are refused while it is paused, and work again", || {
            let here = Waiting::start(Sketch::new(&["cat"]))?;
            here.bottle.pause()?;
            let begun = Instant::now();
            let said = "the bottle is paused; `carboy resume` lets it go on";
            assert_eq!(here.bottle.exec(&request(&["true"])).unwrap_err().to_string(), said);
            assert_eq!(here.bottle.connect_inside(9).unwrap_err().to_string(), said);
            assert!(begun.elapsed() < Duration::from_secs(1), "it was waited for");
            here.bottle.thaw()?;
            assert_eq!(output(&here.bottle, &request(&["echo", "again"]))?.0, "again\n");
            Ok(())
        }),
        trial("C10 a signal waits until it goes on, and a new window size is seen then", || {
            let script =
                "trap 'echo asked; exit 5' TERM; trap 'stty size' WINCH; echo re\"\"ady; while :; do sleep 0.02; done";
            let mut sketch = Sketch::new(&["bash", "-c", script]);
            sketch.spec.stdio = StdioMode::Terminal { rows: 24, cols: 80 };
            let mut bottle = sketch.launch()?;
            let Some(Stdio::Terminal(master)) = bottle.take_stdio() else { return Err("no terminal".into()) };
            let mut screen = Screen::of(master);
            bottle.start()?;
            screen.until("ready")?;
            bottle.pause()?;
            bottle.resize(50, 132)?;
            bottle.thaw()?;
            screen.until("50 132")?;
            bottle.pause()?;
            for _ in 0..1_000 {
                // Nobody takes them out of the socket while it is paused: none of them may fill it.
                bottle.signal(libc::SIGTERM)?;
            }
            assert!(!screen.seen.contains("asked"), "{:?}", screen.seen);
            bottle.thaw()?;
            screen.until("asked")?;
            assert_eq!(bottle.wait().outcome, ExitOutcome::Code(5));
            Ok(())
        }),
        trial("C10 a paused bottle is killed, and dropped, as any other", || {
            for dropped in [false, true] {
                let sketch = Sketch::shell("trap '' TERM INT; touch ready; while :; do sleep 1000; done");
                let bottle = started(&sketch, "ready")?;
                bottle.pause()?;
                let (pid, watcher, begun) = (bottle.pid(), bottle.watcher(), Instant::now());
                if dropped {
                    drop(bottle)
                } else {
                    bottle.kill()?
                }
                assert_eq!(watcher.wait().outcome, ExitOutcome::Killed);
                assert!(gone_within(pid, DEAD_WITHIN) && begun.elapsed() < DEAD_WITHIN);
            }
            Ok(())
        }),
    ]
}

fn hostile() -> Vec<Trial> {
    vec![
        trial("C10 a thousand processes stand within a tenth of a second and are dead within one", a_thousand),
        needs("perl", trial("C10 a fork bomb is paused, goes on and is killed", a_fork_bomb)),
        needs(
            "perl",
            trial("C10 programs that wake each other stand all the same", || {
                let waker = "perl -e '$SIG{CONT}=\"IGNORE\"; while (1) { kill \"CONT\", -1; open F, \">>\", \"count\"; print F 1; close F }'";
                let sketch = Sketch::shell(&format!("for i in 1 2 3 4; do {waker} & done; wait"));
                let bottle = started(&sketch, "count")?;
                for _ in 0..10 {
                    assert_eq!(bottle.pause()?, Stillness::Whole);
                    stands(&sketch.workspace.join("count"));
                    bottle.thaw()?;
                }
                Ok(())
            }),
        ),
        trial("C10 a program that holds a socket open, and one that waits for its child, stand", || {
            let script =
                "sleep 1000 | cat & (exec 3<>/dev/tcp/127.0.0.1/9) 2>/dev/null; echo up; read line; echo \"$line\"";
            let mut bottle = Sketch::new(&["bash", "-c", script]).launch()?;
            let Some(Stdio::Pipes { stdin, stdout, stderr }) = bottle.take_stdio() else {
                return Err("no pipes".into());
            };
            bottle.start()?;
            output(&bottle, &request(&["true"]))?;
            assert_eq!(bottle.pause()?, Stillness::Whole);
            write_all(&stdin, "went on\n");
            bottle.thaw()?;
            drop(stdin);
            let _stderr = stderr;
            let said = read_all(stdout);
            assert_eq!((said.as_str(), bottle.wait().outcome), ("up\nwent on\n", ExitOutcome::Code(0)));
            Ok(())
        }),
    ]
}

fn a_fork_bomb() -> Outcome {
    let mut sketch = Sketch::shell(BOMB);
    sketch.spec.limits.processes_max = 500;
    let bottle = started(&sketch, "ready")?;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(bottle.pause()?, Stillness::Whole);
        assert!(begun.elapsed() < PAUSED_WITHIN, "{:?}", begun.elapsed());
        bottle.thaw()?;
    }
    bottle.pause()?;
    let begun = Instant::now();
    bottle.kill()?;
    bottle.wait();
    assert!(begun.elapsed() < DEAD_WITHIN, "{:?}", begun.elapsed());
    Ok(())
}

/// Measures, and prints what it measured.
fn a_thousand() -> Outcome {
    const TIMES: usize = 5;
    let (mut paused, mut thawed, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let mut sketch = Sketch::shell(&many());
        sketch.spec.limits.processes_max = 2_000;
        let bottle = started(&sketch, "ready")?;
        let begun = Instant::now();
        assert_eq!(bottle.pause()?, Stillness::Whole);
        paused.push(begun.elapsed());
        let begun = Instant::now();
        bottle.thaw()?;
        thawed.push(begun.elapsed());
        bottle.pause()?;
        let begun = Instant::now();
        bottle.kill()?;
        bottle.wait();
        dead.push(begun.elapsed());
        let way = if bottle.stills_as_a_whole() { "control group" } else { "signals" };
        if dead.len() == TIMES {
            for (what, times) in [("paused", &mut paused), ("thawed", &mut thawed), ("dead", &mut dead)] {
                times.sort();
                eprintln!(
                    "1,000 processes {what} by {way}: min {:?}, median {:?}, max {:?}",
                    times[0],
                    times[TIMES / 2],
                    times[TIMES - 1]
                );
            }
        }
    }
    assert!(paused.iter().all(|t| *t < PAUSED_WITHIN) && dead.iter().all(|t| *t < DEAD_WITHIN), "{paused:?} {dead:?}");
    Ok(())
}
