//! Takes operators' answers to their conversations.
//!
//! ```text
//! start, and then every half second:
//! look ─▶ answered, or too late ─▶ one task for each conversation ─▶ Engine::answered ─▶ taken down
//! ```
//!
//! *Must never* carry out two answers of one conversation at once, take one that was carried out for another, or let one
//! conversation that is at work hold up the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use carboy_agent::Engine;
use carboy_core::ports::Clock;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::{FileBoard, Waits, Warned};
use crate::clock::SystemClock;
use crate::home::HomeError;

/// How often answers are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a start waits for answers that were given before it.
const BEGIN_WAIT_MAX: Duration = Duration::from_millis(250);
/// How often what was left behind is cleared away.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Takes answers to their conversations, and tells those whose time is over. What is under way when it is dropped is broken off.
pub(crate) struct Carrier {
    engine: Arc<Engine>,
    board: Warned,
    /// Raised with each.
    news: watch::Sender<u64>,
    tasks: JoinSet<()>,
    under_way: HashMap<String, AbortHandle>,
    /// How many are carried out, or wait for their conversation.
    count: watch::Sender<usize>,
}

/// Whether what was left behind is cleared away before the look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tidies {
    Yes,
    No,
}

impl Carrier {
    pub(crate) fn new(engine: Arc<Engine>, board: Warned, news: watch::Sender<u64>) -> Carrier {
        let (tasks, under_way) = (JoinSet::new(), HashMap::new());
        Carrier { engine, board, news, tasks, under_way, count: watch::Sender::new(0) }
    }

    /// Takes up what was answered while nobody ran the agent, before anybody asks it something: whoever does finds the answer in
    /// their conversation, or waits for it there. Without one nothing is waited for.
    pub(crate) async fn begin(&mut self) {
        self.look(Tidies::No).await;
        let mut count = self.count.subscribe();
        // What takes longer is carried out beside the first turns.
        let _ = tokio::time::timeout(BEGIN_WAIT_MAX, count.wait_for(|count| *count == 0)).await;
    }

    /// How many are under way: an end in order waits for them.
    pub(crate) fn under_way(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Until it is aborted.
    pub(crate) async fn go_on(self) {
        self.go_on_and_tidy(TIDY_EVERY).await;
    }

    async fn go_on_and_tidy(mut self, tidy_every: Duration) {
        let mut tidied: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let due = tidied.is_none_or(|at| at.elapsed() >= tidy_every);
            if due {
                tidied = Some(Instant::now());
            }
            self.look(if due { Tidies::Yes } else { Tidies::No }).await;
        }
    }

    async fn look(&mut self, tidies: Tidies) {
        // Before the look: whatever is carried out by now is not seen by it, and what ends meanwhile is passed over.
        while self.tasks.try_join_next().is_some() {}
        self.under_way.retain(|_, task| !task.is_finished());
        let looked = self.board.board.clone();
        let waits = match tokio::task::spawn_blocking(move || waits_on(&looked, tidies)).await {
            Ok(Ok(waits)) => waits,
            // What cannot be read now is read at the next look.
            Ok(Err(error)) => return self.board.warnings.tell("questions_not_read", "board", &error),
            Err(_) => return,
        };
        let now = SystemClock.now_ms();
        for waits in waits.into_iter().filter(|waits| waits.answer.is_some() || now >= waits.posted.ask.expires_ms()) {
            let of_it = self.under_way.entry(waits.posted.back.clone());
            of_it.or_insert_with(|| {
                let counted = Counted::one(&self.count);
                self.tasks.spawn(one(self.engine.clone(), waits, self.news.clone(), counted))
            });
        }
    }
}

/// One that is under way, until it is dropped.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn one(count: &watch::Sender<usize>) -> Counted {
        count.send_modify(|count| *count += 1);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

fn waits_on(board: &FileBoard, tidies: Tidies) -> Result<Vec<Waits>, HomeError> {
    if tidies == Tidies::Yes {
        board.tidy();
    }
    board.waits()
}

/// What cannot be carried out now is taken again at a later look.
async fn one(engine: Arc<Engine>, waits: Waits, news: watch::Sender<u64>, _counted: Counted) {
    if engine.answered(&waits.posted, waits.answer.as_ref()).await.is_ok() {
        news.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use carboy_agent::{Asker, Metrics, Model, ModelError, Parts, Principal, PrincipalKind, SessionId};
    use carboy_core::ask::{Answered, Word};
    use carboy_core::audit::{ChainKey, Subject};
    use carboy_core::chat::{
        ChatFormat, ChatLimits, ChatPrompt, ChatSpec, Identity, ModelChoice, ReplySpec, Screening,
    };
    use carboy_core::host::Host;
    use carboy_core::ids::{AgentName, BottleName, MeterName};
    use carboy_core::ports::Later;
    use carboy_core::secret::SecretText;
    use carboy_store::audit::AuditLog;
    use carboy_store::sessions::{MemorySessions, SessionLimits};
    use carboy_wire::chat::{Block, Completion, Delta, Prompt, Stopped};
    use tokio::sync::Semaphore;

    use crate::approvals::Warnings;
    use crate::home::Home;

    /// Longest wait for something that has to happen.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// It is asked, and answers when the gate is opened.
    struct Slow {
        asked: Semaphore,
        gate: Semaphore,
    }

    impl Model for Slow {
        fn complete<'a>(
            &'a self,
            _: &'a Prompt<'a>,
            _: &'a mut (dyn FnMut(Delta) + Send),
        ) -> Later<'a, Result<Completion, ModelError>> {
            Box::pin(async move {
                self.asked.add_permits(1);
                self.gate.acquire().await.unwrap().forget();
                let blocks = vec![Block::Text { text: "Hello.".into() }];
                Ok(Completion { blocks, stopped: Stopped::EndOfTurn })
            })
        }
    }

    fn spec() -> ChatSpec {
        let said = |text: &str| text.to_owned();
        ChatSpec {
            name: AgentName::parse("desk").unwrap(),
            title: said("Desk"),
            greeting: said("Hello!"),
            model: ModelChoice {
                format: ChatFormat::Anthropic,
                host: Host::parse("model.example").unwrap(),
                port: 443,
                path: said("/v1/messages"),
                model: said("slow"),
                meter: MeterName::parse("anthropic").unwrap(),
                token_env: None,
                output_tokens_max: 1_000,
            },
            prompt: ChatPrompt {
                system: said("You are a desk."),
                reminder: String::new(),
                long_reminder: String::new(),
                refusal: said("No."),
                fallback: said("Sorry."),
                hand_off: said("A person comes."),
            },
            tools: Vec::new(),
            rules: BTreeMap::new(),
            authorize: Vec::new(),
            identity: Identity::Anonymous,
            limits: ChatLimits::default(),
            screening: Screening::default(),
            reply: ReplySpec::default(),
            webhooks: None,
            frame_ancestors: Vec::new(),
            architecture: Default::default(),
        }
    }

    fn world(dir: &Path) -> (Arc<Engine>, Arc<Slow>, Warned) {
        let home = Home::open(dir, None).unwrap();
        let spec = spec();
        let board = FileBoard::of(&home, &BottleName::parse("shop").unwrap(), &spec.name);
        let board = Warned { board, warnings: Warnings::new(Arc::new(|_: &str| {})) };
        let clock = Arc::new(SystemClock);
        let model = Arc::new(Slow { asked: Semaphore::new(0), gate: Semaphore::new(0) });
        let engine = Engine::new(Parts {
            spec,
            tools: Vec::new(),
            model: model.clone(),
            sessions: Arc::new(MemorySessions::new(SessionLimits::default())),
            audit: Arc::new(AuditLog::open(&home.audit_log(), ChainKey::Plain, clock.clone()).unwrap()),
            clock,
            secret: Arc::new(SecretText::new("0123456789abcdef0123456789abcdef".into())),
            subject: Subject::default(),
            metrics: Arc::new(Metrics::default()),
        });
        (Arc::new(engine.unwrap().asking(Arc::new(board.clone()))), model, board)
    }

    fn asker() -> Asker {
        let principal = Principal { id: "ada".into(), kind: PrincipalKind::Terminal, roles: BTreeSet::new() };
        Asker { session: SessionId::fresh().unwrap(), principal, address: None }
    }

    /// Asks for a person; the question.
    async fn asked_for(engine: &Engine, board: &FileBoard) -> (Asker, Waits) {
        let (asker, before) = (asker(), board.waits().unwrap());
        engine.hand_off(&asker).await.unwrap();
        let of_it = |waits: &Waits| !before.contains(waits);
        (asker, board.waits().unwrap().into_iter().find(of_it).unwrap())
    }

    async fn came_of(board: &FileBoard, waits: &Waits) -> String {
        let comes = async {
            loop {
                if let Some(came) = board.came_of(waits.posted.ask.id()).unwrap() {
                    return came;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, comes).await.expect("somebody takes the answer")
    }

    #[tokio::test]
    async fn u4_an_answer_is_taken_while_another_conversation_that_was_answered_before_is_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, model, warned) = world(dir.path());
        let board = warned.board.clone();
        let (busy, first) = asked_for(&engine, &board).await;
        let (_, second) = asked_for(&engine, &board).await;
        let turn = {
            let engine = engine.clone();
            tokio::spawn(async move { engine.turn(&busy, "Hello", &|_| {}).await.map(|reply| reply.text) })
        };
        model.asked.acquire().await.unwrap().forget();
        let answer = |word| Answered { word, by: "ann".into(), say: None, at_ms: SystemClock.now_ms() };
        board.answer(&first.posted, &answer(Word::Declined)).unwrap();
        board.answer(&second.posted, &answer(Word::Approved)).unwrap();
        let carried = tokio::spawn(Carrier::new(engine, warned, watch::Sender::new(0)).go_on());
        assert_eq!(came_of(&board, &second).await, "taken over; the person reads it in the conversation");
        assert_eq!(board.waits().unwrap().len(), 1, "the other one waits for its conversation");
        model.gate.add_permits(1);
        assert_eq!(came_of(&board, &first).await, "closed; the person reads it in the conversation");
        assert_eq!(turn.await.unwrap().unwrap(), "Hello.");
        carried.abort();
    }

    #[tokio::test]
    async fn u4_what_is_left_behind_while_the_agent_runs_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, _, warned) = world(dir.path());
        let board = warned.board.clone();
        asked_for(&engine, &board).await;
        let left = board.path("h-0", crate::approvals::CAME);
        let carried =
            tokio::spawn(Carrier::new(engine, warned, watch::Sender::new(0)).go_on_and_tidy(Duration::from_millis(1)));
        for _ in 0..2 {
            std::fs::write(&left, "x").unwrap();
            let file = std::fs::File::options().write(true).open(&left).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3_700)).unwrap();
            let goes = async {
                while left.exists() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, goes).await.expect("it goes");
        }
        carried.abort();
    }
}
