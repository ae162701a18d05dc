//! Clients that spend: the standard library alone, so that the same program can run inside a bottle.
//!
//! ```text
//! agent SEED THREADS SECONDS TARGET…        TARGET = ADDRESS,HOST,FORMAT,MANNERS[,COUNT]
//! ```
//!
//! Each thread asks one target after the other, as an agent's program would and as it would not: it leaves before the answer,
//! in the middle, or after everything but the last event; it asks for too much, for no bound at all, for answers packed in
//! any coding; and asks the provider (a simulated one) to break off in every way it knows. It goes on when it is refused.
//!
//! *Must never* know anything of budgets: it reads a status like any client.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for any answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long a client that means to leave waits for what it wants to see first.
const PATIENCE: Duration = Duration::from_millis(250);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// After a refusal that says "later", and after one that says "no more".
const LATER: Duration = Duration::from_millis(30);
const NO_MORE: Duration = Duration::from_millis(400);
/// Nobody listens: whoever did is being started again.
const AWAY: Duration = Duration::from_millis(50);

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next one.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `count`.
    pub fn below(&mut self, count: u64) -> u64 {
        self.roll() % count.max(1)
    }

    /// One of them.
    pub fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize]
    }

    /// In so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Whose interface is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Anthropic,
    Chat,
    Responses,
    WebSocket,
    Gemini,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Reads every answer to its end.
    Calm,
    /// Anything.
    Any,
}

/// Where to ask, and how.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: String,
    pub host: String,
    pub format: Format,
    pub manners: Manners,
    /// Requests of each thread; none: until it is over.
    pub count: Option<u64>,
}

impl Target {
    pub fn parse(text: &str) -> Option<Target> {
        let mut parts = text.split(',');
        let mut next = || parts.next();
        let (address, host) = (next()?.to_owned(), next()?.to_owned());
        let format = match next()? {
            "anthropic" => Format::Anthropic,
            "chat" => Format::Chat,
            "responses" => Format::Responses,
            "websocket" => Format::WebSocket,
            "gemini" => Format::Gemini,
            _ => return None,
        };
        let manners = match next()? {
            "calm" => Manners::Calm,
            "any" => Manners::Any,
            _ => return None,
        };
        let count = next().map(str::parse).transpose().ok()?;
        Some(Target { address, host, format, manners, count })
    }
}

/// What became of the requests, in the order of [`Tally::NAMES`].
#[derive(Debug, Default)]
pub struct Tally(pub [AtomicU64; 7]);

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// A whole answer.
    Answered = 0,
    /// Given up by this client, as it meant to.
    Left = 1,
    /// Broken off by the other side.
    Broken = 2,
    /// Refused for now.
    Later = 3,
    /// Refused for good.
    NoMore = 4,
    /// Refused as a request.
    Wrong = 5,
    /// Nobody was there.
    Away = 6,
}

impl Tally {
    pub const NAMES: [&'static str; 7] = ["answered", "left", "broken", "later", "no-more", "wrong", "away"];

    pub fn line(&self) -> String {
        let counts = self.0.iter().zip(Tally::NAMES);
        counts.map(|(count, name)| format!("{name}={} ", count.load(Ordering::Relaxed))).collect()
    }
}

/// When a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Never,
    /// When the request is sent.
    AtOnce,
    /// When so many bytes were read.
    After(usize),
    /// When the answer is there but for its last event.
    BeforeTheEnd,
}

#[derive(Debug)]
pub struct Errand {
    path: &'static str,
    body: String,
    headers: String,
    query: String,
    leaves: Leaves,
}

impl Errand {
    /// In a line.
    pub fn told(&self) -> String {
        let body: String = self.body.replace("lorem ipsum dolor sit amet ", "").chars().take(200).collect();
        format!("{:?} {}{} {} {body}", self.leaves, self.path, self.query, self.headers.replace("\r\n", " "))
    }
}

pub fn errand(target: &Target, dice: &mut Dice) -> Errand {
    let calm = target.manners == Manners::Calm;
    let length = if dice.percent(10) { 60 } else { 20 };
    let words = "lorem ipsum dolor sit amet ".repeat(1 + dice.below(length) as usize);
    let cap = match dice.below(10) {
        0 => 64_000,
        1 => 16,
        2..=5 => 16 + dice.below(400),
        _ => 16 + dice.below(3000),
    };
    let stream = dice.percent(60);
    // Not every format needs a bound: then the gateway has to bring one.
    let unbounded = dice.percent(15);
    let bound = |key: &str| if unbounded { String::new() } else { format!(r#""{key}":{cap},"#) };
    let (path, body) = match target.format {
        Format::Anthropic => {
            let mark = if dice.percent(20) { r#","cache_control":{"type":"ephemeral"}"# } else { "" };
            let thinking = if cap > 1100 && dice.percent(20) {
                r#""thinking":{"type":"enabled","budget_tokens":1024},"#
            } else {
                ""
            };
            let content = format!(r#"[{{"type":"text","text":"{words}"{mark}}}]"#);
            let body = format!(
                r#"{{"model":"claude-sim-1","max_tokens":{cap},{thinking}"stream":{stream},"messages":[{{"role":"user","content":{content}}}]}}"#
            );
            ("/v1/messages", body)
        }
        Format::Chat => {
            let n = if dice.percent(10) { r#""n":2,"# } else { "" };
            let usage = if dice.percent(50) && stream { r#""stream_options":{"include_usage":true},"# } else { "" };
            let bound = bound(if dice.percent(50) { "max_tokens" } else { "max_completion_tokens" });
            let body = format!(
                r#"{{"model":"gpt-sim",{bound}{n}{usage}"stream":{stream},"messages":[{{"role":"user","content":"{words}"}}]}}"#
            );
            ("/v1/chat/completions", body)
        }
        Format::Responses => {
            let bound = bound("max_output_tokens");
            ("/v1/responses", format!(r#"{{"model":"gpt-sim",{bound}"stream":{stream},"input":"{words}"}}"#))
        }
        Format::WebSocket => {
            let bound = bound("max_output_tokens");
            ("/v1/responses", format!(r#"{{"type":"response.create",{bound}"model":"gpt-sim","input":"{words}"}}"#))
        }
        Format::Gemini => {
            let config =
                if unbounded { String::new() } else { format!(r#","generationConfig":{{"maxOutputTokens":{cap}}}"#) };
            let body = format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{words}"}}]}}]{config}}}"#);
            let whole = "/v1beta/models/gemini-sim:generateContent";
            (if stream { "/v1beta/models/gemini-sim:streamGenerateContent" } else { whole }, body)
        }
    };
    let mut query = Vec::new();
    if target.format == Format::Gemini && stream && dice.percent(70) {
        query.push("alt=sse");
    }
    if dice.percent(20) {
        query.push(dice.of(&["encoding=gzip", "encoding=br", "encoding=zstd", "encoding=deflate"]));
    }
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let leaves = match dice.below(if calm { 1 } else { 10 }) {
        0..=4 => Leaves::Never,
        5 => Leaves::AtOnce,
        6 | 7 => Leaves::After(1 + dice.below(3000) as usize),
        _ => Leaves::BeforeTheEnd,
    };
    let fault = match dice.below(if calm { 4 } else { 14 }) {
        0 | 1 => format!("pace-ms={}", 1 + dice.below(4)),
        4 => format!("drop-after={}", dice.below(12)),
        5 => "drop-before-usage=1".into(),
        6 => "drop-before-head=1".into(),
        7 => format!("error-after={}", dice.below(12)),
        8 => format!("end-after={}", dice.below(12)),
        9 => format!("status={}", dice.of(&[429, 500, 503])),
        10 if leaves != Leaves::Never => format!("silent-after={}", dice.below(6)),
        _ => String::new(),
    };
    let fault = if fault.is_empty() { fault } else { format!("x-sim-fault: {fault}\r\n") };
    let format = if target.format == Format::Anthropic { "anthropic-version: 2023-06-01\r\n" } else { "" };
    Errand { path, body, headers: format!("{fault}{format}"), query, leaves }
}

fn connect(target: &Target) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in target.address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One request and what became of it.
pub fn run(target: &Target, dice: &mut Dice) -> Became {
    let errand = errand(target, dice);
    carry_out(target, &errand, dice)
}

/// The same of one that is given.
pub fn carry_out(target: &Target, errand: &Errand, dice: &mut Dice) -> Became {
    let Ok(mut stream) = connect(target) else { return Became::Away };
    match target.format {
        Format::WebSocket => websocket(&mut stream, target, errand, dice),
        Format::Anthropic | Format::Chat | Format::Responses | Format::Gemini => http(&mut stream, target, errand),
    }
}

fn http(stream: &mut TcpStream, target: &Target, errand: &Errand) -> Became {
    let (path, query, host) = (errand.path, &errand.query, &target.host);
    let head = format!(
        "POST {path}{query} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n{}\
         content-length: {}\r\n\r\n",
        errand.headers,
        errand.body.len()
    );
    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(errand.body.as_bytes())).is_err() {
        return Became::Broken;
    }
    if errand.leaves == Leaves::AtOnce {
        return Became::Left;
    }
    let (got, ended) = read_answer(stream, errand.leaves);
    match (status(&got), ended) {
        (None, Ended::Here) => Became::Left,
        (None, Ended::There) => Became::Broken,
        (Some(200..=299), Ended::Here) => Became::Left,
        (Some(200..=299), Ended::There) => Became::Answered,
        (Some(status), _) => refused(status, &got),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Here,
    There,
}

/// What is in the last event of each protocol: a client that has seen all before it has seen the whole answer.
const LAST: [&[u8]; 5] =
    [b"message_delta", b"finish_reason\":\"", b"response.completed", b"response.incomplete", b"finishReason"];

fn read_answer(stream: &mut TcpStream, leaves: Leaves) -> (Vec<u8>, Ended) {
    let patience = if leaves == Leaves::Never { ANSWER_WAIT_MAX } else { PATIENCE };
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    if stream.set_read_timeout(Some(patience)).is_err() {
        return (got, Ended::There);
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (got, Ended::There),
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return (got, Ended::Here);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return (got, Ended::There),
        }
        let over = match leaves {
            Leaves::Never | Leaves::AtOnce => got.len() > ANSWER_BYTES_MAX,
            Leaves::After(bytes) => got.len() >= bytes,
            Leaves::BeforeTheEnd => {
                let from = got.len().saturating_sub(8192);
                let news = &got[from..];
                LAST.iter().any(|last| news.windows(last.len()).any(|window| window == *last))
            }
        };
        // A refusal is read whole, whatever was meant.
        if over && status(&got).is_some_and(|status| status < 300) {
            return (got, Ended::Here);
        }
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()
}

fn refused(status: u16, answer: &[u8]) -> Became {
    let says = |text: &str| answer.windows(text.len()).any(|window| window == text.as_bytes());
    match status {
        402 => Became::NoMore,
        _ if says("insufficient_quota") || says("budget_exhausted") || says("\"cut_off\"") => Became::NoMore,
        400 | 403 | 404 | 411 | 413 | 426 | 431 => {
            if std::env::var_os("CARBOY_SHOW_WRONG").is_some() {
                eprintln!("{}", String::from_utf8_lossy(&answer[..answer.len().min(1200)]));
            }
            Became::Wrong
        }
        _ => Became::Later,
    }
}

/// A WebSocket: some requests on one connection.
fn websocket(stream: &mut TcpStream, target: &Target, errand: &Errand, dice: &mut Dice) -> Became {
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nopenai-beta: responses_websockets=2026-02-06\r\n{}\r\n",
        errand.path, target.host, errand.headers
    );
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.set_read_timeout(Some(ANSWER_WAIT_MAX)));
    if sent.is_err() {
        return Became::Broken;
    }
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < 16 * 1024 {
        match stream.read(&mut byte) {
            Ok(1) => answer.push(byte[0]),
            Ok(_) | Err(_) => break,
        }
    }
    match status(&answer) {
        Some(101) => {}
        None => return Became::Broken,
        Some(status) => {
            // The connection may stay open: what comes at once is what is said.
            let mut words = [0; 8192];
            if stream.set_read_timeout(Some(PATIENCE)).is_ok()
                && let Ok(count) = stream.read(&mut words)
            {
                answer.extend_from_slice(&words[..count]);
            }
            return refused(status, &answer);
        }
    }
    let mut became = Became::Answered;
    for _ in 0..1 + dice.below(4) {
        if write_frame(stream, 1, errand.body.as_bytes()).is_err() {
            return Became::Broken;
        }
        if errand.leaves == Leaves::AtOnce {
            return Became::Left;
        }
        became = read_frames(stream, errand.leaves);
        if became != Became::Answered {
            return became;
        }
    }
    // 1000: it was what it was to be.
    let _ = write_frame(stream, 8, &[0x03, 0xe8]);
    let _ = stream.shutdown(Shutdown::Write);
    became
}

/// RFC 6455 §5.2; a client masks, here with zeros.
fn write_frame(stream: &mut TcpStream, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(long).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

/// Events until one ends the response, or until this client leaves.
fn read_frames(stream: &mut TcpStream, leaves: Leaves) -> Became {
    let patience = if leaves == Leaves::Never { ANSWER_WAIT_MAX } else { PATIENCE };
    if stream.set_read_timeout(Some(patience)).is_err() {
        return Became::Broken;
    }
    let mut seen = 0;
    loop {
        let (opcode, payload) = match read_frame(stream) {
            Ok(frame) => frame,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Became::Left;
            }
            Err(_) => return Became::Broken,
        };
        if opcode == 8 {
            return Became::Broken;
        }
        seen += payload.len();
        let says = |text: &str| payload.windows(text.len()).any(|window| window == text.as_bytes());
        let ends = says("\"type\":\"response.completed\"") || says("\"type\":\"response.incomplete\"");
        if says("insufficient_quota") {
            return Became::NoMore;
        }
        if says("\"type\":\"error\"") || says("\"type\":\"response.failed\"") {
            return Became::Later;
        }
        match leaves {
            Leaves::After(bytes) if seen >= bytes => return Became::Left,
            Leaves::BeforeTheEnd if says("response.output_item.done") => return Became::Left,
            Leaves::Never | Leaves::AtOnce | Leaves::After(_) | Leaves::BeforeTheEnd => {}
        }
        if ends {
            return Became::Answered;
        }
    }
}

fn read_frame(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            usize::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            usize::try_from(u64::from_be_bytes(length)).unwrap_or(usize::MAX)
        }
        short => usize::from(short),
    };
    if length > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((head[0] & 0x0f, payload))
}

/// One client: target after target, until it is over.
fn client(targets: &[Target], mut dice: Dice, until: Instant, stop: &AtomicBool, tally: &Tally) {
    let mut left: Vec<Option<u64>> = targets.iter().map(|target| target.count).collect();
    while Instant::now() < until && !stop.load(Ordering::Relaxed) && left.iter().any(|left| *left != Some(0)) {
        let at = dice.below(targets.len() as u64) as usize;
        if left[at] == Some(0) {
            continue;
        }
        let became = run(&targets[at], &mut dice);
        tally.0[became as usize].fetch_add(1, Ordering::Relaxed);
        let pause = match became {
            Became::Answered | Became::Left | Became::Broken | Became::Wrong => Duration::ZERO,
            Became::Later => LATER,
            Became::NoMore => NO_MORE,
            Became::Away => AWAY,
        };
        if let Some(left) = &mut left[at]
            && matches!(became, Became::Answered)
        {
            *left -= 1;
        }
        std::thread::sleep(pause);
    }
}

/// The program. Ends by itself, or when a line comes in.
pub fn main(arguments: &[String]) -> Result<(), String> {
    let usage = || "agent SEED THREADS SECONDS TARGET…, a TARGET being ADDRESS,HOST,FORMAT,MANNERS[,COUNT]".to_owned();
    let [seed, threads, seconds, targets @ ..] = arguments else { return Err(usage()) };
    let number = |text: &str| text.parse::<u64>().map_err(|_| usage());
    let (seed, threads, seconds) = (number(seed)?, number(threads)?, number(seconds)?);
    let targets: Option<Vec<Target>> = targets.iter().map(|text| Target::parse(text)).collect();
    let targets = Arc::new(targets.filter(|targets| !targets.is_empty()).ok_or_else(usage)?);
    let stop = Arc::new(AtomicBool::new(false));
    let tally = Arc::new(Tally::default());
    let until = Instant::now() + Duration::from_secs(seconds);
    let told = stop.clone();
    std::thread::spawn(move || {
        let mut line = String::new();
        // An end without a line is a program that was given nothing to read.
        if io::stdin().lock().read_line(&mut line).is_ok_and(|count| count > 0) {
            told.store(true, Ordering::Relaxed);
        }
    });
    let clients: Vec<_> = (0..threads)
        .map(|number| {
            let (targets, stop, tally) = (targets.clone(), stop.clone(), tally.clone());
            let dice = Dice(seed.wrapping_mul(0x1_0000_0001).wrapping_add(number));
            std::thread::spawn(move || client(&targets, dice, until, &stop, &tally))
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| "a client panicked".to_owned())?;
    }
    println!("tally {}", tally.line());
    Ok(())
}
