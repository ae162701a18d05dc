//! Programs that are told of a proxy: what comes through CONNECT and in absolute form is decided on like a bottle's.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use carboy_core::host::HostPattern;
use carboy_core::route::{AuthScheme, Route, RouteAuth};
use carboy_core::secret::{Secret, SecretText};
use carboy_egress::{GatewayLimits, ZoneLimits};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use support::{Bench, Client, HOST, Kind, Origin, SECRET, full, recording, route, secret_name, tls_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const PASSWORD: &str = "open-sesame-7";

fn password() -> Arc<SecretText> {
    Arc::new(Secret::new(PASSWORD.to_owned()))
}

/// `user:open-sesame-7`
const RIGHT: &str = "Proxy-Authorization: Basic dXNlcjpvcGVuLXNlc2FtZS03\r\n";

async fn proxy(bench: &Bench) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, gateway) = (listener.local_addr().unwrap(), bench.gateway.clone());
    tokio::spawn(async move { gateway.serve_proxy_tcp(listener, password()).await });
    address
}

/// What the proxy answers to these bytes, to its end or to the end of a head that opens a tunnel.
async fn said(proxy: SocketAddr, bytes: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let (mut out, mut step) = (Vec::new(), [0_u8; 4096]);
    loop {
        let count = stream.read(&mut step).await.unwrap_or(0);
        out.extend_from_slice(&step[..count]);
        let tunnel = out.starts_with(b"HTTP/1.1 200 Connection") && out.ends_with(b"\r\n\r\n");
        if count == 0 || tunnel {
            return (stream, String::from_utf8(out).unwrap());
        }
    }
}

async fn tunnel(proxy: SocketAddr, authority: &str) -> TcpStream {
    let (stream, answer) =
        said(proxy, &format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{RIGHT}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stream
}

async fn get(client: &mut Client, host: &str, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).header("host", host).body(full("")).unwrap();
    let Client::H1(sender) = client else { panic!("HTTP/1 was offered") };
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

fn with_key() -> Route {
    let mut route = route(HOST);
    route.auth = Some(RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret: secret_name() });
    route
}

#[tokio::test]
async fn b20_a_tunnel_passes_every_step_and_the_key_is_set_behind_it() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![with_key()]).await;
    let stream = tunnel(proxy(&bench).await, &format!("{HOST}:443")).await;
    let mut client = tls_client(stream, &bench.ca_pem, HOST, &["http/1.1"]).await;
    assert_eq!(get(&mut client, HOST, "/a").await, (StatusCode::OK, "hello".into()));
    assert_eq!(bench.origin.received()[0].headers["authorization"], format!("Bearer {SECRET}"));
    // A secret of the run is seen in there as anywhere.
    let (status, _) = get(&mut client, HOST, &format!("/a?x={SECRET}")).await;
    assert_eq!((status, bench.log.refusals()), (StatusCode::FORBIDDEN, vec!["secret_known".to_owned()]));
    assert_eq!(bench.origin.received().len(), 1);
}

#[tokio::test]
async fn b20_a_unix_socket_is_the_same_proxy_and_its_file_decides_who_may_use_it() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("proxy")).unwrap();
    let gateway = bench.gateway.clone();
    let served = tokio::spawn(async move { gateway.serve_proxy_unix(listener).await });
    let mut stream = UnixStream::connect(dir.path().join("proxy")).await.unwrap();
    stream.write_all(format!("GET http://{HOST}/a?b HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
    assert_eq!(bench.origin.received()[0].target, "/a?b");
    // Cut closes the listener.
    bench.gateway.shutdown();
    served.await.unwrap();
}

#[tokio::test]
async fn each_request_in_absolute_form_has_its_own_host_and_the_password_goes_no_further() {
    // B20, B22
    let other = Route::plain(2, HostPattern::parse("other.example").unwrap());
    let bench = Bench::start(Kind::Plain, vec![route(HOST), other]).await;
    let proxy = proxy(&bench).await;
    let first = format!("GET http://{HOST}/1 HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n");
    let second = format!("GET http://denied.example/2 HTTP/1.1\r\nHost: denied.example\r\n{RIGHT}\r\n");
    // Pipelined: the second is not answered by what was decided on the first.
    let (_, answer) = said(proxy, &(first.clone() + &second)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    let (_, answer) = said(proxy, &second).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("host_not_allowed"), "{answer}");
    let received = bench.origin.received();
    assert_eq!((received.len(), received[0].target.as_str()), (1, "/1"));
    assert!(!format!("{received:?}").to_lowercase().contains("proxy-authorization"));
}

#[tokio::test]
async fn b30_a_name_below_a_wildcard_that_is_said_to_a_proxy_is_counted_as_one_that_is_asked_of_dns() {
    let zone = Route::plain(1, HostPattern::parse("*.example").unwrap());
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| http::Response::new(full("hello")));
    let zones = ZoneLimits { names_max: 1, ..ZoneLimits::default() };
    let limits = GatewayLimits { zones, ..GatewayLimits::default() };
    let bench = Bench::with(Kind::Plain, vec![zone], origin, answer, limits).await;
    let proxy = proxy(&bench).await;
    let ask = |host: &str| format!("GET http://{host}/1 HTTP/1.1\r\nHost: {host}\r\n{RIGHT}\r\n");
    for _ in 0..2 {
        // The same name twice is one name.
        assert!(said(proxy, &ask(HOST)).await.1.starts_with("HTTP/1.1 200 OK"));
    }
    let (_, answer) = said(proxy, &ask("payload.example")).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("name_budget"), "{answer}");
    let tcp = tunnel(proxy, "other.example:443").await;
    let mut client = tls_client(tcp, &bench.ca_pem, "other.example", &["http/1.1"]).await;
    let (status, text) = get(&mut client, "other.example", "/").await;
    assert!(status == StatusCode::FORBIDDEN && text.contains("name_budget"), "{text}");
    assert_eq!(bench.origin.received().len(), 2);
}

#[tokio::test]
async fn nobody_without_the_password_is_served_and_that_is_written_down() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let proxy = proxy(&bench).await;
    let wrong = [
        String::new(),
        "Proxy-Authorization: Basic dXNlcjp3cm9uZw==\r\n".into(),
        "Proxy-Authorization: Bearer open-sesame-7\r\n".into(),
        "Proxy-Authorization: Basic !!!\r\n".into(),
        // Which of two is meant cannot be known.
        format!("{RIGHT}{RIGHT}"),
    ];
    for field in &wrong {
        for line in [format!("GET http://{HOST}/ HTTP/1.1"), format!("CONNECT {HOST}:443 HTTP/1.1")] {
            let (_, answer) = said(proxy, &format!("{line}\r\nHost: {HOST}\r\n{field}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 407 ") && answer.contains("Basic realm=\"carboy\""), "{answer}");
        }
    }
    assert_eq!(bench.log.refusals()[0], "proxy_unauthorized");
    assert_eq!(bench.origin.connections(), 0);
}

#[tokio::test]
async fn b13_b15_b18_names_inside_a_tunnel_agree_with_it_and_there_is_no_tunnel_in_a_tunnel() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let proxy = proxy(&bench).await;
    // Another server name than the tunnel's.
    let stream = tunnel(proxy, &format!("{HOST}:443")).await;
    let mut client = tls_client(stream, &bench.ca_pem, "evil.example", &["http/1.1"]).await;
    assert_eq!(get(&mut client, "evil.example", "/").await.0, StatusCode::MISDIRECTED_REQUEST);
    // Another Host than the tunnel's.
    let stream = tunnel(proxy, &format!("{HOST}:443")).await;
    let mut client = tls_client(stream, &bench.ca_pem, HOST, &["http/1.1"]).await;
    assert_eq!(get(&mut client, "evil.example", "/").await.0, StatusCode::MISDIRECTED_REQUEST);
    // A host that no route names gets its handshake, and the refusal in it.
    let stream = tunnel(proxy, "evil.example:443").await;
    let mut client = tls_client(stream, &bench.ca_pem, "evil.example", &["http/1.1"]).await;
    assert_eq!(get(&mut client, "evil.example", "/").await.0, StatusCode::FORBIDDEN);
    // CONNECT inside of CONNECT, in plain text.
    let mut stream = tunnel(proxy, &format!("{HOST}:80")).await;
    let nested = format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(nested.as_bytes()).await.unwrap();
    let mut answer = [0_u8; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(matches!(&answer, b"HTTP/1.1 400" | b"HTTP/1.1 421"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(bench.origin.received().len(), 0);
    let refusals = bench.log.refusals();
    assert!(refusals.iter().filter(|reason| *reason == "name_mismatch").count() >= 2, "{refusals:?}");
}

#[tokio::test]
async fn b9_b12_b19_forms_that_could_mean_two_hosts_are_refused() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let proxy = proxy(&bench).await;
    for head in [
        // Absolute form and Host differ, or there are two.
        format!("GET http://{HOST}/ HTTP/1.1\r\nHost: evil.example\r\n{RIGHT}\r\n"),
        format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nHost: evil.example\r\n{RIGHT}\r\n"),
        // User information, in both places.
        format!("GET http://{HOST}@evil.example/ HTTP/1.1\r\nHost: evil.example\r\n{RIGHT}\r\n"),
        format!("CONNECT {HOST}@evil.example:443 HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n"),
        format!("CONNECT {HOST} HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n"),
        // A request that names no host, https without CONNECT, another protocol.
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n"),
        format!("GET https://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n"),
        format!("GET ftp://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n"),
        // NUL in the name.
        format!("CONNECT evil.example\0.{HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n{RIGHT}\r\n"),
    ] {
        let (_, answer) = said(proxy, &head).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{head:?}: {answer}");
    }
    assert_eq!(bench.origin.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_goes_through_it_as_through_any_proxy() {
    // B20
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![with_key()]).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &bench.ca_pem).unwrap();
    let proxy = format!("http://agent:{PASSWORD}@{}", proxy(&bench).await);
    let curl = |url: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "20", "--noproxy", "", "-w", " %{http_code}", "--cacert"]).arg(&ca);
        let output = curl.args(["-x", &proxy, url]).output();
        let output = output.expect("curl is there; on Debian: apt-get install curl");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(curl(&format!("https://{HOST}/x")), "hello 200");
    assert!(curl("https://denied.example/").contains("host_not_allowed"));
    assert_eq!(bench.origin.received()[0].headers["authorization"], format!("Bearer {SECRET}"));
}
