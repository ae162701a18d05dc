//! The least that a proxy between two TLS connections can do: hyper on both sides, bodies passed on as they come, one
//! upstream connection for each of the client's. No routes, no scanning, no log.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Failure, tls, upstream};

/// Serves until standard input ends.
pub fn run(directory: &Path, to: SocketAddr) -> Result<(), Failure> {
    let acceptor = tls::acceptor(directory)?;
    let connector = tls::connector(Some(&directory.join("ca.pem")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, acceptor, connector, to).await {
                        eprintln!("bare: {error}");
                    }
                });
            }
        });
        upstream::until_input_ends().await
    })
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    to: SocketAddr,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let inside = acceptor.accept(stream).await?;
    let outside = TcpStream::connect(to).await?;
    outside.set_nodelay(true)?;
    let outside = connector.connect(ServerName::try_from("localhost")?, outside).await?;
    let (sender, driver) = hyper::client::conn::http1::handshake::<_, Incoming>(TokioIo::new(outside)).await?;
    tokio::spawn(driver);
    // HTTP/1.1 asks one thing at a time, so nobody ever waits for this.
    let sender = Arc::new(Mutex::new(sender));
    let service = service_fn(move |request| {
        let sender = sender.clone();
        async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            let response: Response<Incoming> = sender.send_request(request).await?;
            Ok::<_, hyper::Error>(response)
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(inside), service).await?;
    Ok(())
}
