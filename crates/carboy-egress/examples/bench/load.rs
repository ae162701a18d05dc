//! The load generator: keep-alive connections, each with one request at a time, a warm-up, a measured time.
//!
//! It says `up` when it runs. An order is one line of JSON on standard input, for example
//! `{"connections":16,"shape":"post","warmup_ms":200,"measured_ms":800,"requests_max":20000,"rate":0}`. The answer is
//! `ready` when the connections stand and are warm; a line starts the measured part; `done` when it has ended; a line
//! asks for the figures, again one line of JSON. Between those lines whoever asks reads the proxy's CPU time. The
//! connections stay open until the next order or the end of the input, so that memory can be read with them open.
//!
//! *Must never* count a request that was answered with anything but 200 and the whole expected body.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use crate::{Failure, content, tls};

/// The longest that one request or one handshake may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// The longest answer to CONNECT.
const CONNECT_ANSWER_BYTES_MAX: usize = 4096;

/// Where to, and how.
#[derive(Clone)]
struct Target {
    address: String,
    name: String,
    through: Option<String>,
    connector: TlsConnector,
}

/// What is sent, and how much comes back.
#[derive(Clone)]
struct Shape {
    method: Method,
    path: &'static str,
    body: Bytes,
    answer_bytes: usize,
}

struct Order {
    connections: usize,
    shape: Shape,
    warmup: Duration,
    measured: Duration,
    requests_max: u64,
    /// Requests per second over all connections; 0 for as many as go.
    rate: u64,
}

type Sender = SendRequest<Full<Bytes>>;

/// Takes orders until standard input ends.
pub fn run(target: &str, options: &[&str]) -> Result<(), Failure> {
    let mut ca: Option<PathBuf> = None;
    let mut through = None;
    for option in options.chunks(2) {
        match option {
            ["--ca", file] => ca = Some(PathBuf::from(file)),
            ["--through", proxy] => through = Some((*proxy).to_owned()),
            _ => return Err(format!("unknown option {}", option.join(" ")).into()),
        }
    }
    let name = target.rsplit_once(':').ok_or("the target is not HOST:PORT")?.0.to_owned();
    let connector = tls::connector(ca.as_deref().map(Path::new))?;
    let target = Target { address: target.to_owned(), name, through, connector };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut held: Vec<Sender> = Vec::new();
    say("up")?;
    loop {
        let Some(line) = next_line()? else { return Ok(()) };
        let order = Order::parse(&line)?;
        held.clear();
        held = runtime.block_on(obey(&target, &order))?;
    }
}

impl Order {
    fn parse(line: &str) -> Result<Order, Failure> {
        let order: serde_json::Value = serde_json::from_str(line)?;
        let number = |name: &str| order[name].as_u64().ok_or_else(|| format!("no number `{name}` in {line}"));
        Ok(Order {
            connections: number("connections")? as usize,
            shape: Shape::named(order["shape"].as_str().unwrap_or_default())?,
            warmup: Duration::from_millis(number("warmup_ms")?),
            measured: Duration::from_millis(number("measured_ms")?),
            requests_max: number("requests_max")?,
            rate: number("rate")?,
        })
    }
}

impl Shape {
    fn named(name: &str) -> Result<Shape, Failure> {
        let (small, large) = (content::json(content::SMALL_BYTES), content::json(content::LARGE_BYTES));
        let (method, path, body, answer_bytes) = match name {
            "get" => (Method::GET, "/small", Bytes::new(), small.len()),
            "get-100k" => (Method::GET, "/large", Bytes::new(), large.len()),
            "post" => (Method::POST, "/small", small.clone(), small.len()),
            "post-100k" => (Method::POST, "/small", large, small.len()),
            _ => return Err(format!("no shape `{name}`").into()),
        };
        Ok(Shape { method, path, body, answer_bytes })
    }
}

async fn obey(target: &Target, order: &Order) -> Result<Vec<Sender>, Failure> {
    let mut senders = Vec::new();
    for _ in 0..order.connections {
        senders.push(timeout(REQUEST_MAX, connect(target)).await??);
    }
    let (senders, _) = drive(senders, target, order, order.warmup, 0).await?;
    say("ready")?;
    next_line()?.ok_or("the input ended before the start")?;
    let begun = Instant::now();
    let (senders, mut times) = drive(senders, target, order, order.measured, order.rate).await?;
    let seconds = begun.elapsed().as_secs_f64();
    say("done")?;
    next_line()?.ok_or("the input ended before the figures")?;
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1))).copied();
    let figures = serde_json::json!({
        "requests": times.len(),
        "seconds": seconds,
        "p50_us": at(0.5).unwrap_or_default().as_secs_f64() * 1e6,
        "p99_us": at(0.99).unwrap_or_default().as_secs_f64() * 1e6,
    });
    say(&figures.to_string())?;
    Ok(senders)
}

/// All connections at once for this long; the times of all requests.
async fn drive(
    senders: Vec<Sender>,
    target: &Target,
    order: &Order,
    length: Duration,
    rate: u64,
) -> Result<(Vec<Sender>, Vec<Duration>), Failure> {
    let begun = Instant::now();
    let each_max = order.requests_max / senders.len() as u64;
    let gap = (rate > 0).then(|| Duration::from_secs_f64(senders.len() as f64 / rate as f64));
    let mut running = JoinSet::new();
    let count = senders.len() as u32;
    for (index, mut sender) in senders.into_iter().enumerate() {
        let (shape, host) = (order.shape.clone(), target.name.clone());
        running.spawn(async move {
            let mut times = Vec::new();
            // Evenly spread over the gap, so that connections do not all ask at one time.
            let mut due = gap.map(|gap| begun + gap * index as u32 / count);
            while begun.elapsed() < length && (times.len() as u64) < each_max {
                if let (Some(at), Some(gap)) = (due, gap) {
                    sleep_until(at).await;
                    due = Some(at + gap);
                }
                let start = Instant::now();
                timeout(REQUEST_MAX, exchange(&mut sender, &shape, &host)).await??;
                times.push(start.elapsed());
            }
            Ok::<_, Failure>((sender, times))
        });
    }
    let (mut senders, mut all) = (Vec::new(), Vec::new());
    while let Some(ended) = running.join_next().await {
        let (sender, times) = ended??;
        senders.push(sender);
        all.extend(times);
    }
    Ok((senders, all))
}

async fn exchange(sender: &mut Sender, shape: &Shape, host: &str) -> Result<(), Failure> {
    let mut request = Request::builder().method(shape.method.clone()).uri(shape.path).header(HOST, host);
    if shape.method == Method::POST {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    sender.ready().await?;
    let response = sender.send_request(request.body(Full::new(shape.body.clone()))?).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame?.data_ref().map_or(0, Bytes::len);
    }
    if status != StatusCode::OK || count != shape.answer_bytes {
        return Err(format!("answered with {status} and {count} bytes, expected 200 and {}", shape.answer_bytes).into());
    }
    Ok(())
}

async fn connect(target: &Target) -> Result<Sender, Failure> {
    let first = target.through.as_ref().unwrap_or(&target.address);
    let mut stream = TcpStream::connect(first).await.map_err(|error| format!("cannot connect to {first}: {error}"))?;
    stream.set_nodelay(true)?;
    if target.through.is_some() {
        ask_for_tunnel(&mut stream, &target.address).await?;
    }
    let name = ServerName::try_from(target.name.clone())?;
    let stream = target.connector.connect(name, stream).await?;
    let (sender, driver) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    Ok(sender)
}

async fn ask_for_tunnel(stream: &mut TcpStream, address: &str) -> Result<(), Failure> {
    stream.write_all(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= CONNECT_ANSWER_BYTES_MAX {
            return Err("the proxy's answer to CONNECT has no end".into());
        }
        answer.push(stream.read_u8().await?);
    }
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(format!("the proxy refused CONNECT: {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(())
}

fn next_line() -> Result<Option<String>, Failure> {
    let mut line = String::new();
    Ok((std::io::stdin().lock().read_line(&mut line)? > 0).then_some(line))
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
