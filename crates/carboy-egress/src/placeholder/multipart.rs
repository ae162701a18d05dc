//! `multipart/form-data` (RFC 7578, RFC 2046) as far as all of its readers agree on it.
//!
//! ```text
//! --B CRLF  Content-Disposition: form-data; name="k" CRLF  CRLF  value  CRLF --B--
//!           └ what says whose value it is ───────────┘           └ the only place in which a placeholder is lifted
//! ```
//!
//! Servers differ in what they make of a bare LF, of text behind a boundary, of a backslash or of a parameter that is there
//! twice, so a body with any of it has no parts here: a placeholder in it is where no route wants it.
//!
//! *Must never* give a part that another reader takes for a file, for a part of another name or for none.

use std::ops::Range;

use memchr::memmem;

use super::spans::{plain, spans};

/// Longest boundary (RFC 2046, section 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;
/// Octets of a value that nobody gets right by trying.
const GUESSED_OCTETS_MIN: usize = 16;
/// Charsets of a part in which ASCII means itself.
const CHARSETS: &[&str] = &["utf-8", "us-ascii", "iso-8859-1"];

/// What stands between the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boundary(Vec<u8>);

/// What a part is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A field of the form.
    Text,
    /// A file, or a value that is not plain text.
    File,
    /// In a transfer encoding, or with parts of its own.
    Sealed,
}

struct Part<'a> {
    name: &'a [u8],
    kind: Kind,
    content: Range<usize>,
}

impl Boundary {
    /// That of a `Content-Type` whose type is `multipart/form-data`; `None` for one that may be read in two ways.
    pub(crate) fn of(content_type: &str) -> Option<Boundary> {
        let (_, parameters) = kind_and_parameters(content_type.as_bytes())?;
        // Some look for the word alone, wherever it stands.
        if content_type.to_ascii_lowercase().matches("boundary=").count() > 1 {
            return None;
        }
        let value = value_of(&parameters, "boundary")?;
        let fits = (1..=BOUNDARY_BYTES_MAX).contains(&value.len()) && !value.ends_with(b" ");
        (fits && value.iter().all(|b| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(b)))
            .then(|| Boundary(value.to_vec()))
    }

    /// Where `wanted` stands in the fields of that name, or in the contents of all parts. Nowhere in what is not well-formed.
    pub(crate) fn spans(&self, body: &[u8], name: Option<&str>, wanted: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let whole = self.each_part(body, |part| {
            let holds = match (part.kind, name) {
                (Kind::Text, Some(name)) => part.name == name.as_bytes(),
                (Kind::Text | Kind::File, None) => true,
                (Kind::File | Kind::Sealed, _) => false,
            };
            if holds {
                let inside = spans(plain(&body[part.content.clone()]), wanted);
                found.extend(inside.iter().map(|at| part.content.start + at.start..part.content.start + at.end));
            }
        });
        whole.map_or_else(Vec::new, |()| found)
    }

    /// Could it be found in what will be written at these places? A server that finds it there tells by what it then says
    /// of the form whether it was, so each letter of the value could be tried for by itself (an oracle). Nobody tries for
    /// many at once, which is why a boundary that happens to look like a long value is none.
    pub(super) fn may_fall_on(&self, body: &[u8], places: &[Range<usize>]) -> bool {
        let may_stand_at = |from: usize| {
            let Some(octets) = body.get(from..from + self.0.len()) else { return false };
            let differ = octets.iter().zip(&self.0).enumerate().filter(|(_, (there, wanted))| there != wanted);
            let mut guessed = 0;
            for at in differ.map(|(i, _)| from + i) {
                guessed += 1;
                if guessed == GUESSED_OCTETS_MIN || !places.iter().any(|place| place.contains(&at)) {
                    return false;
                }
            }
            true
        };
        let around = |place: &Range<usize>| (place.start + 1).saturating_sub(self.0.len())..place.end;
        places.iter().any(|place| around(place).any(may_stand_at))
    }

    /// Every part in turn; `None` as soon as the body is not well-formed, also behind parts that were given.
    fn each_part<'a>(&self, body: &'a [u8], mut take: impl FnMut(Part<'a>)) -> Option<()> {
        let (mut open, mut ended) = (None, false);
        for at in memmem::find_iter(body, &self.0) {
            // Wherever it stands it is a delimiter's, on a line of its own, and nothing follows the last one.
            let line = at.checked_sub(2).filter(|line| &body[*line..at] == b"--" && !ended)?;
            let before = match line {
                0 => 0,
                _ => line.checked_sub(2).filter(|end| &body[*end..line] == b"\r\n")?,
            };
            if let Some(from) = open {
                take(Part::read(body, from..before)?);
            }
            let behind = at + self.0.len();
            open = match &body[behind..] {
                [b'\r', b'\n', ..] => Some(behind + 2),
                b"--" | [b'-', b'-', b'\r', b'\n', ..] => None,
                _ => return None,
            };
            ended = open.is_none();
        }
        ended.then_some(())
    }
}

impl<'a> Part<'a> {
    fn read(body: &'a [u8], at: Range<usize>) -> Option<Part<'a>> {
        let text = body.get(at.clone())?;
        let head = memmem::find(text, b"\r\n\r\n")?;
        let (mut disposition, mut content_type, mut encoding) = (None, None, None);
        for line in text[..head + 2].split_inclusive(|b| *b == b'\n') {
            let (name, value) = field(line)?;
            let place = match name.to_ascii_lowercase().as_slice() {
                b"content-disposition" => &mut disposition,
                b"content-type" => &mut content_type,
                b"content-transfer-encoding" => &mut encoding,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        let (kind, parameters) = kind_and_parameters(disposition?)?;
        let name = value_of(&parameters, "name").filter(|_| kind == "form-data")?;
        let is_plain = ["7bit", "8bit", "binary"];
        let sealed = encoding.is_some_and(|value| !is_plain.iter().any(|is| value.eq_ignore_ascii_case(is.as_bytes())));
        // A file has its name beside that of the field; what else may stand there no form has.
        let is_field = parameters.len() == 1;
        let kind = match content_type.map_or(Kind::Text, kind_of_content) {
            Kind::Sealed => Kind::Sealed,
            Kind::Text | Kind::File if sealed => Kind::Sealed,
            Kind::Text if is_field => Kind::Text,
            Kind::Text | Kind::File => Kind::File,
        };
        Some(Part { name, kind, content: at.start + head + 4..at.end })
    }
}

/// `Name: value` with its line's end, the value without space around it.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\r\n")?;
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    (is_token(name) && value.iter().all(is_text)).then(|| (name, value.trim_ascii()))
}

fn kind_of_content(value: &[u8]) -> Kind {
    match kind_and_parameters(value) {
        Some((kind, parameters)) if kind == "text/plain" => {
            let fits = |set: &&[u8]| CHARSETS.iter().any(|one| set.eq_ignore_ascii_case(one.as_bytes()));
            let charset = value_of(&parameters, "charset");
            if charset.as_ref().is_none_or(fits) { Kind::Text } else { Kind::Sealed }
        }
        Some((kind, _)) if !kind.starts_with("multipart/") && !kind.starts_with("message/") => Kind::File,
        Some(_) | None => Kind::Sealed,
    }
}

type Parameters<'a> = Vec<(String, &'a [u8])>;

/// `kind; name=value; name="value"` with kind and names in lower case. `None` where readers differ: a name that is there twice
/// or goes on under numbers (RFC 2231), a backslash, anything between that belongs to nothing.
fn kind_and_parameters(text: &[u8]) -> Option<(String, Parameters<'_>)> {
    let end = text.iter().position(|b| *b == b';').unwrap_or(text.len());
    let kind = text[..end].trim_ascii();
    if !kind.split(|b| *b == b'/').all(is_token) {
        return None;
    }
    let (mut rest, mut parameters) = (&text[end..], Parameters::new());
    while let Some(behind) = rest.strip_prefix(b";") {
        let behind = behind.trim_ascii_start();
        let equals = behind.iter().position(|b| *b == b'=')?;
        let name = lower(&behind[..equals]).filter(|name| !name.contains('*') || name == "filename*")?;
        let (value, behind) = value(&behind[equals + 1..])?;
        if parameters.iter().any(|(known, _)| *known == name) {
            return None;
        }
        parameters.push((name, value));
        rest = behind.trim_ascii_start();
    }
    rest.is_empty().then(|| (String::from_utf8_lossy(kind).to_ascii_lowercase(), parameters))
}

/// A token or a quoted text, and what follows it.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(inside) = text.strip_prefix(b"\"") {
        let close = inside.iter().position(|b| *b == b'"')?;
        let (value, behind) = (&inside[..close], &inside[close + 1..]);
        return value.iter().all(|b| is_text(b) && *b != b'\\').then_some((value, behind));
    }
    let end = text.iter().position(|b| !is_token(&[*b])).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn value_of<'a>(parameters: &Parameters<'a>, name: &str) -> Option<&'a [u8]> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
}

fn lower(name: &[u8]) -> Option<String> {
    is_token(name).then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// No control character but the tab.
fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || !byte.is_ascii_control()
}
