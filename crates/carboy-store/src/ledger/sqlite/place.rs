//! Where the database lies, and whether it is still the file that was opened.
//!
//! *Must never* open the database itself: the locks of a process on a file are gone when any of its handles is closed.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstatfs, openat, statat};
use rustix::io::Errno;

use super::LOG_BYTES_MAX;
use crate::StoreError;
use crate::place::open_directory;

/// Longest wait for a process that is about to end, in milliseconds.
const LOCK_WAIT_MS: u64 = 2_000;
/// Pause between two looks, in milliseconds.
const LOCK_POLL_MS: u64 = 10;
/// Others may not write it.
const OTHERS_WRITE: u32 = 0o022;
/// Its owner may read and write it.
const OWN: u32 = 0o600;

/// File systems whose locks or shared memory are another machine's affair, by their magic number (Linux `statfs(2)`).
/// FUSE does not say what stands behind it: it is refused as a whole.
const NETWORK: [(u64, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0102_1997, "9P"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x786f_4256, "VirtualBox share"),
];

/// A file by what cannot be put in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(stat: &Stat) -> Identity {
        Identity { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// The place of an open database. The lock is held as long as it lives.
pub(super) struct Place {
    directory: File,
    name: OsString,
    path: PathBuf,
    file: Identity,
    /// It only grows.
    bytes: i64,
    log: Option<Identity>,
    log_bytes: i64,
    _lock: File,
}

impl Place {
    /// Takes the place, creating an empty file (0600) and its directory (0700) where they are missing.
    pub(super) fn take(path: &Path) -> Result<Place, StoreError> {
        let name = path.file_name().ok_or_else(|| StoreError::NotPlainFile { path: path.to_owned() })?.to_owned();
        let directory = open_directory(path)?;
        let system = fstatfs(&directory).map_err(StoreError::sys("look at the file system of", path))?;
        if let Some(kind) = network(system.f_type as u64) {
            return Err(StoreError::NetworkFileSystem { path: path.to_owned(), kind });
        }
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        // Links on the way are the user's own affair; the database is opened by where they lead.
        let parent = parent.canonicalize().map_err(StoreError::io("look at the directory", parent))?;
        let path = parent.join(&name);
        let lock = lock(&directory, &suffixed(&name, ".lock"), &path)?;
        let created = create(&directory, &name, &path)?;
        let stat = plain(&directory, &name, &path)?;
        for suffix in ["-wal", "-shm"] {
            let (name, path) = (suffixed(&name, suffix), suffixed_path(&path, suffix));
            match plain(&directory, &name, &path) {
                Ok(left) if !created || left.st_size == 0 || suffix == "-shm" => {}
                // Left over by a database that is gone: it would be read into the new one.
                Ok(_) => {
                    return Err(StoreError::NotALedger { path, what: "it belongs to a ledger that is gone".into() });
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        directory.sync_all().map_err(StoreError::io("write the directory of", &path))?;
        let (file, bytes) = (Identity::of(&stat), stat.st_size);
        Ok(Place { directory, name, path, file, bytes, log: None, log_bytes: 0, _lock: lock })
    }

    /// The database, by a path without links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How long the write-ahead log was at the last look, in bytes.
    pub(super) fn log_bytes(&self) -> i64 {
        self.log_bytes
    }

    /// The names must still stand for the files that are open, and nothing may be cut off them: else what is written is
    /// read by nobody.
    pub(super) fn check(&mut self) -> Result<(), StoreError> {
        let replaced = |path: &Path| StoreError::LedgerReplaced { path: path.to_owned() };
        let missing = |error: StoreError, path: &Path| if is_missing(&error) { replaced(path) } else { error };
        let stat = plain(&self.directory, &self.name, &self.path).map_err(|error| missing(error, &self.path))?;
        if Identity::of(&stat) != self.file {
            return Err(replaced(&self.path));
        }
        if stat.st_size < self.bytes {
            return Err(StoreError::LedgerCut { path: self.path.clone() });
        }
        self.bytes = stat.st_size;
        let (name, path) = (suffixed(&self.name, "-wal"), suffixed_path(&self.path, "-wal"));
        match (plain(&self.directory, &name, &path), self.log) {
            (Ok(stat), Some(known)) if Identity::of(&stat) != known => Err(replaced(&path)),
            // It is written over from its beginning when all of it was taken over, and only cut back to its limit.
            (Ok(stat), Some(_)) if stat.st_size < self.log_bytes.min(LOG_BYTES_MAX) => {
                Err(StoreError::LedgerCut { path })
            }
            (Ok(stat), Some(_) | None) => {
                (self.log, self.log_bytes) = (Some(Identity::of(&stat)), stat.st_size);
                Ok(())
            }
            (Err(error), None) if is_missing(&error) => Ok(()),
            (Err(error), _) => Err(missing(error, &path)),
        }
    }
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn network(magic: u64) -> Option<&'static str> {
    // Some systems widen a negative number.
    let magic = magic & 0xffff_ffff;
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, kind)| *kind)
}

fn suffixed(name: &OsString, suffix: &str) -> OsString {
    let mut name = name.clone();
    name.push(suffix);
    name
}

fn suffixed_path(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(suffixed(&path.as_os_str().to_owned(), suffix))
}

/// One process keeps a ledger. The kernel lets go of the lock when that dies.
fn lock(directory: &File, name: &OsString, path: &Path) -> Result<File, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error {
        Errno::LOOP | Errno::ISDIR | Errno::NXIO => StoreError::NotPlainFile { path: suffixed_path(path, ".lock") },
        error => StoreError::sys("open the lock of", path)(error),
    })?;
    let file = File::from(fd);
    let deadline = Instant::now() + Duration::from_millis(LOCK_WAIT_MS);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(LOCK_POLL_MS));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Kept { path: path.to_owned(), wait_ms: LOCK_WAIT_MS });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", path)(source)),
        }
    }
}

/// Makes an empty file where there is none; whether it did.
fn create(directory: &File, name: &OsString, path: &Path) -> Result<bool, StoreError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(directory, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(StoreError::sys("create", path)(error)),
    }
}

/// A plain file with one name, ours, that nobody else can write.
fn plain(directory: &File, name: &OsString, path: &Path) -> Result<Stat, StoreError> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(StoreError::sys("look at", path))?;
    let mode = stat.st_mode & 0o777;
    let user = rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
        return Err(StoreError::NotPlainFile { path: path.to_owned() });
    }
    if stat.st_uid != user {
        return Err(StoreError::ForeignOwner { path: path.to_owned(), owner: stat.st_uid, user });
    }
    if mode & OTHERS_WRITE != 0 {
        return Err(StoreError::LooseMode { path: path.to_owned(), mode });
    }
    // Root writes it all the same; what was made read-only is meant to stay as it is.
    if mode & OWN != OWN {
        return Err(StoreError::ReadOnly { path: path.to_owned(), mode });
    }
    Ok(stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_other_machines_are_known_by_their_numbers() {
        assert_eq!((network(0x6969), network(0xffff_ffff_ff53_4d42)), (Some("NFS"), Some("CIFS")));
        // ext4, btrfs, xfs, tmpfs, overlayfs, zfs.
        for local in [0xef53, 0x9123_683e, 0x5846_5342, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(network(local), None, "{local:x}");
        }
    }
}
