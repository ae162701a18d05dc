//! scratch
#![allow(clippy::unwrap_used, missing_docs)]
mod support;
use std::time::Duration;
use std::sync::Arc;
use carboy_core::route::*;
use carboy_egress::GatewayLimits;
use http::{Method, Request, Response};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, TcpListener};

fn with_key() -> Route {
    let mut route = route(HOST);
    route.auth = Some(RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret: secret_name() });
    route
}
async fn raw(bench: &Bench, host: &str, port: u16, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(bench.listen(host, port).await).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(3), tcp.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
fn narrow(methods: &[&str]) -> Route {
    let mut r = route(HOST);
    r.matches = vec![RequestMatch { paths: vec![PathMatch::Prefix("/v1".into())], methods: methods.iter().map(|m| m.to_string()).collect(), headers: vec![] }];
    r
}

#[tokio::test]
async fn paths() {
    let bench = Bench::start(Kind::Plain, vec![narrow(&[])]).await;
    for p in ["/v1//../admin", "/v1/;/../admin", "/admin/../v1", "/v1/%252e%252e/admin", "/v1/..%3b/admin", "/v1/%2e%2e%3b/x", "/v1#/../../x", "/v1/\u{ff0e}\u{ff0e}/x", "/v1/\u{9b}31m", "/v1/./x", "/v1/x/..", "/v1/a%00", "/v1/x\\..\\y", "/v1/a?x=%2f", "//v1/x", "/V1/x", "http://api.example/v1//../admin"] {
        let text = format!("GET {p} HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n");
        let before = bench.origin.received().len();
        let a = raw(&bench, HOST, 80, text.as_bytes()).await;
        let got = bench.origin.received();
        println!("{p:?} -> {} sent={:?}", a.lines().next().unwrap_or(""), got.get(before).map(|g| g.target.clone()));
    }
    for (line, more) in [("GET /v1/x", "x-original-url: /admin\r\n"), ("POST /v1/x", "x-http-method-override: DELETE\r\n"), ("get /v1", ""), ("GET http://api.example?x=1", ""), ("GET /v1/x?_method=DELETE", ""),
        ("GET /v1/x", "host:api.example \t\r\n"), ("GET /v1/x", "host: api.example:0\r\n"), ("GET /v1/x", "host: api.example:080\r\n"), ("GET /v1", "te: trailers\r\nte: gzip\r\n"), ("GET /v1", "x-forwarded-host: evil\r\n")] {
        let host = if more.starts_with("host") { "" } else { "host: api.example\r\n" };
        let text = format!("{line} HTTP/1.1\r\n{host}{more}connection: close\r\n\r\n");
        let before = bench.origin.received().len();
        let a = raw(&bench, HOST, 80, text.as_bytes()).await;
        let got = bench.origin.received();
        println!("{line} {more:?} -> {} sent={:?}", a.lines().next().unwrap_or(""), got.get(before).map(|g| (g.target.clone(), g.headers.clone())));
    }
    for e in bench.log.events() { if let Some(p) = detail(&e, "path") { if p.contains('\u{9b}') { println!("C1 IN LOG {p:?}"); } } }
}

#[tokio::test]
async fn git_paths() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    for p in ["/a.git/git-receive-pack;x", "/a.git/git-receive-pack/", "/a.git/git-receive%2dpack", "/a.git/git-receive-pack?x", "/a.git/Git-Receive-Pack", "/a.git/git-receive-pack%20", "/a.git/info/refs;x?service=git-receive-pack;"] {
        let text = format!("POST {p} HTTP/1.1\r\nhost: api.example\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let a = raw(&bench, HOST, 80, text.as_bytes()).await;
        println!("{p:?} -> {}", a.lines().next().unwrap_or(""));
    }
}

#[tokio::test]
async fn headers() {
    let bench = Bench::start(Kind::Tls(&["h2"]), vec![with_key()]).await;
    let (a, b) = SECRET.split_at(12);
    for alpn in [&["h2"][..]] {
        let mut c = bench.client(alpn).await;
        for (what, fields) in [
            ("cookie crumbs", vec![("cookie", a.to_owned()), ("cookie", b.to_owned())]),
            ("two values", vec![("x-a", a.to_owned()), ("x-a", b.to_owned())]),
            ("two names", vec![("x-a", a.to_owned()), ("x-b", b.to_owned())]),
            ("double percent part", vec![("x-a", SECRET.replace('Z', "%255A"))]),
            ("basic decoy", vec![("x-a", "basic AAAA".to_owned()), ("x-b", "Basic eDpnaHBfYUIzZEU1Zkc3aEk5aksxbE0zbk81cFE3clM5dFUxdlczeFk=".to_owned())]),
            ("private-token", vec![("private-token", "abcdefghijklmnop".to_owned())]),
        ] {
            let before = bench.origin.received().len();
            let r = fields.iter().fold(c.request(Method::GET, "/x"), |r, (n, v)| r.header(*n, v));
            let got = c.send(r.body(full("")).unwrap()).await;
            println!("{what}: {} {} {:?}", got.status, got.reason(), bench.origin.received().get(before).map(|g| g.headers.clone()));
        }
        let r = c.request(Method::GET, &format!("/x?a={}", SECRET.replace('Z', "%255A")));
        println!("query double: {}", c.send(r.body(full("")).unwrap()).await.status);
        let r = c.request(Method::GET, &format!("/x?a={}", SECRET.replace('Z', "%25255A")));
        println!("query triple: {}", c.send(r.body(full("")).unwrap()).await.status);
        // content length tricks
        for cl in [vec!["5", "100"], vec!["100"], vec!["+5"], vec!["5, 5"], vec!["005"]] {
            let before = bench.origin.received().len();
            let r = cl.iter().fold(c.request(Method::POST, "/cl"), |r, v| r.header("content-length", *v));
            let got = c.start(r.body(full("hello")).unwrap()).await.map(|r| r.status());
            println!("cl {cl:?}: {got:?} {:?}", bench.origin.received().get(before).map(|g| (g.headers.get_all("content-length").iter().cloned().collect::<Vec<_>>(), g.body.clone())));
            if got.is_err() { c = bench.client(alpn).await; }
        }
        // trailers
        use http_body_util::{BodyExt, StreamBody};
        let mut t = http::HeaderMap::new();
        for n in ["authorization", "x-api-key", "host", "content-length", "x-ok", "connection", "transfer-encoding"] { t.insert(n, "other".parse().unwrap()); }
        let frames: Vec<Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>> = vec![Ok(http_body::Frame::data("hi".into())), Ok(http_body::Frame::trailers(t))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        let before = bench.origin.received().len();
        let r = c.request(Method::POST, "/t").body(body).unwrap();
        println!("trailers {:?}", c.start(r).await.map(|r| r.status()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        println!("   {:?}", bench.origin.received().get(before).map(|g| g.trailers.clone()));
    }
}

/// h2 inside, h1 upstream: the first dial fails, so the client gets h2; then an h1-only origin is there.
#[tokio::test]
async fn h2_to_h1_content_length() {
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = held.local_addr().unwrap();
    drop(held);
    let (world, _) = carboy_egress::CertificateAuthority::generate(now_ms()).unwrap();
    let mut ups = carboy_core::upstream::Upstreams::default();
    ups.insert(carboy_core::host::Host::parse(HOST).unwrap(), None, carboy_core::upstream::Upstream { address: addr, transport: carboy_core::upstream::Transport::Plain, extra_ca_pem: Some(world.ca_pem().to_owned()) });
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::new(full("hello")));
    let bench = Bench::reaching(ups, Kind::Plain, vec![route(HOST)], origin.clone(), answer, GatewayLimits::default()).await;
    let mut c = bench.client(&["h2"]).await;
    println!("first {}", c.get("/").await.reason());
    let l = TcpListener::bind(addr).await.unwrap();
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let s2 = seen.clone();
    tokio::spawn(async move { while let Ok((mut s, _)) = l.accept().await { let s2 = s2.clone(); tokio::spawn(async move {
        let mut b = [0u8; 4096];
        while let Ok(n) = s.read(&mut b).await { if n == 0 { break; } s2.lock().unwrap().push_str(&String::from_utf8_lossy(&b[..n]));
            let _ = s.write_all(b"HTTP/1.1 200 sk-test-Zq8vTr3LmW5xKd0PyB7nHc2A\r\ncontent-length: 2\r\n\r\nok").await; }
    }); } });
    for cl in [vec!["5"], vec!["5", "100"], vec!["100", "5"], vec!["5", "5"]] {
        seen.lock().unwrap().clear();
        let r = cl.iter().fold(c.request(Method::POST, "/cl"), |r, v| r.header("content-length", *v));
        let got = tokio::time::timeout(Duration::from_secs(2), c.start(r.body(full("hello")).unwrap())).await;
        println!("cl {cl:?}: {:?}\n{}", got.map(|r| r.map(|r| r.status())), seen.lock().unwrap());
    }
}

#[tokio::test]
async fn reason_phrase_and_pause() {
    let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = l.local_addr().unwrap();
    tokio::spawn(async move { while let Ok((mut s, _)) = l.accept().await { tokio::spawn(async move {
        let mut b = [0u8; 4096];
        let _ = s.read(&mut b).await;
        let _ = s.write_all(format!("HTTP/1.1 200 {SECRET}\r\ncontent-length: {}\r\n\r\nhi {}", SECRET.len() + 3, &SECRET[..10]).as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = s.write_all(SECRET[10..].as_bytes()).await;
    }); } });
    let mut ups = carboy_core::upstream::Upstreams::default();
    ups.insert(carboy_core::host::Host::parse(HOST).unwrap(), None, carboy_core::upstream::Upstream { address: addr, transport: carboy_core::upstream::Transport::Plain, extra_ca_pem: None });
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::new(full("hello")));
    let mut r = with_key(); r.dlp.inbound = vec![];
    let bench = Bench::reaching(ups, Kind::Plain, vec![r], origin.clone(), answer, GatewayLimits::default()).await;
    println!("{}", raw(&bench, HOST, 80, b"GET / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n").await);
}

#[tokio::test]
async fn gzip_name_token() {
    let bench = Bench::start(Kind::Tls(&["http/1.1"]), vec![route(HOST)]).await;
    let mut c = bench.client(&["http/1.1"]).await;
    let mut w = flate2::GzBuilder::new().filename("ghp_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5").write(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut w, b"benign").unwrap();
    let r = c.request(Method::POST, "/").header("content-encoding", "gzip").body(full(w.finish().unwrap())).unwrap();
    println!("gzip name token: {}", c.send(r).await.status);
}
