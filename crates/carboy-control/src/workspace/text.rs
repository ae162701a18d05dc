//! Differences as a person reads them: unified, bounded, and with nothing in them that moves a cursor, hides or
//! reorders what stands around it.

use std::io::Read;
use std::time::Duration;

use similar::{ChangeTag, TextDiff};

use super::change::{Change, What};
use super::index::{Index, Known};
use super::tree::{Kind, Rel, Root, Stamp, shown};
use crate::session::escapes::is_invisible;

/// Largest file whose lines are compared, in bytes.
pub const TEXT_BYTES_MAX: u64 = 1024 * 1024;
/// Longest comparison of one file; a coarser result after that.
const COMPARE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest line that is shown, in characters.
const LINE_CHARS_MAX: usize = 2000;

/// How a change looks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Look {
    /// Where.
    pub path: String,
    /// What.
    pub what: What,
    /// What it was.
    pub before: Option<Side>,
    /// What it is to be.
    pub after: Option<Side>,
    /// Lines that came.
    pub added: usize,
    /// Lines that went.
    pub removed: usize,
    /// The difference, line by line, without heading; absent for what has no lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// What there is to say instead, or besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One side of a difference.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Side {
    /// File, directory or link.
    pub kind: Kind,
    /// Permissions, as digits.
    pub mode: String,
    /// Bytes.
    pub size: u64,
    /// Where a link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Are the lines wanted as well?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Compared.
    Compared,
    /// Names and kinds are enough.
    LeftOut,
}

fn side(root: &Root, path: &Rel, stamp: &Stamp) -> Side {
    let target = (stamp.kind == Kind::Link).then(|| root.link(path).map(|t| shown(&t)).unwrap_or_default());
    Side { kind: stamp.kind, mode: format!("{:04o}", stamp.mode), size: stamp.size, target }
}

/// Looks at one change of a layer.
pub fn look(upper: &Root, host: &Root, change: &Change, lines: Lines) -> Look {
    let before = change.host.as_ref().map(|stamp| side(host, &change.path, stamp));
    let layer = change.layer.filter(|s| !matches!(s.kind, Kind::Whiteout | Kind::Special));
    let after = match change.what {
        What::Deleted => None,
        What::Added | What::Modified | What::Mode | What::Unusable => {
            layer.as_ref().map(|stamp| side(upper, &change.path, stamp))
        }
    };
    let mut look = Look {
        path: change.path.shown(),
        what: change.what,
        before,
        after,
        added: 0,
        removed: 0,
        diff: None,
        note: change.note.map(str::to_owned),
    };
    if lines == Lines::LeftOut || matches!(change.what, What::Mode | What::Unusable) {
        return look;
    }
    let old = change.host.filter(|s| s.kind == Kind::File);
    let new = layer.filter(|s| s.kind == Kind::File && change.what != What::Deleted);
    if old.is_none() && new.is_none() {
        return look;
    }
    match (text(host, &change.path, old.as_ref()), text(upper, &change.path, new.as_ref())) {
        (Ok(old), Ok(new)) => {
            let compared = compare(&old, &new);
            (look.diff, look.added, look.removed) = (Some(compared.text), compared.added, compared.removed);
        }
        (Err(why), _) | (_, Err(why)) => look.note = Some(why.to_owned()),
    }
    look
}

fn text(root: &Root, path: &Rel, stamp: Option<&Stamp>) -> Result<String, &'static str> {
    let Some(stamp) = stamp else { return Ok(String::new()) };
    if stamp.size > TEXT_BYTES_MAX {
        return Err("larger than 1 MiB, not compared line by line");
    }
    let file = root.file(path).map_err(|_| "it cannot be read")?;
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).map_err(|_| "it cannot be read")?;
    as_text(bytes).ok_or("binary")
}

/// Is it text, as far as its lines can be compared?
pub fn as_text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Two texts against each other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Hunks of a unified difference.
    pub text: String,
    /// Lines that came.
    pub added: usize,
    /// Lines that went.
    pub removed: usize,
}

/// Compares two texts.
pub fn compare(old: &str, new: &str) -> Compared {
    let diff = TextDiff::configure().timeout(COMPARE_WAIT_MAX).diff_lines(old, new);
    let mut compared = Compared::default();
    for change in diff.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => compared.added += 1,
            ChangeTag::Delete => compared.removed += 1,
            ChangeTag::Equal => {}
        }
    }
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        compared.text.push_str(&format!("{}\n", hunk.header()));
        for change in hunk.iter_changes() {
            let sign = match change.tag() {
                ChangeTag::Insert => '+',
                ChangeTag::Delete => '-',
                ChangeTag::Equal => ' ',
            };
            compared.text.push(sign);
            compared.text.push_str(&line(change.value()));
            compared.text.push('\n');
            if change.missing_newline() {
                compared.text.push_str("\\ no newline at the end\n");
            }
        }
    }
    compared
}

/// One line without what moves a cursor or deceives the eye (CVE-2021-42574); its end is not part of it.
fn line(text: &str) -> String {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let mut line = String::with_capacity(text.len());
    for c in text.chars().take(LINE_CHARS_MAX) {
        if (c.is_control() && c != '\t') || is_invisible(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    if text.chars().nth(LINE_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// What changed in a workspace that was written to directly, by name: its content of then is nowhere.
pub fn since(host: &Root, index: &Index) -> (Vec<Look>, bool) {
    let now = Index::take(host);
    let look = |path: &Rel, what: What, before: Option<&Stamp>, after: Option<&Stamp>| Look {
        path: path.shown(),
        what,
        before: before.map(|s| Side { kind: s.kind, mode: format!("{:04o}", s.mode), size: s.size, target: None }),
        after: after.map(|s| side(host, path, s)),
        added: 0,
        removed: 0,
        diff: None,
        note: None,
    };
    let mut found: Vec<(Rel, Look)> = Vec::new();
    for (path, stamp) in now.iter() {
        let what = match index.known(path) {
            Known::Unknown => continue,
            Known::Nothing => (What::Added, None),
            Known::Stood(was) if stamp.is_still(&was) && stamp.mode == was.mode => continue,
            Known::Stood(was) if stamp.kind == was.kind && same_but_mode(stamp, &was) => (What::Mode, Some(was)),
            Known::Stood(was) => (What::Modified, Some(was)),
        };
        found.push((path.clone(), look(path, what.0, what.1.as_ref(), Some(stamp))));
    }
    for (path, was) in index.iter() {
        if now.known(path) == Known::Nothing {
            found.push((path.clone(), look(path, What::Deleted, Some(was), None)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let cut = index.is_incomplete() || now.is_incomplete();
    (found.into_iter().map(|(_, look)| look).collect(), cut)
}

fn same_but_mode(now: &Stamp, was: &Stamp) -> bool {
    now.mode != was.mode
        && (now.kind == Kind::Directory || (now.size, now.mtime, now.inode) == (was.size, was.mtime, was.inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_its_lines_and_none_that_moves_the_cursor() {
        let compared = compare("a\nb\nc\n", "a\nB\u{1b}[2J\nc\nd");
        assert_eq!((compared.added, compared.removed), (2, 1));
        assert_eq!(compared.text, "@@ -1,3 +1,4 @@\n a\n-b\n+B\\u{1b}[2J\n c\n+d\n\\ no newline at the end\n");
        assert_eq!(compare("x", "x"), Compared::default());
        let hidden = compare("", "if admin {\u{202e} /*\u{2066}\u{200b}\n");
        assert!(hidden.text.contains("+if admin {\\u{202e} /*\\u{2066}\\u{200b}\n"), "{}", hidden.text);
        assert!(as_text(b"a\0b".to_vec()).is_none());
    }
}
