//! Every way to the network ends at the supervisor or fails at once.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use carboy_bottle::{CapturedSockets, TcpKind};
use carboy_core::plan::{CapturePolicy, CaptureTier};
use libtest_mimic::Trial;

use crate::harness::{Outcome, Sketch, needs, prints, trial};

/// Accepts on every socket and answers each connection with where it was meant to go.
fn tell_destinations(captured: CapturedSockets) {
    for tcp in captured.tcp {
        thread::spawn(move || {
            for stream in tcp.listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let to = original_destination(&stream, tcp.kind);
                let _ = writeln!(stream, "to {to}");
            }
        });
    }
    for dns in captured.dns {
        thread::spawn(move || {
            let mut buffer = [0; 512];
            loop {
                match dns.try_receive(&mut buffer) {
                    Ok((length, peer, local)) => {
                        let answer = format!("{local} was asked {}", String::from_utf8_lossy(&buffer[..length]));
                        dns.try_send(answer.as_bytes(), peer, local).unwrap();
                    }
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    }
}

fn original_destination(stream: &std::net::TcpStream, kind: TcpKind) -> SocketAddr {
    match (kind, stream.local_addr().unwrap()) {
        (TcpKind::Port(_), local) => local,
        (TcpKind::Redirected, SocketAddr::V4(_)) => {
            socket2::SockRef::from(stream).original_dst_v4().unwrap().as_socket().unwrap()
        }
        (TcpKind::Redirected, SocketAddr::V6(_)) => {
            socket2::SockRef::from(stream).original_dst_v6().unwrap().as_socket().unwrap()
        }
    }
}

fn perl(name: &str, capture: CapturePolicy, script: &'static str, expected: &'static str) -> Trial {
    needs(
        "perl",
        trial(name, move || {
            let mut sketch = Sketch::new(&["perl", "-MIO::Socket::IP", "-MSocket", "-e", script]);
            sketch.spec.capture = capture;
            sketch.spec.route_ports = vec![8443];
            sketch.run_serving(tell_destinations)?.expect_output(expected)
        }),
    )
}

const CONNECT: &str = r#"
    for my $to (["1.2.3.4", 443], ["10.0.0.1", 5432], ["169.254.169.254", 80], ["2001:db8::7", 8443],
                ["::ffff:9.9.9.9", 8888], ["255.255.255.254", 1], ["8.8.8.8", 53]) {
        my $s = IO::Socket::IP->new(PeerHost => $to->[0], PeerPort => $to->[1], Timeout => 3);
        print $s ? scalar <$s> : "no: $!\n";
    }"#;

pub fn trials() -> Vec<Trial> {
    vec![
        // B3, B4: whatever the port and the address, the destination is known
        perl(
            "every port of every address is captured with its original destination",
            CapturePolicy::RequireT1,
            CONNECT,
            "to 1.2.3.4:443\nto 10.0.0.1:5432\nto 169.254.169.254:80\nto [2001:db8::7]:8443\nto 9.9.9.9:8888\n\
             to 255.255.255.254:1\nto 8.8.8.8:53",
        ),
        // B4: the gateway's own port is no way around: the destination says that it was asked for itself
        perl(
            "the gateway's port is captured like every other",
            CapturePolicy::RequireT1,
            r#"for my $h ("5.6.7.8", "127.0.0.1") {
                my $s = IO::Socket::IP->new(PeerHost => $h, PeerPort => 61053, Timeout => 3);
                print scalar <$s>;
            }"#,
            "to 5.6.7.8:61053\nto 127.0.0.1:61053",
        ),
        perl(
            "without nf_tables the routes' ports are captured and others refused",
            CapturePolicy::ForceT2,
            CONNECT,
            "to 1.2.3.4:443\nno: Connection refused\nto 169.254.169.254:80\nto [2001:db8::7]:8443\n\
             no: Connection refused\nno: Connection refused\nto 8.8.8.8:53",
        ),
        perl(
            "any name server, v4 or v6, is the supervisor, which answers from the address that was asked",
            CapturePolicy::RequireT1,
            r#"for my $to ("198.18.0.1", "8.8.4.4", "2001:db8::53", "127.0.0.1") {
                my $s = IO::Socket::IP->new(PeerHost => $to, PeerPort => 53, Type => SOCK_DGRAM);
                $s->send("hello"); my $b; $s->recv($b, 200); print "$b\n";
            }"#,
            "198.18.0.1 was asked hello\n8.8.4.4 was asked hello\n2001:db8::53 was asked hello\n127.0.0.1 was asked hello",
        ),
        // B27
        needs("perl", trial("datagrams to other ports fail at once, in both families", quic_is_refused)),
        perl(
            "a server inside answers on loopback, TCP and UDP, and low ports can be bound",
            CapturePolicy::RequireT1,
            r#"my $l = IO::Socket::IP->new(LocalHost => "127.0.0.1", LocalPort => 81, Listen => 1) or die $!;
               my $l6 = IO::Socket::IP->new(LocalHost => "::1", LocalPort => 3000, Listen => 1) or die $!;
               my $u = IO::Socket::IP->new(LocalHost => "127.0.0.1", LocalPort => 3001, Type => SOCK_DGRAM) or die $!;
               if (!fork) { my $c = $l->accept; print $c "own v4\n"; $c = $l6->accept; print $c "own v6\n"; exit }
               my $s = IO::Socket::IP->new(PeerHost => "127.0.0.1", PeerPort => 81); print scalar <$s>;
               $s = IO::Socket::IP->new(PeerHost => "::1", PeerPort => 3000); print scalar <$s>;
               my $d = IO::Socket::IP->new(PeerHost => "127.0.0.1", PeerPort => 3001, Type => SOCK_DGRAM);
               $d->send("own udp"); my $b; $u->recv($b, 20); print "$b\n";"#,
            "own v4\nown v6\nown udp",
        ),
        perl(
            "nobody inside can take over the captured ports",
            CapturePolicy::RequireT1,
            r#"for my $h ("0.0.0.0", "1.2.3.4", "127.0.0.1") {
                print defined IO::Socket::IP->new(LocalHost => $h, LocalPort => 61053, Listen => 1,
                    ReuseAddr => 1, ReusePort => 1) ? "taken\n" : "kept\n";
                print defined IO::Socket::IP->new(LocalHost => $h, LocalPort => 53, Type => SOCK_DGRAM,
                    ReuseAddr => 1, ReusePort => 1) ? "taken\n" : "kept\n";
            }"#,
            "kept\nkept\nkept\nkept\nkept\nkept",
        ),
        // B46: no raw, packet, vsock, crypto sockets; netlink for routes alone
        perl(
            "sockets of other families, raw ones and other netlink buses are refused",
            CapturePolicy::RequireT1,
            r#"my @t = ([2,3,1],[10,3,58],[17,3,768],[40,1,0],[38,5,0],[16,3,12],[16,3,9],[16,3,15],[16,3,0],[31,3,1],[1,1,0],[2,2,0]);
               print join " ", map { socket(my $s, $_->[0], $_->[1], $_->[2]) ? "yes" : "no" } @t;"#,
            "no no no no no no no no yes no yes yes",
        ),
        // B46: every write over ROUTE is refused
        needs(
            "ip",
            prints(
                "the routes and the device cannot be changed from inside",
                "ip link set lo down 2>/dev/null && echo down; ip route add 1.1.1.1 dev lo 2>/dev/null && echo added; \
             ip link add d type dummy 2>/dev/null && echo made; ip -o link | wc -l",
                "1",
            ),
        ),
        trial("the sockets come with their tier", || {
            let mut tiers = Vec::new();
            for capture in [CapturePolicy::AllowT2, CapturePolicy::ForceT2] {
                let mut sketch = Sketch::new(&["true"]);
                sketch.spec.capture = capture;
                let mut bottle = sketch.launch()?;
                let captured = bottle.take_captured().unwrap();
                tiers.push((captured.tier, captured.tcp.len(), captured.dns.len()));
            }
            assert_eq!(tiers, [(CaptureTier::T1, 2, 2), (CaptureTier::T2, 6, 2)]);
            Ok(())
        }),
        trial("large answers pass through the captured sockets", large_answers),
    ]
}

fn quic_is_refused() -> Outcome {
    let script = r#"for my $to ("1.2.3.4", "2001:db8::1") {
        my $s = IO::Socket::IP->new(PeerHost => $to, PeerPort => 443, Type => SOCK_DGRAM);
        $s->send("x"); my $b; my $r = $s->recv($b, 10); print defined $r ? "answered\n" : "$!\n";
    }"#;
    let started = Instant::now();
    let ran = Sketch::new(&["timeout", "5", "perl", "-MIO::Socket::IP", "-MSocket", "-e", script]).run()?;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    ran.expect_output("Connection refused\nConnection refused")
}

fn large_answers() -> Outcome {
    let script = "exec 3<>/dev/tcp/203.0.113.9/9000; cat <&3 | wc -c";
    let (seen, served) = mpsc::channel();
    let ran = Sketch::new(&["bash", "-c", script]).run_serving(move |captured| {
        let first = captured.tcp.into_iter().next().unwrap();
        thread::spawn(move || {
            let (mut stream, peer) = first.listener.accept().unwrap();
            seen.send(peer.ip()).unwrap();
            stream.write_all(&vec![b'x'; 5_000_000]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0]);
        });
    })?;
    let _: IpAddr = served.recv()?;
    ran.expect_output("5000000")
}
