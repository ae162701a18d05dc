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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
/// Octets of its output that are kept for the case that they are no answer.
const OPENING_BYTES_MAX: usize = 400;
/// Characters of its own words in an error.
const WORDS_CHARS_MAX: usize = 200;
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
    /// The beginning of its output.
    opening: Mutex<Vec<u8>>,
    /// Has any answer come?
    answered: AtomicBool,
    /// Why it is gone, where that is known better than by its last word.
    why: OnceLock<McpError>,
}

impl StdioServer {
    /// Holds these streams; `kill` ends the process behind them.
    pub(crate) fn new(
        (stdin, stdout, stderr): (File, File, File),
        kill: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<StdioServer> {
        let shared = Arc::new(Shared {
            pending: Mutex::new(Some(HashMap::new())),
            stderr: Mutex::default(),
            opening: Mutex::default(),
            answered: AtomicBool::new(false),
            why: OnceLock::new(),
        });
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
                let said = self.shared.instead();
                Err(McpError::Late { method, seconds: wait.as_secs(), said })
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
        let mut from = BufReader::new(Opening { from: stdout, kept: &self.opening });
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
                        let line = plain(&String::from_utf8_lossy(line.trim_ascii()), WORDS_CHARS_MAX);
                        let what = "a line of its output is no JSON (logs belong to stderr)";
                        break McpError::Malformed(format!("{what}: {line}"));
                    }
                },
            }
        };
        if !matches!(error, McpError::Gone(_)) {
            let _ = self.why.set(error.clone());
        }
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
                    self.answered.store(true, Ordering::Release);
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
        match (self.why.get(), self.last_word()) {
            (Some(why), _) => why.clone(),
            (None, Some(last)) => McpError::Gone(format!("it ended, and said last: {last}")),
            (None, None) => McpError::Gone("it ended".into()),
        }
    }

    fn last_word(&self) -> Option<String> {
        let kept: Vec<u8> = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        last_word(&String::from_utf8_lossy(&kept))
    }

    /// What one that has never answered said in place of an answer.
    fn instead(&self) -> Option<String> {
        if self.answered.load(Ordering::Acquire) {
            return None;
        }
        let opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let opening = String::from_utf8_lossy(&opening).into_owned();
        match (opening.lines().map(str::trim).find(|line| !line.is_empty()), self.last_word()) {
            (Some(line), _) => {
                Some(format!("its output, which is one JSON message a line, begins: {}", plain(line, WORDS_CHARS_MAX)))
            }
            (None, Some(last)) => Some(format!("it said last: {last}")),
            (None, None) => Some("it said nothing at all".into()),
        }
    }
}

/// Keeps the beginning of what is read through it.
struct Opening<'a> {
    from: File,
    kept: &'a Mutex<Vec<u8>>,
}

impl Read for Opening<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(into)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OPENING_BYTES_MAX.saturating_sub(kept.len()).min(count);
        kept.extend(&into[..room]);
        Ok(count)
    }
}

/// The last line of what a program said, and of an error of Python's or Node's which line of which file it is about.
fn last_word(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = *lines.last()?;
    // Node names itself last, the error before its calls, and the place before all of it.
    let by_node = last.starts_with("Node.js v");
    let word = lines.iter().rfind(|line| by_node && line.contains("Error")).unwrap_or(&last);
    let by_python = |line: &str| line.starts_with("File \"") && line.contains("\", line ");
    let names_line = |line: &str| line.rsplit_once(".js:").is_some_and(|(_, at)| at.parse::<u32>().is_ok());
    let place = match by_node {
        true => lines.iter().find(|line| names_line(line)),
        false => lines.iter().rfind(|line| by_python(line)),
    };
    let word = plain(word, WORDS_CHARS_MAX);
    Some(match place {
        Some(place) => format!("{word} ({})", plain(place, WORDS_CHARS_MAX)),
        None => word,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_script_names_its_line() {
        let python =
            "  File \"/etc/carboy/tools/desk.py\", line 3\n    def x(\n         ^\nSyntaxError: '(' was never closed\n";
        assert_eq!(
            last_word(python).unwrap(),
            "SyntaxError: '(' was never closed (File \"/etc/carboy/tools/desk.py\", line 3)"
        );
        let node = "/etc/carboy/tools/desk.js:7\n  f(\n    ^\n\nSyntaxError: missing )\n    at wrapSafe (node:internal:1)\n\nNode.js v20.1.0\n";
        assert_eq!(last_word(node).unwrap(), "SyntaxError: missing ) (/etc/carboy/tools/desk.js:7)");
        assert_eq!(last_word("one\na last word\n").unwrap(), "a last word");
        assert_eq!(last_word(" \n"), None);
    }
}
