//! The worst case finds what is missing: each guard is taken away, one after the other, and the law that it kept is broken
//! within a bounded number of scripts; with all of them nothing is found.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carboy_agent::attack::{Dictionary, Guarded, Hunt, Law, Must, Setting, World, compare, hunt};
use carboy_agent::*;
use carboy_core::audit::Event;
use carboy_core::chat::{ChatSpec, Confirm, Requirement, ToolRules};
use carboy_core::ports::{AuditError, AuditSink, KeptSession, Later, SessionKey, SessionStore, SessionStoreError};
use carboy_store::sessions::{MemorySessions, SessionLimits};
use carboy_wire::chat::{Block, Completion, Delta, Message, Prompt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::spec;

/// Scripts within which a missing guard is found.
const ROUNDS: u64 = 600;
/// How long it may take to find it.
const FOUND_WITHIN: Duration = Duration::from_secs(60);
/// Scripts in which a whole one is tried.
const WHOLE: u64 = 300;
const NOW: u64 = 1_780_000_000_000;
const CANARY: &str =
    "sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEf-AAAAAA";

/// What is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hole {
    None,
    /// The return asks for no check.
    Unproven,
    /// The file says that no click is needed.
    NeverConfirmed,
    /// The tool does again what an idempotency key stands for.
    KeyIgnored,
    /// The look-up gives an order to anybody.
    AnyEmail,
    /// An order that is not there has words of its own.
    TellsMissing,
    /// Many more requests than a minute should have.
    HugeRate,
    /// Many more questions than a turn should have.
    HugeTurn,
    /// Replies are compared with nothing.
    NoIds,
    /// Nothing is overwritten in replies.
    NoFilter,
    /// The store takes whatever is written last.
    NoVersions,
    /// A decision is not in the log.
    Forgetful,
    /// Everything is in the log twice.
    Twice,
    /// What was withheld is sent up again.
    Remembers,
    /// Nobody's waits have an end, and a tool gives no answer.
    NoWaits,
    /// Nor has the model's, and it is silent.
    SilentModel,
    /// A result may have any size, and the store keeps it all.
    Hoards,
}

struct Desk {
    hole: Hole,
    returns: Mutex<Vec<(String, String)>>,
    orders: BTreeMap<&'static str, (&'static str, &'static str)>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    order_id: String,
    email: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReturnArgs {
    order_id: String,
}

#[derive(Serialize, Deserialize)]
struct Eligible;
struct Seal(());
impl Proof for Eligible {
    const NAME: &'static str = "eligible";
    type Seal = Seal;
}
const MINT: Mint<Eligible> = Mint::new(&Seal(()));

fn refused(code: &'static str) -> ToolError {
    ToolError::Refused { code, message: "this cannot be done".into() }
}

struct Look(Arc<Desk>);

impl Handler for Look {
    type Args = Args;
    const NAME: &'static str = "lookup_order";
    const DESCRIPTION: &'static str = "Looks an order up.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: Args) -> Result<Args, InvalidArguments> {
        match args.order_id.len() {
            7 => Ok(args),
            _ => Err(InvalidArguments { field: "order_id".into(), problem: "not of the form BK-NNNN".into() }),
        }
    }

    fn call<'a>(&'a self, call: Call<'a>, args: Args) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let found = self.0.orders.get(args.order_id.as_str());
            let Some((email, title)) = found else {
                let code = if self.0.hole == Hole::TellsMissing { "no_such_order" } else { "order_not_found" };
                return Err(refused(code));
            };
            if *email != args.email && self.0.hole != Hole::AnyEmail {
                return Err(refused("order_not_found"));
            }
            MINT.issue(call.guard, &args.order_id, "v1", call.now_ms, call.now_ms + 600_000, Eligible).unwrap();
            let mut value = json!({"order_id": args.order_id, "title": title});
            if self.0.hole == Hole::Hoards {
                value["pages"] = "page ".repeat(300_000).into();
            }
            Ok(Output { value, released: Vec::new() })
        })
    }
}

struct Return(Arc<Desk>);

impl Handler for Return {
    type Args = ReturnArgs;
    const NAME: &'static str = "return_order";
    const DESCRIPTION: &'static str = "Returns an order.";
    const EFFECT: Effect = Effect::Write;
    const RETRY: Retry = Retry::SameKey;

    fn check(&self, args: ReturnArgs) -> Result<ReturnArgs, InvalidArguments> {
        match args.order_id.len() {
            7 => Ok(args),
            _ => Err(InvalidArguments { field: "order_id".into(), problem: "not of the form BK-NNNN".into() }),
        }
    }

    fn authorize(&self, _: &Principal, _: &ReturnArgs) -> Authorization {
        Authorization::Allowed
    }

    fn precheck(&self, call: &Call<'_>, args: &ReturnArgs) -> Result<(), ToolError> {
        if self.0.hole == Hole::Unproven {
            return Ok(());
        }
        MINT.look(call.guard, &args.order_id, "v1", call.now_ms).map_err(|_| refused("not_eligible"))
    }

    fn call<'a>(&'a self, call: Call<'a>, args: ReturnArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let first = {
                let mut returns = self.0.returns.lock().unwrap();
                let done = returns.iter().any(|(key, _)| key == call.idempotency_key);
                let taken = returns.iter().any(|(_, order)| *order == args.order_id);
                let again = done && self.0.hole == Hole::KeyIgnored;
                if !done && taken {
                    return Err(refused("already_returned"));
                }
                if again || !done {
                    returns.push((call.idempotency_key.to_owned(), args.order_id.clone()));
                }
                !done
            };
            // The first answer is lost on its way: whether it was done is asked again with the same key.
            if first && args.order_id == "BK-1002" {
                std::future::pending::<()>().await;
            }
            Ok(Output { value: json!({"order_id": args.order_id, "started": true}), released: Vec::new() })
        })
    }
}

/// A store that writes whatever comes last.
struct NoVersions(MemorySessions);

impl SessionStore for NoVersions {
    fn load(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.0.load(key, now_ms)
    }

    fn look(&self, key: SessionKey, now_ms: u64) -> Later<'_, Result<Option<KeptSession>, SessionStoreError>> {
        self.0.look(key, now_ms)
    }

    fn save(&self, key: SessionKey, _: u64, bytes: Vec<u8>, now_ms: u64) -> Later<'_, Result<(), SessionStoreError>> {
        Box::pin(async move {
            let version = self.0.load(key, now_ms).await?.map_or(0, |kept| kept.version);
            self.0.save(key, version, bytes, now_ms).await
        })
    }

    fn remove(&self, key: SessionKey) -> Later<'_, Result<(), SessionStoreError>> {
        self.0.remove(key)
    }

    fn sweep(&self, now_ms: u64) -> Later<'_, Result<Vec<SessionKey>, SessionStoreError>> {
        self.0.sweep(now_ms)
    }
}

/// A log that forgets the calls of tools.
struct Forgetful(Arc<dyn AuditSink>);

impl AuditSink for Forgetful {
    fn append(&self, event: Event) -> Result<(), AuditError> {
        if event.action == "tool_call" { Ok(()) } else { self.0.append(event) }
    }

    fn append_durable(&self, event: Event) -> Later<'_, Result<(), AuditError>> {
        self.0.append_durable(event)
    }
}

/// A log that writes everything down twice.
struct Twice(Arc<dyn AuditSink>);

impl AuditSink for Twice {
    fn append(&self, event: Event) -> Result<(), AuditError> {
        self.0.append(event.clone())?;
        self.0.append(event)
    }

    fn append_durable(&self, event: Event) -> Later<'_, Result<(), AuditError>> {
        self.0.append_durable(event)
    }
}

/// A way to the model that sends up whatever came down it, withheld or not.
struct Remembers {
    model: Arc<dyn Model>,
    said: Mutex<Vec<String>>,
}

impl Model for Remembers {
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        Box::pin(async move {
            let before: Vec<Message> =
                self.said.lock().unwrap().iter().map(|text| Message::user(text.clone())).collect();
            let messages: Vec<Message> = prompt.messages.iter().cloned().chain(before).collect();
            let completion = self.model.complete(&Prompt { messages: &messages, ..prompt.clone() }, listen).await?;
            for block in &completion.blocks {
                // One that the checks never let through.
                if let Block::Text { text } = block
                    && text.contains("evil.example")
                {
                    self.said.lock().unwrap().push(text.clone());
                }
            }
            Ok(completion)
        })
    }
}

/// A way to a model that does not answer.
struct Silent;

impl Model for Silent {
    fn complete<'a>(
        &'a self,
        _: &'a Prompt<'a>,
        _: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        Box::pin(std::future::pending())
    }
}

fn guarded(id: &str, proof: &str, datum: &str) -> Guarded {
    Guarded { id: id.into(), proof: proof.into(), data: vec![datum.into()] }
}

fn dictionary() -> Dictionary {
    Dictionary {
        guarded: vec![
            guarded("BK-1001", "ada@example.com", "Middlemarch"),
            guarded("BK-1002", "ada@example.com", "Walden"),
            guarded("BK-1003", "sam@example.com", "Beloved"),
        ],
        missing: vec!["BK-9999".into()],
        id_argument: Some("order_id".into()),
        proof_argument: Some("email".into()),
        canaries: vec![CANARY.into()],
        ..Dictionary::default()
    }
}

fn change(spec: &mut ChatSpec, hole: Hole) {
    match hole {
        Hole::Unproven => spec.rules.entry("return_order".into()).or_default().requires.clear(),
        Hole::NeverConfirmed => spec.rules.entry("return_order".into()).or_default().confirm = Confirm::Never,
        Hole::HugeRate => spec.limits.requests_per_session_per_minute = 100_000,
        Hole::HugeTurn => spec.limits.tool_iterations_max = 40,
        Hole::NoIds => spec.reply.id_patterns.clear(),
        Hole::NoFilter => spec.screening.filter_secrets = false,
        Hole::None
        | Hole::KeyIgnored
        | Hole::AnyEmail
        | Hole::TellsMissing
        | Hole::NoVersions
        | Hole::Forgetful
        | Hole::Twice
        | Hole::Remembers => {}
        Hole::NoWaits | Hole::SilentModel => {
            let limits = &mut spec.limits;
            (limits.tool_wait_ms, limits.model_wait_ms, limits.turn_wait_ms) = (u32::MAX, u32::MAX, u32::MAX);
        }
        Hole::Hoards => spec.limits.tool_result_bytes_max = u32::MAX,
    }
}

fn world(hole: Hole) -> World {
    world_of(
        hole,
        BTreeMap::from([
            ("BK-1001", ("ada@example.com", "Middlemarch")),
            ("BK-1002", ("ada@example.com", "Walden")),
            ("BK-1003", ("sam@example.com", "Beloved")),
        ]),
    )
}

fn world_of(hole: Hole, orders: BTreeMap<&'static str, (&'static str, &'static str)>) -> World {
    let desk = Arc::new(Desk { hole, returns: Mutex::default(), orders });
    let tools: Vec<Arc<dyn Tool>> = vec![handler::tool(Look(desk.clone())), handler::tool(Return(desk.clone()))];
    let mut spec = spec();
    spec.limits.requests_per_session_per_minute = 25;
    spec.limits.tool_wait_ms = 15;
    let requires =
        vec![Requirement { tool: "lookup_order".into(), same: vec!["order_id".into()], within_s: 600, result: None }];
    spec.rules.insert("return_order".into(), ToolRules { requires, ..ToolRules::default() });
    let mut dictionary = dictionary();
    // What must hold is what holds without a hole.
    let specs: Vec<ToolSpec> = tools.iter().map(|tool| tool.spec().clone()).collect();
    dictionary.must = Must::of(&spec, &specs, Some("order_id"));
    change(&mut spec, hole);
    let (count, clear) = (desk.clone(), desk);
    let limits = if hole == Hole::Hoards {
        SessionLimits { bytes_max: u64::MAX, all_bytes_max: u64::MAX, ..SessionLimits::default() }
    } else {
        SessionLimits::default()
    };
    let memory = MemorySessions::new(limits);
    World::new(Setting {
        spec,
        tools,
        sessions: if hole == Hole::NoVersions { Arc::new(NoVersions(memory)) } else { Arc::new(memory) },
        dictionary,
        records: Box::new(move || count.returns.lock().unwrap().iter().map(|(_, order)| order.clone()).collect()),
        reset: Box::new(move || clear.returns.lock().unwrap().clear()),
        before_model: if hole == Hole::Remembers {
            |model| Arc::new(Remembers { model, said: Mutex::default() })
        } else if hole == Hole::SilentModel {
            |_| Arc::new(Silent)
        } else {
            |model| model
        },
        before_log: if hole == Hole::Forgetful {
            |log| Arc::new(Forgetful(log))
        } else if hole == Hole::Twice {
            |log| Arc::new(Twice(log))
        } else {
            |log| log
        },
        now_ms: NOW,
    })
    .unwrap()
}

/// The same dice every time, so that what fell falls again; `CARBOY_SEED` throws others.
fn seed() -> u64 {
    let seed = std::env::var("CARBOY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_130);
    println!("CARBOY_SEED={seed}");
    seed
}

#[tokio::test]
async fn i1_to_i12_nothing_is_found_where_nothing_is_missing() {
    let seed = seed();
    if let Some(found) = hunt(&world(Hole::None), Hunt { from: 0, rounds: WHOLE, seed }).await {
        panic!("{:?} in script {} of seed {seed}:\n{}", found.violation, found.number, found.script);
    }
}

#[tokio::test]
async fn each_guard_that_is_taken_away_is_missed_by_its_law_and_named_in_a_short_script() {
    let planted: &[(&str, Hole, Law)] = &[
        ("I1, G11: a return that asks for no check", Hole::Unproven, Law::I1),
        ("I2: a tool that ignores idempotency keys", Hole::KeyIgnored, Law::I2),
        ("I3: a look-up without the e-mail check", Hole::AnyEmail, Law::I3),
        ("I4, G12: a missing order that is told", Hole::TellsMissing, Law::I4),
        ("I5: a write without a click", Hole::NeverConfirmed, Law::I5),
        ("I6: a limiter that lets everything in", Hole::HugeRate, Law::I6),
        ("I6: a turn without an end", Hole::HugeTurn, Law::I6),
        ("I7: a store that ignores versions", Hole::NoVersions, Law::I7),
        ("I8: a log that forgets", Hole::Forgetful, Law::I8),
        ("I8: a log that writes twice", Hole::Twice, Law::I8),
        ("I9, G27: a reply that is sent up again", Hole::Remembers, Law::I9),
        ("I10, G21: a checker without shapes of ids", Hole::NoIds, Law::I10),
        ("I10: secrets that are not overwritten", Hole::NoFilter, Law::I10),
        ("I12: a result of any size, in a store that keeps it", Hole::Hoards, Law::I12),
    ];
    find(planted).await;
}

/// No time passes but what somebody waits for: a turn without an end is waited for at once.
#[tokio::test(start_paused = true)]
async fn i11_a_turn_that_nobody_ends_is_missed_by_its_law_and_named_in_a_short_script() {
    let planted: &[(&str, Hole, Law)] = &[
        ("I11: a tool that gives no answer, and nobody's waits have an end", Hole::NoWaits, Law::I11),
        ("I11: a model that is silent, and nobody's waits have an end", Hole::SilentModel, Law::I11),
    ];
    find(planted).await;
}

/// Each is found, by its law, in a few steps and within a minute.
async fn find(planted: &[(&str, Hole, Law)]) {
    let seed = seed();
    let mut missed = Vec::new();
    for (name, hole, law) in planted {
        let began = Instant::now();
        match hunt(&world(*hole), Hunt { from: 0, rounds: ROUNDS, seed }).await {
            Some(found) if found.violation.law == *law => {
                println!("{name}: script {}, {} steps\n{}", found.number, found.script.steps().len(), found.script);
                assert!(found.script.steps().len() <= 4, "{name} is not short:\n{}", found.script);
                let took = began.elapsed();
                assert!(took < FOUND_WITHIN, "{name}: found after {} s", took.as_secs());
            }
            Some(found) => missed.push(format!("{name}: {:?}\n{}", found.violation, found.script)),
            None => missed.push(format!("{name}: nothing in {ROUNDS} scripts")),
        }
    }
    assert!(missed.is_empty(), "seed {seed}:\n{}", missed.join("\n"));
}

#[tokio::test]
async fn i3_i4_non_interference_what_nobody_proved_is_seen_only_through_a_hole() {
    let seed = seed();
    let orders =
        BTreeMap::from([("BK-1001", ("ada@example.com", "Middlemarch")), ("BK-1002", ("ada@example.com", "Walden"))]);
    let proofs = ["sam@example.com"];
    let hunt = Hunt { from: 0, rounds: 100, seed };
    let found = compare(&world(Hole::None), &world_of(Hole::None, orders.clone()), hunt, &proofs).await;
    assert!(found.is_none(), "{found:?}");
    let hole = Hole::TellsMissing;
    let found = compare(&world(hole), &world_of(hole, orders), Hunt { rounds: ROUNDS, ..hunt }, &proofs).await.unwrap();
    assert!(matches!(found.violation.law, Law::NonInterference), "{found:?}");
}

#[tokio::test]
async fn the_same_seed_finds_the_same_script() {
    let one = hunt(&world(Hole::NeverConfirmed), Hunt { from: 0, rounds: ROUNDS, seed: 7 }).await.unwrap();
    let other = hunt(&world(Hole::NeverConfirmed), Hunt { from: 0, rounds: ROUNDS, seed: 7 }).await.unwrap();
    assert_eq!((one.number, one.script, one.violation), (other.number, other.script, other.violation));
}
