//! Chromium by its DevTools protocol: one WebSocket, pages as sessions of it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// No command of the browser takes longer.
const PATIENCE: Duration = Duration::from_secs(40);

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A browser with a profile of its own.
pub struct Browser {
    child: Child,
    out: mpsc::Sender<(Value, oneshot::Sender<Value>)>,
    troubles: Arc<Mutex<Vec<String>>>,
    asked: AtomicBool,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let asked = self.asked.load(Ordering::SeqCst) || std::thread::panicking();
        assert!(asked, "a test in a browser ends with `quiet`: errors of its console are nobody's else");
    }
}

impl Browser {
    pub async fn start() -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("chromium")
            .args([
                "--headless=new",
                "--remote-debugging-port=0",
                "--no-first-run",
                "--no-proxy-server",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-default-apps",
                "--disable-sync",
                "--disable-quic",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
                // Tests run as root too, where it would not start otherwise; the page is ours.
                "--no-sandbox",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            // What it leaves behind when it is killed goes with its profile.
            .env("TMPDIR", profile.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = child.stderr.take().unwrap();
        let address = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(errors).lines().map_while(Result::ok);
            let found = lines.find_map(|line| line.strip_prefix("DevTools listening on ").map(str::to_owned));
            // What it says later is read too, so that it never waits for a reader.
            std::thread::spawn(move || lines.for_each(drop));
            found.expect("chromium says where it listens")
        });
        let address = timeout(PATIENCE, address).await.expect("chromium starts").unwrap();
        let (socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
        let (out, asked) = mpsc::channel(64);
        let troubles = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(pump(socket, asked, troubles.clone()));
        Browser { child, out, troubles, asked: AtomicBool::new(false), _profile: profile }
    }

    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut message = json!({"method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let (tell, told) = oneshot::channel();
        self.out.send((message, tell)).await.unwrap();
        let answer = timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("{method} took too long")).unwrap();
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// A tab of its own; tabs of one browser share cookies.
    pub async fn page(&self, url: &str) -> Page<'_> {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach).await["sessionId"].as_str().unwrap().to_owned();
        let page = Page { browser: self, session };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.go(url).await;
        page
    }

    /// Console errors, exceptions and violations of the policy, in any tab.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap().clone()
    }

    /// How every test ends: there was no such thing, but for those that have one of these words. A browser notes every
    /// answer that is an error, and every request that a network without a server lost.
    pub async fn quiet(&self, expected: &[&str]) {
        // What came about before this is told before its answer.
        self.call(None, "Browser.getVersion", json!({})).await;
        self.asked.store(true, Ordering::SeqCst);
        let others = self.troubles().into_iter().filter(|line| !expected.iter().any(|words| line.contains(words)));
        assert_eq!(others.collect::<Vec<_>>(), [] as [String; 0]);
    }
}

async fn pump(
    socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    mut asked: mpsc::Receiver<(Value, oneshot::Sender<Value>)>,
    troubles: Arc<Mutex<Vec<String>>>,
) {
    let (mut write, mut read) = socket.split();
    let waiting: Waiting = Arc::default();
    let mut next = 0;
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some((mut message, tell)) = ask else { return };
                next += 1;
                message["id"] = next.into();
                waiting.lock().unwrap().insert(next, tell);
                if write.send(Message::text(message.to_string())).await.is_err() {
                    return;
                }
            }
            message = read.next() => {
                let Some(Ok(message)) = message else { return };
                let Ok(text) = message.to_text() else { continue };
                let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
                match value["id"].as_u64() {
                    Some(id) => {
                        if let Some(tell) = waiting.lock().unwrap().remove(&id) {
                            let _ = tell.send(value);
                        }
                    }
                    None => troubles.lock().unwrap().extend(trouble(&value)),
                }
            }
        }
    }
}

fn trouble(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        "Log.entryAdded" if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
            let entry = &params["entry"];
            Some(format!("{}: {} {}", entry["source"], entry["text"], entry["url"]))
        }
        "Runtime.consoleAPICalled" if matches!(params["type"].as_str(), Some("error" | "warning" | "assert")) => {
            Some(format!("console: {}", params["args"]))
        }
        _ => None,
    }
}

/// A tab.
pub struct Page<'b> {
    browser: &'b Browser,
    session: String,
}

impl Page<'_> {
    pub async fn call(&self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params).await
    }

    pub async fn go(&self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        if url.starts_with("http") {
            self.until("document.documentElement.dataset.ready === 'yes'").await;
        }
    }

    /// The value of an expression; a promise is waited for.
    pub async fn eval(&self, expression: &str) -> Value {
        let params =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    pub async fn text(&self, expression: &str) -> String {
        self.eval(expression).await.as_str().unwrap_or_else(|| panic!("no text: {expression}")).to_owned()
    }

    /// Waits until an expression holds; the page may be loaded anew meanwhile.
    pub async fn until(&self, condition: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let params = json!({"expression": format!("!!({condition})"), "returnByValue": true});
            let result = self.call("Runtime.evaluate", params).await;
            if result["result"]["value"] == true {
                return;
            }
            if tokio::time::Instant::now() > deadline {
                let body = self.text("document.body.textContent").await;
                panic!(
                    "never true: {condition}\n{}\n{body}\n{:?}",
                    result["exceptionDetails"],
                    self.browser.troubles()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One key, down and up.
    pub async fn key(&self, key: &str, modifiers: u32) {
        let (code, number, text) = match key {
            "Enter" => ("Enter", 13, "\r"),
            "Tab" => ("Tab", 9, ""),
            " " => ("Space", 32, " "),
            "Escape" => ("Escape", 27, ""),
            "ArrowDown" => ("ArrowDown", 40, ""),
            other => panic!("no such key here: {other}"),
        };
        let mut down = json!({"type": if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "key": key, "code": code,
            "windowsVirtualKeyCode": number, "modifiers": modifiers});
        if !text.is_empty() {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", down).await;
        let up =
            json!({"type": "keyUp", "key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers});
        self.call("Input.dispatchKeyEvent", up).await;
    }

    /// Words, into what has the focus.
    pub async fn type_in(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    pub async fn viewport(&self, width: u32, height: u32, scale: f64) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", params).await;
    }

    pub async fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    pub async fn offline(&self, offline: bool) {
        let params = json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
        self.call("Network.emulateNetworkConditions", params).await;
    }

    pub async fn front(&self) {
        self.call("Page.bringToFront", json!({})).await;
    }

    /// What axe-core finds wrong with the page as it is.
    pub async fn violations(&self, axe: &str) -> Value {
        // Not the page's own script: what the protocol runs is no subject of its policy.
        self.eval(&format!("{axe}; true")).await;
        self.eval("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html + ' ' + n.failureSummary)]))").await
    }

    /// PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        use base64::Engine as _;
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }
}

/// axe-core from where the other clients are, or where it is missed.
pub fn axe() -> Result<String, String> {
    let place = std::env::var_os("CARBOY_CLIENTS").map_or_else(|| PathBuf::from("/opt/carboy-clients"), PathBuf::from);
    let file = place.join("node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&file).map_err(|_| format!("{} is not there", file.display()))
}
