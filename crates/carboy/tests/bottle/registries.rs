//! Package managers as people have them, each with a registry of its own outside: what its preset allows is installed, a name
//! that is a secret is not asked for, and a registry that no route names fails at once.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::attack::CANARY_IS_KNOWN;
use crate::clients::{client, needs};
use crate::init::{not_skipped, skip, toolchain};
use crate::world::{CANARY, ORDINARY_USER, Person, Ran, World};
use crate::{Case, case_with};

const BOTTLE: &str = "\
presets:
  - apt: {hosts: [deb.example]}
  - cargo: {hosts: [crates.example]}
  - npm: {hosts: [npm.example]}
  - pip: {hosts: [pypi.example]}
";
/// One name for each registry; the directories of what is served are called the same.
const HOSTS: [&str; 4] = ["crates.example", "deb.example", "npm.example", "pypi.example"];

pub fn cases() -> Vec<Case> {
    vec![
        case_with("B1 M38 apt: allowed, with a secret, denied", &["apt-get", "dpkg-deb"], apt),
        case_with("B1 M38 npm: allowed, with a secret, denied", &["npm", "node"], npm),
        case_with("B1 M38 pip: allowed, with a secret, denied", needs(&["venv/bin/python"]), pip),
        case_with("B1 M38 cargo: allowed, with a secret, denied", &["root"], cargo),
    ]
}

/// Makes what the registries serve, with the tools that people make it with.
const MAKE: &str = r#"
set -e
mkdir -p crates.example/index/he/ll crates.example/files deb.example npm.example/files pypi.example/simple/hello pypi.example/files
sum() { sha256sum "$1" | cut -d' ' -f1; }

mkdir -p npm/package && echo '{"name":"hello","version":"1.0.0"}' > npm/package/package.json
tar -czf npm.example/files/hello-1.0.0.tgz -C npm package
echo '{"name":"hello","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"hello","version":"1.0.0",
 "dist":{"tarball":"https://npm.example/files/hello-1.0.0.tgz"}}}}' > npm.example/hello

/usr/bin/python3 - <<'EOF'
import zipfile
with zipfile.ZipFile("pypi.example/files/hello-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("hello.py", "print('hello')\n")
    wheel.writestr("hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
    wheel.writestr("hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("hello-1.0.dist-info/RECORD", "")
EOF
echo '<a href="../../files/hello-1.0-py3-none-any.whl">hello</a>' > pypi.example/simple/hello/index.html

mkdir -p crate/hello-1.0.0/src && echo 'pub fn hello() -> u8 { 7 }' > crate/hello-1.0.0/src/lib.rs
printf '[package]\nname = "hello"\nversion = "1.0.0"\n' > crate/hello-1.0.0/Cargo.toml
tar -czf crates.example/files/hello-1.0.0.crate -C crate hello-1.0.0
echo '{"dl":"https://crates.example/files/{crate}-{version}.crate"}' > crates.example/index/config.json
echo "{\"name\":\"hello\",\"vers\":\"1.0.0\",\"deps\":[],\"features\":{},\"yanked\":false,\
\"cksum\":\"$(sum crates.example/files/hello-1.0.0.crate)\"}" > crates.example/index/he/ll/hello

if command -v dpkg-deb >/dev/null; then
    mkdir -p deb/DEBIAN
    printf 'Package: hello\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: hello\n' > deb/DEBIAN/control
    dpkg-deb --build deb deb.example/hello_1.0_all.deb >/dev/null
    { cat deb/DEBIAN/control; echo "Filename: ./hello_1.0_all.deb"; echo "Size: $(stat -c %s deb.example/hello_1.0_all.deb)"
      echo "SHA256: $(sum deb.example/hello_1.0_all.deb)"; } > deb.example/Packages
fi
"#;

/// All registries behind one socket, by the name in `Host`; and what they were asked.
struct Registries {
    root: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registries {
    fn start(person: Person) -> (World, Registries) {
        let root = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-c", MAKE]).current_dir(root.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let registries = Registries { root, asked: Arc::default() };
        let world = World::new(person);
        let (dir, asked) = (registries.root.path().to_owned(), registries.asked.clone());
        let address = world.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, dir, asked));
            address
        });
        let upstreams: String =
            HOSTS.iter().map(|host| format!("  {host}: {{address: \"{address}\", tls: false}}\n")).collect();
        world.settings(&format!("{upstreams}{CANARY_IS_KNOWN}"));
        world.bottle(BOTTLE);
        (world, registries)
    }

    /// It was asked for this, and for no secret; the log has both refusals.
    #[track_caller]
    fn assert_policed(&self, ran: &Ran, wanted: &str) {
        let asked = self.asked.lock().unwrap().clone();
        assert!(asked.iter().any(|one| one == wanted), "{asked:?}\n{}\n{}", ran.stdout, ran.stderr);
        assert!(!asked.iter().any(|one| one.contains(CANARY)), "{asked:?}");
        assert!(ran.refused("secret_known") >= 1, "{}\n{}", ran.stderr, ran.summary);
        assert!(ran.refused("name_not_allowed") >= 1, "{}\n{}", ran.stderr, ran.summary);
        // To a package manager a refusal is the status of HTTP.
        assert!(ran.stderr.contains("403"), "{}", ran.stderr);
    }
}

async fn serve(listener: tokio::net::TcpListener, root: PathBuf, asked: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (root, asked) = (root.clone(), asked.clone());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let host = request.headers()["host"].to_str().unwrap().split(':').next().unwrap().to_owned();
            let path = request.uri().path().to_owned();
            asked.lock().unwrap().push(format!("{host}{path}"));
            let answer = file(&root, &host, &path);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn file(root: &Path, host: &str, path: &str) -> Response<Full<Bytes>> {
    assert!(!path.contains(".."), "{path}");
    let index = if path.ends_with('/') { "index.html" } else { "" };
    let kind = match path {
        _ if path.ends_with('/') => "text/html",
        "/hello" => "application/json",
        _ => "application/octet-stream",
    };
    let path = root.join(host).join(path.trim_start_matches('/')).join(index);
    let path = path.to_str().unwrap().trim_end_matches('/').to_owned();
    match std::fs::read(path) {
        Ok(bytes) => Response::builder().header("content-type", kind).body(Full::new(bytes.into())).unwrap(),
        Err(_) => Response::builder().status(404).body(Full::default()).unwrap(),
    }
}

fn apt(person: Person) {
    let (world, registries) = Registries::start(person);
    // The places of a person who is not root; all else is apt's own.
    world.write(
        "project/apt.conf",
        "Dir \"/home/agent/apt\"; Dir::Etc::Main \"none\"; Dir::Etc::Parts \"none\"; Dir::Etc::SourceParts \"none\";\n\
         Dir::State::status \"/home/agent/apt/status\"; Dir::Bin::methods \"/usr/lib/apt/methods\";\n\
         APT::Sandbox::User \"\"; Acquire::Retries \"0\";\n",
    );
    let script = format!(
        "set -e; A=$HOME/apt; export APT_CONFIG=$PWD/apt.conf
         mkdir -p $A/etc/apt $A/var/lib/apt/lists/partial $A/var/cache/apt/archives/partial; : > $A/status
         from() {{ echo \"deb [trusted=yes] $1 ./\" > $A/etc/apt/sources.list; }}
         from http://deb.example; apt-get -qq update >&2; apt-get download hello >&2; dpkg-deb -f hello_1.0_all.deb Package
         from http://deb.example/{CANARY}; apt-get update >&2 || echo refused
         from http://denied.example; apt-get update >&2 || echo denied"
    );
    let ran = world.sh(&script).expect_code(0);
    // Of a source that cannot be had apt only warns.
    assert!(ran.stdout.starts_with("hello\n"), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("denied.example"), "{}", ran.stderr);
    registries.assert_policed(&ran, "deb.example/hello_1.0_all.deb");
}

fn npm(person: Person) {
    let (world, registries) = Registries::start(person);
    world.write("project/package.json", "{\"name\":\"tiny\",\"version\":\"1.0.0\"}\n");
    let script = format!(
        "set -e; R=--registry=https://npm.example/; export npm_config_audit=false npm_config_fetch_retries=0
         npm install $R hello >&2; node -p 'require(\"hello/package.json\").version'
         npm view $R {CANARY} >&2 || echo refused
         npm view --registry=https://denied.example/ hello >&2 || echo denied"
    );
    let ran = world.sh(&script).expect_code(0);
    assert_eq!(ran.stdout, "1.0.0\nrefused\ndenied\n", "{}", ran.stderr);
    assert!(ran.stderr.contains("ENOTFOUND"), "{}", ran.stderr);
    registries.assert_policed(&ran, "npm.example/files/hello-1.0.0.tgz");
}

fn pip(person: Person) {
    let (world, registries) = Registries::start(person);
    let python = client("venv/bin/python");
    let script = format!(
        "set -e; pip() {{ {python} -m pip --isolated --disable-pip-version-check --retries 0 download --no-deps -d got \"$@\" >&2; }}
         pip --index-url https://pypi.example/simple hello; ls got
         pip https://pypi.example/files/{CANARY}/hello-2.0-py3-none-any.whl || echo refused
         pip --index-url https://denied.example/simple hello || echo denied"
    );
    let ran = world.sh(&script).expect_code(0);
    assert_eq!(ran.stdout, "hello-1.0-py3-none-any.whl\nrefused\ndenied\n", "{}", ran.stderr);
    registries.assert_policed(&ran, "pypi.example/files/hello-1.0-py3-none-any.whl");
}

fn cargo(person: Person) {
    let Some((bin, home)) = toolchain() else {
        return skip("cargo-policed", person, "cargo is none of a home's toolchains here");
    };
    if person == Person::Ordinary {
        let why = format!("the toolchain is in a home that `{ORDINARY_USER}` may not read");
        return skip("cargo-policed", person, &why);
    }
    not_skipped("cargo-policed", person);
    let (world, registries) = Registries::start(person);
    let source = |host: &str| {
        format!(
            "[source.crates-io]\nreplace-with = \"ours\"\n[source.ours]\nregistry = \"sparse+https://{host}/index/\"\n[net]\nretry = 0\n"
        )
    };
    let package = |dependency: &str| {
        format!(
            "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n{dependency} = \"1\"\n[workspace]\n"
        )
    };
    world.write("project/.cargo/config.toml", &source("crates.example"));
    for (dir, dependency) in [("project", "hello"), ("project/secret", CANARY), ("project/denied", "hello")] {
        world.write(&format!("{dir}/Cargo.toml"), &package(dependency));
        world.write(&format!("{dir}/src/main.rs"), "fn main() {}\n");
    }
    world.write("project/denied/.cargo/config.toml", &source("denied.example"));
    let carboy = |arguments: &[&str]| {
        let mut command = world.carboy(arguments);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
        command.env("HOME", &home).env("PATH", path).output().unwrap()
    };
    let made = carboy(&["init", "shell", "cargo", "--preset", "cargo=crates.example", "--force"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let script = "cargo check -q && echo built; (cd secret && cargo fetch) || echo refused; (cd denied && cargo fetch) || echo denied";
    let before = world.log().len();
    let output = carboy(&["run", "--bottle", "cargo", "--", "sh", "-c", script]);
    let ran = Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        summary: serde_json::Value::Null,
        entries: world.log().split_off(before),
    };
    assert_eq!(ran.stdout, "built\nrefused\ndenied\n", "{}", ran.stderr);
    registries.assert_policed(&ran, "crates.example/files/hello-1.0.0.crate");
}
