//! Readers of texts: hosts, manifests, documents, lines of the log.

use carboy_core::audit::Entry;
use carboy_core::host::{Host, HostPattern};
use carboy_manifest::{frontmatter, yaml};
use carboy_weave::{Document, tangle};

/// What was read once reads as itself: a host that is written down and read again is the same host (B6–B8, B12).
pub fn host(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(host) = Host::parse(text) {
        let written = host.to_string();
        assert_eq!(Host::parse(&written).as_ref(), Ok(&host), "{text:?} as {written:?}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_:[]".contains(c);
        assert!(written.chars().all(plain), "{written:?}");
    }
    if let Ok((host, _)) = Host::parse_authority(text) {
        assert!(Host::parse(&host.to_string()).is_ok(), "{text:?}");
    }
    if let Ok(pattern) = HostPattern::parse(text) {
        // A zone holds names below it, and never itself.
        let zone = pattern.to_string();
        if let Some(Ok(itself)) = zone.strip_prefix("*.").map(Host::parse) {
            assert!(!pattern.matches(&itself), "{zone}");
        }
    }
}

/// Every error has a place inside of the text.
pub fn front_matter(bytes: &[u8]) {
    let Ok(text) = frontmatter::text_of(bytes) else { return };
    let (yaml, first_line) = match frontmatter::split(text) {
        Ok(parts) => (parts.yaml, parts.first_line),
        Err(_) => (text, 1),
    };
    let (_, errors) = yaml::parse(yaml, first_line);
    let lines = u32::try_from(yaml.lines().count()).unwrap_or(u32::MAX);
    for error in errors {
        assert!(error.at.line >= first_line && error.at.line <= first_line.saturating_add(lines), "{error:?}");
        assert!(!error.kind.fix().is_empty());
    }
}

/// A document that tangles has a place for each line of each file.
pub fn document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(document) = Document::parse(text) else { return };
    let Ok(tangled) = tangle(&document) else { return };
    for file in tangled.files.values() {
        assert_eq!(file.text.split_inclusive('\n').count(), file.origins.len());
    }
}

/// A line that is read is written as it stood.
pub fn audit_line(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes) {
        let again = Entry::parse(entry.to_line().trim_ascii_end());
        assert_eq!(again.map(|again| again.to_line()), Ok(entry.to_line()));
    }
}
