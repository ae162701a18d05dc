//! What a proxy keeps to itself, from whom, and what is seen of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use crate::desk::{KEY, files_below};
use crate::world::{FAKE, Proxy, beside, done, greeting, keyed, text, within};

/// An ordinary user for tests, as in the tests of bottles.
fn ordinary(program: &str, arguments: &[&str]) -> Option<Output> {
    let name = std::env::var("CARBOY_TEST_USER").unwrap_or_else(|_| "carboytest".into());
    let ids = carboy_control::host_user::ids_of(&name).ok();
    let (true, Some((uid, gid))) = (rustix::process::getuid().is_root(), ids) else {
        eprintln!("skipped: it takes root and the user `{name}` to be somebody else");
        return None;
    };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "--", program]);
    Some(command.args(arguments).output().unwrap())
}

#[test]
fn the_password_is_in_no_log_in_no_command_line_and_in_one_file_for_its_user_alone() {
    let desk = greeting();
    let mut proxy = Proxy::start(&desk, &[]);
    let password = proxy.password();
    assert!(password.len() == 64 && password.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(proxy.calls().ends_with(" 200"));
    // Sent to a host it is a secret like any other.
    let leaked = proxy.curl(&["-d", &format!("p={password}"), "http://plain.example/page/clean"]);
    assert!(text(&leaked.stdout).contains("secret_known"), "{leaked:?}");
    let env_file = proxy.told["env_file"].as_str().unwrap().to_owned();
    for (file, mode) in [(env_file.clone(), 0o600), (proxy.ca().display().to_string(), 0o600)] {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode, "{file}");
    }
    let dir = fs::metadata(proxy.ca().parent().unwrap()).unwrap();
    assert_eq!(dir.permissions().mode() & 0o777, 0o700);
    // A shell that reads the file is pointed at it.
    let script = format!(". '{env_file}' && curl -sS http://plain.example/page/clean");
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(text(&shell.stdout).contains("Growing tomatoes"), "{shell:?}");
    let cmdline = fs::read(format!("/proc/{}/cmdline", proxy.child.id())).unwrap();
    assert!(!text(&cmdline).contains(&password));
    for word in ["logs", "ps", "top"] {
        let flags: &[&str] = if word == "top" { &["--json"] } else { &[] };
        let output = keyed(&desk, &[&[word], flags].concat()).output().unwrap();
        assert!(!text(&output.stdout).contains(&password), "{word}");
    }
    proxy.signal(Signal::TERM);
    proxy.ended();
    for file in files_below(&desk.path("home")) {
        let content = fs::read(desk.path("home").join(&file)).unwrap_or_default();
        let holds = |needle: &str| content.windows(needle.len()).any(|window| window == needle.as_bytes());
        assert!(!holds(&password), "{file}");
        assert!(!holds(KEY), "{file}");
    }
    // Another run has another one.
    assert_ne!(Proxy::start(&desk, &[]).password(), password);
}

#[test]
fn a_command_beside_it_holds_a_fake_and_no_key_of_this_user_and_its_command_line_no_password() {
    let desk = greeting();
    let settings = fs::read_to_string(desk.path("home/settings.yml")).unwrap();
    desk.write("home/settings.yml", &format!("{settings}secrets:\n  ANTHROPIC_API_KEY: {{env: MY_OWN_KEY}}\n"));
    let mut command =
        keyed(&desk, &["proxy", "--bottle", "test", "-q", "--", "sh", "-c", "env; tr '\\0' ' ' </proc/$$/cmdline"]);
    command
        .env("MY_OWN_KEY", KEY)
        .env("AUDIT_INTEGRITY_KEY", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    let output = command.output().unwrap();
    let shown = text(&output.stdout);
    assert!(output.status.success() && !shown.contains(KEY) && !shown.contains("00112233"), "{shown}");
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).map(str::to_owned);
    assert!(value("ANTHROPIC_API_KEY").unwrap().contains(FAKE), "{shown}");
    let address = value("HTTPS_PROXY").unwrap();
    for name in ["https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        assert_eq!(value(name).as_deref(), Some(&*address), "{name}");
    }
    for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"] {
        assert!(value(name).unwrap().ends_with("/ca.pem"), "{name}");
    }
    let cmdline = shown.lines().last().unwrap();
    assert!(cmdline.starts_with("sh -c") && !cmdline.contains("carboy:"), "{cmdline}");
}

#[test]
fn a_real_key_that_a_client_sends_itself_is_blocked_with_403_and_written_down() {
    let desk = greeting();
    let proxy = Proxy::start(&desk, &[]);
    for arguments in [
        &["-d", KEY, "http://plain.example/page/clean"][..],
        &["-H", &format!("x-note: {KEY}"), "http://plain.example/page/clean"],
        &[&format!("http://plain.example/{KEY}")],
    ] {
        let output = proxy.curl(&[&["-w", " %{http_code}"], arguments].concat());
        assert!(text(&output.stdout).contains("secret_known") && text(&output.stdout).ends_with(" 403"), "{output:?}");
    }
    assert_eq!(proxy.refused("secret_known").len(), 3);
    assert_eq!(desk.provider().received().len(), 0);
    assert!(!fs::read_to_string(desk.path("home/audit/audit.jsonl")).unwrap().contains(KEY));
}

#[test]
fn without_the_password_or_with_another_ones_nobody_is_served_and_that_is_written_down() {
    let desk = greeting();
    let (first, second) = (Proxy::start(&desk, &[]), Proxy::start(&desk, &[]));
    let strange = format!("http://x:{}@{}", second.password(), first.address());
    let wrong = format!("http://x:{}@{}", "0".repeat(64), first.address());
    let none = format!("http://{}", first.address());
    for proxy in [&strange, &wrong, &none] {
        for url in ["http://plain.example/page/clean", "https://api.anthropic.com/v1/messages"] {
            let output = first.curl(&["--noproxy", "", "-x", proxy, "-w", " %{http_connect} %{http_code}", url]);
            assert!(text(&output.stdout).contains("407"), "{output:?}");
        }
    }
    // One like those before it is counted.
    let written =
        within("it is written down", || Some(first.refused("proxy_unauthorized")).filter(|found| !found.is_empty()));
    assert_eq!(written[0].text("result"), Some("denied"));
    assert_eq!(first.state()["refusals"], 6);
    assert!(first.calls().ends_with(" 200"));
    assert_eq!(desk.provider().received().len(), 1);
}

#[test]
fn another_user_is_refused_by_password_by_mode_and_by_the_kernels_word() {
    let desk = greeting();
    // Where the other user gets to.
    let place = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let socket = place.path().join("s");
    let (tcp, unix) = (Proxy::start(&desk, &[]), Proxy::start(&desk, &["--socket", socket.to_str().unwrap()]));
    let url = "http://plain.example/page/clean";
    let address = format!("http://{}", tcp.address());
    let Some(output) = ordinary("curl", &["-sS", "-x", &address, "-w", " %{http_code}", url]) else { return };
    assert!(text(&output.stdout).ends_with(" 407"), "{output:?}");
    // Its variables are not read by another user either.
    let Some(output) = ordinary("cat", &[&format!("/proc/{}/environ", tcp.child.id())]) else { return };
    assert!(!output.status.success() && output.stdout.is_empty());
    let Some(output) = ordinary("cat", &[tcp.told["env_file"].as_str().unwrap()]) else { return };
    assert!(!output.status.success());
    let ask = ["-sS", "-w", " %{http_code}", "--unix-socket", socket.to_str().unwrap(), "--request-target", url, url];
    let Some(output) = ordinary("curl", &ask) else { return };
    assert!(!output.status.success() && output.stdout == b" 000", "{output:?}");
    assert_eq!(unix.state()["refusals"], 0);
    // Its mode was changed by mistake: SO_PEERCRED says who it is.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let Some(output) = ordinary("curl", &ask) else { return };
    assert!(
        text(&output.stdout).contains("proxy_unauthorized") && text(&output.stdout).ends_with(" 407"),
        "{output:?}"
    );
    let refused = unix.refused("proxy_unauthorized");
    let detail = refused[0].detail("detail").and_then(Value::as_str).unwrap().to_owned();
    assert!(detail.contains("uid"), "{detail}");
    assert_eq!(desk.provider().received().len(), 0);
}

#[test]
fn it_is_seen_as_what_it_is() {
    let desk = greeting();
    let mut proxy = Proxy::start(&desk, &[]);
    assert!(proxy.calls().ends_with(" 200"));
    let state = proxy.state();
    assert_eq!((state["tier"].as_str(), state["state"].as_str()), (Some("proxy"), Some("running")), "{state}");
    let command: Vec<&str> =
        state["record"]["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command, ["proxy", &proxy.address().to_string()]);
    let shown = done(&desk, &["ps"]);
    assert!(shown.contains(&format!("proxy {}", proxy.address())), "{shown}");
    let logged = done(&desk, &["logs", proxy.run()]);
    assert!(logged.contains("api.anthropic.com") && logged.contains("start"), "{logged}");
    let top = done(&desk, &["top", "--json"]);
    assert!(top.contains(proxy.run()), "{top}");
    // It has no terminal and no bottle.
    for words in [&["attach", proxy.run()][..], &["exec", proxy.run(), "--", "true"]] {
        let output = keyed(&desk, words).output().unwrap();
        assert!(!output.status.success() && text(&output.stderr).contains("a proxy"), "{output:?}");
    }
    // A route that is opened for a while holds here too.
    assert!(text(&proxy.curl(&["http://denied.example/"]).stdout).contains("host_not_allowed"));
    let refusal = proxy.refused("host_not_allowed")[0].detail("refusal").unwrap().as_str().unwrap().to_owned();
    done(&desk, &["allow", &refusal, "--for", "10m", "--yes"]);
    assert!(!text(&proxy.curl(&["http://denied.example/"]).stdout).contains("host_not_allowed"));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended(), 0);
    let past: Value = serde_json::from_str(&done(&desk, &["ps", "-a", "--json"])).unwrap();
    assert_eq!(past["ended"][0]["summary"]["tier"], "proxy", "{past}");
    done(&desk, &["audit", "verify"]);
}

#[test]
fn what_a_person_reads_says_that_it_is_no_sandbox_and_what_a_shell_reads_is_nothing_else() {
    let desk = greeting();
    let mut child = keyed(&desk, &["proxy", "--bottle", "test"]).spawn().unwrap();
    let found = within("it listens", || {
        let runs: Vec<Value> = serde_json::from_str(&done(&desk, &["ps", "--json"])).unwrap();
        runs.first().map(|run| run["record"]["run"].as_str().unwrap().to_owned())
    });
    done(&desk, &["stop", &found]);
    within("it ends", || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    let (data, talk) = (text(&output.stdout), text(&output.stderr));
    assert!(data.lines().all(|line| line.starts_with("export ") && line.ends_with('\'')), "{data}");
    assert!(data.contains("export HTTPS_PROXY='http://carboy:") && data.contains("export SSL_CERT_FILE='"), "{data}");
    for words in ["listens on 127.0.0.1:", "a proxy is no sandbox", "is not captured", "carboy stop"] {
        assert!(talk.contains(words), "`{words}` is not in:\n{talk}");
    }
    assert!(!talk.contains("export "), "{talk}");
    let quiet = beside(&desk, &[], &["true"]);
    assert!(quiet.stderr.is_empty() && quiet.stdout.is_empty(), "{quiet:?}");
}
