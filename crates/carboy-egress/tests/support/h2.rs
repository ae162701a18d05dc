//! HTTP/2 frame by frame (RFC 9113), for clients and servers that do what no library does.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Bench, HOST, client_config};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub type Tls = tokio_rustls::client::TlsStream<TcpStream>;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field that is not put into the table (RFC 7541, 6.2.2); names and values below 127 octets.
pub fn field(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value].concat()
}

/// The fields of a GET of [`HOST`].
pub fn head(path: impl AsRef<[u8]>) -> Vec<u8> {
    [field(":method", "GET"), field(":scheme", "https"), field(":authority", HOST), field(":path", path)].concat()
}

/// The n-th stream of a client.
pub fn stream(n: usize) -> u32 {
    (2 * n as u32 + 1) & 0x7fff_ffff
}

/// A client of [`HOST`] port 443 that has greeted.
pub async fn connect(bench: &Bench) -> Tls {
    let tcp = TcpStream::connect(bench.listen(HOST, 443).await).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&bench.ca_pem, &["h2"])));
    let mut tls = connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    tls.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    tls
}
