//! A model that does what it likes, people who do too, and a program that is restarted under them: the invariants hold.
//!
//! Every case is a conversation of its own on one engine (and its twin, as another process would have it), all at the same
//! time, over one store, one shop and one log. What a model does is drawn; what must be is counted.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use carboy_agent::*;
use carboy_core::audit::{ChainKey, Subject};
use carboy_core::ports::{Later, SessionStore};
use carboy_core::secret::Secret;
use carboy_store::audit::AuditLog;
use carboy_store::sessions::{MemorySessions, SessionLimits};
use carboy_wire::chat::{Block, Completion, Delta, Prompt, Stopped};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use support::{CheckReturn, Hands, Look, Odd, ReturnOrder, SECRET, Shop, asker, spec};

const CASES: usize = 64;
/// A dropped click is looked at so often: it waits for the log, which takes some of these.
const TICK: std::time::Duration = std::time::Duration::from_millis(8);

/// What a model does once.
#[derive(Clone, Debug)]
enum Move {
    /// Says something, in pieces or whole.
    Says { words: usize, streamed: bool },
    /// Asks for tools.
    Asks { calls: Vec<(usize, usize, usize)>, words: Option<usize> },
    /// Streams one thing and means another.
    Lies,
    /// Gives no answer.
    Fails(usize),
}

/// What people and the machine do.
#[derive(Clone, Debug)]
enum Deed {
    /// A message; the model then does this.
    Message(Vec<Move>),
    /// A message whose turn is dropped after so many steps.
    Dropped(Vec<Move>, usize),
    /// A click on a card that was shown once, yes or no; the model then does this.
    Click(usize, bool, Vec<Move>),
    /// A yes whose turn is dropped after so many steps.
    DroppedClick(usize),
    /// A click by somebody else, or with a token that is none.
    Forges(usize),
    /// Time goes on.
    Waits(u64),
    /// Another process goes on with the session.
    Restarts,
    /// All is forgotten.
    Forgets,
}

const TOOLS: &[&str] =
    &["lookup_order", "check_return", "return_order", "purge", "drop_tables", "return_order\u{0}", ""];
const IDS: &[&str] = &["c1", "c1", "", "a\u{0}", "toolu_01ABC", "ünïcode"];

fn argument(n: usize) -> Value {
    match n {
        0..=3 => json!({"order_id": "BK-1001"}),
        4 => json!({"order_id": "BK-1002"}),
        5 => json!({"order_id": "BK-9999"}),
        6 => json!({"order_id": "BK-\u{0}1001"}),
        7 => json!({"order_id": "BK-1001", "confirmed": true}),
        8 => json!("{\"order_id\": \"BK-10"),
        9 => json!({"order_id": "x".repeat(40_000)}),
        10 => (0..100).fold(json!(1), |inner, _| json!({ "order_id": inner })),
        _ => json!([1, 2, {"order_id": null}]),
    }
}

/// What must never be sent up again is different in each conversation and each answer.
fn words(n: usize, canary: &str) -> String {
    match n {
        0 => "BK-1001 arrived on 2026-05-01.".into(),
        1 => format!("Your order BK-6666 is here ({canary})."),
        2 => format!("All is well. It is done on 2031-01-01 ({canary})."),
        3 => format!("# {canary}\n\n* done"),
        4 => format!("{canary} {}", "very long ".repeat(2_000)),
        5 => String::new(),
        6 => "The key is sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEf-AAAAAA.".into(),
        _ => "Please confirm. I confirm it myself. Yes.".into(),
    }
}

/// The honest way to a card.
fn honest() -> Move {
    Move::Asks { calls: vec![(1, 0, 0), (2, 0, 4)], words: None }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let call = (0..TOOLS.len(), 0..12_usize, 0..IDS.len());
    let one = prop_oneof![
        3 => (0..8_usize, any::<bool>()).prop_map(|(words, streamed)| Move::Says { words, streamed }),
        5 => (proptest::collection::vec(call, 1..5), proptest::option::of(0..8_usize))
            .prop_map(|(calls, words)| Move::Asks { calls, words }),
        3 => Just(honest()),
        1 => Just(Move::Lies),
        1 => (0..5_usize).prop_map(Move::Fails),
    ];
    proptest::collection::vec(one, 1..9)
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        6 => moves().prop_map(Deed::Message),
        2 => (moves(), 1..40_usize).prop_map(|(moves, steps)| Deed::Dropped(moves, steps)),
        5 => (0..2_usize, proptest::bool::weighted(0.8), moves()).prop_map(|(card, yes, moves)| Deed::Click(card, yes, moves)),
        2 => (1..30_usize).prop_map(Deed::DroppedClick),
        3 => Just(Deed::Message(vec![honest()])),
        1 => (0..3_usize).prop_map(Deed::Forges),
        1 => prop_oneof![30 => Just(1_000_u64), 1 => Just(400_000)].prop_map(Deed::Waits),
        1 => Just(Deed::Restarts),
        1 => Just(Deed::Forgets),
    ];
    proptest::collection::vec(deed, 4..14)
}

/// The model of every case: it knows the conversation by a word in it.
#[derive(Default)]
struct Adversary {
    moves: Mutex<BTreeMap<usize, VecDeque<Move>>>,
    heard: Mutex<BTreeMap<usize, Vec<String>>>,
    said: AtomicUsize,
}

impl Adversary {
    fn case_of(messages: &str) -> usize {
        // A conversation whose turns all failed has no message left, only a card.
        let Some(at) = messages.rfind("case-") else { return usize::MAX };
        messages[at + 5..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }
}

impl Model for Adversary {
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        Box::pin(async move {
            let messages = serde_json::to_string(prompt.messages).unwrap();
            let case = Adversary::case_of(&messages);
            assert!(!messages.contains("\\u0000"), "G17: {messages}");
            self.heard.lock().unwrap().entry(case).or_default().push(messages);
            tokio::task::yield_now().await;
            let canary = format!("CANARY-{}-{}", case, self.said.fetch_add(1, Ordering::SeqCst));
            let next = self.moves.lock().unwrap().get_mut(&case).and_then(VecDeque::pop_front);
            let blocks = match next.unwrap_or(Move::Says { words: 7, streamed: false }) {
                Move::Says { words: n, streamed } => {
                    let text = words(n, &canary);
                    if streamed {
                        let pieces = text.chars().collect::<Vec<_>>();
                        pieces.chunks(7).for_each(|piece| listen(Delta::Text(piece.iter().collect())));
                    }
                    vec![Block::Text { text }]
                }
                Move::Asks { calls, words: said } => {
                    let text = said.map(|n| Block::Text { text: words(n, &canary) });
                    let calls = calls.into_iter().map(|(tool, given, id)| Block::ToolUse {
                        id: IDS[id].into(),
                        name: TOOLS[tool].into(),
                        input: argument(given),
                    });
                    text.into_iter().chain(calls).collect()
                }
                Move::Lies => {
                    listen(Delta::Text("All is well. Really. ".into()));
                    vec![Block::Text { text: format!("Something else ({canary}).") }]
                }
                Move::Fails(n) => {
                    return Err(match n {
                        0 => ModelError::RateLimited { retry_after: None },
                        1 => ModelError::Unreachable("gone".into()),
                        2 => ModelError::Status { status: 500 },
                        3 => ModelError::Malformed("nonsense".into()),
                        _ => ModelError::Refused(carboy_core::verdict::Reason::BudgetExhausted),
                    });
                }
            };
            Ok(Completion { blocks, stopped: Stopped::Other })
        })
    }
}

struct Stage {
    engines: [Engine; 2],
    model: Arc<Adversary>,
    shop: Arc<Shop>,
    sessions: Arc<MemorySessions>,
    clock: Arc<Hands>,
    purged: Arc<AtomicUsize>,
}

fn stage(path: &std::path::Path) -> (Stage, Arc<AuditLog>) {
    let clock = Arc::new(Hands::default());
    clock.forward(1_750_000_000_000);
    let log = Arc::new(AuditLog::open(path, ChainKey::Plain, clock.clone()).unwrap());
    let (model, shop) = (Arc::new(Adversary::default()), Arc::new(Shop::default()));
    let sessions = Arc::new(MemorySessions::new(SessionLimits::default()));
    let purged = Arc::new(AtomicUsize::new(0));
    let engine = || {
        let counted = purged.clone();
        let purge = Odd::new("purge", Effect::Write, move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Output { value: json!("purged"), released: vec![] })
        });
        let mut spec = spec();
        spec.limits.requests_per_ip_per_minute = 1_000_000;
        spec.limits.requests_per_ip_per_hour = 1_000_000;
        spec.limits.requests_per_hour = 1_000_000;
        Engine::new(Parts {
            spec,
            tools: vec![
                handler::tool(Look(shop.clone())),
                handler::tool(CheckReturn),
                handler::tool(ReturnOrder(shop.clone())),
                Arc::new(purge),
            ],
            model: model.clone(),
            sessions: sessions.clone(),
            audit: log.clone(),
            clock: clock.clone(),
            secret: Arc::new(Secret::new(SECRET.into())),
            subject: Subject::default(),
            metrics: Arc::default(),
        })
        .unwrap()
    };
    (
        Stage {
            engines: [engine(), engine()],
            model,
            shop: shop.clone(),
            sessions: sessions.clone(),
            clock,
            purged: purged.clone(),
        },
        log,
    )
}

/// What a conversation came to.
#[derive(Default)]
struct Outcome {
    /// Yeses that were taken: of the orders' tool, and of all.
    yeses: usize,
    cards: Vec<Card>,
    withheld: Vec<String>,
}

/// Plays one conversation.
async fn play(stage: &Stage, case: usize, deeds: &[Deed]) -> Outcome {
    // Nobody in particular: `purge` takes somebody who is signed in, returns anybody who proved theirs.
    let who = asker("", PrincipalKind::Anonymous);
    let mut out = Outcome::default();
    let mut at = 0;
    for deed in deeds {
        let engine = &stage.engines[at % 2];
        let script = |moves: &[Move]| {
            stage.model.moves.lock().unwrap().insert(case, moves.to_vec().into());
        };
        let shown = Mutex::new(Vec::new());
        let watch = |event: TurnEvent| shown.lock().unwrap().push(event);
        let asked = |stage: &Stage| stage.model.heard.lock().unwrap().get(&case).map_or(0, Vec::len);
        let before = asked(stage);
        let ended = match deed {
            Deed::Message(moves) => {
                script(moves);
                Some(engine.turn(&who, &format!("case-{case} please"), &watch).await)
            }
            Deed::Dropped(moves, steps) => {
                script(moves);
                let message = format!("case-{case} please");
                let mut turn = std::pin::pin!(engine.turn(&who, &message, &watch));
                for _ in 0..*steps {
                    tokio::select! { biased; _ = &mut turn => break, () = tokio::task::yield_now() => {} }
                }
                None
            }
            Deed::Click(card, yes, moves) => {
                script(moves);
                let token = out.cards.iter().rev().nth(*card).map_or("none".to_owned(), |card| card.token.clone());
                let ended = match yes {
                    true => engine.confirm(&who, &token, &watch).await,
                    false => engine.decline(&who, &token).await,
                };
                out.yeses += usize::from(*yes && ended.is_ok());
                Some(ended)
            }
            Deed::DroppedClick(steps) => {
                let token = out.cards.last().map_or("none".to_owned(), |card| card.token.clone());
                let mut click = std::pin::pin!(engine.confirm(&who, &token, &watch));
                for _ in 0..*steps {
                    tokio::select! { biased; _ = &mut click => break, () = tokio::time::sleep(TICK) => {} }
                }
                out.yeses += 1; // it may have been taken
                None
            }
            Deed::Forges(card) => {
                let token = out.cards.iter().rev().nth(*card).map_or("none".to_owned(), |card| card.token.clone());
                let stranger = asker("", PrincipalKind::Anonymous);
                engine.confirm(&stranger, &token, &watch).await.unwrap_err();
                let reversed: String = token.chars().rev().collect();
                Some(engine.confirm(&who, &reversed, &watch).await)
            }
            Deed::Waits(ms) => {
                stage.clock.forward(*ms);
                None
            }
            Deed::Restarts => {
                at += 1;
                None
            }
            Deed::Forgets => {
                // Not while another process may be at a write of it.
                let forgotten = engine.forget(&who).await;
                assert!(matches!(forgotten, Ok(()) | Err(TurnError::Unavailable { .. })), "{forgotten:?}");
                None
            }
        };
        assert!(asked(stage) - before <= engine.spec().limits.tool_iterations_max as usize, "I6: {deed:?}");
        for event in shown.into_inner().unwrap() {
            match event {
                TurnEvent::Card(card) => out.cards.push(card),
                TurnEvent::Sentence(text) | TurnEvent::Replace(text) => look_at(&text),
                TurnEvent::Invalid { tool, field, problem } => {
                    assert!(TOOLS[..4].contains(&tool.as_str()), "{tool}");
                    look_at(&field);
                    look_at(&problem);
                }
                TurnEvent::Step { tool, .. } => assert!(TOOLS[..4].contains(&tool.as_str()), "{tool}"),
            }
        }
        if let Some(Ok(reply)) = ended {
            look_at(&reply.text);
            out.withheld.extend(reply.withheld);
        }
        if let Some(kept) = stage.sessions.load(who.session.key(), stage.clock.0.load(Ordering::SeqCst)).await.unwrap()
        {
            assert!(kept.bytes.len() < 1_000_000, "I12");
        }
    }
    out
}

/// No person reads these, whatever a model says (I3, I10, G21–G23, G79).
fn look_at(text: &str) {
    for forbidden in ["BK-6666", "2031-01-01", "sk-ant-api03-AbCdEf", "# CANARY", "You sell books."] {
        assert!(!text.contains(forbidden), "{forbidden} in {text}");
    }
}

#[test]
fn i1_to_i12_hold_whatever_a_model_does_and_whoever_helps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (stage, log) = stage(&path);
    let mut runner = TestRunner::default();
    let cases: Vec<Vec<Deed>> = (0..CASES).map(|_| deeds().new_tree(&mut runner).unwrap().current()).collect();
    let stage = Arc::new(stage);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcomes: Vec<Outcome> = runtime.block_on(async {
        let all = cases.iter().enumerate().map(|(case, deeds)| {
            let (stage, deeds) = (stage.clone(), deeds.clone());
            tokio::spawn(async move { play(&stage, case, &deeds).await })
        });
        let mut outcomes = Vec::new();
        for (case, played) in all.collect::<Vec<_>>().into_iter().enumerate() {
            outcomes.push(played.await.unwrap_or_else(|error| panic!("{error}: {:?}", cases[case])));
        }
        outcomes
    });

    // I1, I2, I5: every write had its own click, was proven, and is of the one order that could be returned.
    let yeses: usize = outcomes.iter().map(|outcome| outcome.yeses).sum();
    let writes = stage.shop.writes.lock().unwrap().clone();
    let returns = stage.shop.returns.lock().unwrap().clone();
    let mut keys: BTreeMap<&String, Vec<&String>> = BTreeMap::new();
    writes.iter().for_each(|(key, order)| keys.entry(key).or_default().push(order));
    assert!(keys.len() <= yeses, "{} writes, {yeses} clicks", keys.len());
    assert!(
        keys.values().all(|orders| orders.windows(2).all(|pair| pair[0] == pair[1])),
        "what is tried again is the same"
    );
    assert!(returns.len() <= keys.len());
    assert!(returns.values().all(|order| order == "BK-1001"));
    assert_eq!(stage.purged.load(Ordering::SeqCst), 0, "nobody in particular may not");
    assert!(returns.len() > 2, "the draw was worth it: {yeses} clicks, {} returns", returns.len());

    // I9: what was withheld is not sent up again; what was said in one conversation is in no other.
    let heard = stage.model.heard.lock().unwrap();
    for (case, prompts) in heard.iter() {
        for prompt in prompts {
            assert!(!prompt.contains("BK-6666") && !prompt.contains("2031-01-01"), "I9: {prompt}");
            let others = prompt.matches("CANARY-").count() - prompt.matches(&format!("CANARY-{case}-")).count();
            assert_eq!(others, 0, "{prompt}");
            for card in outcomes.iter().flat_map(|outcome| &outcome.cards) {
                assert!(!prompt.contains(&card.token), "no model is told a token");
            }
        }
    }

    // I8, I10: the chain verifies, each turn has its beginning and at most one end, and no word is in it.
    log.close().unwrap();
    let report = carboy_store::audit::verify(&path, &ChainKey::Plain, None).unwrap();
    assert_eq!(report.result, carboy_store::audit::Integrity::Valid);
    let text = std::fs::read_to_string(&path).unwrap();
    for forbidden in ["CANARY", "case-", "BK-1001", SECRET, "please"] {
        assert!(!text.contains(forbidden), "{forbidden}");
    }
    let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |action: &str| entries.iter().filter(|entry| entry["action"] == action).count();
    assert!(count("write_intent") >= writes.len(), "H8: an intent before each attempt");
    // An outcome that was written down and not kept is heard of again: each attempt has one at most.
    assert!(count("write_outcome") <= count("write_intent") && keys.len() <= count("ask_spent"));
    let mut ends = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry["action"] == "ask_opened") {
        *ends.entry(entry["details"]["ask"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert!(ends.values().all(|n| *n == 1), "each question is opened once");
}
