//! Requests that carry a signature of AWS (Signature Version 4, its streaming and presigned forms, and 4A).
//!
//! A signature covers host, path, query, fields and as a rule the body: nothing can be set or overwritten in such a request
//! without making it void, and the key that made it stands in the bottle, where none belongs. *Must never* pass one on
//! that could change something (B43).

use carboy_core::verdict::{Denial, Reason};
use http::request;
use http::{Method, header};

use crate::inject::percent_decoded;

/// How the schemes of AWS begin: `AWS4-HMAC-SHA256`, `AWS4-ECDSA-P256-SHA256`; `AWS KEY:SIGNATURE` is version 2.
const SCHEMES: [&[u8]; 2] = [b"aws4-", b"aws "];
/// Parameters that a presigned request carries, in lower case.
const PARAMETERS: [&str; 5] =
    ["x-amz-signature", "x-amz-credential", "x-amz-algorithm", "awsaccesskeyid", "x-amz-security-token"];

/// Refuses a request that is signed. A presigned download is let through: its signature was made by whoever published it,
/// which is how release assets and layers of images are fetched.
pub(crate) fn refuse(head: &request::Parts) -> Result<(), Denial> {
    let refused = |what: &str| Err(Denial::new(Reason::SignedRequest, what.to_owned()));
    for value in head.headers.get_all(header::AUTHORIZATION) {
        let value = value.as_bytes().trim_ascii_start().to_ascii_lowercase();
        if SCHEMES.iter().any(|scheme| value.starts_with(scheme)) {
            return refused("an AWS signature in `authorization`");
        }
    }
    let streaming = |value: &http::HeaderValue| value.as_bytes().to_ascii_uppercase().starts_with(b"STREAMING-");
    if head.headers.get_all("x-amz-content-sha256").iter().any(streaming) {
        return refused("an AWS signature in the pieces of the body");
    }
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let presigned = head.uri.query().unwrap_or_default().split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = String::from_utf8_lossy(&percent_decoded(name.as_bytes())).to_ascii_lowercase();
        PARAMETERS.contains(&name.as_str())
    });
    if presigned && !reads {
        return refused("a presigned request that writes");
    }
    Ok(())
}
