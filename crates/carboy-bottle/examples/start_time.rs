//! How long `true` in a bottle takes, from the call to the end of the bottle: minimum, median and maximum of thirty.
//!
//! `cargo run --release -p carboy-bottle --example start_time`

use std::collections::BTreeMap;
use std::time::Instant;

use carboy_bottle::{Bottle, LaunchOptions};
use carboy_core::ids::{BottleName, RunId};
use carboy_core::plan::{Access, Bind, BottleSpec, CapturePolicy, Limits, StdioMode};

const ROUNDS: usize = 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    carboy_bottle::run_init_if_asked();
    let directory = std::env::temp_dir().join(format!("carboy-start-time-{}", std::process::id()));
    for name in ["home", "ws", "state"] {
        std::fs::create_dir_all(directory.join(name))?;
    }
    let directory = directory.canonicalize()?;
    let workspace = directory.join("ws");
    let mut stands = Vec::new();
    let mut whole = Vec::new();
    for round in 0..ROUNDS {
        let spec = BottleSpec {
            name: BottleName::parse("bench")?,
            run: RunId::parse(&format!("bench-{}-{round}", std::process::id()))?,
            command: vec!["true".to_owned()],
            env: BTreeMap::new(),
            root: Default::default(),
            workdir: workspace.clone(),
            home: directory.join("home"),
            binds: vec![Bind { source: workspace.clone(), target: workspace.clone(), access: Access::ReadWrite }],
            overlays: vec![],
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
        let begun = Instant::now();
        let bottle = Bottle::launch(&spec, &options)?;
        stands.push(begun.elapsed());
        bottle.start()?;
        bottle.wait();
        whole.push(begun.elapsed());
    }
    std::fs::remove_dir_all(&directory)?;
    for (what, mut times) in [("stands", stands), ("whole", whole)] {
        times.sort();
        println!("{what}: min {:?} median {:?} max {:?}", times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
    }
    Ok(())
}
