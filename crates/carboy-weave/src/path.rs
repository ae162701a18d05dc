//! Paths of a tree, checked once. *Must never* name anything outside of the tree, or what version control, this program
//! or an operating system keeps for itself: a document is handed around, and a file in `.git/hooks` is a program that runs.

use crate::fault::Fault;
use crate::limits::PATH_BYTES_MAX;

/// A relative path with `/` between its parts, none of them empty, `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

/// Directories that are not a document's to write in.
const KEPT: &[(&str, &str)] = &[
    (".git", "version control keeps it"),
    (".hg", "version control keeps it"),
    (".jj", "version control keeps it"),
    (".svn", "version control keeps it"),
    (".lit", "the maps of `carboy lit` are there"),
];

/// Names that are devices on some systems, whatever their ending.
const DEVICES: &[&str] = &["con", "prn", "aux", "nul"];

impl TreePath {
    /// A path below the tree's top.
    pub fn parse(text: &str) -> Result<TreePath, Fault> {
        let parts: Vec<&str> = text.split('/').collect();
        let drive = text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic();
        if text.starts_with('/') || drive || text.contains('\\') || parts.contains(&"..") {
            return Err(Fault::Leaves(text.to_owned()));
        }
        let hollow = parts.iter().any(|part| part.is_empty() || *part == ".");
        if hollow || text.len() > PATH_BYTES_MAX || text.chars().any(|c| c.is_control() || c == '"') {
            return Err(Fault::Path(text.escape_debug().to_string()));
        }
        for part in &parts {
            if let Some(why) = kept(part) {
                return Err(Fault::Reserved { path: text.to_owned(), why });
            }
        }
        Ok(TreePath(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts, from the top.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// What stands after the last dot of the name.
    pub fn extension(&self) -> &str {
        let name = self.0.rsplit('/').next().unwrap_or("");
        name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }
}

impl std::fmt::Display for TreePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn kept(part: &str) -> Option<&'static str> {
    // `.GIT`, `.git.` and `.git ` are `.git` where file systems fold case or drop what stands at the end.
    let plain = part.trim_end_matches(['.', ' ']).to_lowercase();
    if plain.len() < part.len() && !part.chars().all(|c| c == '.') {
        return Some("a name that ends in a dot or a blank is another one on some systems");
    }
    let stem = plain.split('.').next().unwrap_or("");
    let numbered = |name: &str| {
        let mut chars = stem.strip_prefix(name).unwrap_or("").chars();
        matches!((chars.next(), chars.next()), (Some('1'..='9'), None))
    };
    if DEVICES.contains(&stem) || numbered("com") || numbered("lpt") {
        return Some("it is a device on some systems");
    }
    KEPT.iter().find(|(name, _)| *name == plain).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_top() {
        for path in ["/etc/passwd", "../a", "a/../../b", "a/..", "C:\\a", "c:a", "a\\b", "\\\\host\\share"] {
            assert_eq!(TreePath::parse(path), Err(Fault::Leaves(path.to_owned())), "{path}");
        }
        for path in ["", "a//b", "./a", "a/", "a/.", "a\nb", "a\u{7f}"] {
            assert!(matches!(TreePath::parse(path), Err(Fault::Path(_))), "{path:?}");
        }
        assert!(TreePath::parse(&"a/".repeat(PATH_BYTES_MAX)).is_err());
        assert_eq!(TreePath::parse("src/a b/ü.rs").unwrap().extension(), "rs");
    }

    #[test]
    fn names_that_belong_to_somebody_else_are_refused() {
        for path in
            [".git/hooks/pre-commit", "a/.GIT/x", ".git./x", ".lit/a.map", "aux.rs", "COM1", "lpt9.txt", "a. /b"]
        {
            assert!(matches!(TreePath::parse(path), Err(Fault::Reserved { .. })), "{path}");
        }
        for path in [".gitignore", ".github/x.yml", "com.rs", "console.rs", "...", "common/com10.rs"] {
            assert!(TreePath::parse(path).is_ok(), "{path}");
        }
    }
}
