//! How Bookly is put before people: its title, its greeting, its records opened, and the whole as an [`Application`].
//!
//! ```text
//!  agent::spec ─▶ front matter + prose ─▶ Application { name, file, tools } ─▶ carboy run bookly | carboy serve bookly
//! ```
//!
//! Who speaks HTTP, keeps sessions, asks models and shows the page of this source is carboy's business, for this agent as for
//! every other. *Must never* know a socket, a cookie or a key.

use std::path::Path;
use std::sync::LazyLock;

use carboy_agent::Application;
use carboy_agent::application::file;

use crate::agent::{NAME, SpecError, spec};
use crate::config::{RETURN_POLICY, TOKENS_PER_DAY, books_file};
use crate::data::{BookStore, DataError, day};
use crate::tools::tools;

mod stage;

pub use stage::stage;

/// What people read as its name.
pub const TITLE: &str = "Bookly";
/// What it says first.
pub const GREETING: &str = "Hello, this is Bookly's support desk. I can look up an order, help with a return, or tell you about our \
                            policies. What can I do for you?";

/// The agent's file, made once.
static FILE: LazyLock<Result<String, SpecError>> =
    LazyLock::new(|| Ok(file(&spec(TITLE, GREETING, &RETURN_POLICY)?, TOKENS_PER_DAY)));

/// The document that this program is, as `/architecture` shows it: the page first, then its stylesheet and pictures by the names
/// that it gives them. `carboy lit weave` made them.
pub const ARCHITECTURE: &[(&str, &[u8])] = &[
    ("Bookly.html", include_bytes!("../woven/Bookly.html")),
    ("Bookly.css", include_bytes!("../woven/Bookly.css")),
    ("Bookly-1.svg", include_bytes!("../woven/Bookly-1.svg")),
    ("Bookly-1-dark.svg", include_bytes!("../woven/Bookly-1-dark.svg")),
    ("Bookly-2.svg", include_bytes!("../woven/Bookly-2.svg")),
    ("Bookly-2-dark.svg", include_bytes!("../woven/Bookly-2-dark.svg")),
    ("Bookly-3.svg", include_bytes!("../woven/Bookly-3.svg")),
    ("Bookly-3-dark.svg", include_bytes!("../woven/Bookly-3-dark.svg")),
];

/// Bookly cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its records.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its own words.
    #[error("{0}")]
    Spec(&'static SpecError),
}

/// Bookly with its records below `home`, made where they are missing.
pub fn open(home: &Path, now_ms: u64) -> Result<Application, OpenError> {
    let books = BookStore::open(&books_file(home), day(now_ms))?;
    Ok(Application { name: NAME, file: text()?, tools: tools(books, RETURN_POLICY) })
}

/// The text of its agent file, for `explain` and `check`, which open no records.
pub fn text() -> Result<&'static str, OpenError> {
    FILE.as_deref().map_err(OpenError::Spec)
}
