//! Tokens through a proxy: metered and held as in a bottle, stopped by a spent budget, charged in full for one that was lost.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use carboy_sim::{Reply, Script};
use rustix::process::Signal;
use serde_json::Value;

use crate::desk::Desk;
use crate::world::{Proxy, beside, client, desk, done, greeting, text, within};

/// The words that every client has to show of a spent budget's refusal.
const SPENT: &str = "the budget for this model's tokens is spent";

fn long() -> Script {
    Script::default().on("", Reply::text((0..400).map(|i| format!("word{i} ")).collect::<String>()))
}

/// The run's line of the ledger.
fn ledger(desk: &Desk, run: &str) -> Value {
    let snapshot: Value =
        serde_json::from_str(&done(desk, &["budget", "show", &format!("run:{run}"), "--json"])).unwrap();
    let meters = snapshot["host"]["meters"].as_array().unwrap();
    meters.iter().find(|line| line["meter"] == "anthropic").unwrap_or(&Value::Null).clone()
}

fn raw(value: &Value) -> u64 {
    value["raw"].as_u64().unwrap_or(0)
}

#[test]
fn c2_the_anthropic_sdk_through_a_proxy_is_metered_to_the_token() {
    let Some(python) = client("venv/bin/python") else { return };
    let desk = desk(long(), Duration::ZERO, "");
    let mut proxy = Proxy::start(&desk, &[]);
    let program = "from anthropic import Anthropic\n\
                   c = Anthropic()\n\
                   ask = dict(model='claude-opus-4-8', max_tokens=4000, messages=[{'role': 'user', 'content': 'a tale'}])\n\
                   with c.messages.stream(**ask) as s:\n\
                   \x20   a = s.get_final_message().usage\n\
                   b = c.messages.create(**ask).usage\n\
                   print(a.input_tokens + b.input_tokens, a.output_tokens + b.output_tokens)";
    let output = proxy.client(&python, &["-c", program]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: Vec<u64> = text(&output.stdout).split_whitespace().map(|number| number.parse().unwrap()).collect();
    let billed = desk.provider().bill();
    let line =
        within("everything is settled", || Some(ledger(&desk, proxy.run())).filter(|line| raw(&line["held"]) == 0));
    assert_eq!((told[0], told[1]), (billed.input, billed.output));
    assert_eq!((raw(&line["spent"]), billed.requests), (billed.raw() * 1000, 2), "{line}");
    // `ps` and `budget show` have it as any run.
    assert!(proxy.state()["tokens"].is_array());
    assert!(done(&desk, &["budget", "show"]).contains(proxy.run()));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended(), 0);
}

#[test]
fn c10_a_budget_that_is_crossed_is_told_in_the_clients_own_words_and_the_listener_stays_to_say_it() {
    let Some(python) = client("venv/bin/python") else { return };
    let desk = greeting();
    let mut proxy = Proxy::start(&desk, &["--budget", "claude=50"]);
    let program = "import anthropic\n\
                   c = anthropic.Anthropic()\n\
                   ask = dict(model='claude-opus-4-8', max_tokens=4000, messages=[{'role': 'user', 'content': 'hi'}])\n\
                   for _ in range(2):\n\
                   \x20   try: c.messages.create(**ask)\n\
                   \x20   except anthropic.APIStatusError as e: print(e.status_code, e.message)";
    let output = proxy.client(&python, &["-c", program]).output().unwrap();
    assert_eq!(text(&output.stdout).matches(SPENT).count(), 2, "{output:?}");
    assert_eq!(desk.provider().bill().raw(), 0);
    within("it is cut off", || (proxy.state()["state"] == "cut off").then_some(()));
    // As in a bottle: whoever asks is told why, and no request passes, of a model or not.
    let answer = proxy.curl(&["http://plain.example/page/clean"]);
    assert!(
        text(&answer.stdout).contains("cut_off") || text(&answer.stdout).contains("budget_exhausted"),
        "{answer:?}"
    );
    assert!(desk.entries("cutoff").iter().any(|entry| entry.text("run") == Some(proxy.run())));
    // With more of it, it goes on.
    done(&desk, &["budget", "set", &format!("run:{}", proxy.run()), "claude=2M"]);
    within("it goes on", || {
        (proxy.state()["state"] == "running").then_some(()).or_else(|| {
            let _ = crate::world::keyed(&desk, &["resume", proxy.run()]).output();
            None
        })
    });
    let answer = proxy.calls();
    assert!(answer.ends_with(" 200"), "{answer}");
    proxy.signal(Signal::TERM);
    proxy.ended();
}

#[test]
fn c11_what_a_person_stopped_stays_so_when_a_cap_has_room_and_what_a_cap_stopped_when_a_person_resumes() {
    let desk = greeting();
    let mut proxy = Proxy::start(&desk, &["--budget", "claude=50"]);
    let state = |proxy: &Proxy| proxy.state()["state"].as_str().unwrap().to_owned();
    proxy.calls();
    within("it is cut off for its budget", || (state(&proxy) == "cut off").then_some(()));
    // By hand as well, from now on.
    let scope = format!("run:{}", proxy.run());
    done(&desk, &["stop", "--cutoff", proxy.run()]);
    assert!(proxy.state()["why"].as_str().unwrap().contains("operator"), "{}", proxy.state());
    done(&desk, &["budget", "set", &scope, "claude=2M"]);
    within("there is room", || desk.entries("restore_cap").pop());
    assert_eq!(state(&proxy), "cut off");
    done(&desk, &["resume", proxy.run()]);
    assert_eq!(state(&proxy), "running");
    let resumed = within("it is logged", || desk.entries("resume").into_iter().next());
    assert_eq!(resumed.detail("by").and_then(|by| by.as_str()), Some("operator"));
    // Cut off by hand, and then by a cap as well.
    assert!(proxy.calls().ends_with(" 200"));
    done(&desk, &["stop", "--cutoff", proxy.run()]);
    done(&desk, &["budget", "set", &scope, "claude=1"]);
    within("it is crossed again", || (desk.entries("cross_cap").len() > 1).then_some(()));
    let refused = within("it is told so", || {
        let output = crate::world::keyed(&desk, &["resume", proxy.run()]).output().unwrap();
        (!output.status.success()).then(|| text(&output.stderr))
    });
    assert!(refused.contains("budget of run:"), "{refused}");
    assert_eq!(state(&proxy), "cut off");
    proxy.signal(Signal::TERM);
    proxy.ended();
}

#[test]
fn c10_claude_beside_a_proxy_whose_budget_is_spent_stops_and_shows_why() {
    let Some(claude) = client("bin/claude") else { return };
    let desk = greeting();
    let output = beside(&desk, &["--budget", "claude=50"], &[&claude, "-p", "hi", "--output-format", "json"]);
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert!(shown.contains(SPENT), "{output:?}");
    // Cut off, as a run in a bottle says it.
    assert_eq!(output.status.code(), Some(79), "{output:?}");
    assert_eq!(desk.provider().bill().raw(), 0);
}

#[test]
fn c15_when_the_proxy_is_killed_what_it_had_sent_is_charged_in_full() {
    let desk = desk(long(), Duration::from_millis(40), "");
    let mut proxy = Proxy::start(&desk, &["--budget", "2M"]);
    let ask =
        r#"{"model":"claude-opus-4-8","max_tokens":1500,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let fields = ["-sSN", "-H", "anthropic-version: 2023-06-01", "-H", "x-api-key: carboy", "-d", ask];
    let mut curl = proxy.client("curl", &[&fields[..], &["https://api.anthropic.com/v1/messages"]].concat());
    let mut flowing = curl.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    within("an answer is under way", || (desk.provider().bill().output > 5).then_some(()));
    let held = raw(&ledger(&desk, proxy.run())["held"]);
    assert!(held > 0);
    proxy.signal(Signal::KILL);
    proxy.ended();
    let line = within("it is charged", || Some(ledger(&desk, proxy.run())).filter(|line| raw(&line["held"]) == 0));
    assert_eq!(raw(&line["spent"]), held, "{line}");
    assert!(raw(&line["spent"]) >= desk.provider().bill().raw() * 1000);
    // Nobody is on its port, and its client was cut off.
    assert!(std::net::TcpStream::connect(proxy.address()).is_err());
    within("its client ends", || flowing.try_wait().unwrap());
    done(&desk, &["ps"]);
    proxy.assert_gone();
}

#[test]
fn without_a_controller_no_metered_request_passes_and_its_client_is_told() {
    let desk = greeting();
    let proxy = Proxy::start(&desk, &[]);
    assert!(proxy.calls().ends_with(" 200"));
    let status: Value = serde_json::from_str(&done(&desk, &["controller", "status", "--json"])).unwrap();
    let pid = i32::try_from(status["pid"].as_i64().unwrap()).unwrap();
    // Gone, and nobody can start another: its lock is taken at once.
    let lock = File::options().write(true).open(desk.path("home/run/controller.lock")).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    lock.lock().unwrap();
    let before = desk.provider().bill().requests;
    let answer = proxy.calls();
    assert!(answer.contains("ledger_unavailable") && !answer.ends_with(" 200"), "{answer}");
    assert_eq!(desk.provider().bill().requests, before);
    assert_eq!(proxy.refused("ledger_unavailable").len(), 1);
    // What costs nothing goes on.
    let page = proxy.curl(&["http://plain.example/page/clean"]);
    assert!(text(&page.stdout).contains("Growing tomatoes"), "{page:?}");
    drop(lock);
    let answer = within("it is there again", || Some(proxy.calls()).filter(|answer| answer.ends_with(" 200")));
    assert!(answer.contains("Hello"), "{answer}");
}
