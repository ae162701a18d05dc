//! Calling a person who is not there: the bell, the desktop, a webhook.
//!
//! ```text
//! program rings, nobody looks on ─► waiting ┐
//! refusals of the last minute ────► storm   ├─► bell (who is attached, or the terminal it was started at)
//! stopped, let go on ─────────────► stopped │
//! the end ────────────────────────► end     ┘   notify-send, webhook: one after the other, beside the run
//! ```
//!
//! *Must never* hold up a run, send a text that was not searched for secrets and made short and plain, send anything that
//! is not in the log, or say what a message or a file held.

use std::collections::VecDeque;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use carboy_bottle::host_process::output;
use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::finding::{Detector, Finding, Location};
use carboy_core::ports::{AuditSink, Clock};
use carboy_core::secret::SecretText;
use carboy_core::upstream::Upstreams;
use carboy_core::verdict::Reason;
use carboy_egress::stats::RefusalStats;
use carboy_egress::{Gateway, post_webhook};
use carboy_guard::Detectors;
use carboy_manifest::settings::Notify;
use carboy_store::audit::AuditLog;
use serde_json::json;
use tokio::sync::mpsc;

use crate::clock::SystemClock;
use crate::host_programs::Program;
use crate::registry::RunRecord;
use crate::session::Session;
use crate::session::escapes::{Call, short};
use crate::summary::Ended;
use crate::vault::Lookup;

/// Refusals within [`STORM_WINDOW`] that are a storm.
pub const STORM_REFUSALS_MIN: u64 = 20;
/// Over which refusals are counted.
pub const STORM_WINDOW: Duration = Duration::from_secs(60);
/// A storm is told at most this often.
pub const STORM_EVERY: Duration = Duration::from_secs(600);
/// Placeholders that were sent astray are told of at most this often.
pub const ASTRAY_EVERY: Duration = Duration::from_secs(60);
/// A program that waits is told of at most this often.
pub const WAITING_EVERY: Duration = Duration::from_secs(60);
/// Messages that wait to be sent; what comes above it is dropped.
const MESSAGES_MAX: usize = 16;
/// How often the refusals are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// What shows a notice on the desktop.
pub const DESKTOP_PROGRAM: &str = "notify-send";
/// Longest run of it.
const DESKTOP_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the end of a run waits for its messages to be sent.
pub const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a person is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Waiting,
    Storm,
    Placeholder,
    Stopped,
    End,
}

impl What {
    fn code(self) -> &'static str {
        match self {
            What::Waiting => "waiting",
            What::Storm => "storm",
            What::Placeholder => "placeholder",
            What::Stopped => "stopped",
            What::End => "end",
        }
    }
}

struct Message {
    what: What,
    text: String,
    at_ms: u64,
}

/// What secrets are looked for now; `None` where nobody can tell.
pub(crate) type LookedFor = Box<dyn Fn() -> Option<Detectors> + Send + Sync>;

/// What it is made of.
pub struct Notifying {
    /// The settings.
    pub settings: Notify,
    /// The webhook's token.
    pub token: Option<Arc<SecretText>>,
    /// Where hosts are really reached.
    pub upstreams: Upstreams,
    /// Whom it is about.
    pub record: RunRecord,
    /// The terminal it was started at.
    pub started_at: Option<PathBuf>,
    /// Environment of the host, fenced off from what the bottle writes.
    pub lookup: Arc<dyn Lookup>,
    /// What shows a notice on the desktop; looked for before the program starts.
    pub desktop: Result<Program, String>,
    /// What is looked for now; none when that cannot be known.
    pub looked_for: LookedFor,
    /// Where each message is written down before it is sent, and a failure, once.
    pub audit: Arc<AuditLog>,
    /// As whom.
    pub subject: Subject,
}

/// See the module.
pub struct Notifier {
    queue: mpsc::Sender<Message>,
    sender: Mutex<Option<tokio::task::JoinHandle<()>>>,
    waited: Mutex<Option<Instant>>,
    astray: Mutex<Astray>,
    bell: bool,
    started_at: Option<PathBuf>,
}

impl Notifier {
    /// Begins to listen for something to say.
    pub fn open(parts: Notifying) -> Arc<Notifier> {
        let (queue, messages) = mpsc::channel(MESSAGES_MAX);
        let (bell, started_at) = (parts.settings.bell, parts.started_at.clone());
        let sender = tokio::spawn(send_all(parts, messages));
        Arc::new(Notifier {
            queue,
            sender: Mutex::new(Some(sender)),
            waited: Mutex::new(None),
            astray: Mutex::default(),
            bell,
            started_at,
        })
    }

    /// The program called its person. Who looks on has heard it already.
    pub fn called(&self, call: &Call, viewers: usize) {
        if viewers > 0 {
            return;
        }
        {
            let mut waited = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
            if waited.is_some_and(|at| at.elapsed() < WAITING_EVERY) {
                return;
            }
            *waited = Some(Instant::now());
        }
        let text = match call {
            Call::Bell => "waits for you".to_owned(),
            Call::Words(words) => format!("says: {words}"),
        };
        self.ring();
        self.say(What::Waiting, text);
    }

    /// Counts refusals and tells of storms and of placeholders that were sent astray, until it is aborted.
    pub async fn watch(self: Arc<Self>, gateway: Arc<Gateway>, session: Arc<Session>) {
        let mut storms = Storms::default();
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            let stats = gateway.stats();
            if let Some(count) = storms.counted(stats.refused(), Instant::now()) {
                self.warned(What::Storm, format!("{count} requests were refused within a minute"), &session);
            }
            self.astray(&gateway, &session);
        }
    }

    /// Tells of placeholders that were sent astray since somebody heard of any; at the end of a run once more, which may have
    /// been shorter than the time between two looks.
    pub fn astray(&self, gateway: &Gateway, session: &Session) {
        let stats = gateway.stats();
        let Some(misplaced) = stats.refusals.get(&Reason::PlaceholderMisplaced) else { return };
        let text = self.astray.lock().unwrap_or_else(PoisonError::into_inner).counted(misplaced, Instant::now());
        if let Some(text) = text {
            self.warned(What::Placeholder, text, session);
        }
    }

    /// Tells who looks on, or the person who does not.
    fn warned(&self, what: What, text: String, session: &Session) {
        if session.viewers() > 0 {
            session.tell(&text);
        } else {
            self.ring();
        }
        self.say(what, text);
    }

    /// It was stopped, let go on, or is near a cap: told to who looks on, and to the person who does not.
    pub fn enforced(&self, text: &str, session: Option<&Session>) {
        match session.filter(|session| session.viewers() > 0) {
            Some(session) => session.tell(text),
            None => self.ring(),
        }
        self.say(What::Stopped, text.to_owned());
    }

    /// Tells the end and waits, [`END_WAIT_MAX`] at most, until everything has been sent.
    pub async fn ended(&self, ended: Ended, duration_ms: u64, refusals: u64, viewers: usize) {
        let how = match ended {
            Ended::Code(code) => format!("ended with code {code}"),
            Ended::Signal(signal) => format!("was ended by signal {signal}"),
            Ended::NotStarted(_) => "was not started".to_owned(),
            Ended::Frozen => "was frozen".to_owned(),
        };
        if viewers == 0 {
            self.ring();
        }
        self.say(What::End, format!("{how} after {} s; {refusals} refused", duration_ms / 1000));
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // The end is the sender's last message, and ends it.
            let _ = tokio::time::timeout(END_WAIT_MAX, sender).await;
        }
    }

    fn say(&self, what: What, text: String) {
        // A queue that is full has more to say already than anybody wants to hear.
        let _ = self.queue.try_send(Message { what, text, at_ms: SystemClock.now_ms() });
    }

    fn ring(&self) {
        if let (true, Some(terminal)) = (self.bell, &self.started_at) {
            // It may have gone long ago.
            let _ = ring(terminal);
        }
    }
}

/// One byte to a terminal of our own, without waiting for it. Another window of the same person may have its name by now.
fn ring(terminal: &Path) -> std::io::Result<()> {
    use rustix::fs::OFlags;
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let open = std::fs::OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(terminal)?;
    let meta = open.metadata()?;
    if meta.file_type().is_char_device() && meta.uid() == rustix::process::getuid().as_raw() {
        std::io::Write::write_all(&mut &open, b"\x07")?;
    }
    Ok(())
}

/// When refusals become a storm.
#[derive(Default)]
struct Storms {
    counts: VecDeque<(Instant, u64)>,
    told: Option<Instant>,
}

impl Storms {
    /// Takes the number of all refusals so far; gives how many there were in the window, when that is to be told.
    fn counted(&mut self, total: u64, now: Instant) -> Option<u64> {
        while self.counts.front().is_some_and(|(at, _)| now.duration_since(*at) > STORM_WINDOW) {
            self.counts.pop_front();
        }
        let before = self.counts.front().map_or(0, |(_, count)| *count);
        self.counts.push_back((now, total));
        let recent = total.saturating_sub(before);
        let quiet = self.told.is_some_and(|at| now.duration_since(at) < STORM_EVERY);
        if recent < STORM_REFUSALS_MIN || quiet {
            return None;
        }
        self.told = Some(now);
        Some(recent)
    }
}

/// Which placeholders that were sent astray have been told of.
#[derive(Default)]
struct Astray {
    told: u64,
    at: Option<Instant>,
}

impl Astray {
    /// Takes all of them so far; gives the words, when there are new ones and nobody heard of any just now.
    fn counted(&mut self, refusals: &RefusalStats, now: Instant) -> Option<String> {
        let quiet = self.at.is_some_and(|at| now.duration_since(at) < ASTRAY_EVERY);
        if refusals.count <= self.told || quiet {
            return None;
        }
        let fresh = refusals.count - self.told;
        (self.told, self.at) = (refusals.count, Some(now));
        let times = if fresh == 1 { "once".to_owned() } else { format!("{fresh} times") };
        // The last one that differs from those before.
        let last = refusals.samples.last();
        let (host, id) = last.map(|last| (last.host.as_str(), last.id.as_str())).unwrap_or_default();
        Some(format!(
            "a placeholder went to {host}, where its credential does not belong: refused, {times}; carboy explain {id}"
        ))
    }
}

async fn send_all(parts: Notifying, mut messages: mpsc::Receiver<Message>) {
    let mut complained = false;
    while let Some(message) = messages.recv().await {
        let end = message.what == What::End;
        if let Err(why) = send(&parts, message).await
            && !complained
        {
            complained = true;
            let event = Event::new(EventType::Operator, parts.subject.clone(), "notify", Outcome::Failed);
            // Without the log nothing passes anyway; the gateway refuses on its own.
            let _ = parts.audit.append(event.with("why", short(&why)));
        }
        if end {
            return;
        }
    }
}

async fn send(parts: &Notifying, message: Message) -> Result<(), String> {
    if parts.settings.webhook.is_none() && !parts.settings.desktop {
        return Ok(());
    }
    let Cleaned { text, findings } = clean((parts.looked_for)().as_ref(), &message.text);
    let message = Message { text, ..message };
    parts.audit.append_durable(sending(parts, &message, findings)).await.map_err(|e| e.to_string())?;
    let mut failed = Ok(());
    if let Some(webhook) = &parts.settings.webhook {
        let json = json!({
            "event": message.what.code(), "run": parts.record.run, "bottle": parts.record.bottle,
            "agent": parts.record.agent, "text": message.text, "at": message.at_ms,
        });
        let token = parts.token.as_deref();
        let posted = post_webhook(&parts.upstreams, &webhook.url, token, json.to_string().into_bytes()).await;
        failed = posted.map_err(|e| e.to_string());
    }
    if parts.settings.desktop {
        failed = failed.and(on_the_desktop(parts, &message).await);
    }
    failed
}

/// That it is about to be sent: never its words, which are the program's, nor the address, which may hold a secret.
fn sending(parts: &Notifying, message: &Message, findings: Vec<String>) -> Event {
    let (hook, desktop) = (parts.settings.webhook.is_some(), parts.settings.desktop);
    let to = [(hook, "webhook"), (desktop, "desktop")].into_iter().filter(|(on, _)| *on);
    let outcome = if findings.is_empty() { Outcome::Allowed } else { Outcome::Redacted };
    let event = Event::new(EventType::Operator, parts.subject.clone(), "notify", outcome)
        .with("event", message.what.code())
        .with("to", to.map(|(_, name)| name.to_owned()).collect::<Vec<_>>())
        .with("text_bytes", message.text.len() as u64);
    if findings.is_empty() { event } else { event.with("findings", findings) }
}

/// A text as it may leave this machine.
pub(crate) struct Cleaned {
    pub(crate) text: String,
    /// What was taken out of it: rules and fingerprints.
    findings: Vec<String>,
}

/// Takes secrets out, then makes it short: half a secret would not be recognised. A program that may reach nobody could
/// otherwise ring with a key in its words, and the webhook would carry it out.
pub(crate) fn clean(looked_for: Option<&Detectors>, text: &str) -> Cleaned {
    let Some(detectors) = looked_for else {
        return Cleaned { text: "[words withheld: they cannot be searched for secrets]".into(), findings: Vec::new() };
    };
    let all = [Detector::Placeholders, Detector::KnownSecrets, Detector::TokenPatterns];
    let (clean, findings) = detectors.redact(text.as_bytes(), &all, Location::RequestBody);
    let words = |found: &Finding| match &found.fingerprint {
        Some(fingerprint) => format!("{} #{}", found.rule, fingerprint.as_str()),
        None => found.rule.clone(),
    };
    Cleaned { text: short(&String::from_utf8_lossy(&clean)), findings: findings.iter().map(words).collect() }
}

async fn on_the_desktop(parts: &Notifying, message: &Message) -> Result<(), String> {
    let has = |name: &str| parts.lookup.variable(name).is_some_and(|value| !value.is_empty());
    if !(has("DISPLAY") || has("WAYLAND_DISPLAY") || has("DBUS_SESSION_BUS_ADDRESS")) {
        return Err("no desktop is there to show a notice on".into());
    }
    let title = format!("carboy: {}", parts.record.agent.as_ref().unwrap_or(&parts.record.bottle));
    // A notice's body may be read as markup.
    let text = format!("{} {}", parts.record.run, message.text);
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let program = parts.desktop.clone().map_err(|why| format!("{DESKTOP_PROGRAM} {why}"))?;
    let arguments = ["--app-name=carboy", "--", &title, &text].map(String::from);
    let sent = tokio::task::spawn_blocking(move || output(&program, &arguments, DESKTOP_WAIT_MAX)).await;
    sent.map_err(|e| e.to_string())?.map(drop).map_err(|why| format!("{DESKTOP_PROGRAM} {why}"))
}

#[cfg(test)]
mod tests {
    use carboy_egress::stats::RefusalSample;

    use super::*;

    #[test]
    fn a_storm_is_told_once_in_ten_minutes_and_a_slow_trickle_is_none() {
        let (mut storms, start) = (Storms::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        // Nine a minute for an hour.
        assert!((0..3600).all(|s| storms.counted(s * 9 / 60, at(s)).is_none()));
        let base = 3600 * 9 / 60;
        assert_eq!(storms.counted(base + STORM_REFUSALS_MIN, at(3601)).map(|n| n >= STORM_REFUSALS_MIN), Some(true));
        assert_eq!(storms.counted(base + 500, at(3700)), None, "told already");
        assert!(storms.counted(base + 1000, at(4300)).is_some());
        assert!(storms.counts.len() <= 62, "it remembers a minute");
    }

    #[test]
    fn b42_a_placeholder_that_was_sent_astray_is_told_at_once_and_then_once_a_minute() {
        let (mut astray, start) = (Astray::default(), Instant::now());
        let sample = RefusalSample {
            host: "evil.example".into(),
            port: Some(443),
            detail: String::new(),
            id: carboy_core::ids::RefusalId::from_bits(1),
        };
        let stats = |count| RefusalStats { count, samples: vec![sample.clone()] };
        let at = |seconds| start + Duration::from_secs(seconds);
        let words = astray.counted(&stats(1), at(0)).unwrap();
        assert!(words.contains("once") && words.contains("evil.example") && words.contains("x-000001"), "{words}");
        assert_eq!(astray.counted(&stats(4), at(30)), None, "somebody has just heard");
        assert!(astray.counted(&stats(4), at(61)).unwrap().contains("3 times"));
        assert_eq!(astray.counted(&stats(4), at(200)), None, "nothing new");
    }

    #[test]
    fn a_secret_in_the_programs_words_is_taken_out_before_they_are_cut() {
        let (name, key) = (carboy_core::ids::SecretName::parse("KEY").unwrap(), "s3cr3t-canary-0123456789abcdef");
        let secret = carboy_core::secret::Secret::new(key.to_owned());
        let detectors = Detectors::builder([7; 32]).known_secret(&name, &secret).build().unwrap();
        let plain = clean(Some(&detectors), "says: Shall I go on?");
        assert_eq!((&*plain.text, plain.findings.len()), ("says: Shall I go on?", 0));
        let cleaned =
            clean(Some(&detectors), &format!("says: {key} and ghp_{}", "iK2ZWeqhFWCEPyYngFb51yBMWXaSCrUZoL8g"));
        assert!(cleaned.text.starts_with("says: [REDACTED:known_secret:KEY] and [REDACTED:"), "{}", cleaned.text);
        assert!(cleaned.findings.len() == 2 && !cleaned.findings.concat().contains(key), "{:?}", cleaned.findings);
        // One that the cut would go through.
        let cut = clean(Some(&detectors), &format!("says: {}{key}", "x ".repeat(70)));
        assert!(cut.text.chars().count() <= 160 && !cut.text.contains("s3cr"), "{}", cut.text);
        assert!(!clean(None, key).text.contains(key), "nothing to search with");
    }

    #[test]
    fn only_a_terminal_is_rung() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        ring(&file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        assert!(ring(&dir.path().join("gone")).is_err());
    }
}
