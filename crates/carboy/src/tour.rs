//! `carboy tour`: the tour told to a person, and the program that is the agent in its bottle.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_control::probe;
use carboy_control::tour::{Report, Step, TourError, TourRequest, give};

use crate::args::TourArgs;
use crate::environment::HostLookup;
use crate::print;
use crate::report::{Exit, Failure, Palette};
use crate::run;

/// What a shell gives for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// How often the tour's directory is removed, and how long after each time it is looked whether it stays away.
const REMOVE_TRIES_MAX: u32 = 100;
const REMOVE_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(20);

/// Gives the tour and gives the exit code: 0 when every step went as promised.
pub fn tour(args: TourArgs, runtime: tokio::runtime::Runtime) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, &e);
    let dir = fresh_directory()?;
    let request = TourRequest {
        dir: dir.clone(),
        user_home: std::env::var_os("HOME").map_or_else(|| PathBuf::from("/nonexistent"), PathBuf::from),
        program: std::env::current_exe().map_err(failed)?,
        lookup: Arc::new(HostLookup::new()),
    };
    let palette = Palette::stdout();
    let json = args.json;
    if !json {
        print(intro(palette).as_bytes())?;
    }
    let mut number = 0;
    let giving = give(request, |step| {
        number += 1;
        if !json {
            // A reader that has gone away does not end the tour.
            let _ = print(tell(number, step, palette).as_bytes());
        }
    });
    let interrupted = async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => {}
            // Without a handler the signal ends the process by itself.
            Err(_) => std::future::pending().await,
        }
    };
    // Ctrl-C drops the tour, and that kills its bottle.
    let given = runtime.block_on(async {
        tokio::select! {
            given = giving => Some(given),
            () = interrupted => None,
        }
    });
    // Waits for what was just being made, so that it is not made after the directory has gone.
    drop(runtime);
    if args.keep {
        say!("kept: {}", dir.display());
    } else {
        remove(&dir)?;
    }
    let Some(given) = given else {
        say!("interrupted");
        return Ok(INTERRUPTED);
    };
    let report = given.map_err(|error| match error {
        TourError::Run(error) => run::failure(error),
        TourError::Stage(error) => Failure::new(Exit::Failed, &error),
    })?;
    let text = if json {
        serde_json::to_string_pretty(&report).map_err(|e| Failure::new(Exit::Failed, &e))? + "\n"
    } else {
        outro(&report, palette)
    };
    print(text.as_bytes())?;
    Ok(if report.ok { 0 } else { Exit::Found as u8 })
}

/// Removes the tour's directory. A bottle that was killed puts its files in order for a moment longer, in there.
fn remove(dir: &Path) -> Result<(), Failure> {
    let mut removed = Ok(());
    for _ in 0..REMOVE_TRIES_MAX {
        removed = std::fs::remove_dir_all(dir);
        if removed.is_ok() {
            std::thread::sleep(REMOVE_AGAIN_AFTER);
        }
        match dir.try_exists() {
            Ok(false) => return Ok(()),
            Ok(true) | Err(_) => std::thread::sleep(REMOVE_AGAIN_AFTER),
        }
    }
    removed.map_err(|e| Failure::words(Exit::Failed, format!("cannot remove {}: {e}", dir.display())))
}

/// The agent inside: takes orders over its standard input.
pub async fn agent() -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, &e);
    let ca_file = std::env::var_os("SSL_CERT_FILE").ok_or_else(|| {
        Failure::words(Exit::Usage, "SSL_CERT_FILE is not set: this command runs inside the tour's bottle")
    })?;
    let ca_pem = std::fs::read(ca_file).map_err(failed)?;
    let variables = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
    probe::serve(probe::World { ca_pem, variables: variables.collect() }).await.map_err(failed)?;
    Ok(0)
}

fn fresh_directory() -> Result<PathBuf, Failure> {
    let mut bits = [0; 4];
    getrandom::fill(&mut bits)
        .map_err(|e| Failure::words(Exit::Failed, format!("the system gives no random bytes: {e}")))?;
    let dir = std::env::temp_dir().join(format!("carboy-tour-{:08x}", u32::from_be_bytes(bits)));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(|e| Failure::words(Exit::Failed, format!("cannot make {}: {e}", dir.display())))?;
    dir.canonicalize().map_err(|e| Failure::new(Exit::Failed, &e))
}

fn intro(palette: Palette) -> String {
    format!(
        "{}\n\nA small agent is put into a bottle on this machine. Outside stands a\n\
         simulated model provider, so no key and no network are needed. Everything\n\
         else is real: the sandbox, the traffic, the scanners, the log.\n\n",
        palette.strong("carboy, in eight steps")
    )
}

fn tell(number: usize, step: &Step, palette: Palette) -> String {
    let mark = if step.ok { palette.good("✓") } else { palette.bad("✗") };
    let mut out = format!(
        "{mark} {} {}\n",
        palette.strong(&format!("{number}. {}", step.title)),
        palette.faint(&format!("({} ms)", step.ms))
    );
    out.push_str(&format!("    promised: {}\n", step.promise));
    for line in &step.observed {
        let line = crate::report::printable(line);
        out.push_str(&format!("    {} {line}\n", palette.faint("seen:    ")));
    }
    out.push('\n');
    out
}

fn outro(report: &Report, palette: Palette) -> String {
    if report.ok {
        format!(
            "{}\n\nNext: `carboy doctor` says what this machine can give;\n\
             docs/first-bottle.md takes you to your own first bottle.\n",
            palette.good("Every step went as promised.")
        )
    } else {
        let failed: Vec<&str> = report.steps.iter().filter(|s| !s.ok).map(|s| s.name).collect();
        format!("{} {}\n", palette.bad("Not as promised:"), failed.join(", "))
    }
}
