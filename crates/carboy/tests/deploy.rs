//! The examples of a deployment under `examples/deploy/` (G52b), read by the programs that they are for. Where one is not
//! there, its test is counted as skipped in the closing line.

// Without `#[cfg(test)]` clippy does not see that the helpers here are of tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
/// The name in the example, and where it says that its certificate is.
const NAME: &str = "chat.shop.example";
const CERTIFICATES: &str = "/etc/letsencrypt/live/chat.shop.example";
/// nginx is looked for where distributions put it: it is on no ordinary user's `PATH`.
const NGINX: &str = "/usr/sbin/nginx";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn example(name: &str) -> String {
    fs::read_to_string(root().join("examples/deploy").join(name)).unwrap()
}

/// Are these programs there? Where one is not, the test is noted as left out.
fn there(test: &str, commands: &[&[&str]]) -> bool {
    let runs = |command: &&&[&str]| {
        let mut run = Command::new(command[0]);
        run.args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let note = dir.join(format!("deploy-{test}"));
    fs::create_dir_all(&dir).unwrap();
    match commands.iter().find(|command| !runs(command)) {
        Some(missing) => {
            println!("skipped: {test}: {} is not there", missing[0]);
            fs::write(note, format!("deploy::{test}: {} is not there\n", missing[0])).unwrap();
            false
        }
        None => {
            // It may never have been left out.
            let _ = fs::remove_file(note);
            true
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Ended with its test.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The example as it stands, but for its ports, its certificate and where it finds the service.
fn configuration(dir: &Path, http: u16, https: u16, service: SocketAddr) -> String {
    let mut server = example("nginx.conf");
    let changes = [
        ("listen [::]:80;", String::new()),
        ("listen [::]:443 ssl http2;", String::new()),
        ("listen 80;", format!("listen 127.0.0.1:{http};")),
        ("listen 443 ssl http2;", format!("listen 127.0.0.1:{https} ssl http2;")),
        (CERTIFICATES, dir.display().to_string()),
        ("http://127.0.0.1:8080", format!("http://{service}")),
    ];
    for (from, to) in changes {
        assert!(server.contains(from), "{from} is not in the example");
        server = server.replace(from, &to);
    }
    let at = |name: &str| dir.join(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log {};\nevents {{}}\nhttp {{\n{temporary}{server}}}\n",
        at("pid"),
        at("error.log")
    )
}

fn certificate(dir: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=chat.shop.example"]);
    openssl.args(["-addext", "subjectAltName=DNS:chat.shop.example"]);
    openssl.arg("-keyout").arg(dir.join("privkey.pem")).arg("-out").arg(dir.join("fullchain.pem"));
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// Stands in carboy's place and tells the head of each request that it gets.
fn service() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            if tell.send(String::from_utf8_lossy(&head).to_ascii_lowercase()).is_err() {
                return;
            }
        }
    });
    (address, told)
}

/// `curl` to nginx, by the example's name. Gives status and headers.
fn asked(dir: &Path, port: u16, url: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "20"]);
    curl.arg("--resolve").arg(format!("{NAME}:{port}:127.0.0.1"));
    curl.arg("--cacert").arg(dir.join("fullchain.pem"));
    curl.args(["--header", "X-Forwarded-For: 192.0.2.66", "--header", "X-Forwarded-Host: evil.example"]);
    curl.args(["--header", "Forwarded: for=192.0.2.66;proto=http"]).arg(url);
    let output = curl.output().unwrap();
    assert!(output.status.success(), "{url}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).to_ascii_lowercase()
}

#[test]
fn g52b_nginx_takes_the_example_and_passes_on_what_the_service_needs() {
    // G52b
    if !there("nginx", &[&[NGINX, "-v"], &["openssl", "version"], &["curl", "--version"]]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificate(dir);
    let (address, heads) = service();
    let (http, https) = (free_port(), free_port());
    let file = dir.join("nginx.conf");
    fs::write(&file, configuration(dir, http, https, address)).unwrap();
    let judged = Command::new(NGINX).arg("-t").arg("-p").arg(dir).arg("-c").arg(&file).output().unwrap();
    assert!(judged.status.success() && said(&judged).contains("test is successful"), "{}", said(&judged));

    let mut command = Command::new(NGINX);
    command.arg("-p").arg(dir).arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let _nginx = Nginx(command.spawn().unwrap());
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", https)).is_err() {
        assert!(started.elapsed() < PATIENCE, "nginx listens");
        std::thread::yield_now();
    }

    let answer = asked(dir, https, &format!("https://{NAME}:{https}/api/state"));
    assert!(answer.contains(" 200") && answer.ends_with("ok"), "{answer}");
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("get /api/state http/1.1\r\n"), "{head}");
    for line in
        [format!("host: {NAME}:{https}"), "x-forwarded-for: 127.0.0.1".into(), "x-forwarded-proto: https".into()]
    {
        assert!(head.lines().any(|other| other == line), "{line} in {head}");
    }
    // Nothing of what the client wrote about itself is left.
    assert!(
        !head.contains("192.0.2.66") && !head.contains("evil.example") && !head.contains("\r\nforwarded:"),
        "{head}"
    );

    for closed in ["metrics", "architecture"] {
        let answer = asked(dir, https, &format!("https://{NAME}:{https}/{closed}"));
        assert!(answer.contains(" 404"), "{answer}");
    }
    let answer = asked(dir, http, &format!("http://{NAME}:{http}/static/index.html"));
    assert!(
        answer.contains(" 308 ") && answer.contains("location: https://chat.shop.example/static/index.html"),
        "{answer}"
    );
    assert!(heads.try_recv().is_err(), "neither of them reaches the service");
}

#[test]
fn g52b_systemd_takes_the_example() {
    // G52b
    let unit = example("carboy-shop.service");
    // What a bottle is made of has to be left to it.
    for line in unit.lines().filter(|line| !line.starts_with('#')) {
        for setting in
            ["RestrictNamespaces=", "SystemCallFilter=", "ProtectKernelTunables=", "ProtectProc=", "PrivateUsers="]
        {
            assert!(!line.starts_with(setting), "{line}");
        }
    }
    if !there("systemd", &[&["systemd-analyze", "--version"]]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("carboy-shop.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/carboy serve "));
    fs::write(&file, unit.replace("/usr/local/bin/carboy", env!("CARGO_BIN_EXE_carboy"))).unwrap();
    let judged = Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
    // Other units of the machine may be complained of; this one is not.
    let about: Vec<String> = said(&judged).lines().filter(|l| l.contains("carboy-shop")).map(str::to_owned).collect();
    assert!(about.is_empty(), "{about:#?}");
}

/// Instructions of a Dockerfile with their arguments, continued lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let whole = joined.lines().map(str::trim).filter(|line| !line.is_empty());
    whole.map(|line| line.split_once(' ').unwrap()).map(|(i, a)| (i.to_owned(), a.trim().to_owned())).collect()
}

#[test]
fn g52b_the_dockerfile_is_one_copies_what_is_there_and_holds_no_key() {
    // G52b
    const KNOWN: &[&str] = &["FROM", "RUN", "COPY", "WORKDIR", "USER", "ENV", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"];
    let text = example("Dockerfile");
    let all = instructions(&text);
    let of = |name: &str| all.iter().filter(|(i, _)| i == name).map(|(_, a)| a.clone()).collect::<Vec<_>>();
    for (instruction, arguments) in &all {
        assert!(KNOWN.contains(&instruction.as_str()), "{instruction} {arguments}");
    }
    for image in of("FROM") {
        assert!(
            image.starts_with("docker.io/library/") && image.contains(':') && !image.contains(":latest"),
            "{image}"
        );
    }
    for copied in of("COPY").iter().filter(|copied| !copied.starts_with("--from")) {
        let mut paths: Vec<&str> = copied.split(' ').filter(|word| !word.starts_with("--")).collect();
        paths.pop();
        for path in paths.iter().filter(|path| **path != "agents/shop.md") {
            assert!(root().join(path).exists(), "{path} is not there");
        }
    }
    assert_eq!(of("USER"), ["carboy"], "it runs as no root");
    assert_eq!(of("ENV"), ["CARBOY_HOME=/var/lib/carboy"], "no key stands in an image");
    let entry: Vec<String> = serde_json::from_str(&of("ENTRYPOINT")[0]).unwrap();
    let command: Vec<String> = serde_json::from_str(&of("CMD")[0]).unwrap();
    assert_eq!((entry[0].as_str(), command[0].as_str()), ("/usr/local/bin/carboy", "serve"));
    let toolchain = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = toolchain.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(of("FROM")[0].contains(&format!("rust:{version}")), "{version} is what carboy needs");
    if !there("buildah", &[&["buildah", "--version"]]) {
        return;
    }
    // It is read up to its stages, and nothing is fetched: a stage of this name there is none of.
    let nothing = tempfile::tempdir().unwrap();
    let mut buildah = Command::new("buildah");
    buildah.args(["build", "--target", "nothing-is-called-so", "-f"]).arg(root().join("examples/deploy/Dockerfile"));
    let judged = buildah.arg(nothing.path()).output().unwrap();
    assert!(said(&judged).contains("\"nothing-is-called-so\" was not found"), "{}", said(&judged));
}

#[test]
fn g52b_every_flag_of_the_examples_is_one_of_the_program() {
    let help = Command::new(env!("CARGO_BIN_EXE_carboy")).args(["serve", "--help"]).output().unwrap();
    assert!(help.status.success(), "{}", said(&help));
    let help = said(&help);
    let flag = regex::Regex::new(r"--[a-z][a-z-]+").unwrap();
    let unit = example("carboy-shop.service");
    let dockerfile = example("Dockerfile");
    let page = fs::read_to_string(root().join("docs/serving.md")).unwrap();
    let starts = unit.lines().filter(|line| line.starts_with("ExecStart="));
    let starts = starts.chain(dockerfile.lines().filter(|line| line.starts_with("CMD ")));
    let starts: Vec<&str> = starts.chain(page.lines().filter(|line| line.starts_with("carboy serve "))).collect();
    assert!(starts.len() > 2);
    for start in starts {
        for name in flag.find_iter(start) {
            assert!(
                help.contains(&format!("{} ", name.as_str())) || help.contains(&format!("{}\n", name.as_str())),
                "{start}"
            );
        }
    }
}

#[test]
fn g84c_alerts_and_documents_name_metrics_that_there_are() {
    // G84c
    let sources = ["crates/carboy-agent/src/metrics.rs", "crates/carboy-control/src/controller/metrics.rs"];
    let known: String = sources.iter().map(|file| fs::read_to_string(root().join(file)).unwrap()).collect();
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rules = example("alerts.yml");
    let name = regex::Regex::new(r"\bcarboy_[a-z_]+\b").unwrap();
    for text in [&page, &rules] {
        for found in name.find_iter(text) {
            assert!(known.contains(found.as_str()), "there is no metric {}", found.as_str());
        }
    }
    let counters: Vec<&str> =
        name.find_iter(&known).map(|m| m.as_str()).filter(|m| m.starts_with("carboy_chat_")).collect();
    assert!(counters.len() >= 5);
    for counter in counters {
        assert!(page.contains(counter) && rules.contains(counter), "{counter} has no line, or no rule");
    }
    // The page shows the rules that are in the file.
    for rule in page.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        assert!(rules.contains(rule), "{rule}");
    }
}
