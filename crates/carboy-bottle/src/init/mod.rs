//! The inside: what the re-exec'ed carboy does as process 1 of a bottle.
//!
//! ```text
//! adopt descriptors → network → root file system → Ready ─▶ supervisor: "Start" ─▶ fork + exec the program
//!                     (sockets out)  (privileges dropped)                          watch until it ends
//! ```
//!
//! *Architecture invariants:* init is single-threaded; it holds no secret, no descriptor of the host but the control
//! socket, and after `confine` no privilege. It cannot be traced or read from inside (not dumpable).

mod confine;
mod connect;
mod image;
mod netlink;
mod network;
mod nft;
mod program;
mod root;
mod still;
mod watch;

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};

use crate::sys::process;
use crate::wire::{self, FromInit, InitSpec};

/// `argv[0]` by which the re-exec'ed binary knows that it is an init.
pub const INIT_NAME: &str = "carboy-bottle-init";

/// Largest description of a bottle, generated files included.
const SPEC_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A set-up step that failed.
#[derive(Debug)]
pub struct SetupError {
    step: String,
    source: io::Error,
}

/// Names the step that an error belongs to.
fn step<T>(step: &str, result: Result<T, impl Into<io::Error>>) -> Result<T, SetupError> {
    result.map_err(|source| SetupError { step: step.to_owned(), source: source.into() })
}

/// Does the inside work and never returns, when this process was started as a bottle's init; else returns at once.
///
/// Has to be called first thing in `main`, before any thread is started.
pub fn run_init_if_asked() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_none_or(|name| name != INIT_NAME) {
        return;
    }
    let numbers: Option<Vec<i32>> = arguments.map(|n| n.to_str()?.parse().ok()).collect();
    process::exit_now(match numbers {
        Some(numbers) => run(&numbers),
        None => 2,
    })
}

fn run(numbers: &[i32]) -> i32 {
    let [control, spec, mounts @ ..] = numbers else { return 2 };
    let (Some(control), Some(spec)) = (process::adopt(*control), process::adopt(*spec)) else { return 2 };
    match set_up(&control, spec, mounts) {
        Ok(ready) => watch::supervise(&control, ready),
        Err(error) => {
            let errno = error.source.raw_os_error();
            let step = if errno.is_some() { error.step } else { format!("{}: {}", error.step, error.source) };
            let _ = wire::send(&control, &FromInit::Failed { step, errno }, &[]);
            1
        }
    }
}

/// What the program is started with.
struct Ready {
    spec: InitSpec,
    streams: program::Streams,
}

fn set_up(control: &OwnedFd, spec: OwnedFd, inherited: &[i32]) -> Result<Ready, SetupError> {
    step("become untraceable", set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    step("tie to the supervisor", set_parent_process_death_signal(Some(Signal::KILL)))?;
    step("ignore inherited descriptors", process::close_on_exec_from(3))?;
    process::ignore_stray_signals();
    let (spec, contents) = step("read the bottle's description", read_spec(spec))?;
    let inherited = inherited.iter().map(|number| (*number, process::adopt(*number))).collect();

    let captured = network::set_up(spec.capture.into(), &spec.route_ports, &spec.inside_ports)?;
    let sockets: Vec<BorrowedFd<'_>> = captured.sockets.iter().map(AsFd::as_fd).collect();
    let t1 = captured.tier == carboy_core::plan::CaptureTier::T1;
    let message = FromInit::Sockets { t1, sockets: captured.roles };
    step("pass the sockets out", wire::send(control, &message, &sockets))?;
    drop(captured.sockets);

    step("name the host", rustix::system::sethostname(spec.host_name.as_bytes()))?;
    root::build(&spec, &contents, inherited)?;
    drop(contents);
    let (streams, outside) = program::streams(spec.stdio)?;
    let landlock_abi = confine::drop_everything(&spec)?;
    let outside: Vec<BorrowedFd<'_>> = outside.iter().map(AsFd::as_fd).collect();
    step("report ready", wire::send(control, &FromInit::Ready { landlock_abi }, &outside))?;
    Ok(Ready { spec, streams })
}

/// The description is a length, JSON, and then the generated files' contents.
fn read_spec(file: OwnedFd) -> io::Result<(InitSpec, Vec<Vec<u8>>)> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "truncated description");
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(SPEC_BYTES_MAX).read_to_end(&mut bytes)?;
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(malformed)?;
    let length = usize::try_from(u64::from_ne_bytes(*length)).map_err(|_| malformed())?;
    let (json, mut rest) = rest.split_at_checked(length).ok_or_else(malformed)?;
    let spec: InitSpec = serde_json::from_slice(json)?;
    let mut contents = Vec::with_capacity(spec.files.len());
    for (_, length) in &spec.files {
        let (content, next) = rest.split_at_checked(*length).ok_or_else(malformed)?;
        contents.push(content.to_vec());
        rest = next;
    }
    Ok((spec, contents))
}
