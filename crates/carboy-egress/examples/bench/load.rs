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
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use crate::shapes::{Arrived, Shape};
use crate::{Failure, tls};

/// The longest that one request or one handshake may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// The longest answer to CONNECT.
const CONNECT_ANSWER_BYTES_MAX: usize = 4096;

/// Where to, and how.
#[derive(Clone)]
pub struct Target {
    address: String,
    name: String,
    through: Option<String>,
    /// None: in plain text.
    connector: Option<TlsConnector>,
    /// What every request carries.
    fields: Vec<(HeaderName, HeaderValue)>,
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

/// One connection.
pub type Sender = SendRequest<Full<Bytes>>;

/// Takes orders until standard input ends.
pub fn run(target: &str, options: &[&str]) -> Result<(), Failure> {
    let target = Target::parse(target, options)?;
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

impl Target {
    /// With the options that the program was started with.
    pub fn parse(target: &str, options: &[&str]) -> Result<Target, Failure> {
        let (mut ca, mut through, mut plain, mut fields) = (None, None, false, Vec::new());
        for option in options.chunks(2) {
            match option {
                ["--ca", file] => ca = Some(PathBuf::from(file)),
                ["--through", proxy] => through = Some((*proxy).to_owned()),
                ["--tls", "no"] => plain = true,
                ["--field", field] => {
                    let (name, value) = field.split_once(':').ok_or("a field is not NAME:VALUE")?;
                    fields.push((name.parse()?, value.parse()?));
                }
                _ => return Err(format!("unknown option {}", option.join(" ")).into()),
            }
        }
        let name = target.rsplit_once(':').ok_or("the target is not HOST:PORT")?.0.to_owned();
        let connector = if plain { None } else { Some(tls::connector(ca.as_deref().map(Path::new))?) };
        Ok(Target { address: target.to_owned(), name, through, connector, fields })
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
        let (shape, target) = (order.shape.clone(), target.clone());
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
                timeout(REQUEST_MAX, exchange(&mut sender, &shape, &target)).await??;
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

async fn exchange(sender: &mut Sender, shape: &Shape, target: &Target) -> Result<(), Failure> {
    let response = ask(sender, shape, target).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut arrived = Arrived::default();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            arrived.add(data, shape.expected);
        }
    }
    if status != StatusCode::OK {
        return Err(format!("answered with {status}, expected 200").into());
    }
    arrived.check(shape.expected)
}

/// Sends a request and waits for its answer's head.
pub async fn ask(sender: &mut Sender, shape: &Shape, target: &Target) -> Result<Response<Incoming>, Failure> {
    let mut request = Request::builder().method(shape.method.clone()).uri(shape.path).header(HOST, &target.name);
    if shape.method == Method::POST {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    for (name, value) in &shape.fields {
        request = request.header(*name, value);
    }
    for (name, value) in &target.fields {
        request = request.header(name, value);
    }
    sender.ready().await?;
    Ok(sender.send_request(request.body(Full::new(shape.body.clone()))?).await?)
}

/// Opens a connection.
pub async fn connect(target: &Target) -> Result<Sender, Failure> {
    let first = target.through.as_ref().unwrap_or(&target.address);
    let mut stream = TcpStream::connect(first).await.map_err(|error| format!("cannot connect to {first}: {error}"))?;
    stream.set_nodelay(true)?;
    if target.through.is_some() {
        ask_for_tunnel(&mut stream, &target.address).await?;
    }
    let Some(connector) = &target.connector else { return speak(stream).await };
    let name = ServerName::try_from(target.name.clone())?;
    speak(connector.connect(name, stream).await?).await
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender, Failure> {
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

/// A line of the input; none at its end.
pub fn next_line() -> Result<Option<String>, Failure> {
    let mut line = String::new();
    Ok((std::io::stdin().lock().read_line(&mut line)? > 0).then_some(line))
}

/// Says a line.
pub fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
