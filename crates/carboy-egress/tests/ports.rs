//! Published and forwarded ports: what was sent arrives as it was sent, and a known secret does not.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use carboy_core::audit::{EventType, Outcome};
use carboy_core::plan::{Forward, Publish, Service};
use carboy_core::route::RouteSet;
use carboy_core::verdict::{Denial, Reason};
use carboy_egress::{PORT_CONNECTIONS_MAX, Port};
use support::{Bench, Kind, SECRET, detail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// A forwarded port: where the bottle would connect, and the service's listener.
struct Joined {
    bench: Bench,
    port: Arc<Port>,
    inside: SocketAddr,
    service: TcpListener,
}

impl Joined {
    async fn start() -> Joined {
        let bench = Bench::start(Kind::Gone, vec![]).await;
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let forward = Forward { inside: 5432, to: Service::Tcp(service.local_addr().unwrap()) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = listener.local_addr().unwrap();
        let port = Port::forwarded(&forward);
        tokio::spawn(bench.gateway.clone().serve_forward(forward, port.clone(), listener));
        Joined { bench, port, inside, service }
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.inside).await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, self.service.accept().await.unwrap().0)
    }

    async fn closed(&self) -> carboy_core::audit::Event {
        self.bench.log.wait(|event| event.event_type == EventType::Port && event.action == "close").await
    }
}

async fn exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

/// Bytes without a pattern, packed regions' magic numbers among them.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn megabytes_arrive_as_they_were_sent_both_ways_at_once_and_are_counted() {
    let joined = Joined::start().await;
    let (client, service) = joined.pair().await;
    let bytes = Arc::new(noise(5 * 1024 * 1024 + 17));
    let side = |stream: TcpStream, bytes: Arc<Vec<u8>>| async move {
        let (mut read, mut write) = stream.into_split();
        let sender = tokio::spawn({
            let bytes = bytes.clone();
            async move { write.write_all(&bytes).await.unwrap() }
        });
        let mut got = Vec::new();
        timeout(PATIENCE, read.read_to_end(&mut got)).await.unwrap().unwrap();
        sender.await.unwrap();
        got == *bytes
    };
    let (here, there) = tokio::join!(side(client, bytes.clone()), side(service, bytes.clone()));
    assert!(here && there);
    let closed = joined.closed().await;
    assert_eq!((closed.result, detail(&closed, "ended").unwrap()), (Outcome::Done, "closed".to_owned()));
    let length = bytes.len().to_string();
    assert_eq!(detail(&closed, "bytes_out").unwrap(), length);
    assert_eq!(detail(&closed, "bytes_in").unwrap(), length);
    let stats = joined.port.stats();
    assert_eq!((stats.connections, stats.open, stats.bytes_out), (1, 0, bytes.len() as u64));
}

#[tokio::test]
async fn a_dialogue_waits_for_nothing() {
    let joined = Joined::start().await;
    let (mut client, mut service) = joined.pair().await;
    // The last one ends in what the secret begins with.
    for text in ["a", "SELECT 1;\n", "H4sI", "key=sk-tes"] {
        client.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(exactly(&mut service, text.len()).await, text.as_bytes());
        service.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(exactly(&mut client, text.len()).await, text.as_bytes());
    }
}

#[tokio::test]
async fn one_side_may_end_while_the_other_goes_on() {
    let joined = Joined::start().await;
    let (mut client, mut service) = joined.pair().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut service).await, b"question");
    service.write_all(b"answer").await.unwrap();
    drop(service);
    assert_eq!(all(&mut client).await, b"answer");
    assert_eq!(detail(&joined.closed().await, "ended").unwrap(), "closed");
}

#[tokio::test]
async fn a_known_secret_is_cut_before_it_leaves_and_the_entry_says_how_much_had_left() {
    let joined = Joined::start().await;
    let (mut client, mut service) = joined.pair().await;
    client.write_all(b"harmless ").await.unwrap();
    assert_eq!(exactly(&mut service, 9).await, b"harmless ");
    client.write_all(format!("and {SECRET} and more").as_bytes()).await.unwrap();
    assert_eq!(all(&mut service).await, b"");
    let closed = joined.closed().await;
    assert_eq!(closed.result, Outcome::Blocked);
    assert_eq!(detail(&closed, "bytes_out").unwrap(), "9");
    assert_eq!(detail(&closed, "reason").unwrap(), "secret_known");
    assert!(detail(&closed, "findings").unwrap().contains("known_secret:API_KEY in port stream"));
    assert!(detail(&closed, "refusal").unwrap().starts_with("x-"));
    assert_eq!(all(&mut client).await, b"");
    assert_eq!(joined.port.stats().cut, 1);
}

#[tokio::test]
async fn a_secret_that_comes_byte_by_byte_leaves_no_more_than_its_first_characters() {
    let joined = Joined::start().await;
    let (mut client, mut service) = joined.pair().await;
    let reader = tokio::spawn(async move { all(&mut service).await });
    for byte in SECRET.as_bytes() {
        if client.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let left = reader.await.unwrap();
    assert!(SECRET.as_bytes().starts_with(&left) && left.len() <= 10, "{}", String::from_utf8_lossy(&left));
    assert_eq!(joined.closed().await.result, Outcome::Blocked);
}

#[tokio::test]
async fn a_secret_in_base64_is_one_too() {
    use std::io::Write;
    let joined = Joined::start().await;
    for disguise in [
        // base64 of the secret, and the secret in a gzip stream
        b"c2stdGVzdC1acTh2VHIzTG1XNXhLZDBQeUI3bkhjMkE=".to_vec(),
        {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(format!("row: {SECRET}").as_bytes()).unwrap();
            encoder.finish().unwrap()
        },
    ] {
        let (mut client, mut service) = joined.pair().await;
        client.write_all(&disguise).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(all(&mut service).await.len() < disguise.len());
    }
    assert_eq!(joined.port.stats().cut, 2);
}

#[tokio::test]
async fn a_packed_secret_is_one_too_wherever_it_begins_and_however_it_pauses() {
    use std::io::Write;
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(SECRET.as_bytes()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(SECRET.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let decoy = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\0\x60\xea\x9f\x15";
    let joined = Joined::start().await;
    for bytes in [[b"hello ", &zlib.finish().unwrap()[..]].concat(), [&decoy.repeat(24)[..], &gzip].concat()] {
        for piece in [bytes.len(), 6] {
            let (mut client, mut service) = joined.pair().await;
            for piece in bytes.chunks(piece) {
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let _ = client.shutdown().await;
            let got = all(&mut service).await;
            assert!(got.len() + 16 < bytes.len(), "{} of {} in pieces of {piece}", got.len(), bytes.len());
            assert_eq!(joined.closed().await.result, Outcome::Blocked);
        }
    }
    assert_eq!(joined.port.stats().cut, 4);
}

#[tokio::test]
async fn one_connection_too_many_is_reset_and_a_place_that_is_given_back_is_used() {
    let joined = Joined::start().await;
    let mut open = Vec::new();
    for _ in 0..PORT_CONNECTIONS_MAX {
        open.push(joined.pair().await);
    }
    let mut one_more = TcpStream::connect(joined.inside).await.unwrap();
    assert!(timeout(PATIENCE, one_more.read(&mut [0])).await.unwrap().is_err());
    assert_eq!((joined.port.stats().refused, joined.port.stats().open), (1, PORT_CONNECTIONS_MAX as u64));
    drop(open.pop());
    joined.closed().await;
    let (mut client, mut service) = joined.pair().await;
    client.write_all(b"in").await.unwrap();
    assert_eq!(exactly(&mut service, 2).await, b"in");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_written_down_once() {
    let joined = Joined::start().await;
    drop(joined.service);
    for _ in 0..3 {
        let mut client = TcpStream::connect(joined.inside).await.unwrap();
        assert!(timeout(PATIENCE, client.read(&mut [0])).await.unwrap().is_err());
    }
    let failed = joined.bench.log.wait(|event| event.action == "connect").await;
    assert_eq!((failed.event_type, failed.result), (EventType::Port, Outcome::Failed));
    assert_eq!(joined.bench.log.events().len(), 1);
    assert_eq!(joined.port.stats().failed, 3);
}

#[tokio::test]
async fn the_end_of_the_run_ends_every_connection_and_closes_the_listener() {
    let joined = Joined::start().await;
    let (mut client, mut service) = joined.pair().await;
    joined.bench.log.wait(|event| event.action == "open").await;
    joined.bench.gateway.shutdown();
    assert_eq!(all(&mut client).await, b"");
    assert_eq!(all(&mut service).await, b"");
    assert_eq!(detail(&joined.closed().await, "ended").unwrap(), "run_ends");
    let gone = async {
        while TcpStream::connect(joined.inside).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn c10_while_the_routes_are_closed_no_port_carries_anything_either() {
    let joined = Joined::start().await;
    let (mut client, mut service) = joined.pair().await;
    joined.bench.log.wait(|event| event.action == "open").await;
    joined.bench.gateway.cut_off(Denial::new(Reason::CutOff, "by the operator"));
    // Neither what is under way, in either direction,
    let _ = client.write_all(b"out").await;
    let _ = service.write_all(b"in").await;
    assert_eq!((all(&mut client).await, all(&mut service).await), (Vec::new(), Vec::new()));
    let closed = joined.closed().await;
    assert_eq!(
        (detail(&closed, "ended").unwrap(), detail(&closed, "reason").unwrap()),
        ("cut_off".into(), "cut_off".into())
    );
    // nor what comes now: it is reset, and the service hears nothing of it.
    let mut late = TcpStream::connect(joined.inside).await.unwrap();
    assert!(timeout(PATIENCE, late.read(&mut [0])).await.unwrap().is_err());
    let refused = joined.bench.log.wait(|event| event.action == "connect").await;
    assert_eq!((refused.result, detail(&refused, "reason").unwrap()), (Outcome::Denied, "cut_off".into()));
    // New routes open none of it.
    joined.bench.gateway.replace_routes(RouteSet::new(vec![support::route("other.example")], 9));
    let mut late = TcpStream::connect(joined.inside).await.unwrap();
    assert!(timeout(PATIENCE, late.read(&mut [0])).await.unwrap().is_err());
    assert_eq!(joined.port.stats().connections, 1);
    joined.bench.gateway.restore();
    let (mut client, mut service) = joined.pair().await;
    client.write_all(b"again").await.unwrap();
    assert_eq!(exactly(&mut service, 5).await, b"again");
}

#[tokio::test]
async fn without_a_log_nothing_passes() {
    let joined = Joined::start().await;
    joined.bench.log.broken.store(true, Ordering::SeqCst);
    let (mut client, mut service) = joined.pair().await;
    let _ = client.write_all(b"anything").await;
    assert_eq!(all(&mut service).await, b"");
}

#[tokio::test]
async fn a_published_port_carries_to_what_the_composer_connected() {
    let bench = Bench::start(Kind::Gone, vec![]).await;
    let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = program.local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = listener.local_addr().unwrap();
    let port = Port::published(&Publish { listen, inside: 3000 });
    tokio::spawn(bench.gateway.clone().serve_publish(port.clone(), listener, move || TcpStream::connect(address)));
    let mut client = TcpStream::connect(listen).await.unwrap();
    let (mut served, _) = program.accept().await.unwrap();
    client.write_all(b"GET").await.unwrap();
    assert_eq!(exactly(&mut served, 3).await, b"GET");
    // What a program inside serves is scanned as well.
    served.write_all(format!("page {SECRET}").as_bytes()).await.unwrap();
    assert_eq!(all(&mut client).await, b"");
    let closed = bench.log.wait(|event| event.action == "close").await;
    assert_eq!(
        (detail(&closed, "way").unwrap(), detail(&closed, "inside").unwrap()),
        ("publish".into(), "3000".into())
    );
    assert_eq!(closed.result, Outcome::Blocked);
    // Nobody listens any more.
    drop((program, served));
    let mut client = TcpStream::connect(listen).await.unwrap();
    assert!(timeout(PATIENCE, client.read(&mut [0])).await.unwrap().is_err());
    assert_eq!(port.stats().failed, 1);
}
