//! The repository that a working directory is a git worktree of.
//!
//! The `.git` file of a workspace may be anybody's: it is believed only where the repository that it names says the same
//! of the workspace. So a hostile checkout cannot have the `.git` of another project shown to its bottle.
//!
//! *Must never* show a repository that does not name the worktree back.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::tree::{Kind, Rel, Root};

/// Longest file that git writes about where something is.
const POINTER_BYTES_MAX: u64 = 8 * 1024;

/// The common directory, canonical; `None` for everything but a worktree whose repository stands elsewhere.
pub fn common_directory(workdir: &Path) -> Option<PathBuf> {
    let own = pointer(&Root::open(workdir).ok()?, ".git")?;
    let git_dir = canonical(workdir, Path::new(own.strip_prefix("gitdir:")?.trim()))?;
    let root = Root::open(&git_dir).ok()?;
    let back = pointer(&root, "gitdir")?;
    if canonical(&git_dir, Path::new(back.trim()).parent()?)? != workdir {
        return None;
    }
    let common = canonical(&git_dir, Path::new(pointer(&root, "commondir")?.trim()))?;
    let is_its_own = git_dir.parent().and_then(Path::parent) == Some(&common);
    let root = Root::open(&common).ok()?;
    let holds = |name: &str| Rel::parse(Path::new(name)).is_some_and(|rel| matches!(root.stamp(&rel), Ok(Some(_))));
    let is_repository = ["HEAD", "objects", "refs"].into_iter().all(holds);
    (is_its_own && is_repository && !common.starts_with(workdir) && !workdir.starts_with(&common)).then_some(common)
}

fn canonical(base: &Path, path: &Path) -> Option<PathBuf> {
    base.join(path).canonicalize().ok()
}

fn pointer(root: &Root, name: &str) -> Option<String> {
    let rel = Rel::parse(Path::new(name))?;
    root.stamp(&rel).ok()?.filter(|s| s.kind == Kind::File)?;
    let mut text = String::new();
    root.file(&rel).ok()?.take(POINTER_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_repository_that_knows_the_worktree_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let git = path.join("repo/.git");
        for made in ["objects", "refs", "worktrees/w"] {
            std::fs::create_dir_all(git.join(made)).unwrap();
        }
        std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        std::fs::write(git.join("worktrees/w/commondir"), "../..\n").unwrap();
        std::fs::write(git.join("worktrees/w/gitdir"), format!("{}\n", path.join("w/.git").display())).unwrap();
        for name in ["w", "hostile"] {
            std::fs::create_dir(path.join(name)).unwrap();
            let text = format!("gitdir: {}\n", git.join("worktrees/w").display());
            std::fs::write(path.join(name).join(".git"), text).unwrap();
        }
        assert_eq!(common_directory(&path.join("w")), Some(git));
        assert_eq!(common_directory(&path.join("hostile")), None);
        assert_eq!(common_directory(&path.join("repo")), None);
    }
}
