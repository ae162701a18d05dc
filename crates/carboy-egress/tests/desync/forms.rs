//! Requests that programs are known to read differently, and mutations of them. The classes are those of the public
//! collections of request smuggling (Linhart et al. 2005; Kettle 2019 and 2022; RFC 9112, 11.2) and of CVEs of servers.

use crate::support::HOST;

/// What would be smuggled: a request that no route allows.
pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: api.example\r\n\r\n";

/// Two that are in order, each ended by its client.
pub fn ordinary() -> [Vec<u8>; 2] {
    [
        format!("GET /ok/a HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").into_bytes(),
        format!(
            "POST /ok/b HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        .into_bytes(),
    ]
}

/// Every form, by name.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    out.extend(lengths());
    out.extend(codings());
    out.extend(chunks());
    out.extend(lines());
    out.extend(fields());
    out
}

fn named(kind: &str, n: usize, shown: &[u8], bytes: Vec<u8>) -> (String, Vec<u8>) {
    (format!("{kind} {n} ({})", String::from_utf8_lossy(shown).escape_debug()), bytes)
}

fn post(fields: &[u8], body: &[u8]) -> Vec<u8> {
    [format!("POST /ok/p HTTP/1.1\r\nHost: {HOST}\r\n").as_bytes(), fields, b"\r\n", body].concat()
}

/// Content-Length, spelled in ways that mean different numbers to different readers.
fn lengths() -> Vec<(String, Vec<u8>)> {
    let long = SMUGGLED.len();
    let fields: Vec<Vec<u8>> = [
        "+5",
        "-5",
        "5, 5",
        "5,6",
        "5 5",
        "0x5",
        "5;",
        "5.0",
        "005",
        "5\x0b",
        "\x0b5",
        "5\x0c",
        "",
        "five",
        "\u{ff15}",
        "5\0",
        "1e1",
        "\"5\"",
        "5_0",
        "0 5",
        "18446744073709551621",
        "9223372036854775813",
        "4294967301",
        "\t5",
        "5\r\n 0",
    ]
    .iter()
    .map(|value| format!("Content-Length: {value}\r\n").into_bytes())
    .chain(
        [
            "Content-Length: 0\r\nContent-Length: 5\r\n".to_owned(),
            "Content-Length: 5\r\nContent-Length: 0\r\n".to_owned(),
            "Content-Length: 5\r\nContent-Length: 5\r\n".to_owned(),
            "Content-Length : 5\r\n".to_owned(),
            "Content-Length\t: 5\r\n".to_owned(),
            "Content_Length: 5\r\n".to_owned(),
            " Content-Length: 5\r\n".to_owned(),
            "X: y\r\n Content-Length: 5\r\n".to_owned(),
            "X: y\nContent-Length: 5\r\n".to_owned(),
            "X: y\rContent-Length: 5\r\n".to_owned(),
            "Content-Length\0: 5\r\n".to_owned(),
            "\u{a0}Content-Length: 5\r\n".to_owned(),
            format!("Content-Length: {long}\r\nConnection: Content-Length\r\n"),
            format!("Content-Length: 0\r\nX-Content-Length: {long}\r\n"),
        ]
        .map(String::into_bytes),
    )
    .collect();
    let numbered = fields.into_iter().enumerate();
    numbered.map(|(n, field)| named("length", n, &field, post(&field, format!("abcde{SMUGGLED}").as_bytes()))).collect()
}

/// Transfer-Encoding, spelled so that one reader sees chunks and another does not.
fn codings() -> Vec<(String, Vec<u8>)> {
    let values = [
        "chunked",
        "CHUNKED",
        "chunKed",
        "xchunked",
        "chunkedx",
        "chunked, identity",
        "identity, chunked",
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "deflate",
        "cow",
        "",
        ",chunked",
        "chunked,",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\x0b",
        "\x0bchunked",
        "chunked\0",
        "\0chunked",
        "chunked\x0c",
        "\x7fchunked",
        "chunked\r\n x",
        "x\r\n chunked",
        "\u{a0}chunked",
        "chunk",
        "chunked\r",
        "\tchunked\t",
        "chunke\u{17f}d",
        "c\u{212a}unked",
    ];
    let lines = [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding:chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-\r\n Encoding: chunked",
        "TE: chunked",
        "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding",
        "Transfer\u{ad}-Encoding: chunked",
        "\u{feff}Transfer-Encoding: chunked",
        "Transfer-Encoding\u{85}: chunked",
    ];
    let all = values.iter().map(|value| format!("Transfer-Encoding: {value}")).chain(lines.map(str::to_owned));
    let mut out = Vec::new();
    for (n, line) in all.enumerate() {
        // CL.TE and TE.CL: each side is tried as the one that is believed.
        let short = format!("{line}\r\nContent-Length: 5\r\n");
        out.push(named(
            "coding, length",
            2 * n,
            line.as_bytes(),
            post(short.as_bytes(), format!("0\r\n\r\n{SMUGGLED}").as_bytes()),
        ));
        let size = SMUGGLED.len();
        let body = format!("{size:x}\r\n{SMUGGLED}\r\n0\r\n\r\n");
        let before = format!("Content-Length: 4\r\n{line}\r\n");
        out.push(named("length, coding", 2 * n + 1, line.as_bytes(), post(before.as_bytes(), body.as_bytes())));
    }
    out
}

/// Chunks whose sizes and ends mean different things to different readers.
fn chunks() -> Vec<(String, Vec<u8>)> {
    let bodies: Vec<String> = [
        "5;ext\r\nabcde\r\n0\r\n\r\n",
        "5;a=\"\r\n\"\r\nabcde\r\n0\r\n\r\n",
        "5;a\nb\r\nabcde\r\n0\r\n\r\n",
        "5 \r\nabcde\r\n0\r\n\r\n",
        " 5\r\nabcde\r\n0\r\n\r\n",
        "0x5\r\nabcde\r\n0\r\n\r\n",
        "+5\r\nabcde\r\n0\r\n\r\n",
        "-5\r\nabcde\r\n0\r\n\r\n",
        "5\nabcde\n0\n\n",
        "5\rabcde\r0\r\r",
        "5\r\r\nabcde\r\n0\r\n\r\n",
        "ffffffffffffffff5\r\nabcde\r\n0\r\n\r\n",
        "00000000000000000005\r\nabcde\r\n0\r\n\r\n",
        "5\r\nabcde0\r\n\r\n",
        "5\r\nabcdeXX0\r\n\r\n",
        "\r\nabcde\r\n0\r\n\r\n",
        "5_0\r\nabcde\r\n0\r\n\r\n",
        "5\t\r\nabcde\r\n0\r\n\r\n",
        "5\r\nabcde\r\n00\r\n\r\n",
        "5\r\nabcde\r\n0;x\r\n\r\n",
        "5\r\nabcde\r\n0\r\nContent-Length: 99\r\n\r\n",
        "5\r\nabcde\r\n0\r\nHost: evil.example\r\n\r\n",
        "5\r\nabcde\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nabcde\r\n0\r\nX: y\n\n",
        "5\r\nabcde\r\n0\n\r\n",
        "0\r\n\r\n",
        "0\r\nGET /smuggled HTTP/1.1\r\nX: ",
        "5\x0b\r\nabcde\r\n0\r\n\r\n",
        "5\0\r\nabcde\r\n0\r\n\r\n",
        "\u{ff15}\r\nabcde\r\n0\r\n\r\n",
        "5;\u{1f}\r\nabcde\r\n0\r\n\r\n",
        "fffffffe\r\nabcde\r\n0\r\n\r\n",
    ]
    .map(|body| format!("{body}{SMUGGLED}"))
    .to_vec();
    let numbered = bodies.into_iter().enumerate();
    numbered
        .map(|(n, body)| named("chunk", n, body.as_bytes(), post(b"Transfer-Encoding: chunked\r\n", body.as_bytes())))
        .collect()
}

/// Request lines.
fn lines() -> Vec<(String, Vec<u8>)> {
    let lines: Vec<Vec<u8>> = [
        "GET  /ok/ HTTP/1.1",
        "GET\t/ok/\tHTTP/1.1",
        "GET /ok/ HTTP/1.1 x",
        "GET /ok/ x HTTP/1.1",
        "GET /ok/",
        "GET /ok/ HTTP/2.0",
        "GET /ok/ HTTP/1.2",
        "GET /ok/ http/1.1",
        "GET /ok/ HTTP/1.0",
        "GET /ok/ HTTP/0.9",
        "GET /ok/ HTTP/11",
        "GET /ok/%0d%0aX:%20y HTTP/1.1",
        "GET /ok/\rX HTTP/1.1",
        "GET /ok/\nX HTTP/1.1",
        "GET /ok/\0 HTTP/1.1",
        "GET http://evil.example/ok/ HTTP/1.1",
        "GET http://api.example/smuggled HTTP/1.1",
        "GET * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET api.example:80 HTTP/1.1",
        "CONNECT evil.example:443 HTTP/1.1",
        "get /ok/ HTTP/1.1",
        "G\0ET /ok/ HTTP/1.1",
        " GET /ok/ HTTP/1.1",
        "\r\n\r\nGET /ok/ HTTP/1.1",
        "\nGET /ok/ HTTP/1.1",
        "GET /ok/#/../smuggled HTTP/1.1",
        "GET /ok/../smuggled HTTP/1.1",
        "GET /ok/..%2fsmuggled HTTP/1.1",
        "GET /ok/%2e%2e/smuggled HTTP/1.1",
        "GET /ok/..;/smuggled HTTP/1.1",
        "GET //smuggled HTTP/1.1",
        "GET /ok/..\\smuggled HTTP/1.1",
        "GET /ok//../../smuggled HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /ok/?a b HTTP/1.1",
        "TRACE /ok/ HTTP/1.1",
        "PRI * HTTP/2.0",
    ]
    .iter()
    .map(|line| line.as_bytes().to_vec())
    .chain([b"GET /ok/\xff\xfe HTTP/1.1".to_vec(), [b"G".repeat(70_000), b" /ok/ HTTP/1.1".to_vec()].concat()])
    .collect();
    let numbered = lines.into_iter().enumerate();
    let request = |line: &[u8]| [line, format!("\r\nHost: {HOST}\r\n\r\n{SMUGGLED}").as_bytes()].concat();
    numbered.map(|(n, line)| named("line", n, &line[..line.len().min(60)], request(&line))).collect()
}

/// Fields that move a border, hide one, or speak to the next hop.
fn fields() -> Vec<(String, Vec<u8>)> {
    let fields = [
        "no colon\r\n",
        ": x\r\n",
        "X\0: y\r\n",
        "X: y\0z\r\n",
        "X: y\rz\r\n",
        "X: y\nGET /smuggled HTTP/1.1\r\n",
        "X: y\r\n z\r\n",
        "X: y\r\n\tz\r\n",
        "Host: evil.example\r\n",
        "Host: api.example\r\n",
        "Expect: 100-continue\r\nContent-Length: 5\r\n",
        "Expect: 100-continue\r\nContent-Length: 0\r\n",
        "Expect: x\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Upgrade: foo\r\nConnection: Upgrade\r\n",
        "Connection: Host\r\n",
        "Connection: keep-alive, X-Real\r\nX-Real: 1\r\n",
        "Keep-Alive: 1\r\nConnection: Keep-Alive\r\n",
        "Trailer: Host\r\n",
        "Content-Encoding: chunked\r\n",
        "X-Original-URL: /smuggled\r\n",
        "X-HTTP-Method-Override: DELETE\r\n",
        "X-Forwarded-Host: evil.example\r\n",
        "Range: bytes=0-18446744073709551615\r\n",
    ];
    let numbered = fields.into_iter().enumerate();
    let get = |field: &str| format!("GET /ok/g HTTP/1.1\r\nHost: {HOST}\r\n{field}\r\n{SMUGGLED}").into_bytes();
    let mut out: Vec<_> = numbered.map(|(n, field)| named("field", n, field.as_bytes(), get(field))).collect();
    let bare = format!("GET /ok/lf HTTP/1.1\nHost: {HOST}\n\n{SMUGGLED}").into_bytes();
    out.push(("bare line feeds".into(), bare));
    let none = format!("GET /ok/none HTTP/1.1\r\n\r\n{SMUGGLED}").into_bytes();
    out.push(("no Host".into(), none));
    let body = format!("GET /ok/get HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    out.push(("a GET with a body that looks like a request".into(), body.into_bytes()));
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    out.push(("more fields than anybody reads".into(), get(&many)));
    out.push(("a field longer than anybody reads".into(), get(&format!("X: {}\r\n", "y".repeat(70_000)))));
    out
}

/// Pieces that are put in somewhere.
const PIECES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "0",
    "5",
    "chunked",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: api.example\r\n\r\n",
    "0\r\n\r\n",
    "\r\n\r\n",
    "HTTP/1.1",
    "HTTP/1.0",
    "Host: evil.example\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "../",
    "%0d%0a",
    "\u{a0}",
    "\x0b",
    "ffffffffffffffff",
    "x",
    "POST /ok/m HTTP/1.1\r\n",
];

/// Forms with a few changes each. The same seed gives the same ones.
pub struct Mutations {
    state: u64,
    forms: Vec<Vec<u8>>,
}

impl Mutations {
    pub fn new(seed: u64) -> Mutations {
        // Long ones would spend the time on copying.
        let short = all().into_iter().map(|(_, bytes)| bytes).filter(|bytes| bytes.len() < 2_000);
        // Ordinary ones often, so that much is let through.
        let forms = short.chain(ordinary().into_iter().cycle().take(80)).collect();
        Mutations { state: seed | 1, forms }
    }

    /// xorshift64* (Vigna 2016).
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    /// One, and where it is cut in two when it is sent.
    pub fn next(&mut self) -> (Vec<u8>, Option<usize>) {
        let (count, one, other) = (self.forms.len(), self.below(usize::MAX), self.below(usize::MAX));
        let mut bytes = self.forms[one % count].clone();
        if self.below(3) == 0 {
            bytes.extend_from_slice(&self.forms[other % count]);
        }
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 => {
                    let piece = PIECES[self.below(PIECES.len())];
                    bytes.splice(at..at, piece.bytes());
                }
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => {
                    let end = (at + self.below(12)).min(bytes.len());
                    bytes.drain(at..end);
                }
                3 => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let copied = bytes[at..end].to_vec();
                    bytes.splice(at..at, copied);
                }
                _ => {
                    let ends = bytes.windows(2).enumerate().skip(at).find(|(_, two)| *two == b"\r\n").map(|(n, _)| n);
                    if let Some(end) = ends {
                        bytes.remove(end);
                    }
                }
            }
        }
        let cut = (self.below(2) == 0).then(|| self.below(bytes.len() + 1));
        (bytes, cut)
    }
}
