//! What comes before a request, and what a request may not be: ClientHellos in pieces, signatures.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use support::{Bench, HOST, Kind, client_config, detail, full, route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A ClientHello for [`HOST`], as one record, and the client that made it.
fn hello(bench: &Bench, alpn: &[&str]) -> (rustls::ClientConnection, Vec<u8>) {
    let config = Arc::new(client_config(&bench.ca_pem, alpn));
    let mut client = rustls::ClientConnection::new(config, ServerName::try_from(HOST).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    (client, bytes)
}

/// The same handshake message in records of so many octets (RFC 8446, 5.1).
fn in_records(record: &[u8], size: usize) -> Vec<u8> {
    let (head, message) = record.split_at(5);
    let piece = |piece: &[u8]| [&head[..3], &(piece.len() as u16).to_be_bytes(), piece].concat();
    message.chunks(size).flat_map(piece).collect()
}

/// Goes on with the handshake and asks for `/`; what came back.
async fn ask(mut client: rustls::ClientConnection, mut stream: TcpStream) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    client.writer().write_all(request.as_bytes()).unwrap();
    let (mut out, mut step) = (Vec::new(), [0_u8; 16 * 1024]);
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        stream.write_all(&bytes).await.unwrap();
        let count = stream.read(&mut step).await.unwrap_or(0);
        client.read_tls(&mut &step[..count]).unwrap();
        if client.process_new_packets().is_err() {
            return String::from_utf8(out).unwrap();
        }
        let _ = client.reader().read_to_end(&mut out);
        if count == 0 {
            return String::from_utf8_lossy(&out).into_owned();
        }
    }
}

#[tokio::test]
async fn b14_a_hello_in_many_records_is_put_together_and_decided_on_as_one() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    for size in [1, 7, 64, 300] {
        let (client, record) = hello(&bench, &["http/1.1"]);
        let mut stream = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
        stream.write_all(&in_records(&record, size)).await.unwrap();
        let answer = ask(client, stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{size}: {answer}");
    }
    // Cut at any octet of TCP, over many packets.
    let (client, record) = hello(&bench, &["http/1.1"]);
    let mut stream = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in record.chunks(11) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(ask(client, stream).await.starts_with("HTTP/1.1 200"));
    // In pieces it is still for one host: another than was dialled is refused.
    let (client, record) = hello(&bench, &["http/1.1"]);
    let mut stream = TcpStream::connect(bench.listen("other.example", 443).await).await.unwrap();
    stream.write_all(&in_records(&record, 5)).await.unwrap();
    let answer = ask(client, stream).await;
    assert!(answer.contains("x-carboy-reason: host_not_allowed"), "{answer}");
    assert_eq!(bench.origin.received().len(), 5);
}

#[tokio::test]
async fn b14_a_hello_beyond_16_kib_is_read_and_one_that_is_none_is_refused_and_written_down() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    // As large as hellos with many keys for times to come are: names of protocols fill it here, over two records.
    let names: Vec<String> = (0..80).map(|n| format!("{n:03}{}", "x".repeat(240))).collect();
    let mut offered: Vec<&str> = names.iter().map(String::as_str).collect();
    offered.push("http/1.1");
    let (client, records) = hello(&bench, &offered);
    assert!(records.len() > 16 * 1024, "{}", records.len());
    let mut stream = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    stream.write_all(&records).await.unwrap();
    assert!(ask(client, stream).await.starts_with("HTTP/1.1 200"));

    let (_, record) = hello(&bench, &["http/1.1"]);
    let with = |at: usize, value: u8| {
        let mut bytes = record.clone();
        bytes[at] = value;
        bytes
    };
    let malformed: [(&str, Vec<u8>); 6] = [
        ("another handshake message", with(5, 2)),
        ("a length beyond every limit", with(6, 0xff)),
        ("a length that is too short", with(8, 3)),
        (
            "a record of another kind behind the first octet",
            [&[0x16, 3, 1, 0, 2, 1, 0][..], &[0x17, 3, 3, 0, 1, 0]].concat(),
        ),
        ("a version of nobody", [&[0x16, 9, 9, 0, 1, 1][..], &[0; 64]].concat()),
        ("noise", [&[0x16][..], &[0xa5; 400]].concat()),
    ];
    for (what, bytes) in malformed {
        let before = bench.log.refusals().len();
        let mut stream = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{what}: left open");
        let told = bench.log.wait(|event| detail(event, "reason").as_deref() == Some("tls_refused")).await;
        assert_eq!(told.action, "connect");
        assert!(bench.log.refusals().len() >= before, "{what}");
    }
    assert_eq!(bench.origin.received().len(), 1);
}

#[tokio::test]
async fn b43_what_is_signed_with_a_key_of_aws_is_not_passed_on() {
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![route(HOST)]).await;
    let v4 = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=5d67";
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=5d67";
    let requests: [(Method, String, &str, &str); 9] = [
        (Method::GET, "/b".into(), "authorization", v4),
        (Method::PUT, "/b".into(), "authorization", v4),
        (Method::GET, "/b".into(), "authorization", "aws4-hmac-sha256 Credential=x"),
        (Method::GET, "/b".into(), "authorization", " AWS4-ECDSA-P256-SHA256 Credential=x"),
        (Method::GET, "/b".into(), "authorization", "AWS AKIDEXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg="),
        (Method::PUT, "/b".into(), "x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        (Method::PUT, format!("/b?{query}"), "x-a", "b"),
        (Method::POST, "/b?%58-amz-%53ignature=5d67".into(), "x-a", "b"),
        (Method::DELETE, "/b?AWSAccessKeyId=AKIDEXAMPLE&Signature=x".into(), "x-a", "b"),
    ];
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let mut client = bench.client(alpn).await;
        for (method, path, name, value) in &requests {
            let uri = if alpn == ["h2"] { format!("https://{HOST}{path}") } else { path.clone() };
            let request = Request::builder().method(method).uri(uri).header("host", HOST).header(*name, *value);
            let got = client.send(request.body(full("")).unwrap()).await;
            assert_eq!((got.status.as_u16(), got.reason()), (403, "signed_request"), "{method} {path} {value}");
        }
    }
    assert_eq!(bench.log.refusals().len(), 2 * requests.len());
    // A download that somebody else presigned: this is how release assets are fetched.
    let got = bench.client(&["http/1.1"]).await.get(&format!("/asset?{query}")).await;
    assert_eq!(got.status, StatusCode::OK);
    assert_eq!(bench.origin.received().len(), 1);
}
