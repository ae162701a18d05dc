//! The way to a service's Unix socket, walked name by name.
//!
//! ```text
//! as written ─▶ name ─▶ directory: go on ─▶ … ─▶ the socket, or a free name in a directory that is there
//!                │ └──▶ link: its target's names come next
//!                └────▶ where a bottle can write: refused
//! ```
//!
//! Looking at the end of the way alone is not enough: a link that a bottle made in an earlier run leads to an end that no
//! bottle can write to, and a link of the operator's may lead through a bottle's directory that is empty as yet.
//!
//! *Must never* accept a way on which one name lies where a bottle can write. What is accepted can be led elsewhere by
//! nothing inside: each name that connecting will look up stands in a directory of the host's alone.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Most links on one way; the kernel follows as many.
const LINKS_MAX: usize = 40;

/// Why a way is not gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum WayError {
    /// A name of it lies where a bottle can write.
    #[error(
        "a bottle can write to {}, and {} lies there: let the service have its socket outside of it, and name it by a \
         path that does not lead through it", place.display(), name.display()
    )]
    Writable {
        /// Where.
        place: PathBuf,
        /// The first name there.
        name: PathBuf,
    },
    /// Whoever makes its target decides what the service is.
    #[error("it is a link to {}, where nothing is: start the service first, or name its own path", .0.display())]
    Dangling(PathBuf),
    /// Links that lead to each other.
    #[error("more than {LINKS_MAX} links lead there")]
    Links,
    /// The system's word.
    #[error("{}: {source}", name.display())]
    System {
        /// The name that was looked at.
        name: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where the way ends: absolute, without links. `writable` are the places where bottles can write; each counts as it is
/// written and as what it really is. At the end there need be nothing yet, unless a link says so.
pub(super) fn walk<'a>(way: &Path, writable: impl IntoIterator<Item = &'a Path>) -> Result<PathBuf, WayError> {
    let places: Vec<PathBuf> =
        writable.into_iter().flat_map(|place| [Some(place.to_owned()), place.canonicalize().ok()]).flatten().collect();
    let allowed = |name: &Path| match places.iter().find(|place| name.starts_with(place)) {
        Some(place) => Err(WayError::Writable { place: place.clone(), name: name.to_owned() }),
        None => Ok(()),
    };
    allowed(way)?;
    let mut ahead = names(way);
    let (mut at, mut links, mut end_is_linked) = (PathBuf::from("/"), 0, false);
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        allowed(&next)?;
        let failed = |source| WayError::System { name: next.clone(), source };
        match next.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(WayError::Links);
                }
                end_is_linked |= ahead.is_empty();
                let target = next.read_link().map_err(failed)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                ahead.extend(names(&target));
            }
            Ok(_) => at = next,
            Err(error) if error.kind() == io::ErrorKind::NotFound && end_is_linked => {
                return Err(WayError::Dangling(next));
            }
            // A service that is started later has no socket yet; its directory is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && ahead.is_empty() => return Ok(next),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(at)
}

/// The names of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A bottle's project and another directory beside it, both empty.
    fn ground() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (project, other) = (root.join("project"), root.join("other"));
        fs::create_dir(&project).unwrap();
        fs::create_dir(&other).unwrap();
        (dir, project, other)
    }

    fn is_writable(found: Result<PathBuf, WayError>) -> bool {
        matches!(found, Err(WayError::Writable { .. }))
    }

    #[test]
    fn a_link_of_the_operators_into_a_bottles_directory_is_refused_while_nothing_is_there_yet() {
        let (_dir, project, other) = ground();
        let link = other.join("link.sock");
        symlink(project.join("run.sock"), &link).unwrap();
        assert!(is_writable(walk(&link, [&*project])));
        symlink("../project/run.sock", other.join("relative.sock")).unwrap();
        assert!(is_writable(walk(&other.join("relative.sock"), [&*project])));
    }

    #[test]
    fn a_link_that_a_bottle_left_behind_is_refused_wherever_it_leads() {
        let (_dir, project, other) = ground();
        fs::write(other.join("o.sock"), "").unwrap();
        assert!(is_writable(walk(&project.join("pg.sock"), [&*project])), "nothing there");
        symlink(other.join("o.sock"), project.join("pg.sock")).unwrap();
        assert!(is_writable(walk(&project.join("pg.sock"), [&*project])), "planted");
        // Half way: in and out again.
        symlink(&other, project.join("out")).unwrap();
        symlink(project.join("out/o.sock"), other.join("through.sock")).unwrap();
        assert!(is_writable(walk(&other.join("through.sock"), [&*project])));
    }

    #[test]
    fn a_bottles_directory_is_known_under_another_name() {
        let (dir, project, other) = ground();
        let alias = dir.path().join("alias");
        symlink(&project, &alias).unwrap();
        assert!(is_writable(walk(&alias.join("pg.sock"), [&*project])));
        assert!(is_writable(walk(&project.join("pg.sock"), [&*alias])));
        symlink(other.join("../project/x/../../other/o.sock"), other.join("back.sock")).unwrap();
        assert!(is_writable(walk(&other.join("back.sock"), [&*project])));
    }

    #[test]
    fn links_of_the_hosts_own_are_followed_to_their_end_and_one_that_leads_nowhere_is_refused() {
        let (dir, project, other) = ground();
        symlink(&other, dir.path().join("run")).unwrap();
        let written = dir.path().join("run/pg.sock");
        assert_eq!(walk(&written, [&*project]).unwrap(), other.join("pg.sock"), "a service that is started later");
        fs::write(other.join("pg.sock"), "").unwrap();
        assert_eq!(walk(&written, [&*project]).unwrap(), other.join("pg.sock"));
        symlink("gone.sock", other.join("link.sock")).unwrap();
        assert!(matches!(walk(&other.join("link.sock"), [&*project]), Err(WayError::Dangling(_))));
        symlink("loop.sock", other.join("loop.sock")).unwrap();
        assert!(matches!(walk(&other.join("loop.sock"), [&*project]), Err(WayError::Links)));
        assert!(matches!(walk(&other.join("none/pg.sock"), [&*project]), Err(WayError::System { .. })));
        assert!(matches!(walk(&other.join("pg.sock/x/y"), [&*project]), Err(WayError::System { .. })));
    }
}
