//! The messages of OpenAI's Responses over a WebSocket: what a client's asks for, and what the server's says of a response.
//!
//! ```text
//! {"type":"response.create", …the request's members…}   ──▶ Asks::Create   held, bounded, metered
//! {"type":"response.completed","response":{…}}           ──▶ Says::Ends     settled
//! ```
//!
//! *Must never* take a message that starts a response for one that does not, or read one way what the server may read
//! another way.

use std::ops::Range;

use crate::json::{Hear, PREFIX_BYTES_MAX, Scalar, Scanner};

/// What a client's message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A response.
    Create,
    /// Nothing that costs: to end one, or to note that one arrived.
    Nothing,
}

/// Why a client's message does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPassed {
    /// It is no JSON map, or its `type` is missing, not a text, or there twice.
    #[error("a message is one JSON object with one `type`")]
    Malformed,
    /// The members of the request are not where they are bounded.
    #[error("`response.create` has its request in `response`; put its members beside `type`")]
    Nested,
    /// A kind that may cost, or that nobody here knows.
    #[error("messages of the type `{0}` are not metered; send `response.create`")]
    Unknown(String),
}

/// What a server's message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Of the response.
    pub says: Says,
    /// Its name, as far as it has 64 octets.
    pub response: Option<String>,
    /// It is a part of a response that a model is at.
    pub flows: bool,
    /// An error that is no judgement of a message: a limit, a credential, a server that is not well.
    pub elsewhere: bool,
}

/// What becomes of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It goes on.
    GoesOn,
    /// This was all of it.
    Ends,
    /// The request was not taken, or the response failed without an end of its own.
    Error,
}

#[derive(Default)]
struct Root {
    kinds: u32,
    kind: Option<String>,
    has_response: bool,
    response: Option<String>,
    status: Option<u64>,
}

impl Hear for Root {
    fn scalar(&mut self, path: &str, value: Scalar<'_>, _: Range<usize>) {
        match (path, value) {
            ("type", Scalar::Text(kind, bytes)) if bytes <= PREFIX_BYTES_MAX as u64 => {
                self.kind = Some(kind.to_owned())
            }
            ("response.id", Scalar::Text(id, bytes)) if bytes <= PREFIX_BYTES_MAX as u64 => {
                self.response = Some(id.to_owned());
            }
            ("status" | "status_code", Scalar::Number(status)) => self.status = status.parse().ok(),
            (_, Scalar::Text(..) | Scalar::Number(_) | Scalar::Flag(_) | Scalar::Null) => {}
        }
    }

    fn key(&mut self, path: &str) {
        self.kinds += u32::from(path == "type");
        self.has_response |= path == "response";
    }
}

/// Reads a client's message.
pub fn asks(message: &[u8]) -> Result<Asks, NotPassed> {
    let root = read(message).ok_or(NotPassed::Malformed)?;
    match (root.kind.as_deref(), root.kinds) {
        (Some("response.create"), 1) if root.has_response => Err(NotPassed::Nested),
        (Some("response.create"), 1) => Ok(Asks::Create),
        (Some("response.cancel" | "response.processed"), 1) => Ok(Asks::Nothing),
        (Some(other), 1) => Err(NotPassed::Unknown(other.chars().map(crate::denial::visible).collect())),
        (Some(_) | None, _) => Err(NotPassed::Malformed),
    }
}

/// Reads a server's message.
pub fn said(message: &[u8]) -> Said {
    let root = read(message).unwrap_or_default();
    let says = match root.kind.as_deref() {
        Some("response.completed" | "response.incomplete" | "response.failed" | "response.cancelled") => Says::Ends,
        Some("error") => Says::Error,
        Some(_) | None => Says::GoesOn,
    };
    let flows = root.kind.as_deref().and_then(|kind| kind.strip_prefix("response.")).is_some_and(|part| {
        ["created", "in_progress", "queued"].contains(&part)
            || part.ends_with(".delta")
            || part.starts_with("output_item.")
            || part.starts_with("content_part.")
    });
    let elsewhere = root.status.is_some_and(|status| matches!(status, 401..=403 | 429 | 500..));
    Said { says, response: root.response, flows, elsewhere }
}

fn read(message: &[u8]) -> Option<Root> {
    let (mut root, mut scanner) = (Root::default(), Scanner::new());
    scanner.feed(message, &mut root);
    scanner.is_complete().then_some(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_a_response_is_told_from_what_does_not() {
        for (message, want) in [
            (r#"{"type":"response.create","model":"m"}"#, Ok(Asks::Create)),
            (r#"{"model":"m","t\u0079pe":"response.create"}"#, Ok(Asks::Create)),
            (r#"{"type":"response.processed","response_id":"r"}"#, Ok(Asks::Nothing)),
            (r#"{"type":"response.cancel"}"#, Ok(Asks::Nothing)),
            (r#"{"type":"response.steer"}"#, Err(NotPassed::Unknown("response.steer".into()))),
            (r#"{"type":"response.create","response":{"model":"m"}}"#, Err(NotPassed::Nested)),
            (r#"{"type":"response.cancel","type":"response.create"}"#, Err(NotPassed::Malformed)),
            (r#"{"type":"response.cancel","t\u0079pe":"response.create"}"#, Err(NotPassed::Malformed)),
            (r#"{"type":null}"#, Err(NotPassed::Malformed)),
            (r#"{"input":{"type":"response.cancel"}}"#, Err(NotPassed::Malformed)),
            (r#"[{"type":"response.cancel"}]"#, Err(NotPassed::Malformed)),
            (r#"{"type":"response.cancel"}{"type":"response.create"}"#, Err(NotPassed::Malformed)),
            ("", Err(NotPassed::Malformed)),
        ] {
            assert_eq!(asks(message.as_bytes()), want, "{message}");
        }
    }

    #[test]
    fn a_servers_message_says_what_becomes_of_the_response() {
        let goes_on = said(br#"{"type":"response.created","response":{"id":"resp_1"}}"#);
        let want = Said { says: Says::GoesOn, response: Some("resp_1".into()), flows: true, elsewhere: false };
        assert_eq!(goes_on, want);
        assert!(!said(br#"{"type":"codex.rate_limits"}"#).flows);
        assert!(said(br#"{"type":"error","status":429}"#).elsewhere);
        assert!(!said(br#"{"type":"error","status":400}"#).elsewhere);
        assert_eq!(said(br#"{"type":"response.failed"}"#).says, Says::Ends);
        assert_eq!(said(br#"{"type":"error","status":429}"#).says, Says::Error);
        // Words of the model are none of the protocol's.
        assert_eq!(said(br#"{"type":"x","delta":"\"type\":\"response.completed\""}"#).says, Says::GoesOn);
        assert_eq!(said(b"nonsense").says, Says::GoesOn);
    }
}
