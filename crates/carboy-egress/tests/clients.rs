//! Real clients that trust the minted leaves by the files that a bottle gets.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use carboy_core::host::Host;
use carboy_core::route::RouteSet;
use carboy_egress::trust::{CA_FILE, JAVA_STORE_FILE};
use carboy_egress::{Listener, trust_files};
use support::{Bench, HOST, Kind, route};
use tokio::net::TcpListener;
use tokio::process::Command;

/// A listener on the very port that its clients name.
async fn open_port(bench: &Bench) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut on_port = route(HOST);
    on_port.ports = vec![port];
    bench.gateway.replace_routes(RouteSet::new(vec![on_port], 2));
    let (gateway, kind) = (bench.gateway.clone(), Listener::Fixed { host: Host::parse(HOST).unwrap(), port });
    tokio::spawn(async move { gateway.serve_tcp(listener, kind).await });
    port
}

/// One of the trust files, written where the client can read it.
fn trust_file(bench: &Bench, inside: &str, dir: &Path) -> PathBuf {
    let (_, bytes) = trust_files(&bench.ca_pem).into_iter().find(|(path, _)| path == Path::new(inside)).unwrap();
    let path = dir.join(Path::new(inside).file_name().unwrap());
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Runs a client and gives its standard output; `None` when it is not installed.
async fn run(program: &str, install: &str, args: &[String]) -> Option<String> {
    let output = match Command::new(program).args(args).stdin(Stdio::null()).output().await {
        Ok(output) => output,
        Err(_) => {
            eprintln!("skipped: {program} is not installed (apt-get install {install})");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn java_trusts_the_store_that_a_bottle_gets() {
    const PROGRAM: &str = r#"
        import java.net.URI;
        import java.net.http.*;
        public class Get {
            public static void main(String[] args) throws Exception {
                var request = HttpRequest.newBuilder(URI.create(args[0])).build();
                var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
                System.out.print(response.version() + " " + response.statusCode() + " " + response.body());
            }
        }
    "#;
    for (alpn, want) in [(&["h2", "http/1.1"][..], "HTTP_2 200 hello"), (&["http/1.1"], "HTTP_1_1 200 hello")] {
        let bench = Bench::start(Kind::Tls(alpn), vec![]).await;
        let port = open_port(&bench).await;
        let dir = tempfile::tempdir().unwrap();
        let store = trust_file(&bench, JAVA_STORE_FILE, dir.path());
        let (source, hosts) = (dir.path().join("Get.java"), dir.path().join("hosts"));
        std::fs::write(&source, PROGRAM).unwrap();
        std::fs::write(&hosts, format!("127.0.0.1 {HOST}\n")).unwrap();
        let args = [
            format!("-Djavax.net.ssl.trustStore={}", store.display()),
            format!("-Djdk.net.hosts.file={}", hosts.display()),
            source.display().to_string(),
            format!("https://{HOST}:{port}/"),
        ];
        let Some(said) = run("java", "default-jdk-headless", &args).await else { return };
        assert_eq!(said, want);
        let args = ["-list", "-storepass", "changeit", "-keystore"].map(str::to_owned);
        let args = [&args[..], &[store.display().to_string()]].concat();
        // The store's own integrity check holds as well.
        let Some(listed) = run("keytool", "default-jdk-headless", &args).await else { return };
        assert!(listed.contains("carboy") && listed.contains("trustedCertEntry"), "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_keeps_its_protocol_and_reads_refusals() {
    let bench = Bench::start(Kind::Tls(&["h2", "http/1.1"]), vec![]).await;
    let port = open_port(&bench).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = trust_file(&bench, CA_FILE, dir.path());
    let curl = |protocol: &str, url: String| {
        let flags = ["--noproxy", "*", "-s", "-w", " %{http_version}", protocol, "--cacert"].map(str::to_owned);
        let resolve = format!("{HOST}:{port}:127.0.0.1");
        [&flags[..], &[ca.display().to_string(), "--resolve".into(), resolve, url]].concat()
    };
    for (protocol, want) in [("--http2", "hello 2"), ("--http1.1", "hello 1.1")] {
        let args = curl(protocol, format!("https://{HOST}:{port}/"));
        let Some(said) = run("curl", "curl", &args).await else { return };
        assert_eq!(said, want);
    }
    bench.gateway.replace_routes(RouteSet::new(vec![], 3));
    let args = curl("--http1.1", format!("https://{HOST}:{port}/"));
    let Some(said) = run("curl", "curl", &args).await else { return };
    assert!(said.contains("host_not_allowed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_finds_nothing_wrong_with_a_leaf_under_strict_rules() {
    let (ca, _) = carboy_egress::CertificateAuthority::generate(support::now_ms()).unwrap();
    let leaf = ca.mint(&Host::parse(HOST).unwrap(), support::now_ms()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (ca_file, leaf_file) = (dir.path().join("ca.pem"), dir.path().join("leaf.der"));
    std::fs::write(&ca_file, ca.ca_pem()).unwrap();
    std::fs::write(&leaf_file, &leaf.cert[0]).unwrap();
    let flags = ["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", HOST, "-CAfile"];
    let mut args: Vec<String> = flags.map(str::to_owned).to_vec();
    args.extend([ca_file.display().to_string(), leaf_file.display().to_string()]);
    let Some(said) = run("openssl", "openssl", &args).await else { return };
    assert!(said.contains("OK"), "{said}");
}
