//! Markdown's events, made safe for a page. *Must never* let an event through that carries HTML, a style or a scheme of
//! somebody else's choice.

use pulldown_cmark::{Alignment, CowStr, Event, Tag};

use crate::fault::Fault;

/// Schemes that a link may have.
const SCHEMES: &[&str] = &["https", "http", "mailto"];

/// What a link leads to.
pub(super) enum Target<'l> {
    /// A place in the page.
    Anchor(&'l str),
    /// Anything else that is allowed.
    Elsewhere,
}

/// Judges a link.
pub(super) fn target(link: &str) -> Result<Target<'_>, Fault> {
    if let Some(anchor) = link.strip_prefix('#') {
        return Ok(Target::Anchor(anchor));
    }
    match scheme(link) {
        Some(scheme) if !SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) => Err(Fault::Link(link.to_owned())),
        Some(_) | None => Ok(Target::Elsewhere),
    }
}

/// Judges a picture: from beside the page only.
pub(super) fn picture(link: &str) -> Result<(), Fault> {
    let outside = scheme(link).is_some() || link.starts_with(['/', '\\']);
    if outside { Err(Fault::Picture(link.to_owned())) } else { Ok(()) }
}

/// What stands before the first colon, if that colon belongs to a scheme. Browsers pass over control characters there.
fn scheme(link: &str) -> Option<&str> {
    let (before, _) = link.split_once(':')?;
    (!before.contains(['/', '?', '#'])).then_some(before)
}

/// An event as a page may have it.
pub(super) fn safe(event: Event<'_>) -> Event<'_> {
    match event {
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        // The writer of HTML would set a column's alignment by an inline style.
        Event::Start(Tag::Table(columns)) => Event::Start(Tag::Table(vec![Alignment::None; columns.len()])),
        // A box that cannot be ticked needs no form.
        Event::TaskListMarker(done) => Event::Text(CowStr::from(if done { "☑ " } else { "☐ " })),
        Event::Start(_) | Event::End(_) | Event::Text(_) | Event::Code(_) => event,
        Event::InlineMath(text) | Event::DisplayMath(text) => Event::Text(text),
        Event::FootnoteReference(_) | Event::SoftBreak | Event::HardBreak | Event::Rule => event,
    }
}
