//! A server whose standard streams we hold: one JSON-RPC message a line.
//!
//! ```text
//!  ask ─▶ queue ─▶ thread ─▶ its stdin          its stdout ─▶ thread ─▶ whoever waits, by the number of the question
//!                                               its stderr ─▶ thread ─▶ the last of it, for the operator
//! ```
//!
//! *Must never* wait for a server that does not read, or keep more of it than one message.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carboy_core::ports::Later;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{MESSAGE_BYTES_MAX, McpError, Question, Transport, plain, result_of};

/// Messages that wait for a server to read them.
const QUEUE_MAX: usize = 64;
/// Questions that wait for their answers.
const PENDING_MAX: usize = 256;
/// Octets of its standard error that are kept.
const STDERR_BYTES_MAX: usize = 2_048;
/// How long is waited for the end of its standard error when its output has ended.
const LAST_WORD_WAIT_MAX: Duration = Duration::from_millis(500);
/// JSON-RPC's number for what nobody offers.
const METHOD_NOT_FOUND: i64 = -32_601;

/// See the module.
pub(crate) struct StdioServer {
    lines: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
    next: AtomicU64,
    /// Ends the process.
    kill: Box<dyn Fn() + Send + Sync>,
}

type Answered = oneshot::Sender<Result<Value, McpError>>;

struct Shared {
    /// `None` when it is gone.
    pending: Mutex<Option<HashMap<u64, Answered>>>,
    stderr: Mutex<VecDeque<u8>>,
}

impl StdioServer {
    /// Holds these streams; `kill` ends the process behind them.
    pub(crate) fn new(
        (stdin, stdout, stderr): (File, File, File),
        kill: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<StdioServer> {
        let shared = Arc::new(Shared { pending: Mutex::new(Some(HashMap::new())), stderr: Mutex::default() });
        let (lines, queue) = sync_channel(QUEUE_MAX);
        let thread = |name: &str| std::thread::Builder::new().name(format!("mcp {name}"));
        thread("in").spawn(move || write(stdin, &queue))?;
        let (listens, listened) = sync_channel::<()>(0);
        let (reading, answering) = (shared.clone(), lines.clone());
        thread("out").spawn(move || reading.read(stdout, &answering, &listened))?;
        let listening = shared.clone();
        thread("err").spawn(move || {
            listening.listen(stderr);
            drop(listens);
        })?;
        Ok(StdioServer { lines, shared, next: AtomicU64::new(1), kill: Box::new(kill) })
    }

    fn send(&self, message: &Value) -> Result<(), McpError> {
        let mut line = message.to_string().into_bytes();
        if line.len() >= MESSAGE_BYTES_MAX {
            return Err(McpError::TooLarge);
        }
        line.push(b'\n');
        self.lines.try_send(line).map_err(|_| McpError::Gone("it does not read what it is sent".into()))
    }

    async fn asked(&self, method: &'static str, params: Value, wait: Duration) -> Result<Value, McpError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        {
            let mut pending = self.shared.pending();
            let waiting = pending.as_mut().ok_or_else(|| self.shared.gone())?;
            if waiting.len() >= PENDING_MAX {
                return Err(McpError::Gone(format!("{PENDING_MAX} questions wait for it already")));
            }
            waiting.insert(id, answered);
        }
        // Whoever stops waiting is not waited for by a table either.
        let _forget = Forget { shared: &self.shared, id };
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        match tokio::time::timeout(wait, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.shared.gone()),
            Err(_) => {
                let cancelled = json!({"requestId": id, "reason": "it took too long"});
                // It may be past listening.
                let _ = self.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}));
                Err(McpError::Late { method, seconds: wait.as_secs() })
            }
        }
    }
}

struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.shared.pending().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

impl Transport for StdioServer {
    fn ask(&self, question: Question) -> Later<'_, Result<Value, McpError>> {
        let Question { method, params, wait, conversation: _ } = question;
        Box::pin(self.asked(method, params, wait))
    }

    fn tell(&self, method: &'static str, params: Value) -> Later<'_, Result<(), McpError>> {
        let sent = self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
        Box::pin(std::future::ready(sent))
    }

    fn lives(&self) -> bool {
        self.shared.pending().is_some()
    }

    fn end(&self) {
        (self.kill)();
    }
}

impl Drop for StdioServer {
    fn drop(&mut self) {
        (self.kill)();
    }
}

fn write(mut stdin: File, queue: &Receiver<Vec<u8>>) {
    while let Ok(line) = queue.recv() {
        // Its reader's end tells whoever waits.
        if stdin.write_all(&line).is_err() {
            return;
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Option<HashMap<u64, Answered>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until its end, or until it says what is no message; then everybody who waits is told.
    fn read(&self, stdout: File, lines: &SyncSender<Vec<u8>>, listened: &Receiver<()>) {
        let mut from = BufReader::new(stdout);
        let mut line = Vec::new();
        let error = loop {
            line.clear();
            match (&mut from).take(MESSAGE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => {
                    // Its last word may still be on the way.
                    let _ = listened.recv_timeout(LAST_WORD_WAIT_MAX);
                    break self.gone();
                }
                Ok(_) if line.len() > MESSAGE_BYTES_MAX => break McpError::TooLarge,
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => match serde_json::from_slice(&line) {
                    Ok(message) => self.hear(message, lines),
                    Err(_) => {
                        break McpError::Malformed("a line of its output is no JSON; logs belong to stderr".into());
                    }
                },
            }
        };
        for (_, answered) in self.pending().take().into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = answered.send(Err(error.clone()));
        }
    }

    fn hear(&self, message: Value, lines: &SyncSender<Vec<u8>>) {
        let id = message.get("id").cloned();
        match (message.get("method").and_then(Value::as_str), id) {
            // It asks something of us: that it is alive is answered, everything else is not offered.
            (Some(method), Some(id)) => {
                let answer = match method {
                    "ping" => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
                    _ => {
                        let error = json!({"code": METHOD_NOT_FOUND, "message": "not offered"});
                        json!({"jsonrpc": "2.0", "id": id, "error": error})
                    }
                };
                let _ = lines.try_send(format!("{answer}\n").into_bytes());
            }
            (Some(_), None) => {}
            (None, Some(id)) => {
                let waits = id.as_u64().and_then(|id| self.pending().as_mut()?.remove(&id));
                if let Some(waits) = waits {
                    let _ = waits.send(result_of(message));
                }
            }
            (None, None) => {}
        }
    }

    /// Keeps the last of what it says beside its answers.
    fn listen(&self, mut stderr: File) {
        let mut piece = [0; 1024];
        while let Ok(n @ 1..) = stderr.read(&mut piece) {
            let mut kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&piece[..n]);
            let over = kept.len().saturating_sub(STDERR_BYTES_MAX);
            kept.drain(..over);
        }
    }

    fn gone(&self) -> McpError {
        let kept: Vec<u8> = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        match text.trim().lines().last() {
            Some(last) => McpError::Gone(format!("it ended, and said last: {}", plain(last, 200))),
            None => McpError::Gone("it ended".into()),
        }
    }
}
