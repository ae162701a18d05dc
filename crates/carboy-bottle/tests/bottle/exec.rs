//! Programs beside the first one: the same walls, their own streams, one end for all.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use carboy_bottle::{Bottle, Exec, ExecRequest, ExitOutcome, Stdio};
use carboy_core::plan::StdioMode;
use libtest_mimic::{Failed, Trial};

use crate::harness::{Sketch, needs, read_all, trial, write_all};
use crate::streams::Screen;

/// Init's own limit for a start is 5 seconds, and an answer is waited for one more.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// A running bottle whose first program waits for the end of its standard input.
pub struct Waiting {
    pub bottle: Bottle,
    pub stdin: OwnedFd,
    _stdout: OwnedFd,
    _stderr: OwnedFd,
    _sketch: Sketch,
}

impl Waiting {
    pub fn start(sketch: Sketch) -> Result<Waiting, Failed> {
        let mut bottle = sketch.launch()?;
        let Some(Stdio::Pipes { stdin, stdout, stderr }) = bottle.take_stdio() else {
            return Err("no pipes".into());
        };
        bottle.start()?;
        Ok(Waiting { bottle, stdin, _stdout: stdout, _stderr: stderr, _sketch: sketch })
    }

    fn new() -> Result<Waiting, Failed> {
        Waiting::start(Sketch::new(&["cat"]))
    }
}

pub fn request(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        env: BTreeMap::new(),
        workdir: None,
        stdio: StdioMode::Pipes,
    }
}

fn shell(script: &str) -> ExecRequest {
    request(&["sh", "-c", script])
}

fn pipes(exec: &mut Exec) -> Result<(OwnedFd, OwnedFd, OwnedFd), Failed> {
    match exec.take_stdio() {
        Some(Stdio::Pipes { stdin, stdout, stderr }) => Ok((stdin, stdout, stderr)),
        Some(Stdio::Terminal(_)) | None => Err("no pipes".into()),
    }
}

/// Runs it to its end; its standard output and how it ended.
pub fn output(bottle: &Bottle, request: &ExecRequest) -> Result<(String, ExitOutcome), Failed> {
    let mut exec = bottle.exec(request)?;
    let (stdin, stdout, _stderr) = pipes(&mut exec)?;
    drop(stdin);
    Ok((read_all(stdout), exec.wait()))
}

pub fn trials() -> Vec<Trial> {
    let mut all = running();
    all.extend(ending());
    all.extend(hostile());
    all
}

fn running() -> Vec<Trial> {
    vec![
        trial("exec: three pipes, the program's environment and more, and an exit code", || {
            let mut sketch = Sketch::new(&["cat"]);
            sketch.spec.env.insert("KEPT".to_owned(), "kept".to_owned());
            sketch.spec.env.insert("CHANGED".to_owned(), "before".to_owned());
            let here = Waiting::start(sketch)?;
            let mut wanted = shell("read line; echo $line $KEPT $CHANGED $ADDED $PWD; echo err >&2; exit 7");
            wanted.env = [("CHANGED", "after"), ("ADDED", "a b")].map(|(k, v)| (k.into(), v.into())).into();
            wanted.workdir = Some("/tmp".into());
            let mut exec = here.bottle.exec(&wanted)?;
            let (stdin, stdout, stderr) = pipes(&mut exec)?;
            write_all(&stdin, "in\n");
            assert_eq!(read_all(stdout), "in kept after a b /tmp\n");
            assert_eq!(read_all(stderr), "err\n");
            assert_eq!(exec.wait(), ExitOutcome::Code(7));
            Ok(())
        }),
        trial("exec: it starts where the first program did", || {
            let here = Waiting::new()?;
            let expected = format!("{}\n", here._sketch.workspace.display());
            assert_eq!(output(&here.bottle, &request(&["pwd"]))?, (expected, ExitOutcome::Code(0)));
            Ok(())
        }),
        trial("exec: a terminal of its own that can be resized and interrupted", || {
            let here = Waiting::new()?;
            let mut wanted = request(&["bash", "--norc", "-i"]);
            wanted.stdio = StdioMode::Terminal { rows: 24, cols: 80 };
            wanted.env.insert("TERM".to_owned(), "xterm".to_owned());
            let mut exec = here.bottle.exec(&wanted)?;
            let Some(Stdio::Terminal(master)) = exec.take_stdio() else { return Err("no terminal".into()) };
            let mut screen = Screen::of(master);
            write_all(&screen.master, "PS1=; tty; stty size; echo re''ady; sleep 100\n");
            screen.until("24 80\r\nready\r\n")?;
            assert!(screen.seen.contains("/dev/pts/"), "{:?}", screen.seen);
            screen.pause();
            write_all(&screen.master, "\x03");
            exec.resize(50, 132)?;
            write_all(&screen.master, "echo st''atus $?; stty size\n");
            screen.until("status 130\r\n50 132")?;
            write_all(&screen.master, "exit 3\n");
            assert_eq!(exec.wait(), ExitOutcome::Code(3));
            Ok(())
        }),
        trial("exec: a signal goes to that program's group and to no other", || {
            let here = Waiting::new()?;
            let (one, mut other) =
                (here.bottle.exec(&request(&["sleep", "1000"]))?, here.bottle.exec(&request(&["cat"]))?);
            one.signal(libc::SIGTERM)?;
            assert_eq!(one.wait(), ExitOutcome::Signal(libc::SIGTERM));
            let (stdin, stdout, _stderr) = pipes(&mut other)?;
            write_all(&stdin, "alive");
            drop(stdin);
            assert_eq!(read_all(stdout), "alive");
            assert_eq!(other.wait(), ExitOutcome::Code(0));
            drop(here.stdin);
            assert_eq!(here.bottle.wait().outcome, ExitOutcome::Code(0));
            Ok(())
        }),
        trial("exec: a command line of many kilobytes arrives whole, one of a megabyte is refused", || {
            let here = Waiting::new()?;
            let long = "x".repeat(100_000);
            let mut wanted = request(&["sh", "-c", "printf %s \"$@\" | wc -c", "sh"]);
            wanted.command.extend([long.clone(), long.clone(), long]);
            assert_eq!(output(&here.bottle, &wanted)?.0.trim(), "300000");
            wanted.command.push("x".repeat(1024 * 1024));
            let error = here.bottle.exec(&wanted).unwrap_err();
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidInput, None));
            Ok(())
        }),
    ]
}

fn ending() -> Vec<Trial> {
    vec![
        trial("exec: what cannot be started says why, in the system's own numbers", || {
            let here = Waiting::new()?;
            let mut nowhere = request(&["true"]);
            nowhere.workdir = Some("/nowhere".into());
            for (wanted, errno) in [
                (request(&["no-such-program"]), libc::ENOENT),
                (request(&["/etc/passwd"]), libc::EACCES),
                (request(&["/tmp"]), libc::EACCES),
                (nowhere, libc::ENOENT),
                (request(&["nul\0inside"]), libc::EINVAL),
            ] {
                let error = here.bottle.exec(&wanted).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno), "{wanted:?}: {error}");
            }
            assert_eq!(here.bottle.exec(&request(&[])).unwrap_err().kind(), ErrorKind::InvalidInput);
            // A failed one takes no place.
            assert_eq!(output(&here.bottle, &request(&["echo", "fine"]))?.0, "fine\n");
            Ok(())
        }),
        trial("exec: sixteen at once, a seventeenth is refused until one ends", || {
            let here = Waiting::new()?;
            let mut all: Vec<Exec> = (0..16).map(|_| here.bottle.exec(&request(&["cat"]))).collect::<Result<_, _>>()?;
            let error = here.bottle.exec(&request(&["true"])).unwrap_err();
            assert_eq!(error.to_string(), "16 programs run beside the bottle's own already: end one of them first");
            for (n, exec) in all.iter_mut().enumerate() {
                let (stdin, stdout, _stderr) = pipes(exec)?;
                write_all(&stdin, &format!("{n}"));
                drop(stdin);
                assert_eq!(read_all(stdout), format!("{n}"));
            }
            assert!(all.iter().all(|exec| exec.wait() == ExitOutcome::Code(0)));
            assert_eq!(output(&here.bottle, &request(&["echo", "room"]))?.0, "room\n");
            Ok(())
        }),
        trial("exec: the first program's end ends the others, and nothing more can be started", || {
            let here = Waiting::new()?;
            let beside = here.bottle.exec(&request(&["sleep", "1000"]))?;
            drop(here.stdin);
            assert_eq!(here.bottle.wait().outcome, ExitOutcome::Code(0));
            assert_eq!(beside.wait(), ExitOutcome::Killed);
            let error = here.bottle.exec(&request(&["true"])).unwrap_err();
            assert_eq!(error.to_string(), "the bottle's program has ended, and the bottle with it");
            let error = here.bottle.connect_inside(80).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            Ok(())
        }),
        trial("exec: nothing can be started before the first program", || {
            let bottle = Sketch::new(&["true"]).launch()?;
            let error = bottle.exec(&request(&["true"])).unwrap_err();
            assert_eq!(error.to_string(), "the bottle's program has not been started yet");
            Ok(())
        }),
    ]
}

/// Everything about a process that says what it may do.
const RIGHTS: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Sig(Blk|Ign))' /proc/self/status; \
     tail -n +2 /proc/self/limits; umask; cat /proc/self/attr/current 2>/dev/null; \
     for n in mnt net pid user ipc uts cgroup; do readlink /proc/self/ns/$n; done; echo fds $(ls /proc/self/fd)";

fn wait_for(file: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while !file.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hostile() -> Vec<Trial> {
    vec![
        trial("exec: it has exactly the first program's rights", || {
            // B45, B46, B48: the same user, no capability, the same filters, no descriptor but three
            let sketch = Sketch::shell(&format!("{{ {RIGHTS}; }} > rights.part; mv rights.part rights; cat"));
            let file = sketch.workspace.join("rights");
            let here = Waiting::start(sketch)?;
            wait_for(&file);
            let (exec, outcome) = output(&here.bottle, &shell(RIGHTS))?;
            assert_eq!(outcome, ExitOutcome::Code(0));
            assert_eq!(exec, std::fs::read_to_string(file)?);
            for line in [
                "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000",
                "NoNewPrivs:\t1",
                "Seccomp:\t2",
                "fds 0 1 2 3\n",
            ] {
                assert!(exec.contains(line), "no {line:?} in {exec}");
            }
            assert!(exec.contains("Uid:\t1000\t1000\t1000\t1000"), "{exec}");
            Ok(())
        }),
        needs(
            "perl",
            trial("exec: a program inside that stops or kills whatever appears cannot hold up init", || {
                let script = "for i in 1 2 3; do perl -e 'while (1) { for (glob \"/proc/[0-9]*\") { m|(\\d+)$|; kill \"STOP\", $1 \
                          if $1 > 30 } }' & done; trap 'exit 9' USR1; while :; do sleep 0.05; done";
                let here = Waiting::start(Sketch::shell(script))?;
                for _ in 0..8 {
                    let begun = Instant::now();
                    match here.bottle.exec(&request(&["true"])) {
                        Ok(exec) => exec.signal(libc::SIGKILL)?,
                        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}"),
                    }
                    assert!(begun.elapsed() < ANSWER_MAX);
                    let error = here.bottle.connect_inside(9).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
                }
                here.bottle.kill()?;
                here.bottle.wait();
                Ok(())
            }),
        ),
        trial("exec: a program inside that forks without end cannot hold up init", || {
            let mut sketch = Sketch::shell("while :; do (true &) ; done 2>/dev/null");
            sketch.spec.limits.processes_max = 200;
            let here = Waiting::start(sketch)?;
            for _ in 0..5 {
                let begun = Instant::now();
                match output(&here.bottle, &request(&["echo", "through"])) {
                    Ok((text, _)) => assert_eq!(text, "through\n"),
                    // Its own flood may leave no room for another process.
                    Err(error) => assert!(format!("{error:?}").contains("temporarily unavailable"), "{error:?}"),
                }
                assert!(begun.elapsed() < ANSWER_MAX);
            }
            Ok(())
        }),
    ]
}
