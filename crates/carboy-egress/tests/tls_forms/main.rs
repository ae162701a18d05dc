//! TLS as no library sends it, against the gateway's own side: records and messages that are empty, too long, cut, out of
//! order, of other versions, or of other protocols; handshakes that are broken off in every place; records after them. The
//! forms are those of tlsfuzzer's scripts that apply to a server of TLS 1.2 and 1.3 without client certificates.
//!
//! Each form ends with an alert or a closed connection, within its time and in bounded memory, and the next client is
//! served. A request never comes of one.

#![allow(clippy::unwrap_used)]

mod hello;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use carboy_egress::GatewayLimits;
use futures_util::future::join_all;
use hello::{
    ALERT, ALPN, EARLY_DATA, GROUPS, HANDSHAKE, Hello, KEY_SHARE, PRE_SHARED_KEY, PSK_MODES, RENEGOTIATION,
    SERVER_NAME, SIGNATURES, VERSIONS, message, name, one, record, share, two,
};
use http::{Response, StatusCode};
use rustls::pki_types::ServerName;
use support::{Bench, HOST, Kind, Origin, client_config, full, recording, route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHANGE_CIPHER_SPEC: u8 = 0x14;
const APPLICATION_DATA: u8 = 0x17;
const HEARTBEAT: u8 = 0x18;
const SERVER_HELLO: u8 = 2;
const FINISHED: u8 = 20;

/// What one form may take, the gateway's own time for a handshake included.
const FORM_WAIT_MAX: Duration = Duration::from_secs(10);
/// The gateway's time for a handshake here: what is left incomplete ends by it.
const HANDSHAKE_TIME: Duration = Duration::from_millis(500);
/// What the process may grow by over all forms.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// What becomes of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// An alert, or just closed; no ServerHello.
    Refused,
    /// A ServerHello: it is a hello, whatever else it is. What follows is closed, because nothing more comes.
    Answered,
}
use Ends::{Answered, Refused};

/// Resident octets of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn bench() -> Bench {
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::new(full("hello")));
    let limits = GatewayLimits { handshake: HANDSHAKE_TIME, idle: HANDSHAKE_TIME, ..GatewayLimits::default() };
    Bench::with(Kind::Tls(&["http/1.1"]), vec![route(HOST)], origin, answer, limits).await
}

/// Sends the bytes, as far as they are taken, and reads to the end.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = stream.split();
    let mut got = Vec::new();
    // An error is a reset: closed as well.
    let _ = tokio::join!(to.write_all(bytes), from.read_to_end(&mut got));
    got
}

fn ends(got: &[u8]) -> Ends {
    let is_hello = got.first() == Some(&HANDSHAKE) && got.get(5) == Some(&SERVER_HELLO);
    // HelloRetryRequest has the form of a ServerHello.
    if is_hello { Answered } else { Refused }
}

/// Opens a connection, sends the bytes and sees how it ends; what is not as it should be.
async fn try_one(bench: &Bench, (what, bytes, want): (&str, Vec<u8>, Ends)) -> Option<String> {
    let stream = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    let begin = Instant::now();
    let got = tokio::time::timeout(FORM_WAIT_MAX, exchange(stream, &bytes)).await;
    let Ok(got) = got else { return Some(format!("{what}: left open")) };
    let wrong = || format!("{what}: not {want:?}, {:02x?} after {:?}", &got[..got.len().min(16)], begin.elapsed());
    (ends(&got) != want).then(wrong)
}

async fn serves_on(bench: &Bench) {
    assert_eq!(bench.client(&["http/1.1"]).await.get("/").await.status, StatusCode::OK);
}

/// Records around a hello that is in order.
fn records() -> Vec<(&'static str, Vec<u8>, Ends)> {
    let hello = Hello::new().bytes();
    let text = Hello::new().message();
    let empty = record(HANDSHAKE, 0x0301, &[]);
    let versions = |version: u16| record(HANDSHAKE, version, &Hello::new().message());
    let (head, rest) = text.split_at(40);
    let pieces =
        |between: &[u8]| [record(HANDSHAKE, 0x0301, head), between.to_vec(), record(HANDSHAKE, 0x0301, rest)].concat();
    vec![
        ("a hello in order", hello.clone(), Answered),
        ("a hello in two records", pieces(&[]), Answered),
        ("an empty record before a hello", [empty.clone(), hello.clone()].concat(), Refused),
        ("an empty record within a hello", pieces(&empty), Refused),
        ("empty records without end", empty.repeat(100_000), Refused),
        ("a record beyond 2^14 octets", record(HANDSHAKE, 0x0301, &vec![1; (1 << 14) + 1]), Refused),
        ("a record of the longest length", record(HANDSHAKE, 0x0301, &vec![1; 0xffff]), Refused),
        ("a record's head and no more", hello[..5].to_vec(), Refused),
        ("half a hello", hello[..hello.len() / 2].to_vec(), Refused),
        ("all but the last octet", hello[..hello.len() - 1].to_vec(), Refused),
        ("one octet", hello[..1].to_vec(), Refused),
        ("a change of ciphers within a hello", pieces(&record(CHANGE_CIPHER_SPEC, 0x0303, &[1])), Refused),
        ("a warning within a hello", pieces(&record(ALERT, 0x0301, &[1, 90])), Refused),
        ("an alert of the end within a hello", pieces(&record(ALERT, 0x0301, &[1, 0])), Refused),
        ("data within a hello", pieces(&record(APPLICATION_DATA, 0x0303, b"GET / HTTP/1.1\r\n\r\n")), Refused),
        ("a heartbeat within a hello", pieces(&record(HEARTBEAT, 0x0303, &[1, 0xff, 0xff])), Refused),
        ("a record of no kind within a hello", pieces(&record(0x63, 0x0303, &[0])), Refused),
        ("a record of version 0.0", versions(0x0000), Refused),
        ("a record of version 2.0", versions(0x0200), Refused),
        ("a record of version 5.5", versions(0x0505), Refused),
        ("a record of version 255.255", versions(0xffff), Refused),
        ("a record of TLS 1.2", versions(0x0303), Answered),
        // RFC 8446, 5.1: the version of a record is ignored for all purposes.
        ("a record of SSL 3", versions(0x0300), Answered),
        ("a record of TLS 1.3", versions(0x0304), Answered),
        ("two hellos in a record", record(HANDSHAKE, 0x0301, &text.repeat(2)), Refused),
        ("two hellos", hello.repeat(2), Answered),
        ("a hello and a beginning of something", [hello.clone(), vec![HANDSHAKE]].concat(), Answered),
        ("a hello, and plain HTTP", [&hello[..], b"GET / HTTP/1.1\r\n\r\n"].concat(), Answered),
    ]
}

/// Messages that are no ClientHello.
fn messages() -> Vec<(&'static str, Vec<u8>, Ends)> {
    let text = Hello::new().message();
    let as_record = |body: &[u8]| record(HANDSHAKE, 0x0301, body);
    let with = |at: usize, value: u8| {
        let mut bytes = text.clone();
        bytes[at] = value;
        as_record(&bytes)
    };
    vec![
        ("an empty message", as_record(&message(1, &[])), Refused),
        ("a message longer than any", with(1, 0xff), Refused),
        ("a message longer than it is", with(2, 0x7f), Refused),
        ("a message shorter than it is", with(3, text[3] - 1), Refused),
        ("a request for a hello", as_record(&message(0, &[])), Refused),
        ("a ServerHello", as_record(&message(SERVER_HELLO, &text[4..])), Refused),
        ("a ticket", as_record(&message(4, &[0; 16])), Refused),
        ("an end of early data", as_record(&message(5, &[])), Refused),
        ("a certificate", as_record(&message(11, &[0; 16])), Refused),
        ("an exchange of keys", as_record(&message(16, &[0; 66])), Refused),
        ("a Finished", as_record(&message(FINISHED, &[0; 32])), Refused),
        ("an update of keys", as_record(&message(24, &[1])), Refused),
        ("a message of no kind", as_record(&message(99, &text[4..])), Refused),
        ("a change of ciphers first", record(CHANGE_CIPHER_SPEC, 0x0303, &[1]), Refused),
        ("an alert first", record(ALERT, 0x0301, &[2, 40]), Refused),
        ("data first", record(APPLICATION_DATA, 0x0303, &[0; 64]), Refused),
        ("a heartbeat first", record(HEARTBEAT, 0x0301, &[1, 0x40, 0]), Refused),
        (
            "a hello of SSL 2",
            [&[0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10][..], &[1, 0, 0x80].repeat(7), &[9; 16]].concat(),
            Refused,
        ),
    ]
}

/// Fields of a hello before its extensions.
fn fields() -> Vec<(&'static str, Vec<u8>, Ends)> {
    let hello = |change: fn(&mut Hello)| Hello::new().changed(change).bytes();
    let older = |change: fn(&mut Hello)| Hello::older().changed(change).bytes();
    vec![
        ("TLS 1.2", Hello::older().bytes(), Answered),
        ("TLS 1.1", older(|hello| hello.version = 0x0302), Refused),
        ("TLS 1.0", older(|hello| hello.version = 0x0301), Refused),
        ("SSL 3", older(|hello| hello.version = 0x0300), Refused),
        ("SSL 2 in a hello of now", older(|hello| hello.version = 0x0002), Refused),
        ("version 0.0", older(|hello| hello.version = 0), Refused),
        // RFC 5246, E.1: the highest version that a client knows, so 1.2 is answered.
        ("a version of the future, said as before 1.3", older(|hello| hello.version = 0x0399), Answered),
        // RFC 7507: who falls back to 1.2 although 1.3 is spoken is told; rustls leaves that to the downgrade marks of 1.3.
        ("a fallback to TLS 1.2", older(|hello| hello.suites = two(&[0xc0, 0x2b, 0x56, 0x00])), Answered),
        ("no suites", hello(|hello| hello.suites = two(&[])), Refused),
        ("suites of an odd length", hello(|hello| hello.suites = two(&[0x13, 0x01, 0x13])), Refused),
        ("suites of nobody", hello(|hello| hello.suites = two(&[0x0a, 0x0a, 0xfa, 0xfa])), Refused),
        ("suites without encryption", older(|hello| hello.suites = two(&[0, 0, 0, 1, 0, 2, 0xc0, 6])), Refused),
        ("suites for export and of RC4", older(|hello| hello.suites = two(&[0, 3, 0, 5, 0, 8, 0, 0x17])), Refused),
        ("suites with a static key of RSA", older(|hello| hello.suites = two(&[0, 0x2f, 0, 0x9c])), Refused),
        ("suites with CBC", older(|hello| hello.suites = two(&[0xc0, 9, 0xc0, 0x13])), Refused),
        ("suites of anonymous keys", older(|hello| hello.suites = two(&[0, 0x34, 0xc0, 0x18])), Refused),
        ("suites longer than the hello", hello(|hello| hello.suites[0] = 0xff), Refused),
        ("no compressions", hello(|hello| hello.compressions = one(&[])), Refused),
        ("compression alone", hello(|hello| hello.compressions = one(&[1])), Refused),
        ("a session of 33 octets", hello(|hello| hello.session = vec![1; 33]), Refused),
        ("no session", hello(|hello| hello.session = vec![]), Answered),
        ("octets behind the extensions", hello(|hello| hello.behind = vec![0; 4]), Refused),
    ]
}

/// Extensions that are malformed, missing, twice, or hostile.
fn extensions() -> Vec<(&'static str, Vec<u8>, Ends)> {
    let new = Hello::new;
    let point = |key: &[u8]| new().with(KEY_SHARE, two(&share(29, key))).bytes();
    let huge = vec![0; 16_000];
    let spread = |bytes: Vec<u8>| {
        let pieces = bytes.chunks(16_000).map(|piece| record(HANDSHAKE, 0x0301, piece));
        pieces.collect::<Vec<_>>().concat()
    };
    let many = (0..5_000_u16).fold(new(), |hello, n| hello.and(0x2000 + n, []));
    let ticket = [two(&[&two(&[3; 64])[..], &[0; 4]].concat()), two(&one(&[4; 32]))].concat();
    vec![
        (
            "an extension longer than the hello",
            new()
                .with(SERVER_NAME, name(HOST.as_bytes()))
                .changed(|hello| {
                    hello.extensions.last_mut().unwrap().1.truncate(3);
                })
                .bytes(),
            Refused,
        ),
        ("an extension twice", new().and(GROUPS, two(&[0, 29])).bytes(), Refused),
        ("an unknown extension", new().with(0x1a1a, vec![1, 2, 3]).bytes(), Answered),
        ("an unknown extension twice", new().and(0x1a1a, []).and(0x1a1a, []).bytes(), Refused),
        ("five thousand extensions", spread(many.message()), Answered),
        (
            "padding over four records",
            spread(new().and(21, huge.clone()).and(0x1a1a, huge.clone()).and(0x2a2a, huge.clone()).message()),
            Answered,
        ),
        ("a hello beyond 64 KiB", spread(new().and(21, vec![0; 0xfff0]).and(0x1a1a, huge).message()), Refused),
        ("no server name", new().without(SERVER_NAME).bytes(), Answered),
        ("an empty list of names", new().with(SERVER_NAME, two(&[])).bytes(), Refused),
        ("an empty name", new().with(SERVER_NAME, name(b"")).bytes(), Refused),
        (
            "two names",
            new()
                .with(SERVER_NAME, two(&[&[0], &two(HOST.as_bytes())[..], &[0], &two(b"other.example")].concat()))
                .bytes(),
            Refused,
        ),
        (
            "a name of another kind",
            new().with(SERVER_NAME, two(&[&[9], &two(HOST.as_bytes())[..]].concat())).bytes(),
            Refused,
        ),
        ("a name with a NUL", new().with(SERVER_NAME, name(b"api.example\0.evil.example")).bytes(), Refused),
        ("a name of 60,000 octets", spread(new().with(SERVER_NAME, name(&[b'a'; 60_000])).message()), Refused),
        ("a name longer than its extension", new().with(SERVER_NAME, [0, 5, 0, 0xff, 0xff, 1]).bytes(), Refused),
        ("versions of nobody", new().with(VERSIONS, one(&[0x0a, 0x0a, 0x7f, 0x1c])).bytes(), Refused),
        ("SSL 3 among the versions alone", new().with(VERSIONS, one(&[3, 0])).bytes(), Refused),
        ("no version among the versions", new().with(VERSIONS, one(&[])).bytes(), Refused),
        ("versions of an odd length", new().with(VERSIONS, one(&[3, 4, 3])).bytes(), Refused),
        ("TLS 1.1 before TLS 1.3", new().with(VERSIONS, one(&[3, 2, 3, 4])).bytes(), Answered),
        ("no groups", new().without(GROUPS).bytes(), Refused),
        (
            "groups of nobody",
            new().with(GROUPS, two(&[0x0a, 0x0a, 0xfe, 0])).with(KEY_SHARE, two(&share(0x0a0a, &[1]))).bytes(),
            Refused,
        ),
        ("an empty list of groups", new().with(GROUPS, two(&[])).bytes(), Refused),
        ("no shares of keys: another hello is asked for", new().with(KEY_SHARE, two(&[])).bytes(), Answered),
        ("no extension of shares", new().without(KEY_SHARE).bytes(), Refused),
        ("two shares of a group", new().with(KEY_SHARE, two(&share(29, &[9; 32]).repeat(2))).bytes(), Refused),
        ("a share that is too short", point(&[9; 31]), Refused),
        ("a share that is too long", point(&[9; 33]), Refused),
        ("an empty share", point(&[]), Refused),
        ("a share of order one", point(&[0; 32]), Refused),
        (
            "a point that is on no curve",
            new()
                .with(GROUPS, two(&[0, 23]))
                .with(KEY_SHARE, two(&share(23, &[[4].as_slice(), &[0xff; 64]].concat())))
                .bytes(),
            Refused,
        ),
        ("a share longer than its extension", new().with(KEY_SHARE, [0, 36, 0, 29, 0xff, 0xff]).bytes(), Refused),
        ("no signatures", new().without(SIGNATURES).bytes(), Refused),
        ("an empty list of signatures", new().with(SIGNATURES, two(&[])).bytes(), Refused),
        // In TLS 1.3 the alert comes behind the ServerHello.
        ("signatures of nobody", new().with(SIGNATURES, two(&[0xfe, 0xfe])).bytes(), Answered),
        ("signatures of MD5 and SHA-1 alone", new().with(SIGNATURES, two(&[1, 1, 2, 1, 2, 3])).bytes(), Answered),
        ("signatures of an odd length", new().with(SIGNATURES, two(&[4, 3, 8])).bytes(), Refused),
        ("no protocol in ALPN", new().with(ALPN, two(&[])).bytes(), Refused),
        ("an empty protocol in ALPN", new().with(ALPN, two(&one(b""))).bytes(), Refused),
        ("a protocol longer than its list", new().with(ALPN, two(&[9, b'h'])).bytes(), Refused),
        ("protocols that nobody speaks", new().with(ALPN, two(&one(b"spdy/1"))).bytes(), Answered),
        ("early data without a ticket", new().with(EARLY_DATA, []).bytes(), Answered),
        ("early data with a body", new().with(EARLY_DATA, [1]).bytes(), Refused),
        ("a ticket of nobody's", new().and(PRE_SHARED_KEY, ticket.clone()).bytes(), Answered),
        (
            "a ticket of nobody's with early data",
            [
                new().with(EARLY_DATA, []).and(PRE_SHARED_KEY, ticket.clone()).bytes(),
                record(APPLICATION_DATA, 0x0303, &[0x41; 200]),
            ]
            .concat(),
            Answered,
        ),
        ("a ticket that is not last", new().and(PRE_SHARED_KEY, ticket.clone()).and(0x1a1a, []).bytes(), Refused),
        ("a ticket without modes", new().without(PSK_MODES).and(PRE_SHARED_KEY, ticket).bytes(), Refused),
        ("a ticket without an identity", new().and(PRE_SHARED_KEY, [two(&[]), two(&[])].concat()).bytes(), Refused),
        (
            "more binders than identities",
            new()
                .and(
                    PRE_SHARED_KEY,
                    [two(&[&two(&[3; 8])[..], &[0; 4]].concat()), two(&one(&[4; 32]).repeat(2))].concat(),
                )
                .bytes(),
            Refused,
        ),
        // rustls renegotiates nothing, and does not look at it (RFC 5746, 3.6 would have it refused).
        ("a renegotiation at the beginning", Hello::older().with(RENEGOTIATION, one(&[1; 12])).bytes(), Answered),
        ("a cookie of nobody's", new().with(44, two(&[1; 32])).bytes(), Answered),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b14_records_messages_and_hellos_of_every_other_form_end_with_an_alert_or_closed() {
    let bench = bench().await;
    serves_on(&bench).await;
    let before = resident();
    let forms = [records(), messages(), fields(), extensions()].concat();
    assert!(forms.len() >= 100, "{}", forms.len());
    // What is left incomplete takes the gateway's time for a handshake, so all of them at once.
    let wrong: Vec<String> =
        join_all(forms.into_iter().map(|form| try_one(&bench, form))).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let growth = resident().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{} MiB", growth >> 20);
    serves_on(&bench).await;
    // Whoever was refused is in the log, and only clients that spoke TLS had their requests sent.
    let refusals = bench.log.refusals();
    let known = ["tls_refused", "protocol_refused"];
    assert!(refusals.iter().all(|reason| known.contains(&reason.as_str())), "{refusals:?}");
    assert!(refusals.iter().filter(|reason| *reason == "tls_refused").count() >= 20, "{refusals:?}");
    assert_eq!(bench.origin.received().len(), 2);
}

/// Where a handshake of rustls is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The server's first flight has come.
    Flight,
    /// All of it.
    Handshake,
}

/// A client of rustls that has come so far, and its connection.
async fn until(
    bench: &Bench,
    version: &'static rustls::SupportedProtocolVersion,
    after: After,
) -> (rustls::ClientConnection, TcpStream) {
    let mut config = client_config(&bench.ca_pem, &["http/1.1"]);
    if version.version == rustls::ProtocolVersion::TLSv1_2 {
        config = older_config(&bench.ca_pem);
    }
    let mut client = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(HOST).unwrap()).unwrap();
    let mut stream = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    let mut step = [0_u8; 16 * 1024];
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        stream.write_all(&bytes).await.unwrap();
        if !client.is_handshaking() {
            return (client, stream);
        }
        let count = stream.read(&mut step).await.unwrap();
        assert_ne!(count, 0, "it ended in the middle of a good handshake");
        if after == After::Flight {
            return (client, stream);
        }
        client.read_tls(&mut &step[..count]).unwrap();
        client.process_new_packets().unwrap();
    }
}

fn older_config(ca_pem: &str) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Reads to the end; what came is of no interest, that it ends is.
async fn over(what: &str, stream: TcpStream, bytes: Vec<u8>) {
    let ended = tokio::time::timeout(FORM_WAIT_MAX, exchange(stream, &bytes)).await;
    assert!(ended.is_ok(), "{what}: left open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b14_a_handshake_that_is_spoilt_in_the_middle_or_afterwards_ends_there() {
    let bench = bench().await;
    let change = record(CHANGE_CIPHER_SPEC, 0x0303, &[1]);
    let encrypted = |length: usize| record(APPLICATION_DATA, 0x0303, &vec![0x5a; length]);
    let before = resident();
    let spoilt: Vec<(&str, Vec<u8>)> = vec![
        ("noise in place of a Finished", encrypted(53)),
        ("an empty record in place of a Finished", encrypted(0)),
        ("a record beyond 2^14 + 256 octets", encrypted((1 << 14) + 257)),
        ("a record of the longest length", encrypted(0xffff)),
        ("a plain Finished", record(HANDSHAKE, 0x0303, &message(FINISHED, &[0; 32]))),
        ("a plain hello", Hello::new().bytes()),
        ("a plain alert of the end", record(ALERT, 0x0303, &[1, 0])),
        ("a plain alert that is fatal", record(ALERT, 0x0303, &[2, 40])),
        ("an alert of one octet", record(ALERT, 0x0303, &[2])),
        ("an empty alert", record(ALERT, 0x0303, &[])),
        ("a change of ciphers, and noise", [change.clone(), encrypted(53)].concat()),
        ("changes of ciphers without end", change.repeat(50_000)),
        ("a change of ciphers of two octets", record(CHANGE_CIPHER_SPEC, 0x0303, &[1, 1])),
        ("a change of ciphers to something else", record(CHANGE_CIPHER_SPEC, 0x0303, &[2])),
        ("an empty change of ciphers", record(CHANGE_CIPHER_SPEC, 0x0303, &[])),
        ("a heartbeat that asks for more than it brings", record(HEARTBEAT, 0x0303, &[1, 0xff, 0xff])),
        ("a record of no kind", record(0x63, 0x0303, &[0; 16])),
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n".to_vec()),
        ("nothing more", Vec::new()),
    ];
    // TLS 1.2 has messages of its own here, all of them plain.
    let exchange_of = |key: &[u8]| record(HANDSHAKE, 0x0303, &message(16, &one(key)));
    let older: Vec<(&str, Vec<u8>)> = vec![
        ("ciphers changed before the keys are exchanged", change.clone()),
        ("an empty exchange of keys", record(HANDSHAKE, 0x0303, &message(16, &[]))),
        ("a key that is too short", exchange_of(&[4; 31])),
        ("a key that is longer than its message", record(HANDSHAKE, 0x0303, &message(16, &[0xff, 4]))),
        ("a key of order one", exchange_of(&[0; 32])),
        ("keys exchanged twice", exchange_of(&[9; 32]).repeat(2)),
        (
            "a plain Finished behind the keys",
            [exchange_of(&[9; 32]), record(HANDSHAKE, 0x0303, &message(FINISHED, &[0; 12]))].concat(),
        ),
        (
            "noise behind the keys",
            [exchange_of(&[9; 32]), change.clone(), record(HANDSHAKE, 0x0303, &[0x5a; 40])].concat(),
        ),
        ("ciphers changed twice", [exchange_of(&[9; 32]), change.clone(), change].concat()),
        ("a certificate that nobody asked for", record(HANDSHAKE, 0x0303, &message(11, &[0, 0, 0]))),
    ];
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let mut all = Vec::new();
    for version in both {
        for after in [After::Flight, After::Handshake] {
            all.extend(spoilt.iter().map(|(what, bytes)| (*what, bytes.clone(), version, after)));
        }
    }
    all.extend(older.into_iter().map(|(what, bytes)| (what, bytes, &rustls::version::TLS12, After::Flight)));
    join_all(all.into_iter().map(|(what, bytes, version, after)| {
        let bench = &bench;
        async move {
            let (_, stream) = until(bench, version, after).await;
            over(&format!("{what}, {after:?} of {:?}", version.version), stream, bytes).await;
        }
    }))
    .await;
    let growth = resident().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{} MiB", growth >> 20);
    assert!(bench.origin.received().is_empty());
    assert_eq!(bench.client(&["http/1.1"]).await.get("/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b14_keys_that_are_updated_without_end_end_the_connection_and_a_few_do_not() {
    let bench = bench().await;
    for (updates, served) in [(3, true), (10_000, false)] {
        let (mut client, stream) = until(&bench, &rustls::version::TLS13, After::Handshake).await;
        let mut bytes = Vec::new();
        for _ in 0..updates {
            client.refresh_traffic_keys().unwrap();
            client.write_tls(&mut bytes).unwrap();
        }
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut client.writer(), request.as_bytes()).unwrap();
        client.write_tls(&mut bytes).unwrap();
        let got = tokio::time::timeout(FORM_WAIT_MAX, exchange(stream, &bytes)).await.expect("left open");
        let mut rest = &got[..];
        while !rest.is_empty() && client.read_tls(&mut rest).is_ok() && client.process_new_packets().is_ok() {}
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut client.reader(), &mut answer);
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), served, "{updates}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(bench.origin.received().len(), 1);
}
