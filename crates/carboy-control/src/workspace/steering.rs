//! Which changes of a layer would run something on the host, or lead its programs elsewhere: they are held back (B51).
//!
//! Two sources: the list of steering files that protects a workspace in direct mode, at any depth; and repositories.
//! A repository is told from what the workspace would hold *afterwards*, because a bottle may bring its parts in one
//! by one: first a `config` that is only a file, later the `HEAD` that makes git read it.
//!
//! *Must never* judge by a file's name alone what git would follow, or follow a link to find out.

use std::io::Read;
use std::path::{Component, Path};

use carboy_bottle::{audit_git_config, audit_new_git_config, steers};

use super::Part;
use super::change::{Change, What};
use super::tree::{Kind, Rel, Root, shown};

/// Largest git configuration that is compared.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Longest `.git` or `commondir` file.
const POINTER_BYTES_MAX: u64 = 8 * 1024;

/// What becomes of a change when nobody asks for more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is applied.
    Free,
    /// It is held back, for this reason.
    Held(String),
    /// Of a git configuration: this text is applied (when it differs), and these settings are held back.
    Config {
        /// The text without them.
        text: String,
        /// Each as `added core.fsmonitor = …`.
        held: Vec<String>,
    },
}

/// The workspace as it would be.
pub struct Merged<'a> {
    /// The layer.
    pub upper: &'a Root,
    /// The workspace.
    pub host: &'a Root,
}

impl Merged<'_> {
    /// Judges one change.
    pub fn judge(&self, change: &Change) -> Judged {
        let directory = match change.what {
            What::Deleted => change.host.is_some_and(|s| s.kind == Kind::Directory),
            What::Added | What::Modified | What::Mode | What::Unusable => {
                change.layer.is_some_and(|s| s.kind == Kind::Directory)
            }
        };
        if steers(change.path.path(), directory) {
            return Judged::Held("it steers an agent or an editor on the host".into());
        }
        let Some((parent, name)) = change.path.split() else { return Judged::Free };
        if name.eq_ignore_ascii_case(b".git") && !directory && change.what != What::Deleted {
            return self.pointer(change, &parent);
        }
        if let Some(held) = self.hook(change, directory) {
            return held;
        }
        if (name == b"config" || name == b"config.worktree") && self.may_be_repository(&parent) {
            return self.config(change);
        }
        if name == b"commondir" && self.may_be_repository(&parent) && change.what != What::Deleted {
            let fine = parent.parent().names().next_back() == Some(b"worktrees")
                && self.text(self.upper, &change.path, POINTER_BYTES_MAX).is_some_and(|t| t.trim() == "../..");
            if !fine {
                return Judged::Held("it sends git to another directory's settings and hooks".into());
            }
            // Git follows it to a directory that may have been no repository's until now.
            let held = self.becomes_repository(&parent.parent().parent());
            if held != Judged::Free {
                return held;
            }
        }
        if matches!(name, b"HEAD" | b"objects" | b"refs" | b"commondir") && change.what != What::Deleted {
            return self.becomes_repository(&parent);
        }
        Judged::Free
    }

    fn stands(&self, rel: &Rel) -> bool {
        let above = matches!(self.upper.stamp(rel), Ok(Some(stamp)) if stamp.kind != Kind::Whiteout);
        above || self.is_on_host(rel)
    }

    fn is_on_host(&self, rel: &Rel) -> bool {
        matches!(self.host.stamp(rel), Ok(Some(_)))
    }

    /// Does, or may, git take the directory for a repository afterwards?
    fn may_be_repository(&self, directory: &Rel) -> bool {
        let holds = |name: &[u8]| self.stands(&directory.join(name));
        let named = directory.names().next_back().is_some_and(|name| name.eq_ignore_ascii_case(b".git"));
        // The common directory of worktrees needs no `HEAD`.
        named || holds(b"objects") && holds(b"refs") || holds(b"HEAD") && holds(b"commondir")
    }

    /// The last stone of a repository: not over settings or hooks that came before it.
    fn becomes_repository(&self, directory: &Rel) -> Judged {
        let on_host = |name: &[u8]| self.is_on_host(&directory.join(name));
        let is_one = on_host(b"HEAD") && (on_host(b"commondir") || on_host(b"objects") && on_host(b"refs"));
        if is_one || !self.may_be_repository(directory) {
            return Judged::Free;
        }
        let dirty = [&b"config"[..], b"config.worktree"].into_iter().any(|name| {
            let rel = directory.join(name);
            let clean = |text: String| audit_new_git_config(self.host.path(), &text).quarantined.is_empty();
            on_host(name) && !self.text(self.host, &rel, CONFIG_BYTES_MAX).is_some_and(clean)
        });
        let armed = self.host.list(&directory.join(b"hooks")).is_ok_and(|names| names.iter().any(|(n, _)| is_hook(n)));
        if dirty || armed {
            return Judged::Held(
                "it makes a git repository of settings or hooks that are in the workspace already".into(),
            );
        }
        Judged::Free
    }

    fn hook(&self, change: &Change, directory: bool) -> Option<Judged> {
        let mut below = change.path.clone();
        let mut last = true;
        while let Some((parent, name)) = below.split() {
            if name.eq_ignore_ascii_case(b"hooks") && self.may_be_repository(&parent) {
                let harmless = if last { directory } else { change.path.split().is_some_and(|(_, n)| !is_hook(n)) };
                return (!harmless).then(|| Judged::Held("git would run it as a hook".into()));
            }
            last = false;
            below = parent;
        }
        None
    }

    fn config(&self, change: &Change) -> Judged {
        let before = self.text(self.host, &change.path, CONFIG_BYTES_MAX);
        if change.host.is_some_and(|s| s.kind != Kind::File) || change.host.is_some() && before.is_none() {
            return Judged::Held("the workspace's own is not a git configuration of at most 1 MiB".into());
        }
        let after = match change.what {
            What::Deleted => Some(String::new()),
            What::Added | What::Modified | What::Mode | What::Unusable => {
                self.text(self.upper, &change.path, CONFIG_BYTES_MAX)
            }
        };
        let Some(after) = after else {
            return Judged::Held("replaced by something that is not a git configuration of at most 1 MiB".into());
        };
        let audited = match &before {
            Some(before) => audit_git_config(self.host.path(), before, &after),
            None => audit_new_git_config(self.host.path(), &after),
        };
        if audited.quarantined.is_empty() {
            return Judged::Free;
        }
        Judged::Config { text: audited.kept, held: audited.quarantined }
    }

    /// A `.git` that is no directory may point to where this workspace's own repositories are, and nowhere else.
    fn pointer(&self, change: &Change, parent: &Rel) -> Judged {
        let within = self.text(self.upper, &change.path, POINTER_BYTES_MAX).is_some_and(|text| {
            let Some(target) = text.strip_prefix("gitdir:").map(|t| Path::new(t.trim())) else { return false };
            let target = target.strip_prefix(self.host.path()).map_or_else(|_| target.to_owned(), Path::to_owned);
            self.lies_within(parent, &target)
        });
        if within { Judged::Free } else { Judged::Held("it points git to a repository elsewhere".into()) }
    }

    fn lies_within(&self, from: &Rel, target: &Path) -> bool {
        let mut at = if target.is_absolute() { return false } else { from.clone() };
        for component in target.components() {
            match component {
                Component::Normal(name) => {
                    let name = std::os::unix::ffi::OsStrExt::as_bytes(name);
                    at = at.join(name);
                    let link =
                        |root: &Root| !matches!(root.stamp(&at), Ok(s) if s.is_none_or(|s| s.kind != Kind::Link));
                    // Objects are not searched for repositories.
                    if name == b"objects" || link(self.upper) || link(self.host) {
                        return false;
                    }
                }
                Component::ParentDir if at.is_root() => return false,
                Component::ParentDir => at = at.parent(),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return false,
            }
        }
        true
    }

    fn text(&self, root: &Root, rel: &Rel, bytes_max: u64) -> Option<String> {
        let file = root.file(rel).ok()?;
        if file.metadata().ok()?.len() > bytes_max {
            return None;
        }
        let mut text = String::new();
        file.take(bytes_max).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

fn is_hook(name: &[u8]) -> bool {
    !name.ends_with(b".sample")
}

/// Is it git's list of what is staged? Every `git status` writes it anew, so that a new version of it says nothing.
pub fn is_git_index(path: &Rel) -> bool {
    let names: Vec<&[u8]> = path.names().collect();
    match &names[..] {
        [.., above, name] if *name == b"index" && above.eq_ignore_ascii_case(b".git") => true,
        [.., group, _, name] => *name == b"index" && matches!(*group, b"worktrees" | b"modules"),
        _ => false,
    }
}

/// The directory of the repository that a path is part of, its objects apart: git's own files change together.
pub fn repository_of(path: &Rel, part: &Part) -> Option<Rel> {
    let names: Vec<&[u8]> = path.names().collect();
    if matches!(part, Part::RepositoryOf(_)) {
        return names.first().filter(|name| **name != b"objects").map(|_| Rel::root());
    }
    let at = names.iter().position(|name| name.eq_ignore_ascii_case(b".git"))?;
    let below = names.get(at + 1)?;
    if *below == b"objects" {
        return None;
    }
    Some(names[..=at].iter().fold(Rel::root(), |rel, name| rel.join(name)))
}

/// Where a link of the layer leads, when that is not below the workspace.
pub fn leads_out(path: &Rel, target: &[u8]) -> Option<String> {
    let lossy = super::tree::os_path(target);
    let mut depth = path.names().count() - 1;
    for component in lossy.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return Some(shown(target)),
            },
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Some(shown(target)),
        }
    }
    None
}
