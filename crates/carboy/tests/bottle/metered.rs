//! Real clients and their budgets: what each of them reports itself is what the ledger charged and what the provider bills;
//! when a budget is crossed, before a request or in the middle of an answer, each stops by itself and shows why.

use std::time::Duration;

use carboy_core::audit::Entry;
use carboy_sim::{Bill, RandomUsage, Reply, Script, UsageMode, WebSockets};
use serde_json::{Value, json};

use crate::clients::client;
use crate::runs::{carboy, living, stderr, within};
use crate::world::{Person, Ran, STANDARD_ROUTES, World};
use crate::{Case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(40);
/// A client may ask so often again after the first final refusal.
const FURTHER_MAX: usize = 2;
/// What the tool is asked to do.
const WORK: &str = "echo pl\"\"anted | tee made.txt";
/// The words that every client has to show of a spent budget's refusal.
const SPENT: &str = "the budget for this model's tokens is spent";

pub fn cases() -> Vec<Case> {
    let python: &'static [&'static str] = vec![&*client("venv/bin/python").leak()].leak();
    let needs = |name: &str, more: &[&'static str]| -> &'static [&'static str] {
        [&[&*client(&format!("bin/{name}")).leak()], more].concat().leak()
    };
    vec![
        case_with(
            "C2 C10 claude: metered to the token, and stopped by a spent budget",
            needs("claude", &[]),
            |person| {
                whole(person, &CLAUDE);
            },
        ),
        case_with(
            "C2 C10 codex: metered to the token, and stopped by a spent budget",
            needs("codex", &["node"]),
            |p| {
                whole(p, &CODEX);
            },
        ),
        case_with(
            "C2 C10 gemini: metered to the token, and stopped by a spent budget",
            needs("gemini", &["node"]),
            |p| {
                whole(p, &GEMINI);
            },
        ),
        case_with(
            "C2 C10 opencode: metered to the token, and stopped by a spent budget",
            needs("opencode", &[]),
            |p| {
                whole(p, &OPENCODE);
            },
        ),
        case_with("C2 C10 the anthropic SDK: metered to the token, and stopped by a spent budget", python, |p| {
            whole(p, &ANTHROPIC_SDK);
        }),
        case_with("C2 C10 the openai SDK: metered to the token, and stopped by a spent budget", python, |p| {
            whole(p, &OPENAI_SDK);
        }),
        case_with(
            "C2 C10 claude is frozen by its budget, and goes on in its conversation",
            needs("claude", &[]),
            |p| {
                frozen(p, &CLAUDE, ".claude.json");
            },
        ),
        case_with(
            "C2 C10 codex is frozen by its budget, and goes on in its conversation",
            needs("codex", &["node"]),
            |p| {
                frozen(p, &CODEX, ".codex/auth.json");
            },
        ),
        case_with(
            "C2 C10 codex over a WebSocket is metered and stopped as over HTTP",
            needs("codex", &["node"]),
            codex_socket,
        ),
        case_with(
            "C2 an answer held in parts is cut at the cap, and what is only looked at is crossed once",
            python,
            loose,
        ),
    ]
}

/// A client: how it is asked, and what it reports of what that cost.
struct Client {
    name: &'static str,
    /// The bottle's lines beside the budget.
    bottle: fn() -> String,
    meter: &'static str,
    /// A path with this in it is the model's.
    path: &'static str,
    /// Its tool that runs a command.
    tool: fn() -> Option<(&'static str, Value)>,
    ask: fn(&str) -> Vec<String>,
    told: fn(&str) -> Bill,
}

fn provider(name: &str, preset: &str) -> String {
    let program = client(&format!("bin/{name}"));
    format!("agent_provider: {{name: {name}, command: {program}}}\npresets: [{preset}]\n")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Every line of the output that is JSON.
fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok())
}

const CLAUDE: Client = Client {
    name: "claude",
    bottle: || provider("claude", "anthropic"),
    meter: "anthropic",
    path: "/v1/messages",
    tool: || Some(("Bash", json!({"command": WORK, "description": "sows"}))),
    ask: |task| {
        let program = client("bin/claude");
        words(&[&program, "--dangerously-skip-permissions", "--print", "--output-format", "json", "--", task])
    },
    told: |text| {
        let answer: Value = serde_json::from_str(text).unwrap();
        anthropic_bill(&answer["usage"])
    },
};

fn anthropic_bill(usage: &Value) -> Bill {
    Bill {
        input: number(&usage["input_tokens"]),
        cache_write: number(&usage["cache_creation_input_tokens"]),
        cache_read: number(&usage["cache_read_input_tokens"]),
        output: number(&usage["output_tokens"]),
        ..Bill::default()
    }
}

const CODEX: Client = Client {
    name: "codex",
    bottle: || provider("codex", "openai"),
    meter: "openai",
    path: "/v1/responses",
    tool: || Some(("exec", json!(format!("text(await tools.exec_command({{cmd: {}}}))", json!(WORK))))),
    ask: |task| {
        let flags = ["exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--"];
        words(&[&[&*client("bin/codex")], &flags[..], &[task]].concat())
    },
    told: |text| {
        let turn = lines(text).filter(|line| line["type"] == "turn.completed").last().unwrap();
        let (input, cached) = (number(&turn["usage"]["input_tokens"]), number(&turn["usage"]["cached_input_tokens"]));
        let output = number(&turn["usage"]["output_tokens"]);
        Bill { input: input - cached, cache_read: cached, output, ..Bill::default() }
    },
};

const GEMINI: Client = Client {
    name: "gemini",
    bottle: || provider("gemini", "gemini"),
    meter: "gemini",
    path: "enerateContent",
    tool: || Some(("run_shell_command", json!({"command": WORK, "description": "sows"}))),
    ask: |task| {
        let flags = ["--yolo", "-m", "gemini-2.5-flash", "--output-format", "json", "--prompt", task];
        words(&[&[&*client("bin/gemini")], &flags[..]].concat())
    },
    told: |text| {
        let from = text.find('{').unwrap();
        let answer: Value = serde_json::from_str(&text[from..]).unwrap();
        let mut bill = Bill::default();
        for model in answer["stats"]["models"].as_object().unwrap().values() {
            let tokens = &model["tokens"];
            bill.input += number(&tokens["prompt"]) - number(&tokens["cached"]);
            bill.cache_read += number(&tokens["cached"]);
            bill.output += number(&tokens["candidates"]) + number(&tokens["thoughts"]);
        }
        bill
    },
};

const OPENCODE: Client = Client {
    name: "opencode",
    bottle: || provider("opencode", "anthropic"),
    meter: "anthropic",
    path: "/v1/messages",
    tool: || Some(("bash", json!({"command": WORK, "description": "sows"}))),
    ask: |task| words(&[&client("bin/opencode"), "run", "--format", "json", "--title", "seeds", "--", task]),
    told: |text| {
        let mut bill = Bill::default();
        for step in lines(text).filter(|line| line["type"] == "step_finish") {
            let tokens = &step["part"]["tokens"];
            bill.input += number(&tokens["input"]);
            bill.cache_write += number(&tokens["cache"]["write"]);
            bill.cache_read += number(&tokens["cache"]["read"]);
            bill.output += number(&tokens["output"]) + number(&tokens["reasoning"]);
        }
        bill
    },
};

/// Begins and ends a Python program of which each line of output is one answer's usage.
const PYTHON: &str = "import json, sys\n\
                      def say(usage): print(json.dumps(usage.model_dump(mode='json')), flush=True)\n";

const ANTHROPIC_SDK: Client = Client {
    name: "the anthropic SDK",
    bottle: || STANDARD_ROUTES.to_owned(),
    meter: "anthropic",
    path: "/v1/messages",
    tool: || None,
    ask: |task| {
        let program = format!(
            "{PYTHON}from anthropic import Anthropic\n\
             c = Anthropic()\n\
             ask = dict(model='claude-opus-4-8', max_tokens=4000, messages=[{{'role': 'user', 'content': [\n\
             \x20   {{'type': 'text', 'text': '{task}', 'cache_control': {{'type': 'ephemeral'}}}}]}}])\n\
             with c.messages.stream(**ask) as s:\n\
             \x20   say(s.get_final_message().usage)\n\
             say(c.messages.create(**ask).usage)\n"
        );
        words(&[&client("venv/bin/python"), "-c", &program])
    },
    told: |text| {
        let all: Vec<Bill> = lines(text).map(|usage| anthropic_bill(&usage)).collect();
        all.into_iter().fold(Bill::default(), sum)
    },
};

const OPENAI_SDK: Client = Client {
    name: "the openai SDK",
    bottle: || STANDARD_ROUTES.to_owned(),
    meter: "openai",
    path: "/v1/",
    tool: || None,
    ask: |task| {
        let program = format!(
            "{PYTHON}from openai import OpenAI\n\
             c, usage = OpenAI(), None\n\
             ask = dict(model='gpt-5', max_completion_tokens=4000, messages=[{{'role': 'user', 'content': '{task}'}}])\n\
             for e in c.chat.completions.create(stream=True, stream_options={{'include_usage': True}}, **ask):\n\
             \x20   usage = e.usage or usage\n\
             say(usage)\n\
             say(c.chat.completions.create(**ask).usage)\n\
             with c.responses.stream(model='gpt-5', max_output_tokens=4000, input='{task}') as s:\n\
             \x20   say(s.get_final_response().usage)\n\
             say(c.embeddings.create(model='text-embedding-3-small', input='{task}').usage)\n"
        );
        words(&[&client("venv/bin/python"), "-c", &program])
    },
    told: |text| {
        let bill = |usage: Value| {
            let input = number(&usage["prompt_tokens"]) + number(&usage["input_tokens"]);
            let details = [&usage["prompt_tokens_details"], &usage["input_tokens_details"]];
            let cached: u64 = details.iter().map(|details| number(&details["cached_tokens"])).sum();
            let output = number(&usage["completion_tokens"]) + number(&usage["output_tokens"]);
            Bill { input: input - cached, cache_read: cached, output, ..Bill::default() }
        };
        lines(text).map(bill).fold(Bill::default(), sum)
    },
};

fn sum(a: Bill, b: Bill) -> Bill {
    Bill {
        requests: 0,
        interrupted: 0,
        input: a.input + b.input,
        cache_write: a.cache_write + b.cache_write,
        cache_read: a.cache_read + b.cache_read,
        output: a.output + b.output,
    }
}

fn script(client: &Client) -> Script {
    let long: String = (0..400).map(|i| format!("word{i} ")).collect();
    let script = Script::default()
        .on_tool_result("planted", Reply::text("It is done, said the simulated gardener."))
        .on("a long tale", Reply::text(long));
    match (client.tool)() {
        Some((name, input)) => script.on("sow", Reply::tool(name, input)),
        None => script,
    }
}

/// The run's line of the ledger for the client's meter.
fn ledger(world: &World, run: &str, meter: &str) -> Value {
    let shown = carboy(world, &["budget", "show", &format!("run:{run}"), "--json"]);
    let snapshot: Value = serde_json::from_slice(&shown.stdout).unwrap_or_else(|e| panic!("{e}: {shown:?}"));
    let meters = snapshot["host"]["meters"].as_array().unwrap();
    meters.iter().find(|line| line["meter"] == meter).unwrap_or(&Value::Null).clone()
}

/// What the ledger charged, by kind.
fn charged(line: &Value) -> Bill {
    let usage = &line["usage"];
    Bill {
        input: number(&usage["input"]),
        cache_write: number(&usage["cache_write"]),
        cache_read: number(&usage["cache_read"]),
        output: number(&usage["output"]),
        ..Bill::default()
    }
}

/// What was billed since.
fn since(world: &World, before: Bill) -> Bill {
    let now = world.provider.bill();
    Bill {
        requests: 0,
        interrupted: 0,
        input: now.input - before.input,
        cache_write: now.cache_write - before.cache_write,
        cache_read: now.cache_read - before.cache_read,
        output: now.output - before.output,
    }
}

fn run_id(ran: &Ran) -> String {
    ran.summary["run"].as_str().unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

fn whole(person: Person, client: &Client) {
    metered(person, client);
    stopped(person, client);
}

fn ask(world: &World, client: &Client, flags: &[&str], task: &str) -> Ran {
    let asked = (client.ask)(task);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    // Carboy itself says nothing: whatever is seen of it was said to the client.
    world.run_with(&[&["-q"], flags].concat(), &asked)
}

/// What the client says, what the ledger charged and what the provider bills is one and the same, kind by kind.
fn metered(person: Person, client: &Client) {
    let world = World::configured(person, |config| {
        config.script = script(client);
        config.usage = UsageMode::Random(RandomUsage {
            thinking_tokens_per_s: 100_000,
            output_tokens_max: 900,
            ..RandomUsage::seeded(11)
        });
    });
    world.bottle(&(client.bottle)());
    let ran = ask(&world, client, &[], "sow the seeds").expect_code(0);
    let billed = since(&world, Bill::default());
    let line = ledger(&world, &run_id(&ran), client.meter);
    let told = (client.told)(&ran.stdout);
    println!("{}: {} requests, {billed:?}", client.name, world.provider.bill().requests);
    assert_eq!(charged(&line), billed, "{}: what the ledger charged; {line}", client.name);
    assert_eq!(told, billed, "{}: what it reports itself", client.name);
    assert_eq!(number(&line["requests"]), world.provider.bill().requests, "{line}");
    assert_eq!((&line["held"]["raw"], &line["estimated"]["raw"]), (&json!(0), &json!(0)), "{line}");
    assert_eq!(number(&line["spent"]["raw"]), billed.raw() * 1000, "{line}");
    assert_eq!(number(&line["spent"]["weighted"]), billed.weighted_milli(), "{line}");
}

/// The requests for the model that came after the first final refusal.
fn further(client: &Client, entries: &[Entry]) -> usize {
    let asks = |entry: &&Entry| {
        let path = entry.detail("path").and_then(Value::as_str).unwrap_or_default();
        path.contains(client.path) && entry.detail("method").and_then(Value::as_str) == Some("POST")
    };
    let refused = |entry: &&Entry| {
        let reason = entry.detail("reason").and_then(Value::as_str).unwrap_or_default();
        ["budget_exhausted", "cut_off"].contains(&reason)
    };
    let asked: Vec<&Entry> = entries.iter().filter(asks).collect();
    let first = asked.iter().position(refused).unwrap_or(asked.len());
    (asked.len() - first).saturating_sub(1)
}

/// Stopped by itself: so many requests at most after the first refusal, and why is said by the client.
fn assert_stopped(client: &Client, ran: &Ran, what: &str) {
    let further = further(client, &ran.entries);
    println!("{} {what}: code {}, {further} further requests", client.name, ran.code);
    assert!(further <= FURTHER_MAX, "{} {what}: {further} further requests; {:?}", client.name, ran.entries);
    let shown = format!("{}{}", ran.stdout, ran.stderr);
    for words in [SPENT, &format!("for {}: ", client.meter)] {
        assert!(shown.contains(words), "{} {what}: `{words}` is not in:\n{shown}", client.name);
    }
    assert!(ran.entries.iter().any(|entry| entry.text("action") == Some("cutoff")), "{what}: {:?}", ran.entries);
}

/// A budget that is crossed before the first request, and one in the middle of an answer.
fn stopped(person: Person, client: &Client) {
    let world = World::configured(person, |config| {
        config.script = script(client);
        config.faults.pace = Duration::from_millis(25);
    });
    world.bottle(&(client.bottle)());
    // At its meter alone: a cap that is too small for any request cuts the run off, whichever of its meters it is at.
    let budget = format!("{}=50", client.meter);
    let ran = ask(&world, client, &["--budget", &budget], "sow the seeds").expect_code(79);
    assert_stopped(client, &ran, "before a request");
    assert_eq!(world.provider.bill().raw(), 0);

    let ran = std::thread::scope(|scope| {
        let run = scope.spawn(|| ask(&world, client, &["--budget", "2M"], "tell a long tale"));
        within(HAPPEN_WAIT_MAX, "an answer is under way", || (world.provider.bill().output > 20).then_some(()));
        let id = living(&world)[0]["record"]["run"].as_str().unwrap().to_owned();
        let set = carboy(&world, &["budget", "set", &format!("run:{id}"), &format!("{}=50", client.meter)]);
        assert!(set.status.success(), "{set:?}");
        run.join().unwrap()
    });
    assert_stopped(client, &ran, "in mid-stream");
    // What came of the answer is there, and behind it the notice: the stream was ended, not torn off.
    assert!(ran.stdout.contains("word3") || client.name.ends_with("SDK") || client.name == "codex", "{}", ran.stdout);
    // At least what the provider bills, and no more than was held.
    let line = ledger(&world, &run_id(&ran), client.meter);
    let (charged, billed) = (number(&line["spent"]["raw"]), world.provider.bill());
    assert!(charged >= billed.raw() * 1000 && charged <= 2_000_000_000, "{line} {billed:?}");
    assert_eq!((number(&line["held"]["raw"]), billed.interrupted), (0, 1), "{line}");
}

/// A budget that the first request leaves too little of freezes the run; with more of it the program goes on where it was.
fn frozen(person: Person, client: &Client, login: &str) {
    let world = World::configured(person, |config| config.script = script(client));
    let bottle = (client.bottle)();
    world.bottle(&bottle);
    world.write("home/agents/night.md", "---\nbottle: test\n---\nYou grow tomatoes.\n");
    world.run_with(&["night", "--task", "say hello"], &[]).expect_code(0);
    // One request and a half: the tool is called, and what it returned cannot be told.
    let one = world.provider.bill();
    assert_eq!(one.requests, 1);
    let spent = one.raw() + one.raw() / 2;
    let cap = one.raw() + spent;
    world.bottle(&format!("{bottle}budget: {cap}\nshutdown: freeze\n"));
    let login = world.dir.join("home/state/test/home").join(login);
    let before = std::fs::read(&login).unwrap();
    let ran = world.run_with(&["night", "--task", "sow the seeds"], &[]).expect_code(75);
    assert!(world.provider.bill().raw() <= cap, "{:?} of {cap}", world.provider.bill());
    assert!(further(client, &ran.entries) <= FURTHER_MAX, "{:?}", ran.entries);
    let run = run_id(&ran);
    for words in ["was frozen", "freeze, budget", &format!("carboy resume {run}"), "  tokens     "] {
        assert!(ran.stderr.contains(words), "`{words}` is not in:\n{}", ran.stderr);
    }
    // The exact count was asked for, because the bound is several times as much, and the answer's limit fits what is left.
    let counted = world.provider.received().iter().filter(|request| request.path.contains("count_tokens")).count();
    let counts = world.provider.received().iter().filter(|request| request.path.contains("input_tokens")).count();
    assert!(counted + counts > 0, "nobody was asked for the exact count");
    let still = carboy(&world, &["resume"]);
    assert!(still.status.code() == Some(77) && stderr(&still).contains("budget top-up bottle:test"), "{still:?}");
    let more = carboy(&world, &["budget", "top-up", "bottle:test", &format!("{}=1M", client.meter)]);
    assert!(more.status.success(), "{more:?}");
    let again = carboy(&world, &["resume"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    // History, login and files are as they were.
    let last = world.provider.received().into_iter().rfind(|request| request.path.contains(client.path)).unwrap();
    for words in ["sow the seeds", "You were stopped in the middle of this task"] {
        assert!(last.contains(words.as_bytes()), "`{words}` did not arrive");
    }
    assert_eq!(std::fs::read_to_string(world.project.join("made.txt")).unwrap_or_default(), "planted\n");
    let (before, after) = (String::from_utf8_lossy(&before).into_owned(), std::fs::read(&login).unwrap());
    let after = String::from_utf8_lossy(&after);
    assert!(after.contains("carboy-placeholder") || after.contains("hasCompletedOnboarding"), "{before}\n{after}");
    // One run, one account: both halves are in it.
    let line = ledger(&world, &run, client.meter);
    assert_eq!(number(&line["spent"]["raw"]), (world.provider.bill().raw() - one.raw()) * 1000, "{line}");
}

/// Codex over its WebSocket: metered by its messages, and stopped there.
fn codex_socket(person: Person) {
    let world = World::configured(person, |config| {
        config.script = script(&CODEX);
        config.websockets = WebSockets::Served;
        config.faults.pace = Duration::from_millis(25);
    });
    let program = client("bin/codex");
    let route = "egress:\n  routes:\n    - host: api.openai.com\n      auth_scheme: Bearer\n      token_env: OPENAI_API_KEY\n      \
                 meter: openai\n      websocket: true\n";
    world.bottle(&format!("agent_provider: {{name: codex, command: {program}}}\n{route}"));
    let ran = ask(&world, &CODEX, &[], "sow the seeds").expect_code(0);
    let billed = since(&world, Bill::default());
    let line = ledger(&world, &run_id(&ran), "openai");
    println!("codex over WebSocket: {} requests, {billed:?}", world.provider.bill().requests);
    assert_eq!(charged(&line), billed, "{line}");
    // What it first sends to have its conversation made ready stands in no report of its own; the provider bills it.
    let told = (CODEX.told)(&ran.stdout);
    let ready = ran.entries.iter().find(|entry| entry.detail("charged").is_some()).unwrap();
    let tokens = |name: &str| ready.detail(name).and_then(Value::as_u64).unwrap_or(0);
    let ready = Bill { input: tokens("tokens_input"), output: tokens("tokens_output"), ..Bill::default() };
    assert!(ready.raw() < 1_000, "{ready:?}");
    assert_eq!(sum(told, ready), billed);
    let posts = world.provider.received().iter().filter(|r| r.method == "POST" && r.path.contains("responses")).count();
    assert_eq!(posts, 0, "it did not use the WebSocket");
    let ran = ask(&world, &CODEX, &["--budget", "50"], "sow the seeds").expect_code(79);
    println!("{}\n{}", ran.stdout, ran.stderr);
    assert_stopped(&CODEX, &ran, "before a message");
    assert_eq!(since(&world, Bill::default()), billed);
}

/// The looser ways, with an SDK: an answer that is held in parts is cut where nothing is left, and what is only looked at
/// is crossed once.
fn loose(person: Person) {
    let world = World::configured(person, |config| {
        config.script = script(&ANTHROPIC_SDK);
        config.faults.pace = Duration::from_millis(10);
    });
    let text = (0..400).map(|i| format!("word{i} ").len() as u64).sum::<u64>().div_ceil(4);
    let cap = 464;
    assert!(text > cap + 200, "{text}");
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: {cap}}}\noverrun: bounded\n"));
    let ran = ask(&world, &ANTHROPIC_SDK, &[], "tell a long tale").expect_code(79);
    assert_stopped(&ANTHROPIC_SDK, &ran, "of which parts are held");
    let bounded = world.provider.bill();
    println!("bounded: {bounded:?} of {cap}");
    // A few tokens beyond the cap are on their way when it is cut: at a hundred words a second no more than these.
    assert!(bounded.raw() <= cap + 32, "{bounded:?}");
    world.bottle(&format!("{STANDARD_ROUTES}ceiling: {{claude: {}}}\ngate: observe\n", bounded.raw() + 700));
    let ran = ask(&world, &ANTHROPIC_SDK, &[], "tell a long tale").expect_code(79);
    assert_stopped(&ANTHROPIC_SDK, &ran, "that is looked at");
    let observed = world.provider.bill();
    println!("observed: {observed:?}");
    assert_eq!(observed.requests, bounded.requests + 1, "the one that crosses is the last");
    assert!(observed.output - bounded.output >= text, "and it is whole: {observed:?}");
}
