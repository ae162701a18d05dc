//! Splits `---`, YAML, `---`, prose.

use crate::diagnostic::Position;

/// A file taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontMatter<'a> {
    /// What stands between the fences.
    pub yaml: &'a str,
    /// Line of the file on which `yaml` begins.
    pub first_line: u32,
    /// What stands below, without blank lines at its ends.
    pub prose: &'a str,
    /// Line of the file on which `prose` begins.
    pub prose_line: u32,
}

/// Why there is no front matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontMatterError {
    /// The first line is something else.
    #[error("the file does not begin with a `---` line")]
    NoStart,
    /// It is never closed.
    #[error("the front matter that begins here is never closed by a `---` line")]
    NoEnd,
    /// Not text.
    #[error("the file is not UTF-8 text at this place")]
    NotUtf8(Position),
}

/// The file as text, without a byte order mark.
pub fn text_of(bytes: &[u8]) -> Result<&str, FrontMatterError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes[..error.valid_up_to()].split(|b| *b == b'\n');
        let (line, last) = good.enumerate().last().unwrap_or((0, b""));
        let chars = last.iter().filter(|b| **b & 0xc0 != 0x80).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX - 1) + 1;
        FrontMatterError::NotUtf8(Position { line: count(line), column: count(chars) })
    })
}

/// Splits a file. A fence is a line of `---` alone; line ends may be LF or CRLF.
pub fn split(text: &str) -> Result<FrontMatter<'_>, FrontMatterError> {
    let fence = |line: &str| line.trim_end() == "---";
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    if !fence(first) {
        return Err(FrontMatterError::NoStart);
    }
    let mut from = 0;
    for line in rest.split_inclusive('\n') {
        if fence(line) {
            let below = &rest[from + line.len()..];
            let prose = below.trim();
            let before = text.len() - below.trim_start().len();
            let lines = text[..before].matches('\n').count();
            let prose_line = u32::try_from(lines).unwrap_or(u32::MAX - 1) + 1;
            return Ok(FrontMatter { yaml: &rest[..from], first_line: 2, prose, prose_line });
        }
        from += line.len();
    }
    Err(FrontMatterError::NoEnd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_splits_at_its_fences_whatever_its_line_ends() {
        // M1
        let want = FrontMatter { yaml: "a: 1\n", first_line: 2, prose: "Be kind.\n\n---\nmore", prose_line: 5 };
        assert_eq!(split("---\na: 1\n---\n\nBe kind.\n\n---\nmore\n"), Ok(want));
        let dos = text_of(b"\xef\xbb\xbf---\r\na: 1\r\n---\r\nBe kind.\r\n").unwrap();
        assert_eq!(split(dos), Ok(FrontMatter { yaml: "a: 1\r\n", first_line: 2, prose: "Be kind.", prose_line: 4 }));
        assert_eq!(split("---\n---").map(|parts| (parts.yaml, parts.prose)), Ok(("", "")));
    }

    #[test]
    fn a_missing_fence_and_bytes_that_are_no_text_are_named() {
        assert_eq!(split("a: 1\n"), Err(FrontMatterError::NoStart));
        assert_eq!(split(""), Err(FrontMatterError::NoStart));
        assert_eq!(split("---\na: 1\n"), Err(FrontMatterError::NoEnd));
        assert_eq!(split("---\na: ---\n"), Err(FrontMatterError::NoEnd));
        let at = Position { line: 2, column: 3 };
        assert_eq!(text_of("---\né:\u{0}".as_bytes().to_vec().as_slice()).err(), None);
        assert_eq!(text_of(b"---\n\xc3\xa9:\xff"), Err(FrontMatterError::NotUtf8(at)));
    }
}
