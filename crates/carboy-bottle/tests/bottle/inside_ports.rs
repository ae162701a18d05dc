//! Connections into the bottle, and the supervisor's own listeners on the bottle's loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use carboy_bottle::Bottle;
use carboy_core::plan::CapturePolicy;
use libtest_mimic::{Failed, Trial};

use crate::exec::{Waiting, output, request};
use crate::harness::{Sketch, needs, trial};

const PATIENCE: Duration = Duration::from_secs(10);

/// A server at `address`:8000 that answers with what it was told, turned round.
fn server(address: &str) -> Sketch {
    let script = "my $s = IO::Socket::IP->new(LocalHost => $ARGV[0], LocalPort => 8000, Listen => 5, ReuseAddr => 1) or die; \
         while (my $c = $s->accept) { my $line = <$c>; chomp $line; print $c scalar reverse $line; close $c }";
    Sketch::new(&["perl", "-MIO::Socket::IP", "-e", script, address])
}

/// Connects as soon as somebody listens.
fn connect(bottle: &Bottle, port: u16) -> Result<TcpStream, Failed> {
    let end = Instant::now() + PATIENCE;
    loop {
        match bottle.connect_inside(port) {
            Ok(socket) => return Ok(TcpStream::from(socket)),
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn reversed(name: &str, capture: CapturePolicy, address: &'static str) -> Trial {
    needs(
        "perl",
        trial(name, move || {
            let mut sketch = server(address);
            sketch.spec.capture = capture;
            let here = Waiting::start(sketch)?;
            for _ in 0..3 {
                let mut stream = connect(&here.bottle, 8000)?;
                stream.write_all(b"drow\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                assert_eq!(answer, "word");
            }
            Ok(())
        }),
    )
}

/// Two clients of the forwarded port, and two ways of trying to take it.
const GUEST: &str = r#"
    use IO::Socket::IP; use Socket qw(:all);
    for my $to ("127.0.0.1", "::1", "localhost") {
        my $s = IO::Socket::IP->new(PeerHost => $to, PeerPort => 5432, Timeout => 3);
        print $s ? scalar <$s> : "no: $!\n";
    }
    for my $at ("127.0.0.1", "0.0.0.0") {
        socket(my $s, AF_INET, SOCK_STREAM, 0);
        setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); setsockopt($s, SOL_SOCKET, SO_REUSEPORT, 1);
        my $taken = bind($s, pack_sockaddr_in(5432, inet_aton($at))) && listen($s, 5);
        print $taken ? "taken\n" : ($!{EADDRINUSE} ? "in use\n" : "$!\n");
    }"#;

fn forwarded(name: &str, capture: CapturePolicy) -> Trial {
    needs(
        "perl",
        trial(name, move || {
            let mut sketch = Sketch::new(&["perl", "-e", GUEST]);
            sketch.spec.capture = capture;
            sketch.spec.inside_ports = vec![5432];
            let ran = sketch.run_serving(|captured| {
                for (port, listener) in captured.inside {
                    assert!(listener.local_addr().unwrap().ip().is_loopback());
                    std::thread::spawn(move || {
                        while let Ok((mut stream, _)) = listener.accept() {
                            let to: SocketAddr = stream.local_addr().unwrap();
                            let _ = writeln!(stream, "{port} at {}", to.ip());
                        }
                    });
                }
            })?;
            let lines: Vec<&str> = ran.stdout.lines().collect();
            assert_eq!(lines.len(), 5, "{} {}", ran.stdout, ran.stderr);
            assert_eq!(lines[..2], ["5432 at 127.0.0.1", "5432 at ::1"]);
            assert!(lines[2].starts_with("5432 at "), "{}", lines[2]);
            assert_eq!(lines[3..], ["in use", "in use"]);
            Ok(())
        }),
    )
}

pub fn trials() -> Vec<Trial> {
    vec![
        reversed("a server on 127.0.0.1 inside is reached from outside", CapturePolicy::RequireT1, "127.0.0.1"),
        reversed("a server on ::1 alone is reached from outside", CapturePolicy::RequireT1, "::1"),
        reversed("a server on every address is reached from outside, in T2 too", CapturePolicy::ForceT2, "0.0.0.0"),
        forwarded("a port of the loopback is the supervisor's from the start, in T1", CapturePolicy::RequireT1),
        forwarded("a port of the loopback is the supervisor's from the start, in T2", CapturePolicy::ForceT2),
        trial("a port where nobody listens refuses", || {
            let here = Waiting::start(Sketch::new(&["cat"]))?;
            // Within the range that connections get their own ports from: one of them could be this one.
            for _ in 0..50 {
                let error = here.bottle.connect_inside(40_000).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
            }
            Ok(())
        }),
        needs(
            "perl",
            trial("a server that never accepts costs its caller some seconds and init nothing", || {
                let script = "use IO::Socket::IP; my $s = IO::Socket::IP->new(LocalHost => '127.0.0.1', LocalPort => 8000, Listen => 1); sleep 1000";
                let here = Waiting::start(Sketch::new(&["perl", "-e", script]))?;
                let _first = connect(&here.bottle, 8000)?;
                let (inside, begun) = (here.bottle.inside(), Instant::now());
                let stuck: Vec<_> = (0..20)
                    .map(|_| {
                        let inside = inside.clone();
                        std::thread::spawn(move || inside.connect(8000).map_err(|e| e.raw_os_error()))
                    })
                    .collect();
                assert_eq!(output(&here.bottle, &request(&["echo", "still here"]))?.0, "still here\n");
                assert!(begun.elapsed() < Duration::from_secs(4));
                let answers: Vec<_> = stuck.into_iter().map(|thread| thread.join().unwrap()).collect();
                assert!(answers.iter().any(|a| matches!(a, Err(Some(libc::ETIMEDOUT)))), "{answers:?}");
                Ok(())
            }),
        ),
    ]
}
