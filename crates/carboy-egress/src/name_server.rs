//! DNS served to the bottle, over datagrams and over TCP.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::ports::{AuditError, DatagramPort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use carboy_core::ids::RefusalId;
use carboy_core::verdict::{Denial, Reason};

use crate::alert::finding_words;
use crate::dns::Refusal;
use crate::gateway::{Gateway, refusal_id};
use crate::listener::is_closed;
use crate::repeats::Note;

/// Largest datagram that is read; RFC 1035 names and EDNS options need far less.
const DATAGRAM_BYTES_MAX: usize = 4096;
/// Pause after an error of the port.
const PORT_PAUSE: Duration = Duration::from_millis(50);

impl Gateway {
    /// Answers the bottle's DNS queries until the port fails for good. Run it as its own task.
    pub async fn serve_dns_udp(self: &Arc<Self>, port: Arc<dyn DatagramPort>) {
        let mut buffer = vec![0_u8; DATAGRAM_BYTES_MAX];
        loop {
            let (length, peer, local) = match port.receive(&mut buffer).await {
                Ok(got) => got,
                Err(error) if is_closed(&error) => return,
                Err(_) => {
                    sleep(PORT_PAUSE).await;
                    continue;
                }
            };
            // With all places taken the query is dropped; resolvers ask again.
            let Ok(one) = self.dns_pending.clone().try_acquire_owned() else { continue };
            let reply = self.answer_dns(&buffer[..length]);
            let Some(refusal) = reply.refusal.clone() else {
                respond(&*port, reply.bytes(None), peer, local).await;
                continue;
            };
            // The refusal is written down before it is told; others need not wait for that.
            let (gateway, port) = (self.clone(), port.clone());
            tokio::spawn(async move {
                if let Ok(id) = gateway.write_dns_refusal(refusal).await {
                    respond(&*port, reply.bytes(id.as_ref()), peer, local).await;
                }
                drop(one);
            });
        }
    }

    /// The id under which the refusal is in the log; without a log there is no answer either.
    async fn write_dns_refusal(&self, refusal: Refusal) -> Result<Option<RefusalId>, AuditError> {
        let Refusal { denial, name, kind, findings } = refusal;
        let fresh = refusal_id();
        let (id, repeats) = match self.note(&format!("dns {name} {}", denial.reason), &fresh) {
            Note::Write { repeats } => (Some(fresh), Some(repeats)),
            Note::Counted { under } => (under, None),
        };
        self.count(|stats| {
            match &id {
                Some(id) => stats.refuse(&denial, &name, None, id),
                None => stats.refuse_again(denial.reason),
            }
            stats.found(&findings);
        });
        let (Some(id), Some(repeats)) = (id.clone(), repeats) else { return Ok(id) };
        self.alert(&denial, &name, None, &id);
        let mut event = Event::new(EventType::Dns, self.subject.clone(), "dns_query", Outcome::Denied)
            .with("name", name)
            .with("type", kind)
            .with("reason", denial.reason.code())
            .with("refusal", id.as_str());
        if !findings.is_empty() {
            event = event.with("findings", findings.iter().map(finding_words).collect::<Vec<_>>());
        }
        if repeats > 0 {
            event = event.with("repeats", repeats);
        }
        self.audit.append_durable(event).await.map(|()| Some(id))
    }
}

/// A question that nobody reads is refused like any other that is not answered.
async fn too_long(gateway: &Gateway, length: u16) {
    let most = gateway.limits.dns_query_bytes_max;
    let denial = Denial::new(Reason::DnsQueryRefused, format!("a query of {length} bytes over TCP; at most {most}"));
    let name = "(too long)".to_owned();
    let refusal = Refusal { denial, name, kind: String::new(), findings: Vec::new() };
    // The connection is closed without a byte either way.
    let _ = gateway.write_dns_refusal(refusal).await;
}

async fn respond(port: &dyn DatagramPort, bytes: Option<Vec<u8>>, peer: SocketAddr, local: IpAddr) {
    if let Some(bytes) = bytes {
        // A lost datagram is asked for again.
        let _ = port.send(&bytes, peer, local).await;
    }
}

/// DNS over TCP (RFC 7766): queries behind a two-byte length, one after the other.
pub(crate) async fn serve_stream(gateway: &Arc<Gateway>, mut stream: TcpStream) {
    let limits = gateway.limits.clone();
    let mut query = vec![0_u8; limits.dns_query_bytes_max];
    loop {
        let Ok(Ok(length)) = timeout(limits.first_byte, stream.read_u16()).await else { return };
        let Some(query) = query.get_mut(..usize::from(length)) else { return too_long(gateway, length).await };
        let Ok(Ok(_)) = timeout(limits.first_byte, stream.read_exact(query)).await else { return };
        let reply = gateway.answer_dns(query);
        let id = match reply.refusal.clone() {
            Some(refusal) => match gateway.write_dns_refusal(refusal).await {
                Ok(id) => id,
                Err(AuditError(_)) => return,
            },
            None => None,
        };
        let Some(bytes) = reply.bytes(id.as_ref()) else { return };
        let Ok(length) = u16::try_from(bytes.len()) else { return };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let Ok(Ok(())) = timeout(limits.first_byte, stream.write_all(&framed)).await else { return };
    }
}
