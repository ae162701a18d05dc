//! What a client reads a refusal in, as far as its request says.
//!
//! *Must never* decide anything by it but the words of a refusal.

use carboy_wire::format::WireFormat;
use http::{Request, Version, header};

/// What the head of a request says about its client.
#[derive(Clone)]
pub(crate) struct ClientForm {
    accept: Option<String>,
    /// It is a call of gRPC.
    grpc: bool,
}

/// In what form a client reads a refusal.
pub(crate) enum Speaks<'a> {
    /// A body in a model's format or none, by this `Accept`.
    Http(Option<WireFormat>, Option<&'a str>),
    /// A status in trailers.
    Grpc,
}

impl ClientForm {
    pub(crate) fn of<B>(request: &Request<B>) -> ClientForm {
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        ClientForm { accept: accept.map(str::to_owned), grpc: is_grpc(request) }
    }

    /// With the format that its host or its route has.
    pub(crate) fn speaks(&self, format: Option<WireFormat>) -> Speaks<'_> {
        match self.grpc {
            true => Speaks::Grpc,
            false => Speaks::Http(format, self.accept.as_deref()),
        }
    }
}

/// gRPC exists over HTTP/2 alone; gRPC-Web is something else.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let rest = kind.strip_prefix(b"application/grpc");
    request.version() == Version::HTTP_2 && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
