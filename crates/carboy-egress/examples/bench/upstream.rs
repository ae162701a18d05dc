//! What everything is measured against: a TLS server that reads a body and answers with a fixed one.
//!
//! A line `streams` on its input is answered with one line of JSON: the streams that ended since the last one.

use std::convert::Infallible;
use std::io::BufRead;
use std::path::Path;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::model::{self, Events, Streams, Wanted};
use crate::{Failure, content, tls};

/// What is answered where no model is asked for.
#[derive(Clone)]
struct Pages {
    small: Bytes,
    large: Bytes,
    streams: Streams,
}

/// Serves until standard input ends.
pub fn run(directory: &Path) -> Result<(), Failure> {
    tls::make_certificates(directory)?;
    let acceptor = tls::acceptor(directory)?;
    let streams = Streams::default();
    let pages = Pages {
        small: content::json(content::SMALL_BYTES),
        large: content::json(content::LARGE_BYTES),
        streams: streams.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, pages) = (acceptor.clone(), pages.clone());
                tokio::spawn(async move {
                    // A client that goes away is no failure of the bench; a failed request is counted where it is made.
                    let _ = stream.set_nodelay(true);
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, pages.clone()));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        tokio::task::spawn_blocking(move || tell(&streams)).await?
    })
}

type Answer = Response<Either<Full<Bytes>, Events>>;

async fn answer(request: Request<Incoming>, pages: Pages) -> Result<Answer, Infallible> {
    let (head, mut incoming) = request.into_parts();
    while let Some(Ok(_)) = incoming.frame().await {}
    let mut kind = "application/json";
    let body = match head.uri.path() {
        model::METERED | model::UNMETERED => {
            let wanted = Wanted::of(&head.headers);
            match wanted.events {
                None => Either::Left(Full::new(model::whole(wanted))),
                Some(events) => {
                    kind = "text/event-stream";
                    Either::Right(Events::new(wanted, events, pages.streams))
                }
            }
        }
        "/large" => Either::Left(Full::new(pages.large)),
        _ => Either::Left(Full::new(pages.small)),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// Answers lines until the input ends.
fn tell(streams: &Streams) -> Result<(), Failure> {
    for line in std::io::stdin().lock().lines() {
        if line? == "streams" {
            let ended = std::mem::take(&mut *streams.lock().expect("no panic under this lock"));
            let each = |seen: &model::Seen| {
                serde_json::json!({
                    "events": seen.events, "last_us": seen.last_us, "ended_us": seen.ended_us, "whole": seen.whole
                })
            };
            println!("{}", serde_json::Value::from(ended.iter().map(each).collect::<Vec<_>>()));
        }
    }
    std::process::exit(0)
}

/// Returns when whoever started this program closes its standard input.
pub async fn until_input_ends() -> Result<(), Failure> {
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    // A thread that reads standard input would hold the runtime's end up.
    std::process::exit(0)
}
