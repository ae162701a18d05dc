//! Programs that are documents: what is tangled is what the document says, what is copied is what the library says, and a
//! page that is committed is the one that is woven now (G54, G55, G59).
//!
//! The checks are the product's own, `carboy lit verify` and `carboy lit weave --check`: what a user has is what we rely on.
//! *Must never* mend what it finds: which side is right, a person says.

use std::path::Path;

use crate::{complain, test, tree};

/// Whether the page of a document is committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    /// In `woven/` beside it.
    Committed,
    /// It is made when somebody wants it.
    OnDemand,
}

/// Each document.
const DOCUMENTS: &[(&str, Page)] =
    &[("apps/bookly/Bookly.lit.md", Page::Committed), ("examples/literate/prune.lit.md", Page::OnDemand)];

/// Checks all documents; differences are shown as they are found.
pub fn run() -> Result<(), String> {
    let top = tree::root();
    let mut complaints = Vec::new();
    for (document, page) in DOCUMENTS {
        if lit(&top, &["verify", document]).is_err() {
            complaints.push(format!("{document}: run `carboy lit sync {document}`, then look at what it changed"));
        }
        if *page == Page::Committed && lit(&top, &["weave", document, "--check"]).is_err() {
            complaints.push(format!("{document}: its page is out of date: run `carboy lit weave {document}`"));
        }
    }
    complain("lit", complaints)
}

fn lit(top: &Path, arguments: &[&str]) -> Result<(), String> {
    let program = ["run", "--quiet", "--package", "carboy", "--bin", "carboy", "--", "lit"];
    test::cargo(top, &[&program, arguments].concat())
}
