//! Runs that live: a record each, and a socket on which each is asked and stopped.
//!
//! The record says that a run was started; only an answer on its socket says that it lives. A record without an
//! answer is what a crash left behind and is removed by whoever notices.
//!
//! ```text
//! client ── {"op":"status"}\n ──►  supervisor
//!        ◄── {"run":…,"stats":…}\n
//!
//! client ── {"op":"attach",…}\n ─►  supervisor
//!        ◄── {"run":…}\n, or {"error":…}\n
//!        ◄── frames ──►                          (see `session::frames`)
//! ```
//!
//! *Must never* answer another user: the socket is 0600 and the peer's uid is checked.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::budget::Shutdown;
use carboy_core::ids::RunId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::approvals::conversation::ReadAsked;
use crate::grants::{GrantAsked, GrantView};
use crate::home::{Home, HomeError, write_private};
use crate::ports::PortReport;
use crate::resume::Waiting;
use crate::summary::By;

/// Longest question or answer, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// How long a client waits for an answer.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is known of a run before it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run: String,
    /// Its bottle.
    pub bottle: String,
    /// Its agent, when one was named.
    pub agent: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Beginning of what its program is to do, where carboy told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The supervisor's process.
    pub supervisor_pid: u32,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// Where it is asked.
    pub socket: PathBuf,
    /// The workspace.
    #[serde(default)]
    pub workdir: PathBuf,
    /// The chat agent whose tools it holds: a part of that one's run, in the same process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools_of: Option<String>,
    /// Has the program a terminal?
    #[serde(default)]
    pub terminal: bool,
}

/// A question to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Question {
    /// How is it going?
    Status,
    /// End it: the program is asked first, and killed after the grace period.
    Stop,
    /// End it at once, with everything in it.
    Kill,
    /// A conversation: see its output and type its input, in a window of this size.
    Attach {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// A conversation: see its output.
    Watch,
    /// A conversation: hear of its end.
    Wait,
    /// A conversation: a command more in its bottle.
    Exec(ExecAsked),
    /// Stop it in one of four ways, by the operator.
    Enforce {
        /// How.
        how: Shutdown,
    },
    /// Let it go on.
    Resume,
    /// A conversation: see what was said in a chat agent's conversation, from which a question to the operator came.
    Conversation(Box<ReadAsked>),
    /// Open a route for a while.
    Grant(Box<GrantAsked>),
    /// Take back the grant of this id, or of this refusal.
    Revoke {
        /// `g-…` or `x-…`.
        id: String,
    },
}

/// A command that is to be executed in a bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecAsked {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables beside the bottle's own.
    pub env: Vec<(String, String)>,
    /// Working directory inside; the bottle's own where there is none.
    pub workdir: Option<PathBuf>,
    /// Rows and columns of its terminal; pipes where there are none.
    pub terminal: Option<(u16, u16)>,
}

/// A run's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The run itself.
    pub record: RunRecord,
    /// `running`, `cut off`, `paused`, `frozen` (and about to end, unless it `stays`), `stopping`, or `silent` for one that does not answer (its
    /// counters are then zero).
    pub state: String,
    /// Why it does not simply run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What its bottle's file says that `stop` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Shutdown>,
    /// Frozen, it lives on, and goes on where it is: a chat agent, a proxy.
    #[serde(default)]
    pub stays: bool,
    /// HTTP requests seen, refused ones included.
    pub requests: u64,
    /// Requests, names and connections refused.
    pub refusals: u64,
    /// Requests that failed without anybody's having forbidden them.
    #[serde(default)]
    pub failures: u64,
    /// Bytes of request bodies that left.
    pub bytes_out: u64,
    /// Bytes of response bodies that came in.
    pub bytes_in: u64,
    /// How traffic is captured: `T1` or `T2`; `-` when it does not answer.
    pub tier: String,
    /// Published and forwarded ports.
    #[serde(default)]
    pub ports: Vec<PortReport>,
    /// Routes that are open for a while.
    #[serde(default)]
    pub grants: Vec<GrantView>,
}

/// Why a run could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The files of the home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// It answers, and the answer is no.
    #[error("run {run}: {why}")]
    No {
        /// The run.
        run: String,
        /// In its own words.
        why: String,
    },
    /// It does not answer.
    #[error("run {run} does not answer on {socket}: {source}")]
    Silent {
        /// The run.
        run: String,
        /// Its socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Every recorded run, oldest first; those that do not live any more are cleared away.
pub fn live_runs(home: &Home) -> Result<Vec<Answer>, HomeError> {
    let mut answers = Vec::new();
    for (path, record) in records(home)? {
        match ask(&record, &Question::Status) {
            Ok(answer) => answers.push(answer),
            Err(AskError::Silent { source, .. }) if nobody_listens(&source) => {
                // Left behind by a supervisor that was killed: a record is written after its socket was opened.
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_file(&record.socket);
                if let Ok(run) = RunId::parse(&record.run) {
                    let _ = std::fs::remove_dir_all(home.proxy_dir(&run));
                }
            }
            // It is there and does not answer: the person has to see that.
            Err(_) => answers.push(Answer::silent(record)),
        }
    }
    answers.sort_by_key(|answer| answer.record.started_ms);
    Ok(answers)
}

/// Leaves out the tools of those chat agents that are among them: what is done to an agent is done to its tools by itself.
pub fn without_carried(runs: Vec<Answer>) -> Vec<Answer> {
    let carriers: BTreeSet<u32> =
        runs.iter().filter(|run| run.record.tools_of.is_none()).map(|run| run.record.supervisor_pid).collect();
    let carried = |run: &Answer| run.record.tools_of.is_some() && carriers.contains(&run.record.supervisor_pid);
    runs.into_iter().filter(|run| !carried(run)).collect()
}

/// Leaves out those chat agents whose tools are among them: a program is run beside the tools, in their bottle.
pub fn without_carriers(runs: Vec<Answer>) -> Vec<Answer> {
    let carried: BTreeSet<u32> =
        runs.iter().filter(|run| run.record.tools_of.is_some()).map(|run| run.record.supervisor_pid).collect();
    let carrier = |run: &Answer| run.record.tools_of.is_none() && carried.contains(&run.record.supervisor_pid);
    runs.into_iter().filter(|run| !carrier(run)).collect()
}

fn records(home: &Home) -> Result<Vec<(PathBuf, RunRecord)>, HomeError> {
    let dir = home.run_records();
    let io = |source| HomeError::Io { path: dir.clone(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "json") {
            found.extend(std::fs::read(&path).ok().and_then(|b| serde_json::from_slice(&b).ok()).map(|r| (path, r)));
        }
    }
    Ok(found)
}

/// The socket is gone, or the process that had it open is (unix(7)).
impl AskError {
    /// Is nobody there to be asked? The run has ended, then.
    pub fn nobody_is_there(&self) -> bool {
        matches!(self, AskError::Silent { source, .. } if nobody_listens(source))
    }
}

fn nobody_listens(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

impl Answer {
    /// For a run that does not answer: nothing but its record is known.
    fn silent(record: RunRecord) -> Answer {
        let (state, tier) = ("silent".into(), "-".into());
        Answer {
            record,
            state,
            why: None,
            shutdown: None,
            stays: false,
            requests: 0,
            refusals: 0,
            failures: 0,
            bytes_out: 0,
            bytes_in: 0,
            tier,
            ports: vec![],
            grants: vec![],
        }
    }
}

impl From<Waiting> for Answer {
    /// Of one that was frozen or lost: how it went before is in its summary.
    fn from(waiting: Waiting) -> Answer {
        let (state, why) = (waiting.word().to_owned(), waiting.resumable.why);
        let by = waiting.resumable.by.map_or("system", By::as_str);
        Answer { state, why: why.map(|why| format!("by the {by}: {why}")), ..Answer::silent(waiting.past.record) }
    }
}

/// Asks one run.
pub fn ask(record: &RunRecord, question: &Question) -> Result<Answer, AskError> {
    let exchange = || -> std::io::Result<Answer> {
        let stream = asked(record, question)?;
        let mut answer = Vec::new();
        BufReader::new(stream.take(MESSAGE_BYTES_MAX)).read_until(b'\n', &mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    };
    exchange().map_err(|source| AskError::Silent { run: record.run.clone(), socket: record.socket.clone(), source })
}

/// A connection on which the question was put, and whose answer is not waited for without end.
fn asked(record: &RunRecord, question: &Question) -> std::io::Result<BlockingStream> {
    let mut stream = BlockingStream::connect(&record.socket)?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}

/// The first line of an answer: how things stand, or why not.
#[derive(Deserialize)]
#[serde(untagged)]
enum Opened {
    No { error: String },
    Yes(Box<Answer>),
}

/// Begins a conversation with a run: how it stands, and the socket on which frames go from here on.
pub fn open(record: &RunRecord, question: &Question) -> Result<(Answer, BlockingStream), AskError> {
    let exchange = || -> std::io::Result<(Opened, BlockingStream)> {
        let stream = asked(record, question)?;
        // Byte by byte: what follows the line belongs to the conversation.
        let mut answer = Vec::new();
        let (mut rest, mut byte) = ((&stream).take(MESSAGE_BYTES_MAX), [0]);
        while rest.read(&mut byte)? == 1 && byte != [b'\n'] {
            answer.extend(byte);
        }
        let opened = serde_json::from_slice(&answer)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        Ok((opened, stream))
    };
    let silent = |source| AskError::Silent { run: record.run.clone(), socket: record.socket.clone(), source };
    match exchange().map_err(silent)? {
        (Opened::Yes(answer), stream) => Ok((*answer, stream)),
        (Opened::No { error }, _) => Err(AskError::No { run: record.run.clone(), why: error }),
    }
}

/// What a supervisor does when it is asked.
pub trait Respond: Send + Sync + 'static {
    /// Acts on the question and says how things stand.
    fn respond(&self, question: &Question) -> Answer;

    /// For a question that begins a conversation: what carries it on, on a thread of its own, once the answer has
    /// been sent. For every other one there is none.
    fn converse(&self, question: &Question) -> Result<Option<Conversation>, String>;
}

/// Carries a conversation on.
pub type Conversation = Box<dyn FnOnce(BlockingStream) + Send>;

/// The record and the socket of a run of ours; both go when it is dropped.
pub struct Registration {
    record: PathBuf,
    socket: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Registration {
    /// Opens the socket, then writes the record.
    pub fn open(home: &Home, record: &RunRecord, respond: Arc<dyn Respond>) -> Result<Registration, HomeError> {
        let io = |source| HomeError::Io { path: record.socket.clone(), source };
        // A run's identifier is new, so whatever stands there is not a living run's.
        let _ = std::fs::remove_file(&record.socket);
        let listener = UnixListener::bind(&record.socket).map_err(io)?;
        std::fs::set_permissions(&record.socket, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        let run = RunId::parse(&record.run).expect("a record is made from a checked run identifier");
        let path = home.run_record(&run);
        write_private(&path, &serde_json::to_vec(record).expect("a record of texts and numbers is valid JSON"))?;
        let task = tokio::spawn(accept(listener, respond));
        Ok(Registration { record: path, socket: record.socket.clone(), task })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
        // Both may be gone already; a stale one is cleared by the next `ps`.
        let _ = std::fs::remove_file(&self.record);
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn accept(listener: UnixListener, respond: Arc<dyn Respond>) {
    let own = rustix::process::getuid().as_raw();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // The socket's mode keeps other users out already; root may ask everybody.
        let peer_allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        if peer_allowed {
            let respond = respond.clone();
            tokio::spawn(async move {
                // A client that says nothing or nonsense loses its connection, nothing else.
                let answered = tokio::time::timeout(ANSWER_WAIT_MAX, answer(stream, respond.as_ref())).await;
                if let Ok(Ok(Some((carry_on, stream)))) = answered {
                    // On a thread that nobody waits for: a client that stops reading must not keep this process.
                    let _ = std::thread::Builder::new().name("conversation".into()).spawn(move || carry_on(stream));
                }
            });
        }
    }
}

/// Answers the first line; gives what carries a conversation on.
async fn answer(
    mut stream: UnixStream,
    respond: &dyn Respond,
) -> std::io::Result<Option<(Conversation, BlockingStream)>> {
    let mut line = Vec::new();
    // The client waits for the answer before it says more, so that nothing of a conversation is read ahead here.
    tokio::io::BufReader::new((&mut stream).take(MESSAGE_BYTES_MAX)).read_until(b'\n', &mut line).await?;
    let question: Question = serde_json::from_slice(&line)?;
    let (mut said, carry_on) = match respond.converse(&question) {
        Ok(carry_on) => (serde_json::to_vec(&respond.respond(&question))?, carry_on),
        Err(error) => (serde_json::to_vec(&serde_json::json!({ "error": error }))?, None),
    };
    said.push(b'\n');
    stream.write_all(&said).await?;
    let Some(carry_on) = carry_on else { return Ok(None) };
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(Some((carry_on, stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(RunRecord);

    impl Respond for Fixed {
        fn converse(&self, _: &Question) -> Result<Option<Conversation>, String> {
            Ok(None)
        }

        fn respond(&self, question: &Question) -> Answer {
            let state = if *question == Question::Status { "running" } else { "stopping" };
            Answer {
                record: self.0.clone(),
                state: state.into(),
                why: None,
                shutdown: None,
                stays: false,
                requests: 2,
                refusals: 1,
                failures: 0,
                bytes_out: 3,
                bytes_in: 4,
                tier: "T1".into(),
                ports: vec![],
                grants: Vec::new(),
            }
        }
    }

    fn record(home: &Home, run: &str, pid: u32) -> RunRecord {
        RunRecord {
            run: run.into(),
            bottle: "b".into(),
            agent: None,
            command: vec!["true".into()],
            task: None,
            supervisor_pid: pid,
            started_ms: 1,
            socket: home.run_socket(&RunId::parse(run).unwrap()).unwrap(),
            workdir: "/project".into(),
            tools_of: None,
            terminal: false,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_living_run_answers_and_a_dead_ones_record_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None).unwrap();
        let alive = record(&home, "r-1", std::process::id());
        let registration = Registration::open(&home, &alive, Arc::new(Fixed(alive.clone()))).unwrap();
        // No process has this number: it is above the kernel's highest (proc(5), pid_max).
        let dead = record(&home, "r-2", 1 << 23);
        write_private(&home.run_record(&RunId::parse("r-2").unwrap()), &serde_json::to_vec(&dead).unwrap()).unwrap();

        let (asked, home_too) = (home.clone(), alive.clone());
        let found = tokio::task::spawn_blocking(move || live_runs(&asked).unwrap()).await.unwrap();
        assert_eq!(found.iter().map(|a| a.record.clone()).collect::<Vec<_>>(), [alive]);
        let stopping = tokio::task::spawn_blocking(move || ask(&home_too, &Question::Stop).unwrap()).await.unwrap();
        assert_eq!(stopping.state, "stopping");
        assert!(!home.run_record(&RunId::parse("r-2").unwrap()).exists());
        drop(registration);
        assert!(live_runs(&home).unwrap().is_empty());
    }

    #[test]
    fn a_run_that_is_there_and_does_not_answer_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None).unwrap();
        let stuck = record(&home, "r-1", std::process::id());
        // It takes the connection and says nothing, for a moment.
        let listener = std::os::unix::net::UnixListener::bind(&stuck.socket).unwrap();
        let accepted = std::thread::spawn(move || drop(listener.accept().unwrap()));
        write_private(&home.run_record(&RunId::parse("r-1").unwrap()), &serde_json::to_vec(&stuck).unwrap()).unwrap();
        assert_eq!(live_runs(&home).unwrap(), [Answer::silent(stuck)]);
        accepted.join().unwrap();
        // Now nobody listens any more.
        assert!(live_runs(&home).unwrap().is_empty());
    }

    #[test]
    fn u3_of_an_agent_and_its_tools_one_is_left_out_where_both_are() {
        let home = Home::open(tempfile::tempdir().unwrap().path(), None).unwrap();
        let agent = Answer::silent(record(&home, "r-1", 7));
        let tools =
            |run: &str, pid| Answer::silent(RunRecord { tools_of: Some("shop".into()), ..record(&home, run, pid) });
        let names = |runs: Vec<Answer>| -> Vec<String> { runs.into_iter().map(|run| run.record.run).collect() };
        let all = vec![tools("r-2", 7), agent.clone(), tools("r-3", 8)];
        assert_eq!(names(without_carried(all.clone())), ["r-1", "r-3"]);
        assert_eq!(names(without_carried(vec![tools("r-2", 7)])), ["r-2"]);
        assert_eq!(names(without_carriers(all)), ["r-2", "r-3"]);
        assert_eq!(names(without_carriers(vec![agent])), ["r-1"]);
    }
}
