//! Webhooks against a real server on loopback: through the agent's own gateway, signed, repeated, given up (G92).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carboy_agent::{HandOff, Judgement};
use carboy_control::chat::ChatHost;
use carboy_core::audit::Entry;
use carboy_core::chat::{Webhook, WebhookEvent, Webhooks};
use carboy_core::host::Host;
use carboy_core::ids::SecretName;
use carboy_core::verdict::Reason;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::shop::{KEY, KEY_NAME, Shop, WAIT_MAX, asker};
use super::{ask, end, refusal};

const HOOKS: &str = "hooks.example";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TOKEN: &str = "hooks-token-0123456789abcdef";

/// One request as it came.
#[derive(Clone, Debug)]
struct Heard {
    path: String,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// As a receiver checks it: the standard's three fields and the shared key.
    fn is_signed(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        let (id, at) = (&self.fields["webhook-id"], &self.fields["webhook-timestamp"]);
        mac.update(format!("{id}.{at}.{}", self.body).as_bytes());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let fresh = now.abs_diff(at.parse().unwrap()) < 300;
        fresh && self.fields["webhook-signature"] == format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// A server of the operator's.
struct Receiver {
    address: SocketAddr,
    heard: watch::Sender<Vec<Heard>>,
}

impl Receiver {
    /// `says` are the statuses of its first answers, then 204; 0 is no answer at all.
    async fn open(says: &[u16]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new(says.iter().rev().copied().collect::<Vec<_>>()));
        let heard = watch::Sender::new(Vec::new());
        let tell = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, tell.clone(), says.clone()));
            }
        });
        Receiver { address, heard }
    }

    /// As soon as so many came.
    async fn heard(&self, count: usize) -> Vec<Heard> {
        let mut heard = self.heard.subscribe();
        let enough = heard.wait_for(|heard| heard.len() >= count);
        tokio::time::timeout(WAIT_MAX, enough).await.expect("a webhook did not come").unwrap().clone()
    }
}

async fn answer(mut stream: TcpStream, tell: watch::Sender<Vec<Heard>>, says: Arc<Mutex<Vec<u16>>>) {
    loop {
        let mut text = Vec::new();
        let heard = loop {
            if let Some(heard) = whole(&text) {
                break heard;
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(read) => text.extend_from_slice(&piece[..read]),
            }
        };
        let status = says.lock().unwrap().pop().unwrap_or(204);
        tell.send_modify(|all| all.push(heard));
        if status == 0 {
            std::future::pending::<()>().await;
        }
        let head = format!("HTTP/1.1 {status} As it is\r\ncontent-length: 0\r\nlocation: /elsewhere\r\n\r\n");
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn whole(text: &[u8]) -> Option<Heard> {
    let text = std::str::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let field =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())).unwrap();
    let fields: BTreeMap<String, String> = lines.map(field).collect();
    let length: usize = fields.get("content-length").map_or(0, |length| length.parse().unwrap());
    (body.len() >= length).then(|| Heard { path, fields, body: body.to_owned() })
}

/// A shop whose bottle lets its agent post to the receiver, with a credential.
async fn shop(at: SocketAddr, budget: &str) -> Shop {
    let route = format!(
        "    - host: {HOOKS}\n      auth_scheme: Bearer\n      token_env: HOOK_TOKEN\n      matches: [{{paths: [/chat], methods: [POST]}}]\n"
    );
    let shop = Shop::open(&format!("{route}{budget}")).await;
    let settings = std::fs::read_to_string(shop.path("home/settings.yml")).unwrap();
    shop.write("home/settings.yml", &format!("{settings}  {HOOKS}: {{address: \"{at}\", tls: false}}\n"));
    shop
}

fn hooks(attempts_max: u32) -> Webhooks {
    let hook = |on, path: &str| Webhook { on, host: Host::parse(HOOKS).unwrap(), port: 443, path: path.into() };
    Webhooks {
        hooks: vec![hook(WebhookEvent::HandOff, "/chat/hand-off"), hook(WebhookEvent::Feedback, "/chat/feedback")],
        secret: SecretName::parse("WEBHOOK_SECRET").unwrap(),
        attempts_max,
    }
}

async fn start(shop: &Shop, attempts_max: u32) -> ChatHost {
    let variables = [(KEY_NAME, KEY), ("WEBHOOK_SECRET", SECRET), ("HOOK_TOKEN", TOKEN)];
    let mut request = shop.request(&variables);
    request.spec.webhooks = Some(hooks(attempts_max));
    ChatHost::start(request).await.unwrap()
}

fn of<'l>(log: &'l [Entry], action: &str) -> Vec<&'l Entry> {
    log.iter().filter(|entry| entry.text("action") == Some(action)).collect()
}

fn detail(entry: &Entry, name: &str) -> Value {
    entry.detail(name).cloned().unwrap_or(Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_a_hand_off_and_feedback_arrive_signed_through_the_agents_gateway_and_without_a_word_of_anybody() {
    let receiver = Receiver::open(&[]).await;
    let shop = shop(receiver.address, "").await;
    let host = start(&shop, 8).await;
    let asker = asker();
    let reply = host.engine().turn(&asker, "My name is Sarah, when are you open?", &|_| {}).await.unwrap();
    host.engine().feedback(&asker, reply.turn, Judgement::NotHelpful, "incomplete").await.unwrap();
    let judged = receiver.heard(1).await[0].clone();
    assert_eq!(host.engine().hand_off(&asker).await.unwrap().handed_off, Some(HandOff::Asked));
    // Asked for again while somebody is asked already: that is the same question.
    host.engine().hand_off(&asker).await.unwrap();
    let asked = receiver.heard(2).await[1].clone();
    let run = end(host).await.run;
    assert_eq!(receiver.heard.borrow().len(), 2);

    assert_eq!((judged.path.as_str(), asked.path.as_str()), ("/chat/feedback", "/chat/hand-off"));
    for heard in [&judged, &asked] {
        assert!(heard.is_signed(SECRET) && !heard.is_signed("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), "{heard:?}");
        assert_eq!(heard.fields["content-type"], "application/json");
        assert_eq!(heard.fields["authorization"], format!("Bearer {TOKEN}"), "the gateway sets the route's credential");
        assert!(!heard.body.contains("Sarah") && !heard.body.contains("nine to five"), "{}", heard.body);
        assert!(heard.json()["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    let log = shop.log();
    let session = detail(of(&log, "turn_ended")[0], "session");
    let (feedback, hand_off) = (judged.json(), asked.json());
    assert_eq!(feedback["type"], "feedback");
    assert_eq!(
        feedback["data"],
        json!({"agent": "shop", "run": run, "session": session, "turn": 1, "user": "person", "judgement": "not_helpful", "reason": "incomplete"})
    );
    assert_eq!((&hand_off["type"], &hand_off["data"]["why"]), (&json!("hand_off"), &json!("asked")));
    assert_eq!((&hand_off["data"]["session"], &hand_off["data"]["turn"]), (&session, &json!(1)));
    let opened = of(&log, "ask_opened")[0];
    assert_eq!(
        (detail(opened, "ask"), &asked.fields["webhook-id"]),
        (hand_off["data"]["ask"].clone(), &asked.json()["data"]["ask"].as_str().unwrap().to_owned())
    );

    // Each delivery is an event, and each request one of the gateway's: with its session and turn.
    let delivered = of(&log, "webhook_delivered");
    let told: Vec<_> =
        delivered.iter().map(|e| (detail(e, "webhook"), detail(e, "attempts"), detail(e, "status"))).collect();
    assert_eq!(told, [(json!("feedback"), json!(1), json!(204)), (json!("hand_off"), json!(1), json!(204))]);
    assert!(delivered.iter().all(|entry| detail(entry, "session") == session && detail(entry, "turn") == json!(1)));
    let posted: Vec<&Entry> = of(&log, "request").into_iter().filter(|e| detail(e, "host") == json!(HOOKS)).collect();
    assert_eq!(posted.len(), 2);
    assert!(posted.iter().all(|entry| detail(entry, "session") == session && detail(entry, "turn") == json!(1)));
    let text = std::fs::read_to_string(shop.home().audit_log()).unwrap();
    assert!(!text.contains(TOKEN) && !text.contains(SECRET), "no secret in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_u2_people_who_are_handed_off_for_a_spent_budget_are_told_of_too() {
    let receiver = Receiver::open(&[]).await;
    let shop = shop(receiver.address, "budget: {claude: 1}\n").await;
    let host = start(&shop, 8).await;
    let reply = ask(&host, "When are you open?").await.unwrap();
    assert_eq!(reply.handed_off, Some(HandOff::Refused(Reason::BudgetExhausted)));
    let heard = receiver.heard(1).await[0].json();
    assert_eq!((&heard["type"], &heard["data"]["why"]), (&json!("hand_off"), &json!("budget_exhausted")));
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_a_server_that_says_later_is_asked_again_with_the_same_id_and_a_signature_of_its_own() {
    let receiver = Receiver::open(&[503, 429]).await;
    let shop = shop(receiver.address, "").await;
    let host = start(&shop, 8).await;
    host.engine().hand_off(&asker()).await.unwrap();
    let heard = receiver.heard(3).await;
    end(host).await;
    assert!(heard.iter().all(|heard| heard.is_signed(SECRET)));
    assert!(
        heard
            .iter()
            .all(|other| other.fields["webhook-id"] == heard[0].fields["webhook-id"] && other.body == heard[0].body)
    );
    let log = shop.log();
    assert_eq!(of(&log, "webhook_delivered").len(), 1);
    assert_eq!(detail(of(&log, "webhook_delivered")[0], "attempts"), json!(3));
    assert!(of(&log, "webhook_failed").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_a_server_that_stays_unwell_is_asked_so_often_and_given_up_with_an_event() {
    let receiver = Receiver::open(&[500, 502, 504, 500]).await;
    let shop = shop(receiver.address, "").await;
    let host = start(&shop, 3).await;
    host.engine().hand_off(&asker()).await.unwrap();
    receiver.heard(3).await;
    end(host).await;
    assert_eq!(receiver.heard.borrow().len(), 3, "and no fourth time");
    let log = shop.log();
    let failed = of(&log, "webhook_failed");
    assert_eq!((failed.len(), failed[0].text("result"), failed[0].text("agent")), (1, Some("failed"), Some("shop")));
    assert_eq!((detail(failed[0], "attempts"), detail(failed[0], "status")), (json!(3), json!(504)));
    assert_eq!((detail(failed[0], "webhook"), detail(failed[0], "host")), (json!("hand_off"), json!(HOOKS)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_no_turn_fails_of_a_server_that_is_down_and_the_log_says_that_nobody_was_told() {
    // A port that nobody listens at, for as long as this test has it.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let shop = shop(taken.local_addr().unwrap(), "").await;
    let host = start(&shop, 8).await;
    let asker = asker();
    let reply = host.engine().turn(&asker, "When are you open?", &|_| {}).await.unwrap();
    host.engine().feedback(&asker, reply.turn, Judgement::Helpful, "").await.unwrap();
    assert_eq!(host.engine().hand_off(&asker).await.unwrap().handed_off, Some(HandOff::Asked));
    end(host).await;
    let log = shop.log();
    let failed = of(&log, "webhook_failed");
    let mut told: Vec<_> = failed.iter().map(|entry| detail(entry, "webhook")).collect();
    told.sort_by_key(Value::to_string);
    assert_eq!(told, [json!("feedback"), json!("hand_off")]);
    for entry in failed {
        assert!(detail(entry, "code").as_str().unwrap().starts_with("upstream"), "{entry:?}");
        assert!(detail(entry, "attempts").as_u64().unwrap() >= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_a_server_that_says_no_or_elsewhere_is_not_asked_again_and_no_redirect_is_followed() {
    for status in [404, 307] {
        let receiver = Receiver::open(&[status]).await;
        let shop = shop(receiver.address, "").await;
        let host = start(&shop, 8).await;
        host.engine().hand_off(&asker()).await.unwrap();
        receiver.heard(1).await;
        end(host).await;
        assert_eq!(receiver.heard.borrow().len(), 1);
        let log = shop.log();
        let failed = of(&log, "webhook_failed");
        assert_eq!((detail(failed[0], "code"), detail(failed[0], "status")), (json!("status"), json!(status)));
        assert_eq!(detail(failed[0], "attempts"), json!(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_a_server_that_never_answers_holds_nobody_up_and_the_end_waits_for_it_only_so_long() {
    let receiver = Receiver::open(&[0, 0, 0, 0]).await;
    let shop = shop(receiver.address, "").await;
    let host = start(&shop, 8).await;
    let began = std::time::Instant::now();
    host.engine().hand_off(&asker()).await.unwrap();
    receiver.heard(1).await;
    assert!(ask(&host, "When are you open?").await.unwrap().handed_off.is_none());
    assert!(began.elapsed() < Duration::from_secs(10), "a turn waited");
    let began = std::time::Instant::now();
    end(host).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(12), "{took:?}");
    let log = shop.log();
    let failed = of(&log, "webhook_failed");
    assert_eq!((failed.len(), detail(failed[0], "code")), (1, json!("ended")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_what_waits_to_be_sent_again_is_sent_at_once_when_the_agent_ends() {
    let receiver = Receiver::open(&[503, 503, 503]).await;
    let shop = shop(receiver.address, "").await;
    let host = start(&shop, 8).await;
    host.engine().hand_off(&asker()).await.unwrap();
    receiver.heard(3).await; // the next one would come in some seconds
    let began = std::time::Instant::now();
    end(host).await;
    assert_eq!(receiver.heard.borrow().len(), 4);
    println!("the end took {:?}", began.elapsed());
    let log = shop.log();
    assert_eq!(detail(of(&log, "webhook_delivered")[0], "attempts"), json!(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g92_without_its_key_or_with_one_that_is_none_nothing_starts_and_the_words_say_how_one_is_made() {
    let receiver = Receiver::open(&[]).await;
    let shop = shop(receiver.address, "").await;
    for (secret, words) in [(None, "WEBHOOK_SECRET"), (Some("hunter2-hunter2-hunter2"), "openssl rand -base64 32")] {
        let mut variables = vec![(KEY_NAME, KEY), ("HOOK_TOKEN", TOKEN)];
        variables.extend(secret.map(|secret| ("WEBHOOK_SECRET", secret)));
        let mut request = shop.request(&variables);
        request.spec.webhooks = Some(hooks(8));
        let refused = refusal(ChatHost::start(request).await);
        assert!(refused.contains(words) && !refused.contains("hunter2"), "{refused}");
    }
}
