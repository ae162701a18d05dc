//! What a provider's program finds in its home at the launch (M36, M37): the manifest's seeds, written by the host.
//!
//! The home belongs to the bottle: an earlier run may have put a link, a pipe, a directory or another file's second name
//! in each place. So every step goes from an open directory to the next and never through a link, what stands there is
//! read only when it is a plain file within its bound, and the new content is a new file that takes the old one's
//! name: nothing that exists is ever opened for writing.
//!
//! *Must never* write outside of the home, through whatever stands in it; nor write a real credential into it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use carboy_core::ids::SecretName;
use carboy_core::ports::SecretSource;
use carboy_manifest::providers::{self, ChatGptAccount, Facts, Login, Service, seed::Seed};
use carboy_manifest::{Effective, Provider};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};
use rustix::io::Errno;

/// Largest file of the home that is read to be merged; a larger one gives way. Bytes.
pub const SEED_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How often a look-up that another program's renames disturbed is tried again.
const TRIES_MAX: usize = 8;
/// Most directories of one name that were put aside.
const ASIDE_MAX: u32 = 100;
/// Longest account id and plan that are taken over, in bytes.
const ACCOUNT_BYTES_MAX: usize = 128;
/// Where a ChatGPT token names its account.
const OPENAI_CLAIMS: &str = "https://api.openai.com/auth";

/// Why a seed could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write {path} in the bottle's home: {source}; `carboy run … -- sh` shows what stands there")]
pub struct SeedError {
    /// The file, on the host.
    path: PathBuf,
    /// What the system said.
    source: std::io::Error,
}

/// Is the provider's program what is started? Only then its home is made ready.
pub fn is_wanted(provider: &Provider, command: &[String]) -> bool {
    command.first().is_some_and(|program| providers::is_program_of(provider, program))
}

/// Writes what the provider's program needs into the home. `workdir` is the workspace's path inside. `tell` hears of each
/// directory that stood in the place of a file.
pub fn write(
    home: &Path,
    effective: &Effective,
    workdir: &Path,
    secrets: &dyn SecretSource,
    tell: &dyn Fn(&str),
) -> Result<(), SeedError> {
    let logins = providers::logins(&effective.routes);
    let account = account(&logins, secrets);
    let facts = Facts {
        workdir: &workdir.to_string_lossy(),
        prompt: &effective.prompt,
        logins: &logins,
        fake: &carboy_guard::placeholder_for,
        account: account.as_ref(),
    };
    for seed in providers::seeds(&effective.provider, &facts) {
        let aside = plant(home, &seed).map_err(|source| SeedError { path: home.join(seed.path), source })?;
        if let Some(aside) = aside {
            tell(&format!(
                "a directory stood in the place of ~/{} in the bottle; it is {aside} beside it now",
                seed.path
            ));
        }
    }
    Ok(())
}

/// Variables for the provider's program, and names whose fake must not be a variable.
pub fn environment(effective: &Effective) -> (Vec<(&'static str, String)>, Vec<SecretName>) {
    let logins = providers::logins(&effective.routes);
    let set = providers::environment(&effective.provider, &logins, &carboy_guard::placeholder_for);
    (set, providers::not_in_environment(&effective.provider, &logins))
}

/// Whose account a ChatGPT token is for: the program inside sends the id beside the token, so it has to be the real one.
/// It is no credential. The token's signature is the service's to check.
fn account(logins: &[Login], secrets: &dyn SecretSource) -> Option<ChatGptAccount> {
    let login = logins.iter().find(|login| login.service == Service::ChatGpt)?;
    let token = secrets.current(&login.secret)?;
    let claims = token.expose().split('.').nth(1)?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let text = |name: &str| {
        let text = claims.get(OPENAI_CLAIMS)?.get(name)?.as_str()?;
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        (plain && !text.is_empty() && text.len() <= ACCOUNT_BYTES_MAX).then(|| text.to_owned())
    };
    Some(ChatGptAccount { id: text("chatgpt_account_id")?, plan: text("chatgpt_plan_type").unwrap_or("plus".into()) })
}

/// Writes one seed; gives the name under which a directory in its place is now.
fn plant(home: &Path, seed: &Seed) -> std::io::Result<Option<String>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::open(home, flags, Mode::empty())?;
    let owner = rustix::fs::statat(&directory, "", AtFlags::EMPTY_PATH)?;
    let owner = Owner { uid: owner.st_uid, gid: owner.st_gid };
    let (parents, name) = match seed.path.rsplit_once('/') {
        Some((parents, name)) => (Some(parents), name),
        None => (None, seed.path),
    };
    for parent in parents.into_iter().flat_map(|parents| parents.split('/')) {
        directory = enter(directory.as_fd(), parent, owner)?;
    }
    let aside = put_aside(directory.as_fd(), name)?;
    let there = read(directory.as_fd(), name)?;
    if let Some(content) = seed.content(there.as_deref()) {
        replace(directory.as_fd(), name, content.as_bytes(), owner)?;
    }
    Ok(aside)
}

/// Whose the home is: what is made in it is theirs, also when carboy is root.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn give(self, made: BorrowedFd<'_>) -> std::io::Result<()> {
        let now = rustix::fs::fstat(made)?;
        if (now.st_uid, now.st_gid) != (self.uid, self.gid) {
            rustix::fs::fchown(made, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        }
        Ok(())
    }
}

/// Opens `name` in `directory` and nothing that it leads to.
fn open_beneath(directory: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut tries = 0;
    loop {
        tries += 1;
        match rustix::fs::openat2(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Another program renames things in between.
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES_MAX => {}
            other => return other,
        }
    }
}

/// The directory of this name; made when it is not there. A link or a file in its place was put there by a program
/// inside, which could have lost it just as well: it is taken away.
fn enter(directory: BorrowedFd<'_>, name: &str, owner: Owner) -> std::io::Result<OwnedFd> {
    let look = || open_beneath(directory, name, OFlags::DIRECTORY | OFlags::RDONLY);
    match look() {
        Ok(found) => return Ok(found),
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP | Errno::NOTDIR) => rustix::fs::unlinkat(directory, name, AtFlags::empty())?,
        Err(other) => return Err(other.into()),
    }
    match rustix::fs::mkdirat(directory, name, Mode::RWXU) {
        // A run of the same bottle that starts at the same time.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(other) => return Err(other.into()),
    }
    let made = look()?;
    owner.give(made.as_fd())?;
    Ok(made)
}

/// A plain file's text within its bound; `None` for everything else.
fn read(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<Option<String>> {
    // Without blocking: a pipe in its place must hold nobody up.
    let file = match open_beneath(directory, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::XDEV | Errno::ACCESS) => return Ok(None),
        Err(other) => return Err(other.into()),
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.size() > SEED_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(SEED_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).ok())
}

/// Puts a new file under this name in one step, whatever has the name now.
fn replace(directory: BorrowedFd<'_>, name: &str, content: &[u8], owner: Owner) -> std::io::Result<()> {
    let draft = format!(".carboy-seed-{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let made = match rustix::fs::openat(directory, &draft, flags, mode) {
        Err(Errno::EXIST) => {
            // Left by a launch of an equal process id that did not get to its end, or put there inside.
            rustix::fs::unlinkat(directory, &draft, AtFlags::empty())?;
            rustix::fs::openat(directory, &draft, flags, mode)
        }
        other => other,
    };
    let mut file = File::from(made?);
    let done = file
        .write_all(content)
        .and_then(|()| owner.give(file.as_fd()))
        .and_then(|()| Ok(rustix::fs::renameat(directory, &draft, directory, name)?));
    if let Err(error) = done {
        // The draft is ours and of no use any more.
        let _ = rustix::fs::unlinkat(directory, &draft, AtFlags::empty());
        return Err(error);
    }
    Ok(())
}

/// A directory where a file has to stand gets another name; gives that name. A program inside made it, perhaps so that the
/// next launch fails; it may hold what the person wants to keep.
fn put_aside(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<Option<String>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let names = (1..=ASIDE_MAX).map(|number| format!("{name}.carboy-aside-{number}"));
    for aside in names {
        // What it is renamed to is never replaced, and the rename follows nothing.
        match rustix::fs::renameat_with(directory, name, directory, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Some(aside)),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Err(std::io::Error::other(format!("a directory stands in its place, and {ASIDE_MAX} stand aside already")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use carboy_manifest::providers::seed::How;

    use super::*;

    fn text(path: &'static str, text: &str) -> Seed {
        Seed { path, how: How::Replace(text.into()) }
    }

    fn json(path: &'static str) -> Seed {
        Seed { path, how: How::Json { ours: serde_json::json!({"ours": 1}), first: serde_json::Value::Null } }
    }

    fn read_back(path: &Path) -> String {
        assert!(std::fs::symlink_metadata(path).unwrap().is_file(), "{}", path.display());
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_seed_is_a_file_of_the_home_s_owner_that_others_cannot_read() {
        let home = tempfile::tempdir().unwrap();
        plant(home.path(), &text(".a/b/c.json", "new")).unwrap();
        let file = home.path().join(".a/b/c.json");
        assert_eq!(read_back(&file), "new");
        let (meta, owner) = (file.metadata().unwrap(), home.path().metadata().unwrap());
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (owner.uid(), owner.gid(), 0o600));
        assert_eq!(home.path().join(".a").metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(home.path().join(".a/b")).unwrap().count(), 1);
    }

    #[test]
    fn what_root_makes_belongs_to_whose_the_home_is() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(home.path(), Some(4711), Some(4712)).unwrap();
        plant(home.path(), &text("a/b", "x")).unwrap();
        for below in ["a", "a/b"] {
            let meta = home.path().join(below).metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid()), (4711, 4712), "{below}");
        }
    }

    #[test]
    fn nothing_that_an_earlier_run_left_leads_out_of_the_home() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (at, victim) = (home.path().join("x.json"), outside.path().join("victim"));
        std::fs::write(&victim, "mine").unwrap();
        for left in ["link", "dangling", "hard link", "pipe", "unreadable"] {
            let _ = std::fs::remove_file(&at);
            match left {
                "link" => symlink(&victim, &at).unwrap(),
                "dangling" => symlink(outside.path().join("made"), &at).unwrap(),
                "hard link" => std::fs::hard_link(&victim, &at).unwrap(),
                "pipe" => rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap(),
                _ => {
                    std::fs::write(&at, "{}").unwrap();
                    std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o0)).unwrap();
                }
            }
            plant(home.path(), &json("x.json")).unwrap();
            assert!(read_back(&at).contains("ours"), "{left}");
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine", "{left}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_was_exchanged_for_a_link_is_a_directory_again() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for left in ["link", "file"] {
            let at = home.path().join(left);
            match left {
                "link" => symlink(outside.path(), &at).unwrap(),
                _ => std::fs::write(&at, "x").unwrap(),
            }
        }
        plant(home.path(), &text("link/x", "new")).unwrap();
        plant(home.path(), &text("file/x", "new")).unwrap();
        assert_eq!((read_back(&home.path().join("link/x")), read_back(&home.path().join("file/x"))).0, "new");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_the_place_of_a_file_is_put_aside_with_what_is_in_it() {
        let home = tempfile::tempdir().unwrap();
        let at = |below: &str| home.path().join(below);
        for (number, inner) in [(1, "d/x/y"), (2, "d/x/z")] {
            std::fs::create_dir_all(at(inner)).unwrap();
            std::fs::set_permissions(at("d/x"), std::fs::Permissions::from_mode(0o0)).unwrap();
            let aside = plant(home.path(), &json("d/x")).unwrap();
            assert_eq!(aside, Some(format!("x.carboy-aside-{number}")));
            assert!(read_back(&at("d/x")).contains("ours"));
            assert_eq!(plant(home.path(), &json("d/x")).unwrap(), None, "it is said once");
            std::fs::remove_file(at("d/x")).unwrap();
        }
        std::fs::set_permissions(at("d/x.carboy-aside-1"), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(at("d/x.carboy-aside-1/y").is_dir());
        // A name that is taken is passed over, whatever has it; there is an end to it.
        for number in 1..=ASIDE_MAX {
            let _ = symlink("/nonexistent", at(&format!("d/x.carboy-aside-{number}")));
        }
        std::fs::create_dir(at("d/x")).unwrap();
        let error = plant(home.path(), &json("d/x")).unwrap_err();
        assert!(error.to_string().contains("stand aside already"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_large_or_no_text_gives_way() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("x.json");
        for left in [vec![b' '; SEED_BYTES_MAX as usize + 1], vec![0xff; 10]] {
            std::fs::write(&at, left).unwrap();
            plant(home.path(), &json("x.json")).unwrap();
            assert_eq!(read_back(&at), "{\n  \"ours\": 1\n}\n");
        }
        std::fs::write(&at, "{\"theirs\":2}").unwrap();
        plant(home.path(), &json("x.json")).unwrap();
        assert!(read_back(&at).contains("theirs"));
    }

    #[test]
    fn the_account_of_a_token_is_known_and_a_strange_one_is_not_taken_over() {
        // M35
        struct One(String);
        impl SecretSource for One {
            fn current(&self, _: &SecretName) -> Option<std::sync::Arc<carboy_core::secret::SecretText>> {
                Some(std::sync::Arc::new(carboy_core::secret::Secret::new(self.0.clone())))
            }
            fn refresh(
                &self,
                _: &SecretName,
            ) -> carboy_core::ports::Later<'_, Option<std::sync::Arc<carboy_core::secret::SecretText>>> {
                Box::pin(async { None })
            }
        }
        let logins = [Login { service: Service::ChatGpt, secret: SecretName::parse("T").unwrap() }];
        let of = |claims: serde_json::Value| {
            let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
            account(&logins, &One(format!("e30.{claims}.signature")))
        };
        let named =
            |id: &str| serde_json::json!({OPENAI_CLAIMS: {"chatgpt_account_id": id, "chatgpt_plan_type": "pro"}});
        assert_eq!(of(named("a-1")), Some(ChatGptAccount { id: "a-1".into(), plan: "pro".into() }));
        assert_eq!(of(named("a\n1")), None);
        assert_eq!(of(named(&"a".repeat(200))), None);
        assert_eq!(of(serde_json::json!({})), None);
        assert_eq!(account(&logins, &One("sk-key".into())), None);
    }
}
