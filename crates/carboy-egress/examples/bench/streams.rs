//! Many streams at once, held open until something ends them.
//!
//! It says `open` when the first piece of each is there. A line `short` on its input has one more connection ask for a
//! stream of a few pieces that is billed high; `end`, or the end of the input, is waited for by nobody: the program ends
//! when the last stream has, and says how they ended: `{"count":64,"ended":64,"broken":0}`. *Ended* is by the protocol:
//! the last event is there, or an error in its place.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use crate::load::{Target, ask, connect, next_line, say};
use crate::shapes::{Shape, stream};
use crate::{Failure, model};

/// Pieces of a stream that is to be cut, and their pace: ten minutes.
const EVENTS: usize = 60_000;
const PACE_US: u64 = 10_000;
/// The short one's pieces, and what it is billed at.
const SHORT_EVENTS: usize = 10;
const SHORT_OUTPUT: usize = 5_000;

/// Opens them, and waits for their end.
pub fn run(target: &str, count: usize) -> Result<(), Failure> {
    let target = Target::parse(target, &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let long = Shape { body: long_body(), ..stream(model::METERED, EVENTS, PACE_US) };
        let mut open = JoinSet::new();
        let mut senders = Vec::new();
        for _ in 0..count {
            let mut sender = connect(&target).await?;
            let mut body = ask(&mut sender, &long, &target).await?.into_body();
            let first = body.frame().await.ok_or("a stream ended before its first piece")??;
            senders.push(sender);
            open.spawn(to_the_end(body, first.into_data().unwrap_or_default()));
        }
        say("open")?;
        let short = target.clone();
        tokio::spawn(async move {
            let line = tokio::task::spawn_blocking(|| next_line().ok().flatten()).await;
            if line.is_ok_and(|line| line.is_some_and(|line| line.trim() == "short")) {
                // How it ends is the upstream's to say.
                let _ = one_short(&short).await;
            }
        });
        let mut ended = 0;
        while let Some(by_protocol) = open.join_next().await {
            ended += usize::from(by_protocol?);
        }
        say(&serde_json::json!({"count": count, "ended": ended, "broken": count - ended}).to_string())?;
        // A thread waits for a line.
        std::process::exit(0)
    })
}

fn long_body() -> Bytes {
    Bytes::from_static(
        br#"{"model":"bench-1","max_tokens":100000,"stream":true,"messages":[{"role":"user","content":"go on"}]}"#,
    )
}

async fn one_short(target: &Target) -> Result<(), Failure> {
    let mut shape = stream(model::METERED, SHORT_EVENTS, 0);
    shape.fields.push((model::OUTPUT, SHORT_OUTPUT.to_string()));
    shape.body = long_body();
    let mut sender = connect(target).await?;
    let mut body = ask(&mut sender, &shape, target).await?.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(())
}

/// Whether the last thing that came ends the protocol.
async fn to_the_end(mut body: Incoming, first: Bytes) -> bool {
    let mut last = first;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        last = frame.into_data().unwrap_or_default();
    }
    let has = |text: &str| last.windows(text.len()).any(|part| part == text.as_bytes());
    has("message_stop") || has("event: error")
}
