//! Pipes and a real terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use carboy_bottle::{Bottle, ExitOutcome, Stdio};
use carboy_core::plan::StdioMode;
use libtest_mimic::{Failed, Trial};

use crate::harness::{Outcome, Sketch, read_all, trial, write_all};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("standard input, output and error are three pipes", || {
            let sketch = Sketch::shell("read line; echo out $line; echo err >&2; stat -Lc %F /dev/fd/0 /dev/fd/1");
            let mut bottle = sketch.launch()?;
            let Some(Stdio::Pipes { stdin, stdout, stderr }) = bottle.take_stdio() else {
                return Err("no pipes".into());
            };
            bottle.start()?;
            write_all(&stdin, "hello\n");
            assert_eq!(read_all(stdout), "out hello\nfifo\nfifo\n");
            assert_eq!(read_all(stderr), "err\n");
            assert_eq!(bottle.wait().outcome, ExitOutcome::Code(0));
            Ok(())
        }),
        trial("the terminal is the bottle's own and has the size it was given", || {
            let (bottle, mut screen) = terminal(&["sh", "-c", "tty; stty size; echo done"])?;
            screen.until("done\r\n")?;
            assert!(screen.seen.starts_with("/dev/pts/0\r\n24 80\r\n"), "{:?}", screen.seen);
            assert_eq!(bottle.wait().outcome, ExitOutcome::Code(0));
            Ok(())
        }),
        trial("a new size reaches the program", || {
            let (bottle, mut screen) =
                terminal(&["bash", "-c", "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done"])?;
            screen.until("up\r\n")?;
            bottle.resize(50, 132)?;
            screen.until("50 132")
        }),
        trial("Ctrl-C interrupts what runs in an inner shell and not the shell", || {
            let (bottle, mut screen) = terminal(&["bash", "--norc", "-i"])?;
            write_all(&screen.master, "PS1=; echo re''ady; sleep 100\n");
            screen.until("ready\r\n")?;
            screen.pause();
            write_all(&screen.master, "\x03");
            write_all(&screen.master, "echo st''atus $?\n");
            screen.until("status 130")?;
            write_all(&screen.master, "exit 3\n");
            assert_eq!(bottle.wait().outcome, ExitOutcome::Code(3));
            Ok(())
        }),
        trial("Ctrl-Z stops a job and fg goes on with it", || {
            let (bottle, mut screen) = terminal(&["bash", "--norc", "-i"])?;
            write_all(&screen.master, "PS1=; echo re''ady; cat\n");
            screen.until("ready\r\n")?;
            screen.pause();
            write_all(&screen.master, "\x1a");
            screen.until("Stopped")?;
            write_all(&screen.master, "fg\n");
            screen.pause();
            write_all(&screen.master, "ec''ho\n");
            screen.until("ec''ho\r\nec''ho")?;
            write_all(&screen.master, "\x04exit 4\n");
            assert_eq!(bottle.wait().outcome, ExitOutcome::Code(4));
            Ok(())
        }),
        trial("a signal is forwarded to the program's process group", || {
            let sketch = Sketch::shell("trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.05; done");
            let mut bottle = sketch.launch()?;
            let Some(Stdio::Pipes { stdout, stderr: _stderr, .. }) = bottle.take_stdio() else {
                return Err("no pipes".into());
            };
            bottle.start()?;
            let mut screen = Screen::of(stdout);
            screen.until("up\n")?;
            bottle.signal(libc::SIGUSR1)?;
            screen.until("got\n")?;
            // The inner sleep got it as well; the shell's own end is what counts.
            assert_eq!(bottle.wait().outcome, ExitOutcome::Code(5));
            Ok(())
        }),
        trial("the host's terminal cannot be typed into", || {
            // B47, B48: no descriptor of it, no TIOCSTI
            let (bottle, mut screen) = terminal(&[
                "perl",
                "-e",
                "my $x = 'x'; ioctl(STDIN, 0x5412, $x) ? print 'typed' : print 'refused'; print qq(\\n)",
            ])?;
            screen.until("refused")?;
            bottle.wait();
            Ok(())
        }),
    ]
}

fn terminal(command: &[&str]) -> Result<(Bottle, Screen), Failed> {
    let mut sketch = Sketch::new(command);
    sketch.spec.stdio = StdioMode::Terminal { rows: 24, cols: 80 };
    sketch.spec.workdir = "/home/agent".into();
    sketch.spec.env.insert("TERM".to_owned(), "xterm".to_owned());
    let mut bottle = sketch.launch()?;
    let Some(Stdio::Terminal(master)) = bottle.take_stdio() else { return Err("no terminal".into()) };
    let mut screen = Screen::of(master);
    bottle.start()?;
    screen.sketch = Some(sketch);
    Ok((bottle, screen))
}

/// Everything that was shown, with a bound on how long to wait for more.
pub struct Screen {
    pub master: OwnedFd,
    shown: mpsc::Receiver<Vec<u8>>,
    pub seen: String,
    /// Its directories live as long as the screen.
    sketch: Option<Sketch>,
}

impl Screen {
    pub fn of(master: OwnedFd) -> Screen {
        let (tell, shown) = mpsc::channel();
        let mut from = File::from(master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                if tell.send(chunk[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Screen { master, shown, seen: String::new(), sketch: None }
    }

    pub fn until(&mut self, text: &str) -> Outcome {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.seen.contains(text) {
            match self.shown.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(more) => self.seen.push_str(&String::from_utf8_lossy(&more)),
                Err(_) => return Err(format!("no {text:?} in {:?}", self.seen).into()),
            }
        }
        Ok(())
    }

    /// A foreground job has no event that the terminal's other side could wait for.
    pub fn pause(&self) {
        std::thread::sleep(Duration::from_millis(200));
    }
}
