//! What everything is measured against: a TLS server that reads a body and answers with a fixed one.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{Failure, content, tls};

/// Serves until standard input ends.
pub fn run(directory: &Path) -> Result<(), Failure> {
    tls::make_certificates(directory)?;
    let acceptor = tls::acceptor(directory)?;
    let (small, large) = (content::json(content::SMALL_BYTES), content::json(content::LARGE_BYTES));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, small, large) = (acceptor.clone(), small.clone(), large.clone());
                tokio::spawn(async move {
                    // A client that goes away is no failure of the bench; a failed request is counted where it is made.
                    let _ = stream.set_nodelay(true);
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, small.clone(), large.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        until_input_ends().await
    })
}

async fn answer(request: Request<Incoming>, small: Bytes, large: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = if request.uri().path() == "/large" { large } else { small };
    let mut incoming = request.into_body();
    while let Some(Ok(_)) = incoming.frame().await {}
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Returns when whoever started this program closes its standard input.
pub async fn until_input_ends() -> Result<(), Failure> {
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    // A thread that reads standard input would hold the runtime's end up.
    std::process::exit(0)
}
