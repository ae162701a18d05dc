//! What holding and metering cost: the same requests through one gateway, once to a model's endpoint and once to a path
//! that costs nothing. Prints a line of JSON for each shape.
//!
//! Client and upstream run in the same process, so time and throughput are those of the three together; `gateway_cpu_us` is
//! the gateway's own, read from its threads.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use carboy_core::audit::{Event, Subject};
use carboy_core::host::{Host, HostPattern};
use carboy_core::ids::{MeterName, SecretName};
use carboy_core::ports::{AuditError, AuditSink, Clock, Later, SecretSource};
use carboy_core::route::{Route, RouteSet};
use carboy_core::secret::SecretText;
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::{CertificateAuthority, Gateway, GatewayConfig, GatewayLimits, Learning, Listener};
use carboy_guard::Detectors;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::ledger::Memory;
use crate::{Failure, content};

/// Connections at once.
const CONNECTIONS: usize = 16;
/// How long each shape runs, one turn at a time.
const TURN: Duration = Duration::from_millis(1500);
/// Turns of each kind; they take each other's place, so that what else the machine does falls on both.
const TURNS: usize = 5;
/// Name of the gateway's threads.
const GATEWAY: &str = "gateway";
/// Kernel ticks in a second, as `/proc` counts them on every Linux that is built today.
const TICKS_PER_S: u64 = 100;

struct NoLog;

impl AuditSink for NoLog {
    fn append(&self, _: Event) -> Result<(), AuditError> {
        Ok(())
    }

    fn append_durable(&self, _: Event) -> Later<'_, Result<(), AuditError>> {
        Box::pin(async { Ok(()) })
    }
}

struct NoSecrets;

impl SecretSource for NoSecrets {
    fn current(&self, _: &SecretName) -> Option<Arc<SecretText>> {
        None
    }

    fn refresh(&self, _: &SecretName) -> Later<'_, Option<Arc<SecretText>>> {
        Box::pin(async { None })
    }
}

struct Now;

impl Clock for Now {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

#[derive(Clone)]
struct Shape {
    name: &'static str,
    body: Bytes,
}

/// Runs every shape and ends.
pub fn run() -> Result<(), Failure> {
    let inside = tokio::runtime::Builder::new_multi_thread().thread_name(GATEWAY).enable_all().build()?;
    let outside = tokio::runtime::Builder::new_multi_thread().thread_name("outside").enable_all().build()?;
    let upstream = outside.block_on(upstream())?;
    let address = inside.block_on(gateway(upstream))?;
    let small = Shape { name: "1 KiB, whole", body: question(content::SMALL_BYTES, "false") };
    let large = Shape { name: "100 KiB, whole", body: question(content::LARGE_BYTES, "false") };
    let stream = Shape { name: "1 KiB, 200 events", body: question(content::SMALL_BYTES, "true") };
    for shape in [small, large, stream] {
        let mut runs = [Run::default(), Run::default()];
        for turn in 0..2 * TURNS + 2 {
            let path = ["/free", "/v1/chat/completions"][turn % 2];
            let run = outside.block_on(drive(address, path, &shape))?;
            // The first of each warms up.
            if turn >= 2 {
                runs[turn % 2].add(run);
            }
        }
        let [free, held] = runs.map(Run::figures);
        let ratio = |name: &str| held[name].as_f64().unwrap_or(0.0) / free[name].as_f64().unwrap_or(1.0);
        let line = serde_json::json!({
            "shape": shape.name, "ungoverned": free, "governed": held,
            "throughput_ratio": ratio("per_s"), "gateway_cpu_ratio": ratio("gateway_cpu_us"),
        });
        println!("{line}");
    }
    Ok(())
}

/// A chat of about this many bytes.
fn question(bytes: usize, stream: &str) -> Bytes {
    let text = String::from_utf8_lossy(&content::json(bytes)).into_owned();
    let usage = r#""stream_options":{"include_usage":true},"#;
    Bytes::from(text.replacen('{', &format!("{{\"stream\":{stream},{usage}"), 1))
}

#[derive(Default)]
struct Run {
    times: Vec<Duration>,
    seconds: f64,
    ticks: u64,
}

impl Run {
    fn add(&mut self, other: Run) {
        self.times.extend(other.times);
        self.seconds += other.seconds;
        self.ticks += other.ticks;
    }

    fn figures(mut self) -> serde_json::Value {
        self.times.sort_unstable();
        let count = self.times.len().max(1);
        let at = |part: f64| self.times.get((count as f64 * part) as usize).map_or(0.0, Duration::as_secs_f64) * 1e6;
        serde_json::json!({
            "requests": self.times.len(),
            "per_s": self.times.len() as f64 / self.seconds,
            "p50_us": at(0.5),
            "p99_us": at(0.99),
            "gateway_cpu_us": self.ticks as f64 / TICKS_PER_S as f64 * 1e6 / count as f64,
        })
    }
}

async fn drive(address: SocketAddr, path: &'static str, shape: &Shape) -> Result<Run, Failure> {
    let mut asking = tokio::task::JoinSet::new();
    let (begun, before) = (Instant::now(), gateway_ticks());
    for _ in 0..CONNECTIONS {
        let body = shape.body.clone();
        asking.spawn(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut sender, driver) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(driver);
            let mut times = Vec::new();
            while begun.elapsed() < TURN {
                let start = Instant::now();
                exchange(&mut sender, path, body.clone()).await?;
                times.push(start.elapsed());
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut run = Run::default();
    while let Some(times) = asking.join_next().await {
        run.times.extend(times??);
    }
    (run.seconds, run.ticks) = (begun.elapsed().as_secs_f64(), gateway_ticks() - before);
    Ok(run)
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, path: &str, body: Bytes) -> Result<(), Failure> {
    let request = Request::post(path).header(HOST, "bench.example").header(CONTENT_TYPE, "application/json");
    sender.ready().await?;
    let response = sender.send_request(request.body(Full::new(body))?).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    if status != 200 || answer.is_empty() {
        return Err(format!("answered with {status}: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(())
}

async fn gateway(upstream: SocketAddr) -> Result<SocketAddr, Failure> {
    let host = Host::parse("bench.example")?;
    let mut route = Route::plain(1, HostPattern::Exact(host.clone()));
    route.meter = Some(MeterName::parse("openai")?);
    let mut upstreams = Upstreams::default();
    let upstream = Upstream { address: upstream, transport: Transport::Plain, extra_ca_pem: None };
    upstreams.insert(host.clone(), None, upstream);
    let gateway = Gateway::new(GatewayConfig {
        subject: Subject::default(),
        routes: RouteSet::new(vec![route], 1),
        upstreams,
        ca: Arc::new(CertificateAuthority::generate(Now.now_ms())?.0),
        detectors: Arc::new(Detectors::builder([7; 32]).build()?),
        secrets: Arc::new(NoSecrets),
        audit: Arc::new(NoLog),
        ledger: Memory::capped("openai", 100_000_000_000, |_| {}),
        clock: Arc::new(Now),
        learning: Learning::Off,
        limits: GatewayLimits::default(),
    })?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { gateway.serve_tcp(listener, Listener::Fixed { host, port: 80 }).await });
    Ok(address)
}

/// Answers every request as a chat's provider would, whatever its path.
async fn upstream() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let usage = r#""usage":{"prompt_tokens":250,"completion_tokens":200,"total_tokens":450}"#;
    let words = "all of the words that a model has to say about this. ".repeat(15);
    let whole =
        format!(r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"{words}"}}}}],{usage}}}"#);
    let mut events =
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}],\"usage\":null}\n\n"
            .repeat(200);
    events.push_str(&format!("data: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n"));
    let (whole, events) = (Bytes::from(whole), Bytes::from(events));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (whole, events) = (whole.clone(), events.clone());
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| answer(request, whole.clone(), events.clone()));
            tokio::spawn(async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>, whole: Bytes, events: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let streams = body.windows(13).take(128).any(|part| part == b"\"stream\":true");
    let (kind, body) = if streams { ("text/event-stream", events) } else { ("application/json", whole) };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    Ok(response)
}

/// CPU time of the gateway's threads so far, in ticks.
fn gateway_ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let stat = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let of_gateway = stat.filter(|stat| stat.contains(&format!("({GATEWAY})")));
    let ticks = of_gateway.filter_map(|stat| {
        let rest = stat.rsplit_once(") ")?.1.split(' ').collect::<Vec<_>>();
        // utime and stime, the 14th and 15th field of proc(5).
        Some(rest.get(11)?.parse::<u64>().ok()? + rest.get(12)?.parse::<u64>().ok()?)
    });
    ticks.sum()
}
