//! A client that sends what it is told to, octet by octet, and shows all that came back.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// A field's value, or nothing.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }

    /// The cookie that it sets, as a client sends it back.
    pub fn cookie(&self) -> Option<String> {
        self.field("set-cookie").map(|set| set.split(';').next().unwrap().to_owned())
    }

    fn read(octets: &[u8]) -> Answer {
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no head: {:?}", String::from_utf8_lossy(octets));
        });
        let head = String::from_utf8(octets[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields = lines.map(|line| line.split_once(':').unwrap());
        let fields: Vec<_> = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let rest = &octets[end + 4..];
        let chunked = fields.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { unchunked(rest) } else { rest.to_vec() };
        Answer { status, fields, body: String::from_utf8(body).unwrap() }
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap().trim(), 16).unwrap();
        if length == 0 {
            break;
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + length]);
        rest = &rest[at + 4 + length..];
    }
    body
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Ask {
    method: String,
    path: String,
    fields: Vec<(String, String)>,
    body: String,
}

pub fn get(path: &str) -> Ask {
    ask("GET", path)
}

pub fn ask(method: &str, path: &str) -> Ask {
    Ask {
        method: method.into(),
        path: path.into(),
        fields: vec![("host".into(), "localhost".into())],
        body: String::new(),
    }
}

pub fn post(path: &str, body: &Value) -> Ask {
    ask("POST", path).with("content-type", "application/json").saying(&body.to_string())
}

/// A message.
pub fn chat(message: &str) -> Ask {
    post("/api/chat", &serde_json::json!({"message": message}))
}

impl Ask {
    pub fn with(mut self, name: &str, value: &str) -> Ask {
        self.fields.retain(|(found, _)| found != name);
        self.fields.push((name.into(), value.into()));
        self
    }

    pub fn saying(mut self, body: &str) -> Ask {
        self.body = body.into();
        self
    }

    pub fn streamed(self) -> Ask {
        self.with("accept", "text/event-stream")
    }

    fn octets(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", self.method, self.path);
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || self.method == "POST" {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        text.push_str(&self.body);
        text.into_bytes()
    }

    /// Sends it on a connection of its own and reads the answer to its end.
    pub async fn send(&self, to: SocketAddr) -> Answer {
        raw(to, &self.octets()).await
    }

    /// Sends it and reads events one by one.
    pub async fn open(&self, to: SocketAddr) -> Events {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(&self.octets()).await.unwrap();
        Events { stream, read: Vec::new(), at: 0 }
    }
}

/// Sends octets and reads until the other end closes.
pub async fn raw(to: SocketAddr, octets: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may have answered, and closed, before all was sent.
    let _ = stream.write_all(octets).await;
    let mut answer = Vec::new();
    // A reset after the answer takes nothing of it away.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time");
    Answer::read(&answer)
}

/// A stream of events as it arrives.
pub struct Events {
    stream: TcpStream,
    read: Vec<u8>,
    at: usize,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

impl Events {
    /// The next block that ends with an empty line, comments too.
    pub async fn block(&mut self) -> Option<String> {
        loop {
            let text = String::from_utf8_lossy(&self.read[self.at..]).replace("\r\n", "\n");
            if let Some(end) = text.find("\n\n") {
                let raw = String::from_utf8_lossy(&self.read[self.at..]).into_owned();
                let raw_end =
                    raw.find("\r\n\r\n").map(|at| at + 4).into_iter().chain(raw.find("\n\n").map(|at| at + 2));
                self.at += raw_end.min().unwrap();
                return Some(text[..end].to_owned());
            }
            let mut chunk = [0; 4096];
            let length = timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("an event in time").unwrap();
            if length == 0 {
                return None;
            }
            self.read.extend_from_slice(&chunk[..length]);
        }
    }

    /// The next event; heads, lengths of chunks and comments are passed over.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let value = |name: &str| {
                block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
            };
            if let (Some(id), Some(name), Some(data)) = (value("id"), value("event"), value("data")) {
                return Some(Event { id, name, data: serde_json::from_str(&data).unwrap() });
            }
        }
    }

    /// All that is still to come.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}
