//! TLS from the bottle: read the ClientHello, compare the names, ask the origin which protocol it wants, and finish
//! the handshake with a leaf for the name that the client expects.
//!
//! A host that is not permitted gets its handshake too, so that its client can read the refusal, but is never dialled.

use std::io;
use std::sync::Arc;

use carboy_core::host::Host;
use carboy_core::verdict::{Denial, Reason};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;

use crate::alpn::{Alpn, Offer};
use crate::connection::Flow;
use crate::gateway::Gateway;
use crate::linger::Lingering;
use crate::upstream::{Pool, Security};

/// What the ClientHello said.
struct Hello {
    server_name: Option<String>,
    offer: Offer,
}

/// Serves one TLS connection that was opened to `host` and `port`.
pub(crate) async fn intercept<S>(gateway: Arc<Gateway>, stream: S, host: Host, port: u16)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let deadline = Instant::now() + gateway.limits.handshake;
    // rustls puts records together again and bounds a hello at 64 KiB (B14).
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), Lingering::new(stream));
    let start = match timeout_at(deadline, acceptor).await {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return broken_off(&gateway, &host, port, "no ClientHello", &error).await,
        Err(_) => return refuse(&gateway, &host, port, "the ClientHello did not arrive in time").await,
    };
    let hello = {
        let hello = start.client_hello();
        Hello {
            server_name: hello.server_name().map(str::to_owned),
            offer: hello.alpn().map(Offer::of).unwrap_or_default(),
        }
    };
    let pool = Pool::new(Security::Tls, hello.offer);
    let (shown, flaw) = compare(&gateway, &host, port, &hello);
    let alpn = choose(&gateway, &host, port, &hello, &pool, flaw.is_some()).await;
    let config = match gateway.leaves.config(&shown, alpn, gateway.clock.now_ms()) {
        Ok(config) => config,
        Err(error) => return refuse(&gateway, &host, port, &error.to_string()).await,
    };
    // A slow origin has used up the deadline by now; the client gets its own time for the rest.
    let deadline = Instant::now() + gateway.limits.handshake;
    match timeout_at(deadline, start.into_stream(config)).await {
        Ok(Ok(stream)) => {
            let flow = Flow::new(gateway, host, port, pool, flaw);
            flow.serve(stream, alpn).await;
        }
        Ok(Err(error)) => {
            broken_off(&gateway, &host, port, "the client broke the handshake off", &error).await;
        }
        Err(_) => refuse(&gateway, &host, port, "the client did not finish the handshake in time").await,
    }
}

/// The name to show a certificate for, and what is wrong with the names. A host that is not permitted is refused for
/// that, whatever its client calls it.
fn compare(gateway: &Gateway, host: &Host, port: u16, hello: &Hello) -> (Host, Option<Denial>) {
    let Some(text) = &hello.server_name else { return (host.clone(), None) };
    let said = Host::parse(text).ok();
    if said.as_ref() == Some(host) {
        return (host.clone(), None);
    }
    let permitted = gateway.routes_now().is_ok_and(|routes| routes.host_permit(host, port).into_result().is_ok());
    let flaw = permitted.then(|| {
        let said = said.as_ref().map_or_else(|| "no valid name".to_owned(), Host::to_string);
        Denial::new(Reason::NameMismatch, format!("connected to {host} port {port}, TLS server name {said}"))
    });
    (said.unwrap_or_else(|| host.clone()), flaw)
}

/// The protocol to agree on with the client: what the origin chooses, asked now or lately; for hosts that are not
/// dialled, the best that the client offered.
async fn choose(
    gateway: &Arc<Gateway>,
    host: &Host,
    port: u16,
    hello: &Hello,
    pool: &Arc<Pool>,
    flawed: bool,
) -> Option<Alpn> {
    let permit = gateway.routes_now().and_then(|routes| {
        let permit = routes.host_permit(host, port).into_result()?;
        gateway.name_counted(host, &routes)?; // before anybody outside is asked for it
        Ok(permit)
    });
    let (Ok(permit), false) = (permit, flawed) else { return hello.offer.best() };
    if let Some(choice) = gateway.dialer.alpn.recall(host, port, hello.offer) {
        // The handshakes of both sides run at the same time.
        let (gateway, pool) = (gateway.clone(), pool.clone());
        tokio::spawn(async move { pool.prepare(&gateway.dialer, &permit).await });
        return choice;
    }
    pool.prepare(&gateway.dialer, &permit).await.unwrap_or_else(|| hello.offer.best())
}

/// A handshake that failed. A client that just goes away (it lost a race between addresses, or was stopped) has not
/// been refused anything, unless its host is.
async fn broken_off(gateway: &Gateway, host: &Host, port: u16, stage: &str, error: &io::Error) {
    let gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    let permitted = gateway.routes_now().is_ok_and(|routes| routes.host_permit(host, port).into_result().is_ok());
    if !(permitted && gone.contains(&error.kind())) {
        refuse(gateway, host, port, &format!("{stage}: {error}")).await;
    }
}

/// A connection on which no request can be read. Whoever was not allowed to connect is refused for that.
async fn refuse(gateway: &Gateway, host: &Host, port: u16, why: &str) {
    let permit = gateway.routes_now().and_then(|routes| routes.host_permit(host, port).into_result());
    let denial = permit.err().unwrap_or_else(|| Denial::new(Reason::TlsRefused, why.to_owned()));
    gateway.refuse_connection(host, port, denial).await;
}
