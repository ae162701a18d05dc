//! Exchanges of bytes that no well-behaved client would send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::{ANSWER_BYTES_MAX, Failure, Hello, Report, ServerNameField, World, client_config};

/// Largest datagram that is read, in bytes.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// How fast bytes go, and how long is waited for more.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub pause: Duration,
    pub quiet: Duration,
}

pub(super) async fn exchange(
    address: SocketAddr,
    hello: Option<Hello>,
    pieces: Vec<Vec<u8>>,
    pace: Pace,
    world: &World,
) -> Result<Report, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(hello) = hello else { return swap(stream, pieces, pace).await };
    let mut config = client_config(world)?;
    config.enable_sni = hello.server_name == ServerNameField::Sent;
    config.alpn_protocols = hello.alpn.into_iter().map(String::into_bytes).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    swap(connector.connect(ServerName::try_from(hello.name)?, stream).await?, pieces, pace).await
}

/// Writes and reads at the same time: whoever is refused in the middle may stop reading.
async fn swap<S>(stream: S, pieces: Vec<Vec<u8>>, pace: Pace) -> Result<Report, Failure>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let write = async {
        for (number, piece) in pieces.iter().enumerate() {
            if number > 0 && !pace.pause.is_zero() {
                sleep(pace.pause).await;
            }
            writer.write_all(piece).await?;
            writer.flush().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let (written, received) = tokio::join!(write, read_all(reader, pace));
    let body = String::from_utf8_lossy(&received).into_owned();
    // A connection that was closed before the last piece is an answer, not a failure.
    let error = written.err().map(|error| format!("while writing: {error}"));
    Ok(Report { bytes: received, body, error, ..Report::default() })
}

async fn read_all(mut reader: impl AsyncRead + Unpin, pace: Pace) -> Vec<u8> {
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    // While pieces are still being written, silence is not the end.
    while received.len() < ANSWER_BYTES_MAX {
        match timeout(pace.quiet + pace.pause, reader.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => received.extend_from_slice(&buffer[..count]),
            Ok(Ok(_) | Err(_)) | Err(_) => break,
        }
    }
    received
}

pub(super) async fn datagram(address: SocketAddr, send: &[u8], wait: Duration) -> Result<Report, Failure> {
    let local: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = UdpSocket::bind(local).await?;
    socket.connect(address).await?;
    socket.send(send).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    match timeout(wait, socket.recv(&mut buffer)).await {
        Ok(count) => {
            buffer.truncate(count?);
            Ok(Report { bytes: buffer, ..Report::default() })
        }
        Err(_) => Err("no datagram came back".into()),
    }
}
