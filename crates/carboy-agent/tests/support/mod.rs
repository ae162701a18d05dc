//! A small shop behind a real engine, real sessions and a real audit log. Only the model is scripted: it is the adversary.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use carboy_agent::*;
use carboy_core::audit::{ChainKey, Subject};
use carboy_core::chat::*;
use carboy_core::host::Host;
use carboy_core::ids::{AgentName, MeterName};
use carboy_core::ports::{Clock, Conversation, Later, SessionStore};
use carboy_core::secret::Secret;
use carboy_store::audit::{AuditLog, verify};
use carboy_store::sessions::{MemorySessions, SessionLimits};
use carboy_wire::chat::{Block, Completion, Delta, Prompt, Stopped};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A clock that tests turn.
#[derive(Default)]
pub struct Hands(pub AtomicU64);

impl Hands {
    pub fn forward(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a model was asked, as text: what an upstream would have read.
#[derive(Clone, Debug)]
pub struct Heard {
    pub system: String,
    pub reminders: Vec<String>,
    pub messages: String,
    pub json: Value,
    /// For whom it was asked.
    pub conversation: Option<Conversation>,
}

/// What a scripted model does.
pub enum Says {
    Text(String),
    /// In these pieces.
    Pieces(Vec<&'static str>),
    Calls(Vec<(String, String, Value)>),
    TextAndCalls(String, Vec<(String, String, Value)>),
    Blocks(Vec<Block>),
    Fails(ModelError),
    /// Says this, and then nothing, for ever.
    Hangs(&'static str),
}

/// A model that does what it is told, and then says `ok`.
#[derive(Default)]
pub struct Script {
    pub says: Mutex<VecDeque<Says>>,
    pub heard: Mutex<Vec<Heard>>,
    /// Where the script is over: the same call again and again.
    pub endless: Mutex<Option<(String, Value)>>,
    pub at_work: AtomicUsize,
    pub at_work_most: AtomicUsize,
}

impl Script {
    pub fn says(&self, says: impl IntoIterator<Item = Says>) {
        self.says.lock().unwrap().extend(says);
    }

    pub fn questions(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    pub fn last(&self) -> Heard {
        self.heard.lock().unwrap().last().unwrap().clone()
    }

    /// Every message that was ever sent up.
    pub fn all(&self) -> String {
        self.heard.lock().unwrap().iter().map(|heard| heard.messages.clone()).collect()
    }
}

pub fn text(text: &str) -> Says {
    Says::Text(text.to_owned())
}

pub fn call(name: &str, input: Value) -> Says {
    Says::Calls(vec![("c1".into(), name.into(), input)])
}

fn uses(calls: Vec<(String, String, Value)>) -> impl Iterator<Item = Block> {
    calls.into_iter().map(|(id, name, input)| Block::ToolUse { id, name, input })
}

impl Model for Script {
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        let heard = Heard {
            system: prompt.system.to_owned(),
            reminders: prompt.reminders.iter().map(|text| (*text).to_owned()).collect(),
            messages: serde_json::to_string(prompt.messages).unwrap(),
            json: serde_json::to_value(prompt.messages).unwrap(),
            conversation: prompt.conversation.cloned(),
        };
        self.heard.lock().unwrap().push(heard);
        let says = self.says.lock().unwrap().pop_front();
        let says = says.unwrap_or_else(|| match self.endless.lock().unwrap().clone() {
            Some((name, input)) => Says::Calls(vec![("again".into(), name, input)]),
            None => text("ok"),
        });
        Box::pin(async move {
            let at_work = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
            self.at_work_most.fetch_max(at_work, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let blocks = match says {
                Says::Text(text) => vec![Block::Text { text }],
                Says::Pieces(pieces) => {
                    pieces.iter().for_each(|piece| listen(Delta::Text((*piece).to_owned())));
                    vec![Block::Text { text: pieces.concat() }]
                }
                Says::Calls(calls) => uses(calls).collect(),
                Says::TextAndCalls(text, calls) => [Block::Text { text }].into_iter().chain(uses(calls)).collect(),
                Says::Blocks(blocks) => blocks,
                Says::Fails(error) => {
                    self.at_work.fetch_sub(1, Ordering::SeqCst);
                    return Err(error);
                }
                Says::Hangs(first) => {
                    if !first.is_empty() {
                        listen(Delta::Text(first.to_owned()));
                    }
                    self.at_work.fetch_sub(1, Ordering::SeqCst);
                    std::future::pending().await
                }
            };
            self.at_work.fetch_sub(1, Ordering::SeqCst);
            Ok(Completion { blocks, stopped: Stopped::EndOfTurn })
        })
    }
}

/// What the shop knows and did.
#[derive(Default)]
pub struct Shop {
    /// Idempotency key → what was returned.
    pub returns: Mutex<BTreeMap<String, String>>,
    /// Every time that a write was called.
    pub writes: Mutex<Vec<(String, String)>>,
    pub looks: AtomicUsize,
    /// The next writes never answer.
    pub write_hangs: AtomicUsize,
    pub write_started: tokio::sync::Notify,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderArgs {
    /// Like BK-1001.
    pub order_id: String,
}

fn checked(args: OrderArgs) -> Result<OrderArgs, InvalidArguments> {
    let ok = args.order_id.len() == 7 && args.order_id.starts_with("BK-");
    if ok {
        Ok(args)
    } else {
        Err(InvalidArguments { field: "order_id".into(), problem: "not of the form BK-NNNN".into() })
    }
}

fn order(id: &str) -> Result<Value, ToolError> {
    match id {
        "BK-1001" => Ok(json!({"order_id": "BK-1001", "status": "delivered", "delivered": "2026-05-01"})),
        "BK-1002" => Ok(json!({"order_id": "BK-1002", "status": "on its way"})),
        _ => Err(ToolError::Refused { code: "order_not_found", message: "there is no such order".into() }),
    }
}

pub struct Look(pub Arc<Shop>);

impl Handler for Look {
    type Args = OrderArgs;
    const NAME: &'static str = "lookup_order";
    const DESCRIPTION: &'static str = "Looks an order up.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: OrderArgs) -> Result<OrderArgs, InvalidArguments> {
        checked(args)
    }

    fn call<'a>(&'a self, _: Call<'a>, args: OrderArgs) -> Later<'a, Result<Output, ToolError>> {
        self.0.looks.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Ok(Output { value: order(&args.order_id)?, released: Vec::new() }) })
    }
}

/// What makes a return possible.
#[derive(Serialize, Deserialize)]
pub struct Eligible;
pub struct Seal(());
impl Proof for Eligible {
    const NAME: &'static str = "eligible";
    type Seal = Seal;
}
const MINT: Mint<Eligible> = Mint::new(&Seal(()));

pub struct CheckReturn;

impl Handler for CheckReturn {
    type Args = OrderArgs;
    const NAME: &'static str = "check_return";
    const DESCRIPTION: &'static str = "Says whether an order can be returned.";
    const EFFECT: Effect = Effect::Read;

    fn check(&self, args: OrderArgs) -> Result<OrderArgs, InvalidArguments> {
        checked(args)
    }

    fn call<'a>(&'a self, call: Call<'a>, args: OrderArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let found = order(&args.order_id)?;
            let eligible = found["status"] == "delivered";
            if eligible {
                let expires = call.now_ms + 600_000;
                MINT.issue(call.guard, &args.order_id, "v1", call.now_ms, expires, Eligible).unwrap();
            }
            Ok(Output { value: json!({"order_id": args.order_id, "eligible": eligible}), released: Vec::new() })
        })
    }
}

pub struct ReturnOrder(pub Arc<Shop>);

impl Handler for ReturnOrder {
    type Args = OrderArgs;
    const NAME: &'static str = "return_order";
    const DESCRIPTION: &'static str = "Returns an order.";
    const EFFECT: Effect = Effect::Write;

    fn check(&self, args: OrderArgs) -> Result<OrderArgs, InvalidArguments> {
        checked(args)
    }

    fn authorize(&self, _: &Principal, _: &OrderArgs) -> Authorization {
        Authorization::Allowed
    }

    fn card(&self, args: &OrderArgs) -> Option<Card> {
        Some(Card {
            token: "whatever a tool says".into(),
            title: format!("Return order {}?", args.order_id),
            rows: vec![("Order".into(), args.order_id.clone())],
            action: "Return it".into(),
            expires_ms: u64::MAX,
        })
    }

    fn precheck(&self, call: &Call<'_>, args: &OrderArgs) -> Result<(), ToolError> {
        MINT.look(call.guard, &args.order_id, "v1", call.now_ms)
            .map_err(|error| ToolError::Refused { code: "not_eligible", message: error.to_string() })
    }

    fn call<'a>(&'a self, call: Call<'a>, args: OrderArgs) -> Later<'a, Result<Output, ToolError>> {
        Box::pin(async move {
            let key = call.idempotency_key.to_owned();
            self.0.writes.lock().unwrap().push((key.clone(), args.order_id.clone()));
            let hangs = |n: usize| n.checked_sub(1);
            let hangs = self.0.write_hangs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, hangs).is_ok();
            // What was done under this key is done once. The proof is gone with the first time.
            let done = self.0.returns.lock().unwrap().contains_key(&key);
            if !done {
                MINT.redeem(call.guard, &args.order_id, "v1", call.now_ms)
                    .map_err(|error| ToolError::Refused { code: "not_eligible", message: error.to_string() })?;
                self.0.returns.lock().unwrap().insert(key, args.order_id.clone());
            }
            if hangs {
                self.0.write_started.notify_one();
                std::future::pending::<()>().await;
            }
            Ok(Output { value: json!({"rma": "RMA-0001", "order_id": args.order_id}), released: Vec::new() })
        })
    }
}

pub type Does = dyn Fn(Call<'_>) -> Result<Output, ToolError> + Send + Sync;

/// A tool that does what a test says.
pub struct Odd {
    pub spec: ToolSpec,
    pub does: Box<Does>,
    /// It never answers.
    pub hangs: bool,
}

impl Odd {
    pub fn new(
        name: &str,
        effect: Effect,
        does: impl Fn(Call<'_>) -> Result<Output, ToolError> + Send + Sync + 'static,
    ) -> Odd {
        let schema = carboy_wire::chat::ToolSchema {
            name: name.into(),
            description: String::new(),
            input_schema: json!({"type": "object"}),
        };
        Odd { spec: ToolSpec { schema, effect }, does: Box::new(does), hangs: false }
    }
}

impl Tool for Odd {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn check(&self, arguments: &Value) -> Result<Map<String, Value>, InvalidArguments> {
        match carboy_agent::tool::without_control(arguments) {
            Value::Object(map) => Ok(map),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(InvalidArguments { field: "arguments".into(), problem: "not a JSON object".into() })
            }
        }
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Later<'a, Result<Output, ToolError>> {
        let result = (self.does)(call);
        Box::pin(async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            result
        })
    }
}

pub const SYSTEM: &str = "<identity>You sell books.</identity>";

pub fn spec() -> ChatSpec {
    ChatSpec {
        name: AgentName::parse("shop").unwrap(),
        title: "Shop".into(),
        greeting: "Hello.".into(),
        model: ModelChoice {
            format: ChatFormat::Anthropic,
            host: Host::parse("model.example").unwrap(),
            port: 443,
            path: "/v1/messages".into(),
            model: "m-1".into(),
            meter: MeterName::parse("anthropic").unwrap(),
            token_env: None,
            output_tokens_max: 1_024,
        },
        prompt: ChatPrompt {
            system: SYSTEM.into(),
            reminder: "REMEMBER THE RULES".into(),
            long_reminder: "THIS IS LONG".into(),
            refusal: "I only talk about books.".into(),
            fallback: "Sorry, I cannot say that.".into(),
            hand_off: "A person will go on.".into(),
        },
        tools: vec![ToolSource::Application],
        rules: BTreeMap::new(),
        authorize: Vec::new(),
        identity: Identity::Anonymous,
        limits: ChatLimits {
            requests_per_session_per_minute: 10_000,
            requests_per_hour: 10_000,
            requests_per_ip_per_hour: 10_000,
            ..ChatLimits::default()
        },
        screening: Screening::default(),
        reply: ReplySpec {
            id_patterns: vec![r"BK-\d{4}".into()],
            dates: Grounded::Yes,
            plain_text: true,
            ..ReplySpec::default()
        },
        webhooks: None,
        frame_ancestors: Vec::new(),
        architecture: Default::default(),
    }
}

/// Nobody but support may return an order.
pub fn returns_are_for_support(spec: &mut ChatSpec) {
    let rule = |effect, roles: &[&str]| AuthorizationRule {
        effect,
        tools: ["return_order".to_owned()].into(),
        users: Default::default(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        arguments: Default::default(),
    };
    spec.authorize = vec![rule(AuthorizationEffect::Allow, &["support"]), rule(AuthorizationEffect::Deny, &[])];
}

/// Everything around one engine.
pub struct World {
    pub dir: tempfile::TempDir,
    pub model: Arc<Script>,
    pub shop: Arc<Shop>,
    pub clock: Arc<Hands>,
    pub metrics: Arc<Metrics>,
    pub sessions: Arc<MemorySessions>,
    pub log: Arc<AuditLog>,
    pub engine: Engine,
}

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

impl World {
    pub fn new() -> World {
        World::with(|_| {}, Vec::new())
    }

    pub fn with(change: impl FnOnce(&mut ChatSpec), more: Vec<Arc<dyn Tool>>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands(AtomicU64::new(1_750_000_000_000)));
        let log = AuditLog::open(&dir.path().join("audit.jsonl"), ChainKey::Plain, clock.clone()).unwrap();
        let (model, shop, metrics) =
            (Arc::new(Script::default()), Arc::new(Shop::default()), Arc::new(Metrics::default()));
        let sessions = Arc::new(MemorySessions::new(SessionLimits::default()));
        let mut spec = spec();
        change(&mut spec);
        let log = Arc::new(log);
        let engine = build(&spec, more, &model, &shop, sessions.clone(), &log, &clock, &metrics);
        World { dir, model, shop, clock, metrics, sessions, log, engine }
    }

    /// With somebody who keeps the operator's log.
    pub fn telling(self, remarks: engine::Remarks) -> World {
        World { engine: self.engine.telling(remarks), ..self }
    }

    /// With somebody who is told of hand-offs and feedback.
    pub fn notifying(self, notices: Notices) -> World {
        World { engine: self.engine.notifying(notices), ..self }
    }

    /// Another process over the same sessions, log and shop.
    pub fn another_engine(&self) -> Engine {
        self.engine_over(self.sessions.clone())
    }

    /// The same over other sessions.
    pub fn engine_over(&self, sessions: Arc<dyn SessionStore>) -> Engine {
        build(self.engine.spec(), Vec::new(), &self.model, &self.shop, sessions, &self.log, &self.clock, &self.metrics)
    }

    pub async fn turn(&self, asker: &Asker, message: &str) -> Result<Reply, TurnError> {
        self.engine.turn(asker, message, &|_| {}).await
    }

    /// A turn, and what was shown while it ran.
    pub async fn watched(&self, asker: &Asker, message: &str) -> (Result<Reply, TurnError>, Vec<TurnEvent>) {
        let events = Mutex::new(Vec::new());
        let reply = self.engine.turn(asker, message, &|event| events.lock().unwrap().push(event)).await;
        (reply, events.into_inner().unwrap())
    }

    /// What waits for a click after the model asked for a return.
    pub async fn card(&self, asker: &Asker) -> Card {
        self.model.says([
            call("check_return", json!({"order_id": "BK-1001"})),
            call("return_order", json!({"order_id": "BK-1001"})),
            text("Please confirm."),
        ]);
        self.turn(asker, "return BK-1001").await.unwrap().card.unwrap()
    }

    /// Every entry of the log, whose chain verifies.
    pub fn entries(&self) -> Vec<Value> {
        self.log.close().unwrap();
        let path = self.dir.path().join("audit.jsonl");
        let report = verify(&path, &ChainKey::Plain, None).unwrap();
        assert_eq!(report.result, carboy_store::audit::Integrity::Valid, "I8: the chain verifies");
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Actions of the log, each with its result.
    pub fn actions(&self) -> Vec<String> {
        let say =
            |entry: &Value| format!("{} {}", entry["action"].as_str().unwrap(), entry["result"].as_str().unwrap());
        self.entries().iter().map(say).collect()
    }

    pub fn writes(&self) -> usize {
        self.shop.writes.lock().unwrap().len()
    }

    pub fn returns(&self) -> usize {
        self.shop.returns.lock().unwrap().len()
    }

    pub async fn kept(&self, asker: &Asker) -> Option<Vec<u8>> {
        self.sessions.load(asker.session.key(), self.clock.now_ms()).await.unwrap().map(|kept| kept.bytes)
    }
}

#[allow(clippy::too_many_arguments)]
fn build(
    spec: &ChatSpec,
    more: Vec<Arc<dyn Tool>>,
    model: &Arc<Script>,
    shop: &Arc<Shop>,
    sessions: Arc<dyn SessionStore>,
    log: &Arc<AuditLog>,
    clock: &Arc<Hands>,
    metrics: &Arc<Metrics>,
) -> Engine {
    let mut tools: Vec<Arc<dyn Tool>> =
        vec![handler::tool(Look(shop.clone())), handler::tool(CheckReturn), handler::tool(ReturnOrder(shop.clone()))];
    tools.extend(more);
    Engine::new(Parts {
        spec: spec.clone(),
        tools,
        model: model.clone(),
        sessions,
        audit: log.clone(),
        clock: clock.clone(),
        secret: Arc::new(Secret::new(SECRET.into())),
        subject: Subject { agent: Some("shop".into()), ..Subject::default() },
        metrics: metrics.clone(),
    })
    .unwrap()
}

pub fn asker(id: &str, kind: PrincipalKind) -> Asker {
    let principal = Principal { id: id.into(), kind, roles: BTreeSet::new() };
    Asker { session: SessionId::fresh().unwrap(), principal, address: Some([127, 0, 0, 1].into()) }
}

pub fn person() -> Asker {
    asker("cli_user", PrincipalKind::Terminal)
}
