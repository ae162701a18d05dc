//! How long `true` takes in a bottle: beside bubblewrap, which makes the namespaces and nothing else, and Anthropic's
//! sandbox-runtime, which puts a filtering proxy beside bubblewrap.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Bench;
use super::figures::{goal, head, median, quantile, row, short};
use super::process::Process;

/// Rounds; every peer starts once in each.
const ROUNDS: usize = 40;
/// Rounds before those, which are not counted.
const WARMUP_ROUNDS: usize = 3;
/// No round begins after this.
const TIME_MAX: Duration = Duration::from_secs(200);

/// The name that the peers with a filter may reach.
const SETTINGS: &str = r#"{"filesystem":{"denyRead":[],"allowWrite":["."],"denyWrite":[]},
"network":{"allowedDomains":["bench.example"],"deniedDomains":[]}}"#;
const BOTTLE: &str = "---\negress: {routes: [{host: bench.example}]}\n---\n";

/// What is started, and its times in milliseconds.
struct Contestant<'a> {
    name: &'static str,
    start: Box<dyn FnMut() -> Result<f64, String> + 'a>,
    times: Vec<f64>,
}

/// Measures and writes the table.
pub fn run(bench: &Bench) -> Result<String, String> {
    let carboy = bench.build("carboy", "")?;
    let in_library = bench.build("carboy-bottle", "start_time")?;
    let home = bench.directory("home")?;
    bench.directory("home/bottles")?;
    bench.file("home/bottles/bench.md", BOTTLE)?;
    let settings = bench.file("srt.json", SETTINGS)?;
    let work = bench.directory("work")?;
    // An empty one: what a person has at home must not decide how long a peer takes.
    let user_home = bench.directory("user")?;
    let path = bench.path();
    let mut library = library(bench, &work, &user_home)?;

    let timed = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&work).env("CARBOY_HOME", &home).env("PATH", &path).env("HOME", &user_home);
        time(command.stdin(Stdio::null()).stdout(Stdio::null()))
    };
    let settings = settings.to_string_lossy();
    let contestant = |name, start| Contestant { name, start, times: Vec::new() };
    let mut contestants = [
        contestant("`true` alone", Box::new(|| timed(Path::new("true"), &[]))),
        contestant(BWRAP, Box::new(|| timed(Path::new("bwrap"), &["--unshare-all", "--ro-bind", "/", "/", "true"]))),
        contestant(CARBOY, Box::new(|| timed(&carboy, &["run", "--bottle", "bench", "-q", "--", "true"]))),
        contestant("`srt true` (sandbox-runtime)", Box::new(|| timed(Path::new("srt"), &["-s", &settings, "true"]))),
        contestant("sandbox-runtime as a library, its proxies already up", Box::new(|| library_time(&mut library))),
    ];
    let begun = Instant::now();
    for round in 0..WARMUP_ROUNDS + ROUNDS {
        if begun.elapsed() > TIME_MAX {
            break;
        }
        for contestant in &mut contestants {
            let took = (contestant.start)().map_err(|error| format!("{}: {error}", contestant.name))?;
            if round >= WARMUP_ROUNDS {
                contestant.times.push(took);
            }
        }
    }
    Ok(report(&contestants, &library_line(&in_library)?))
}

const BWRAP: &str = "`bwrap --unshare-all --ro-bind / / true`";
const CARBOY: &str = "`carboy run --bottle bench -q -- true`";

/// Milliseconds from the start of a program to its end.
fn time(command: &mut Command) -> Result<f64, String> {
    let begun = Instant::now();
    let status = command.status().map_err(|error| format!("cannot be started: {error}"))?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    if status.success() { Ok(took) } else { Err(format!("{status}")) }
}

fn library(bench: &Bench, work: &Path, user_home: &Path) -> Result<Process, String> {
    let mut command = Command::new(bench.peers.join("bin/node"));
    command
        .arg(bench.top.join("xtask/bench-srt.mjs"))
        .arg(&bench.peers)
        .current_dir(work)
        .env("PATH", bench.path())
        .env("HOME", user_home);
    let mut process = Process::start("sandbox-runtime", &mut command)?;
    process.expect("ready")?;
    Ok(process)
}

fn library_time(library: &mut Process) -> Result<f64, String> {
    library.tell("start")?;
    let line = library.hear()?;
    line.parse().map_err(|_| line)
}

/// What `carboy-bottle`'s own example says of launches inside one process: `(median of the launch, of the whole)`.
fn library_line(example: &Path) -> Result<(String, String), String> {
    let output =
        Command::new(example).output().map_err(|error| format!("cannot run {}: {error}", example.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let median_of = |what: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(what))?;
        let mut words = line.split_whitespace().skip_while(|word| *word != "median");
        words.nth(1).map(|time| time.trim_end_matches("ms").parse::<f64>().map_or_else(|_| time.to_owned(), short))
    };
    median_of("stands:").zip(median_of("whole:")).ok_or_else(|| format!("{} said `{text}`", example.display()))
}

fn report(contestants: &[Contestant], (stands, whole): &(String, String)) -> String {
    let times_of = |name: &str| contestants.iter().find(|c| c.name == name).map_or(&[][..], |c| &c.times[..]);
    let beside = median(times_of(BWRAP));
    let mut out = head(&["milliseconds, start to end", "min", "median", "p95", "median / bwrap"]);
    for Contestant { name, times, .. } in contestants {
        let [min, middle, late] = [0.0, 0.5, 0.95].map(|part| quantile(times, part));
        out += &row(&[*name, &short(min), &short(middle), &short(late), &format!("{:.2}", middle / beside)]);
    }
    let carboy = median(times_of(CARBOY));
    out += &format!(
        "\n{} rounds, interleaved. Of carboy's, inside one process (`carboy_bottle::Bottle`, 30 times): the bottle stands \
         after {stands} ms, `true` has ended and all is gone after {whole} ms (medians).\n\n",
        contestants[0].times.len()
    );
    out += &row(&["goal", "figure", ""]);
    out += &row(&["---", "---", "---"]);
    out += &goal("start of `true` in a bottle ≤ 25 ms", &format!("{} ms", short(carboy)), carboy <= 25.0);
    out += &goal("≤ 3× bwrap", &format!("{:.2}×", carboy / beside), carboy <= 3.0 * beside);
    out
}
