//! Real git against a real smart-HTTP server outside: read where the route says so, never write.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::world::{Person, World};
use crate::{Case, case_with};

pub fn cases() -> Vec<Case> {
    vec![
        case_with("E7 git clone and fetch work where the route says so, and a push does not", &["git"], fetch_allowed),
        case_with("M23 E7 git clone is refused where the route does not say so", &["git"], fetch_not_allowed),
        case_with("M20 commits carry the identity of the bottle's file", &["git"], identity),
    ]
}

const FETCH: &str = "egress: {routes: [{host: code.example, git: {fetch: true}}]}\n";
const NO_FETCH: &str = "egress:\n  routes:\n    - host: code.example\n";

fn fetch_allowed(person: Person) {
    let server = Server::start();
    let world = server.world(person, FETCH);
    let script = "set -e; git clone -q https://code.example/repo.git work; cat work/file; cd work; \
                  git -c protocol.version=0 fetch -q; git fetch -q; git log --oneline | wc -l; \
                  git checkout -q -b mine; git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m more; \
                  set +e; git push -q origin mine; echo \"pushed $?\"";
    let ran = world.sh(script).expect_code(0);
    assert_eq!(ran.stdout, "first line\n1\npushed 128\n", "{}", ran.stderr);
    assert!(ran.refused("git_push_not_allowed") >= 1, "{:?}", ran.summary);
    let what = ran.summary["refusals"].as_array().unwrap().iter().find(|r| r["reason"] == "git_push_not_allowed");
    // Opening it is not what one should do, so no command is offered.
    assert_eq!(what.unwrap()["examples"][0]["allow"], Value::Null);
    assert_eq!(server.branches(), "main\n");
}

fn fetch_not_allowed(person: Person) {
    let server = Server::start();
    let world = server.world(person, NO_FETCH);
    let ran = world.run(&["git", "clone", "-q", "https://code.example/repo.git", "work"]).expect_code(128);
    assert!(ran.refused("git_fetch_not_allowed") >= 1, "{:?}", ran.summary);
    // The summary says how to open it, and that works.
    let all = ran.summary["refusals"].as_array().unwrap();
    let one = all.iter().find(|one| one["reason"] == "git_fetch_not_allowed").unwrap();
    let allow = one["examples"][0]["allow"].as_str().unwrap();
    assert!(allow.starts_with("carboy allow x-") && ran.stderr.contains(allow), "{}", ran.stderr);
    let allowed = world.carboy(&allow.split(' ').skip(1).chain(["--yes"]).collect::<Vec<_>>()).output().unwrap();
    assert!(allowed.status.success(), "{}", String::from_utf8_lossy(&allowed.stderr));
    world.run(&["git", "clone", "-q", "https://code.example/repo.git", "work"]).expect_code(0);
}

fn identity(person: Person) {
    let world = World::new(person);
    world.bottle("git-gate: {user: {name: Ada L, email: ada@example.org}}\n");
    let script = "git init -q . && git commit -q --allow-empty -m x && git log -1 --format='%an <%ae>, %cn'";
    let ran = world.sh(script).expect_code(0);
    assert_eq!(ran.stdout, "Ada L <ada@example.org>, Ada L\n", "{}", ran.stderr);
}

/// A git server with one repository of one commit, outside; it speaks plain HTTP and takes pushes.
struct Server {
    root: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let root = tempfile::tempdir().unwrap();
        git(root.path(), &["init", "-q", "--bare", "-b", "main", "repo.git"]);
        git(root.path(), &["-C", "repo.git", "config", "http.receivepack", "true"]);
        git(root.path(), &["init", "-q", "-b", "main", "seed"]);
        std::fs::write(root.path().join("seed/file"), "first line\n").unwrap();
        git(root.path(), &["-C", "seed", "add", "file"]);
        let who = ["-c", "user.name=seed", "-c", "user.email=seed@example.org"];
        git(root.path(), &[&["-C", "seed"][..], &who, &["commit", "-q", "-m", "first"]].concat());
        git(root.path(), &["-C", "seed", "push", "-q", "../repo.git", "main"]);
        Server { root }
    }

    /// A world in which `code.example` is this server.
    fn world(&self, person: Person, bottle: &str) -> World {
        let world = World::new(person);
        let root = self.root.path().to_owned();
        let address = world.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, root));
            address
        });
        world.settings(&format!("  code.example: {{address: \"{address}\", tls: false}}\n"));
        world.bottle(bottle);
        world
    }

    fn branches(&self) -> String {
        git(self.root.path(), &["-C", "repo.git", "branch", "--format=%(refname:short)"])
    }
}

async fn serve(listener: tokio::net::TcpListener, root: PathBuf) {
    while let Ok((stream, _)) = listener.accept().await {
        let root = root.clone();
        let service = hyper::service::service_fn(move |request| backend(request, root.clone()));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// One request through `git http-backend` (RFC 3875).
async fn backend(request: Request<Incoming>, root: PathBuf) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let mut child = tokio::process::Command::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", &root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let written = tokio::spawn(async move { stdin.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap().stdout;
    written.await.unwrap().unwrap();
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    Ok(response.body(Full::new(Bytes::copy_from_slice(&output[end + 4..]))).unwrap())
}

/// git outside, with nobody's configuration.
fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
