//! How a proxy ends, is stopped, and goes on: its listener, its files, its command.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use carboy_sim::{Reply, Script};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::desk::{Desk, KEY, Screen};
use crate::world::{Proxy, beside, desk, done, greeting, keyed, text, within};

/// A listener is closed within this time of a word.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// Cuts, and resumptions, one after the other.
const CUTS: usize = 100;

/// An answer of some seconds.
fn slow() -> Desk {
    let long: String = (0..400).map(|i| format!("word{i} ")).collect();
    desk(Script::default().on("", Reply::text(long)), Duration::from_millis(40), "")
}

/// A stream that flows through the proxy; true when something of it has come.
fn stream_under_way(proxy: &Proxy<'_>) -> std::process::Child {
    let ask =
        r#"{"model":"claude-opus-4-8","max_tokens":2000,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let fields = ["-sSN", "-m", "40", "-H", "anthropic-version: 2023-06-01", "-H", "x-api-key: carboy", "-d", ask];
    let mut curl = proxy.client("curl", &[&fields[..], &["https://api.anthropic.com/v1/messages"]].concat());
    let child = curl.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    within("an answer is under way", || (proxy.desk.provider().bill().output > 5).then_some(()));
    child
}

fn refused_within(proxy: &Proxy<'_>, since: Instant) {
    let closed =
        within("the listener is closed", || TcpStream::connect(proxy.address()).is_err().then(|| since.elapsed()));
    assert!(closed < CLOSED_WITHIN, "{closed:?}");
}

#[test]
fn stop_and_kill_close_the_listener_within_a_second_also_under_load_and_leave_nothing_behind() {
    for (how, code, with_stream) in [(None, 0, false), (None, 0, true), (Some("--kill"), 137, true)] {
        let desk = slow();
        let mut proxy = Proxy::start(&desk, &[]);
        let mut flowing = with_stream.then(|| stream_under_way(&proxy));
        let since = Instant::now();
        let words = [&["stop", "--no-wait"][..], how.as_slice(), &[proxy.run()]].concat();
        done(&desk, &words);
        refused_within(&proxy, since);
        let left = proxy.ended();
        assert!(left == code || (how.is_some() && left == 79), "{how:?}: {left}");
        proxy.assert_gone();
        if let Some(flowing) = &mut flowing {
            // Cut, or ended as the protocol ends; in no case does it flow on.
            let status = within("the stream ends", || flowing.try_wait().unwrap());
            assert!(status.code().is_some() || status.signal().is_some());
        }
        let ends = desk.entries("end");
        assert_eq!((ends.len(), ends[0].text("run")), (1, Some(proxy.run())), "{ends:?}");
        assert_eq!(done(&desk, &["ps", "--json"]).trim(), "[]");
    }
}

#[test]
fn ctrl_c_and_sigterm_and_a_hangup_end_it_and_its_files_are_gone() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let desk = greeting();
        let mut proxy = Proxy::start(&desk, &[]);
        assert!(proxy.ca().exists());
        proxy.signal(signal);
        assert_eq!(proxy.ended(), 0, "{signal:?}");
        proxy.assert_gone();
    }
}

#[test]
fn ctrl_c_at_a_terminal_ends_the_command_as_it_would_alone_and_the_proxy_with_it() {
    let desk = greeting();
    let key = [("ANTHROPIC_API_KEY", KEY)];
    let screen =
        Screen::open(&desk, &["proxy", "--bottle", "test", "--", "sh", "-c", "echo 'it is' up; sleep 300"], &key);
    screen.see("it is up");
    screen.key("C-c");
    // 130: by SIGINT, as a shell says it.
    let shown = screen.see("over with 130");
    assert!(shown.contains("a proxy is no sandbox") && shown.contains("ended by signal 2"), "{shown}");
    drop(screen);
    let screen = Screen::open(&desk, &["proxy", "--bottle", "test"], &key);
    screen.see("what it does");
    screen.see("export HTTPS_PROXY='http://carboy:");
    // Whoever waits for it hears of its end.
    let waiting = keyed(&desk, &["wait", "test"]).spawn().unwrap();
    screen.key("C-c");
    screen.see("over with 0");
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(waited.status.code(), Some(0), "{waited:?}");
    let left = crate::desk::files_below(&desk.path("home/run"));
    assert!(!left.iter().any(|name| name.contains("proxy")), "{left:?}");
}

#[test]
fn a_persons_cut_closes_the_listener_keeps_its_port_from_others_and_resume_opens_it_again() {
    for (how, state) in [("--cutoff", "cut off"), ("--pause", "paused"), ("--freeze", "frozen")] {
        let desk = greeting();
        let mut proxy = Proxy::start(&desk, &[]);
        assert!(proxy.calls().ends_with(" 200"));
        let since = Instant::now();
        done(&desk, &["stop", how, proxy.run()]);
        refused_within(&proxy, since);
        assert_eq!(proxy.state()["state"], state);
        // Whoever took the port would be sent the password by every client that has it.
        assert!(TcpListener::bind(proxy.address()).is_err());
        done(&desk, &["resume", proxy.run()]);
        let answer = proxy.calls();
        assert!(answer.ends_with(" 200"), "{answer}");
        assert_eq!(proxy.state()["state"], "running");
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.ended(), 0);
    }
}

/// A task that was accepting when its listener was closed is no reason to end the run.
#[test]
fn whoever_cuts_and_resumes_again_and_again_has_the_same_proxy_still() {
    let desk = greeting();
    let proxy = Proxy::start(&desk, &[]);
    for round in 0..CUTS {
        done(&desk, &["stop", "--cutoff", proxy.run()]);
        assert_eq!(proxy.state()["state"], "cut off", "round {round}");
        done(&desk, &["resume", proxy.run()]);
        assert_eq!(proxy.state()["state"], "running", "round {round}");
    }
    assert!(proxy.calls().ends_with(" 200"));
}

#[test]
fn a_persons_cut_takes_a_unix_socket_away_and_resume_brings_it_back_unless_something_else_is_there() {
    let desk = greeting();
    let path = desk.path("work/s");
    let proxy = Proxy::start(&desk, &["--socket", path.to_str().unwrap()]);
    done(&desk, &["stop", "--cutoff", proxy.run()]);
    assert!(!path.exists());
    fs::write(&path, "somebody's").unwrap();
    let refused = keyed(&desk, &["resume", proxy.run()]).output().unwrap();
    assert!(!refused.status.success() && text(&refused.stderr).contains("something else is there"), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
    fs::remove_file(&path).unwrap();
    done(&desk, &["resume", proxy.run()]);
    let url = "http://plain.example/page/clean";
    let output = proxy.curl(&["--unix-socket", path.to_str().unwrap(), "--request-target", url, url]);
    assert!(text(&output.stdout).contains("Growing tomatoes"), "{output:?}");
}

#[test]
fn with_a_command_the_exit_code_is_the_commands() {
    let desk = greeting();
    assert_eq!(beside(&desk, &[], &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(beside(&desk, &[], &["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    let missing = beside(&desk, &[], &["no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).contains("`no-such-program` cannot be started"), "{missing:?}");
    fs::write(desk.path("work/plain"), "x").unwrap();
    assert_eq!(beside(&desk, &[], &["./plain"]).status.code(), Some(126));
    // Its streams are its own: nothing else is on standard output.
    let echoed = beside(&desk, &[], &["sh", "-c", "cat; echo out; echo err >&2"]);
    assert_eq!((text(&echoed.stdout).as_str(), text(&echoed.stderr).as_str()), ("out\n", "err\n"));
    // JSON would be mixed with it.
    let both = keyed(&desk, &["proxy", "--bottle", "test", "--json", "--", "true"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    let left = crate::desk::files_below(&desk.path("home/run"));
    assert!(!left.iter().any(|name| name.contains("proxy")), "{left:?}");
}

#[test]
fn stop_ends_the_command_with_the_proxy_and_one_that_does_not_heed_it_is_killed() {
    let desk = greeting();
    let mut child = keyed(&desk, &["proxy", "--bottle", "test", "-q", "--", "sh", "-c", "echo up; exec sleep 300"])
        .spawn()
        .unwrap();
    within("it runs", || (done(&desk, &["ps", "--json"]).trim() != "[]").then_some(()));
    done(&desk, &["stop", "test"]);
    let status = within("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(128 + 15));
    let stubborn = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 300; done"];
    let mut child =
        keyed(&desk, &[&["proxy", "--bottle", "test", "-q", "--"][..], &stubborn].concat()).spawn().unwrap();
    within("it runs", || (done(&desk, &["ps", "--json"]).trim() != "[]").then_some(()));
    done(&desk, &["stop", "--kill", "test"]);
    let status = within("it ends", || child.try_wait().unwrap());
    assert!(matches!(status.code(), Some(137 | 79)), "{status:?}");
}

#[test]
fn what_stands_in_the_way_of_a_listener_is_said_and_nothing_is_started() {
    let desk = greeting();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let failed = |flags: &[&str]| {
        let output = keyed(&desk, &[&["proxy", "--bottle", "test"], flags].concat()).output().unwrap();
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.code(), text(&output.stderr))
    };
    let (code, said) = failed(&["--port", &port]);
    assert!(code == Some(70) && said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
    fs::write(desk.path("work/file"), "").unwrap();
    let (code, said) = failed(&["--socket", "file"]);
    assert!(code == Some(70) && said.contains("something else is there"), "{said}");
    let (code, said) = failed(&["--socket", &"x".repeat(200)]);
    assert!(code == Some(70) && said.contains("longer than"), "{said}");
    let (code, said) = failed(&["--socket", "a", "--port", "1"]);
    assert!(code == Some(2), "{said}");
    let (code, said) = failed(&["--socket", "none/such"]);
    assert!(code == Some(70) && said.contains("No such file"), "{said}");
    let missing = keyed(&desk, &["proxy", "--bottle", "nowhere"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(78), "{missing:?}");
    let without = keyed(&desk, &["proxy"]).output().unwrap();
    assert_eq!(without.status.code(), Some(2), "{without:?}");
    let mut keyless = desk.carboy(&["proxy", "--bottle", "test"]);
    let output = keyless.output().unwrap();
    assert!(output.status.code() == Some(78) && text(&output.stderr).contains("ANTHROPIC_API_KEY"), "{output:?}");
    assert_eq!(done(&desk, &["ps", "--json"]).trim(), "[]");
}

#[test]
fn one_that_was_killed_leaves_no_listener_and_its_files_go_with_the_next_look() {
    let desk = greeting();
    let mut proxy = Proxy::start(&desk, &["--socket", "s"]);
    proxy.signal(Signal::KILL);
    proxy.ended();
    assert!(proxy.ca().exists());
    assert_eq!(done(&desk, &["ps", "--json"]).trim(), "[]");
    assert!(!proxy.ca().exists());
    proxy.assert_gone();
    // The socket's file is somebody else's choice of a place; the next proxy there takes it over.
    let mut again = Proxy::start(&desk, &["--socket", "s"]);
    again.signal(Signal::INT);
    assert_eq!(again.ended(), 0);
    assert!(!desk.path("work/s").exists());
    let past: Value = serde_json::from_str(&done(&desk, &["ps", "-a", "--json"])).unwrap();
    let summaries: Vec<bool> =
        past["ended"].as_array().unwrap().iter().map(|run| run["summary"] != json!(null)).collect();
    assert_eq!(summaries, [false, true]);
}
