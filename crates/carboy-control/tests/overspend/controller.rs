//! The controller's process: the real one, on a home of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use carboy_control::controller::{Running, run};
use carboy_control::home::Home;
use carboy_core::audit::ChainKey;
use carboy_core::ports::Later;
use carboy_store::controller::protocol::{Answer, Call, Role};
use carboy_store::controller::{Line, Reach};
use carboy_store::ledger::{Engine, SqliteStore};
use tokio::sync::watch;

use crate::supervisor::{Ahead, Sum, sums};

/// What its clients say they are.
const PROGRAM: &str = "0.1.0";

pub fn home(root: &Path) -> Home {
    Home::open(root, None).unwrap()
}

/// Serves until it is killed, or its standard input ends. Its clock is so many milliseconds ahead.
pub fn main(root: &Path, ahead_ms: u64) {
    let (asked, stop) = watch::channel(false);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        asked.send_replace(true);
    });
    let running = Running {
        home: home(root),
        key: Box::new(|| Ok(ChainKey::Plain)),
        idle: None,
        metrics: None,
        aloud: false,
        stop,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let open = move |home: &Home| Engine::open(Box::new(SqliteStore::open(&home.ledger())?), Arc::new(Ahead(ahead_ms)));
    runtime.block_on(run(running, open, || println!("ready"))).unwrap();
}

/// The way there of a supervisor that starts none: whoever killed it starts it again.
pub struct Waits(PathBuf);

impl Waits {
    pub fn new(root: &Path) -> Arc<Waits> {
        Arc::new(Waits(home(root).controller_socket().unwrap()))
    }
}

impl Reach for Waits {
    fn socket(&self) -> &Path {
        &self.0
    }

    fn start(&self) -> Later<'_, Result<(), String>> {
        Box::pin(async move {
            for _ in 0..300 {
                if tokio::net::UnixStream::connect(&self.0).await.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err("nobody started it".into())
        })
    }

    fn program(&self) -> &str {
        PROGRAM
    }
}

/// Asks as an operator until it is done: it may be killed meanwhile.
pub async fn operate(root: &Path, call: Call) {
    let socket = home(root).controller_socket().unwrap();
    for _ in 0..500 {
        if let Ok(mut line) = Line::open(&socket, PROGRAM, Role::Operator).await
            && let Ok(answer) = line.ask(call.clone()).await
        {
            assert_eq!(answer, Answer::Done, "{call:?}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {call:?}");
}

/// What the ledger says now.
pub async fn told(root: &Path) -> Option<Vec<Sum>> {
    let socket = home(root).controller_socket().unwrap();
    let mut line = Line::open(&socket, PROGRAM, Role::Observer).await.ok()?;
    let text = line.text(Call::Snapshot).await.ok()?;
    let snapshot: carboy_core::budget::LedgerSnapshot = serde_json::from_str(&text).unwrap();
    Some(sums(&snapshot.host))
}
