//! Behind nginx, really run: client's address, https, a sub-path, and sentences that are not kept back.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use carboy_core::chat::{ChatLimits, ChatSpec};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::http::{PATIENCE, chat, get, post};
use super::needs;
use super::world::{Made, Play, World, spec};

/// nginx in the foreground, ended with its test.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// `locations` go into its one server.
    async fn start(locations: &str) -> Nginx {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
            .collect();
        let text = format!(
            "daemon off; master_process off; pid {};\nerror_log {};\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
             server {{\nlisten 127.0.0.1:{port};\n{locations}\n}}\n}}\n",
            at("pid"),
            at("error.log"),
        );
        std::fs::write(dir.path().join("nginx.conf"), text).unwrap();
        let child = start(dir.path());
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let up = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.expect("nginx listens");
        Nginx { child, address, _dir: dir }
    }
}

fn start(dir: &Path) -> Child {
    let conf = dir.join("nginx.conf");
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(dir).arg("-c").arg(conf).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// As the documentation has it.
fn location(prefix: &str, to: SocketAddr) -> String {
    format!(
        "location {prefix} {{\nproxy_pass http://{to}/;\nproxy_http_version 1.1;\nproxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\nproxy_set_header X-Forwarded-Proto https;\n\
         proxy_set_header Connection \"\";\n}}"
    )
}

#[tokio::test]
async fn g52_behind_nginx_the_cookie_is_secure_and_a_sub_path_holds() {
    if !needs::program("behind_nginx", &["/usr/sbin/nginx", "-v"]) {
        return;
    }
    let world = World::made(Made { proxies: vec!["127.0.0.1"], ..Made::default() }).await;
    let nginx = Nginx::start(&location("/shop/chat/", world.address)).await;
    let asked = |ask: super::http::Ask| ask.with("host", "shop.example");
    let start = asked(get("/shop/chat/")).send(nginx.address).await;
    assert_eq!((start.status, start.field("location")), (307, Some("static/index.html")));
    let page = asked(get("/shop/chat/static/index.html")).send(nginx.address).await;
    assert_eq!(page.status, 200);
    let set = page.field("set-cookie").unwrap();
    assert!(set.starts_with("__Host-carboy-bookly=") && set.contains("; Secure"), "{set}");
    assert!(page.field("strict-transport-security").is_some());
    for file in page.body.split("src=\"").chain(page.body.split("href=\"")).skip(1) {
        let name = file.split('"').next().unwrap();
        assert!(!name.starts_with('/') && !name.contains("://"), "{name} would leave the sub-path");
    }
    let hello = post("/shop/chat/api/chat", &json!({"message": "hello"}));
    let hello = asked(hello.with("cookie", &page.cookie().unwrap()).with("origin", "https://shop.example"));
    let reply = hello.send(nginx.address).await;
    assert_eq!((reply.status, reply.field("set-cookie")), (200, None), "{reply:?}");
    assert_eq!(hello.with("origin", "https://evil.example").send(nginx.address).await.status, 403);
}

#[tokio::test]
async fn g52_behind_nginx_sentences_arrive_while_the_model_still_speaks() {
    if !needs::program("nginx_streams", &["/usr/sbin/nginx", "-v"]) {
        return;
    }
    let script = std::sync::Arc::new(|_: &str| Play::Gated(vec!["First sentence. ".into(), "Second.".into()]));
    let world = World::made(Made { script, proxies: vec!["127.0.0.1"], ..Made::default() }).await;
    let nginx = Nginx::start(&location("/", world.address)).await;
    let mut events = chat("hello").streamed().open(nginx.address).await;
    world.model.at_gate(1).await;
    let first = events.next().await.unwrap();
    assert_eq!(
        (first.name.as_str(), first.data["text"].as_str().map(str::trim)),
        ("sentence", Some("First sentence."))
    );
    world.model.gate.add_permits(1);
    assert_eq!(events.rest().await.pop().unwrap().name, "done");
}

// G46, G52, G80: the address that limits count by is the client's, not the proxy's, and nobody writes their own.
#[tokio::test]
async fn g46_the_limit_of_an_address_is_the_clients_behind_nginx_too() {
    if !needs::program("nginx_limits", &["/usr/sbin/nginx", "-v"]) {
        return;
    }
    let limits = ChatLimits { requests_per_ip_per_minute: 3, ..spec().limits };
    let made =
        Made { spec: ChatSpec { limits, ..spec() }, proxies: vec!["127.0.0.1", "10.0.0.0/8"], ..Made::default() };
    let world = World::made(made).await;
    let nginx = Nginx::start(&location("/", world.address)).await;
    for sent in 0..3 {
        // A made-up chain in front of what nginx adds (127.0.0.1, listed, so the next hop to the left counts).
        let one = chat("x").with("x-forwarded-for", &format!("1.2.3.{sent}, 203.0.113.9, 10.0.0.1"));
        assert_eq!(one.send(nginx.address).await.status, 200);
    }
    let more = chat("x").with("x-forwarded-for", "9.9.9.9, 203.0.113.9").send(nginx.address).await;
    assert_eq!((more.status, more.code()), (429, "rate_limited".into()));
    assert!(more.field("retry-after").unwrap().parse::<u32>().unwrap() <= 60);
    let other = chat("x").with("x-forwarded-for", "203.0.113.10").send(nginx.address).await;
    assert_eq!(other.status, 200);
}
