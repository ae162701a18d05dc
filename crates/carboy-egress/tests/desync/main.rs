//! HTTP/1 requests that two programs could read differently, through the gateway to real servers (B21, B22).
//!
//! ```text
//!  bytes of a client ─▶ gateway ─▶ nginx │ Node │ Python │ Go     each writes down what it saw
//!                          └─▶ log: what was decided               every line of the first stands in the second
//! ```
//!
//! What a server saw and the gateway did not decide on would be a smuggled request. `CARBOY_DESYNC=100000` sends so many
//! mutations instead of the few of every day; `CARBOY_SEED` repeats a run.

#![allow(clippy::unwrap_used, dead_code)]

mod backends;
mod forms;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::Outcome;
use carboy_core::host::Host;
use carboy_core::route::{PathMatch, RequestMatch, Route};
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::GatewayLimits;
use http::Response;
use support::{Bench, HOST, Kind, Origin, detail, full, recording, route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use backends::Backend;

/// Mutations of every day, over all servers.
const MUTATIONS: usize = 4_000;
/// The same dice in every check; `CARBOY_SEED` throws others. These found a no-break space that ended a path.
const SEED: u64 = 1_796_055_030_646_569_242;
/// Clients at once.
const CLIENTS: usize = 64;
/// How long a client waits for an answer that does not come: it may have announced more than it sent.
const SILENCE: Duration = Duration::from_millis(150);

fn allowed_route() -> Route {
    let mut route = route(HOST);
    let methods = ["GET", "POST", "PUT", "OPTIONS"].map(str::to_owned).to_vec();
    route.matches =
        vec![RequestMatch { paths: vec![PathMatch::Prefix("/ok".into())], methods, ..RequestMatch::default() }];
    route
}

async fn bench(backend: SocketAddr) -> Bench {
    let mut upstreams = Upstreams::default();
    let upstream = Upstream { address: backend, transport: Transport::Plain, extra_ca_pem: None };
    upstreams.insert(Host::parse(HOST).unwrap(), None, upstream);
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::new(full("")));
    // Refusals wait their turn in a real bottle; here there are as many as it takes.
    let limits = GatewayLimits { refusal_burst: u32::MAX, ..GatewayLimits::default() };
    Bench::reaching(upstreams, Kind::Plain, vec![allowed_route()], origin, answer, limits).await
}

/// Sends, and reads until the gateway ends the connection or says nothing more.
async fn exchange(gateway: SocketAddr, bytes: &[u8], cut: Option<usize>) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let (first, rest) = bytes.split_at(cut.unwrap_or(bytes.len()).min(bytes.len()));
    let _ = stream.write_all(first).await;
    if !rest.is_empty() {
        tokio::task::yield_now().await;
        let _ = stream.write_all(rest).await;
    }
    let (mut out, mut step) = (Vec::new(), [0_u8; 4096]);
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(SILENCE, stream.read(&mut step)).await {
        out.extend_from_slice(&step[..count]);
    }
    out
}

/// Requests by method and target.
type Counted = BTreeMap<(String, String), usize>;

/// What the gateway decided to let through.
fn decided(bench: &Bench) -> Counted {
    let mut out = Counted::new();
    for event in bench.log.events() {
        if event.action == "request" && matches!(event.result, Outcome::Allowed | Outcome::Redacted) {
            let part = |name| detail(&event, name).unwrap_or_default();
            *out.entry((part("method"), part("path"))).or_default() += 1;
        }
    }
    out
}

/// A request that the server saw, and that was not decided on, by method and path, as often as it was seen.
async fn undecided(backend: &mut Backend, bench: &Bench) -> Option<String> {
    let mut decided = decided(bench);
    for (method, target) in backend.seen().await {
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let below = path == "/ok" || path.starts_with("/ok/");
        match decided.get_mut(&(method.clone(), path)).filter(|left| below && **left > 0) {
            Some(left) => *left -= 1,
            None => return Some(format!("{method} {target}")),
        }
    }
    None
}

/// A gateway whose log, and a server whose memory, begin anew.
async fn fresh(backend: &mut Backend) -> Bench {
    backend.forget();
    bench(backend.address).await
}

/// Sends all of these, so many at once as [`CLIENTS`].
async fn all_at_once(gateway: SocketAddr, each: impl IntoIterator<Item = (Vec<u8>, Option<usize>)>) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut running = tokio::task::JoinSet::new();
    for (bytes, cut) in each {
        let place = places.clone().acquire_owned().await.unwrap();
        running.spawn(async move {
            exchange(gateway, &bytes, cut).await;
            drop(place);
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn b21_b22_no_form_that_can_be_read_in_two_ways_reaches_a_server_undecided() {
    let dir = tempfile::tempdir().unwrap();
    let forms = forms::all();
    assert!(forms.len() >= 80, "{}", forms.len());
    for mut backend in backends::start_all(dir.path()).await {
        let bench = bench(backend.address).await;
        let gateway = bench.listen(HOST, 80).await;
        // The way works: an ordinary request arrives, and so does one with a body in chunks.
        for good in forms::ordinary() {
            let answer = exchange(gateway, &good, None).await;
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}: {}", backend.name, String::from_utf8_lossy(&answer));
        }
        assert_eq!(backend.seen().await.len(), forms::ordinary().len(), "{}", backend.name);
        let cut = |bytes: &[u8]| [None, Some(bytes.len() / 2), Some(bytes.len().saturating_sub(3))];
        let each = forms.iter().flat_map(|(_, bytes)| cut(bytes).map(|cut| (bytes.clone(), cut)));
        all_at_once(gateway, each).await;
        if undecided(&mut backend, &bench).await.is_some() {
            // Which was it? One by one, from here on.
            let bench = fresh(&mut backend).await;
            let gateway = bench.listen(HOST, 80).await;
            for (name, bytes) in &forms {
                all_at_once(gateway, cut(bytes).map(|cut| (bytes.clone(), cut))).await;
                let found = undecided(&mut backend, &bench).await;
                assert_eq!(found, None, "{}: {name}", backend.name);
            }
            panic!("{}: a form smuggled something, only when all are sent at once", backend.name);
        }
        // What nobody decided on is noticed.
        exchange(backend.address, &forms::ordinary()[0], None).await;
        exchange(backend.address, forms::SMUGGLED.as_bytes(), None).await;
        assert!(undecided(&mut backend, &bench).await.is_some(), "{}", backend.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b21_b22_mutations_of_these_forms_smuggle_nothing_either() {
    let dir = tempfile::tempdir().unwrap();
    let number =
        |name: &str, otherwise: u64| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise);
    let seed = number("CARBOY_SEED", SEED);
    let count = number("CARBOY_DESYNC", MUTATIONS as u64) as usize;
    println!("CARBOY_SEED={seed} CARBOY_DESYNC={count}");
    let backends = backends::start_all(dir.path()).await;
    let share = count / backends.len();
    for (n, mut backend) in backends.into_iter().enumerate() {
        let bench = bench(backend.address).await;
        let gateway = bench.listen(HOST, 80).await;
        let mut mutations = forms::Mutations::new(seed.wrapping_add(n as u64));
        all_at_once(gateway, std::iter::repeat_with(|| mutations.next()).take(share)).await;
        assert_eq!(undecided(&mut backend, &bench).await, None, "{}: seed {seed}", backend.name);
        // It was not simply all refused.
        assert!(decided(&bench).values().sum::<usize>() > share / 20, "{}", backend.name);
    }
}
