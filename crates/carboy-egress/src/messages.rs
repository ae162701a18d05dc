//! Bodies whose messages may have a coding of their own below HTTP's: gRPC, gRPC-Web and Connect.
//!
//! What is packed within a message is read by no scanner, while its server unpacks it (B35). So messages go plain in both
//! directions: a packed one is refused, and an upstream is asked for none. Every server of these protocols takes plain
//! messages, and their clients send them unless their program says otherwise. *Must never* let a message pass that its
//! field says is packed.

use carboy_core::verdict::{Denial, Reason};
use http::header::{HeaderMap, HeaderValue};

/// Say how the messages of this body are packed.
const PACKED: [&str; 2] = ["grpc-encoding", "connect-content-encoding"];
/// Say how those of the other side may be.
const ACCEPTED: [&str; 2] = ["grpc-accept-encoding", "connect-accept-encoding"];
/// Not at all.
const PLAIN: &str = "identity";

/// Takes a request whose messages are plain, and has it ask for the same.
pub(crate) fn settle(headers: &mut HeaderMap) -> Result<(), Denial> {
    if let Some(field) = packed(headers) {
        let detail = format!("{field}: messages within the body are packed; they have to be sent plain");
        return Err(Denial::new(Reason::BodyUndecodable, detail));
    }
    for name in ACCEPTED {
        if let Some(value) = headers.get_mut(name) {
            *value = HeaderValue::from_static(PLAIN);
        }
    }
    Ok(())
}

/// Takes an answer whose messages are plain.
pub(crate) fn judge_answer(headers: &HeaderMap) -> Result<(), Denial> {
    match packed(headers) {
        Some(field) => {
            let detail = format!("{field}: it packed messages that were asked for plain");
            Err(Denial::new(Reason::UpstreamFailed, detail))
        }
        None => Ok(()),
    }
}

fn packed(headers: &HeaderMap) -> Option<&'static str> {
    let plain = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(PLAIN.as_bytes());
    PACKED.into_iter().find(|name| headers.get_all(*name).iter().any(|value| !plain(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn b35_messages_are_plain_or_refused_and_asked_for_plain() {
        for (fields, plain) in [
            (&[("content-type", "application/grpc")][..], true),
            (&[("grpc-encoding", "identity")], true),
            (&[("grpc-encoding", " Identity ")], true),
            (&[("grpc-encoding", "gzip")], false),
            (&[("grpc-encoding", "identity"), ("grpc-encoding", "gzip")], false),
            (&[("grpc-encoding", "identity, gzip")], false),
            (&[("grpc-encoding", "")], false),
            (&[("connect-content-encoding", "br")], false),
        ] {
            let given = headers(fields);
            assert_eq!(settle(&mut given.clone()).is_ok(), plain, "{fields:?}");
            assert_eq!(judge_answer(&given).is_ok(), plain, "{fields:?}");
        }
        let mut asks = headers(&[("grpc-accept-encoding", "identity, deflate, gzip"), ("x", "gzip")]);
        settle(&mut asks).unwrap();
        assert_eq!(asks, headers(&[("grpc-accept-encoding", "identity"), ("x", "gzip")]));
    }
}
