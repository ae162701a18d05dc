//! A route's `credential`: where a placeholder of a secret may stand, and what the real one takes its place of.
//!
//! The program inside holds a placeholder and sends it as it would send the key. At this route's host, at this place of a
//! request, the gateway puts the real value in; anywhere else the placeholder is refused (B42).

use std::fmt;

use crate::ids::SecretName;

/// Most credentials of one route.
pub const CREDENTIALS_MAX: usize = 8;

/// One credential of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceholderAuth {
    /// Where in a request.
    pub place: PlaceholderIn,
    /// Which secret (`from`).
    pub secret: SecretName,
    /// The variable that holds the placeholder inside (`env`; `from`'s own name unless said).
    pub variable: String,
}

/// Where in a request a placeholder may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceholderIn {
    /// In the value of this header field (lower case), alone or with more around it, as in `Bearer …`.
    Header(String),
    /// In the value of this parameter of the query.
    Query(String),
    /// In the credentials of `Authorization: Basic` (RFC 7617).
    Basic(BasicPart),
    /// In the body: in the value of this JSON key or form field; without a name anywhere in it.
    Body(Option<String>),
}

/// Which half of Basic credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicPart {
    /// Before the colon.
    User,
    /// Behind it.
    Password,
    /// Either.
    Either,
}

impl PlaceholderIn {
    /// The value of `in`.
    pub fn kind(&self) -> &'static str {
        match self {
            PlaceholderIn::Header(_) => "header",
            PlaceholderIn::Query(_) => "query",
            PlaceholderIn::Basic(_) => "basic",
            PlaceholderIn::Body(_) => "body",
        }
    }

    /// The value of `name`, where there is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            PlaceholderIn::Header(name) | PlaceholderIn::Query(name) => Some(name),
            PlaceholderIn::Basic(BasicPart::User) => Some("user"),
            PlaceholderIn::Basic(BasicPart::Password) => Some("password"),
            PlaceholderIn::Basic(BasicPart::Either) => None,
            PlaceholderIn::Body(name) => name.as_deref(),
        }
    }
}

impl fmt::Display for PlaceholderIn {
    /// For people: `header x-api-key`, `basic`, `body client_secret`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        self.name().map_or(Ok(()), |name| write!(f, " {name}"))
    }
}
