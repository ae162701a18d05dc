//! The people: connections that ask a chat service, each with a session of its own, over real sockets.
//!
//! *Must never* count an answer that is not the one that was expected.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::super::figures::quantile;

/// Turns of one conversation; afterwards the connection begins another one.
const TURNS: usize = 8;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Largest body of an answer, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Lines of the head of one answer.
const FIELDS_MAX: usize = 64;
/// Before anything is counted.
const WARMUP: Duration = Duration::from_millis(300);
/// How long is counted.
const MEASURED: Duration = Duration::from_millis(2000);

/// How requests are made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Each connection asks again as soon as it was answered.
    AtOnce,
    /// So many a second over all connections; what is late counts as late.
    PerSecond(u32),
}

/// A question and the words that have to come back.
#[derive(Clone, Debug)]
pub struct Question {
    pub asked: &'static str,
    pub expected: String,
}

/// What came of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time of the service for one answer.
    pub cpu_ms: f64,
}

/// A connection with a session of its own.
pub struct Person {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
    cookie: Option<String>,
    turns: usize,
}

impl Person {
    /// One who comes.
    pub fn new(address: SocketAddr) -> Result<Person, String> {
        let opened = TcpStream::connect(address).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            Ok(stream)
        });
        let stream = opened.map_err(|error| format!("cannot connect to {address}: {error}"))?;
        Ok(Person { address, stream: BufReader::new(stream), cookie: None, turns: 0 })
    }

    /// Asks in the conversation under way, or begins one; gives what is replied.
    pub fn ask(&mut self, message: &str) -> Result<String, String> {
        if self.turns == TURNS {
            self.begin_anew();
        }
        self.turns += 1;
        let body = serde_json::json!({ "message": message }).to_string();
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
        let request = format!(
            "POST /api/chat HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{cookie}Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        sent.map_err(|error| format!("cannot ask {}: {error}", self.address))?;
        let (status, answer) = self.answer()?;
        let value: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        match value["reply"].as_str().filter(|_| status == 200) {
            Some(reply) => Ok(reply.to_owned()),
            None => Err(format!("{} answered {status}: {}", self.address, String::from_utf8_lossy(&answer))),
        }
    }

    /// The next question is a new session's.
    pub fn begin_anew(&mut self) {
        (self.cookie, self.turns) = (None, 0);
    }

    /// Status and body; a cookie that is set is kept.
    fn answer(&mut self) -> Result<(u16, Vec<u8>), String> {
        let failed = |error: std::io::Error| format!("no whole answer: {error}");
        let (mut status, mut length, mut line) = (0, None, String::new());
        for place in 0..FIELDS_MAX {
            line.clear();
            self.stream.read_line(&mut line).map_err(failed)?;
            let field = line.trim_end();
            if place == 0 {
                status = field.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if field.is_empty() {
                break;
            } else if let Some((name, value)) = field.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse::<usize>().ok();
                } else if name.eq_ignore_ascii_case("set-cookie") {
                    self.cookie = value.split(';').next().map(|pair| pair.trim().to_owned());
                }
            }
        }
        let length = length.filter(|length| *length <= BODY_BYTES_MAX).ok_or("an answer says not how long it is")?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).map_err(failed)?;
        Ok((status, body))
    }
}

/// So many people ask at once; `cpu` is looked at when counting begins and when it ends.
pub fn measure(
    address: SocketAddr,
    question: &Question,
    connections: u32,
    pace: Pace,
    cpu: &dyn Fn() -> Result<f64, String>,
) -> Result<Outcome, String> {
    let begin = Instant::now() + Duration::from_millis(20);
    let (from, to) = (begin + WARMUP, begin + WARMUP + MEASURED);
    let (asked, used) = std::thread::scope(|scope| {
        let people: Vec<_> = (0..connections)
            .map(|place| scope.spawn(move || one(address, question, Turn { place, connections, pace, begin, to })))
            .collect();
        std::thread::sleep(from.saturating_duration_since(Instant::now()));
        let before = cpu();
        std::thread::sleep(to.saturating_duration_since(Instant::now()));
        let used = cpu().and_then(|after| Ok(after - before?));
        let asked: Result<Vec<Vec<_>>, String> =
            people.into_iter().map(|person| person.join().map_err(|_| "a load generator panicked")?).collect();
        asked.map(|asked| (asked.concat(), used))
    })?;
    let used = used?;
    let answered = asked.iter().filter(|(_, ended)| (from..to).contains(ended)).count();
    if answered == 0 {
        return Err("nothing was answered in time".into());
    }
    let times: Vec<f64> =
        asked.iter().filter(|(due, _)| *due >= from).map(|(due, ended)| (*ended - *due).as_secs_f64() * 1e3).collect();
    Ok(Outcome {
        per_second: answered as f64 / MEASURED.as_secs_f64(),
        p50_ms: quantile(&times, 0.5),
        p99_ms: quantile(&times, 0.99),
        cpu_ms: used * 1e3 / answered as f64,
    })
}

/// When one of several asks.
#[derive(Clone, Copy)]
struct Turn {
    place: u32,
    connections: u32,
    pace: Pace,
    begin: Instant,
    to: Instant,
}

/// When each question was due and when it was answered.
fn one(address: SocketAddr, question: &Question, turn: Turn) -> Result<Vec<(Instant, Instant)>, String> {
    let mut person = Person::new(address)?;
    let mut asked = Vec::new();
    let mut due = match turn.pace {
        Pace::AtOnce => turn.begin,
        Pace::PerSecond(rate) => turn.begin + Duration::from_secs_f64(f64::from(turn.place) / f64::from(rate)),
    };
    while due < turn.to {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let began = match turn.pace {
            Pace::AtOnce => Instant::now(),
            Pace::PerSecond(_) => due,
        };
        let reply = person.ask(question.asked)?;
        if reply != question.expected {
            return Err(format!("{address} replied `{reply}`, not `{}`", question.expected));
        }
        let ended = Instant::now();
        asked.push((began, ended));
        due = match turn.pace {
            Pace::AtOnce => ended,
            Pace::PerSecond(rate) => due + Duration::from_secs_f64(f64::from(turn.connections) / f64::from(rate)),
        };
    }
    Ok(asked)
}

/// Begins so many sessions of one turn each, over so many connections.
pub fn fill(address: SocketAddr, question: &Question, sessions: u32, connections: u32) -> Result<(), String> {
    std::thread::scope(|scope| {
        let people: Vec<_> = (0..connections)
            .map(|place| {
                let share = sessions / connections + u32::from(place < sessions % connections);
                scope.spawn(move || {
                    let mut person = Person::new(address)?;
                    (0..share).try_for_each(|_| {
                        person.begin_anew();
                        person.ask(question.asked).map(drop)
                    })
                })
            })
            .collect();
        people.into_iter().try_for_each(|person| person.join().map_err(|_| "a load generator panicked")?)
    })
}
