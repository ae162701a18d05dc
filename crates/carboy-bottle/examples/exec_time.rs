//! How long `true` takes as a further program of a running bottle, from the call to its end, beside `bwrap … true`:
//! minimum, median and maximum of a hundred.
//!
//! `cargo run --release -p carboy-bottle --example exec_time`

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use carboy_bottle::{Bottle, ExecRequest, ExitOutcome, LaunchOptions};
use carboy_core::ids::{BottleName, RunId};
use carboy_core::plan::{BottleSpec, CapturePolicy, Limits, RootSource, StdioMode};

const ROUNDS: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    carboy_bottle::run_init_if_asked();
    let directory = std::env::temp_dir().join(format!("carboy-exec-time-{}", std::process::id()));
    for name in ["home", "state"] {
        std::fs::create_dir_all(directory.join(name))?;
    }
    let directory = directory.canonicalize()?;
    let spec = BottleSpec {
        name: BottleName::parse("bench")?,
        run: RunId::parse(&format!("bench-{}", std::process::id()))?,
        command: vec!["sleep".to_owned(), "1000".to_owned()],
        env: BTreeMap::new(),
        workdir: "/home/agent".into(),
        home: directory.join("home"),
        binds: Vec::new(),
        overlays: Vec::new(),
        root: RootSource::Host,
        files: Vec::new(),
        limits: Limits::default(),
        capture: CapturePolicy::AllowT2,
        route_ports: Vec::new(),
        inside_ports: Vec::new(),
        stdio: StdioMode::Pipes,
        host_ids: None,
    };
    let options =
        LaunchOptions { state: directory.join("state"), shared: directory.to_owned(), init: Default::default() };
    let bottle = Bottle::launch(&spec, &options)?;
    bottle.start()?;
    let request =
        ExecRequest { command: vec!["true".to_owned()], env: BTreeMap::new(), workdir: None, stdio: StdioMode::Pipes };
    report("exec", || {
        let exec = bottle.exec(&request)?;
        (exec.wait() == ExitOutcome::Code(0)).then_some(()).ok_or_else(|| std::io::Error::other("`true` failed"))
    })?;
    bottle.kill()?;
    bottle.wait();
    std::fs::remove_dir_all(&directory)?;
    let bwrap = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "true"];
    report("bwrap", || std::process::Command::new("bwrap").args(bwrap).status().map(drop))?;
    Ok(())
}

fn report(what: &str, mut once: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    let mut times: Vec<Duration> = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        once()?;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("{what}: min {:?} median {:?} max {:?}", times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
    Ok(())
}
