//! The log as one process writes it: opened safely, locked per batch, its end checked before anything is added.
//!
//! Must never chain onto an end that does not hold, and never delete a byte that somebody else wrote.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use carboy_core::audit::{
    ChainHead, ChainKey, Entry, Event, EventType, Outcome, Subject, Tampering, Verifier, hex, sha256,
};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, statat};
use rustix::io::Errno;

use super::lines::{LINE_BYTES_MAX, Lines};
use super::time::rfc3339;
use super::verify::hint;
use crate::StoreError;
use crate::place::{OwnerRule, check_rights, open_directory};

/// Longest wait for the lock of a log, in milliseconds. Then whatever wanted it fails.
pub(super) const LOCK_WAIT_MS: u64 = 2_000;
/// Pause between two looks at the lock, in microseconds. Shorter than the pause of a busy writer ([`super::writer`]),
/// so that no process is starved by another.
const LOCK_POLL_US: u64 = 150;
/// Names tried for the copy of a torn line within one millisecond.
const TORN_NAMES_MAX: u32 = 16;
/// What is read from the end: a torn line, the last entry and the one before it.
const TAIL_BYTES: u64 = 3 * (LINE_BYTES_MAX as u64 + 1);

/// What a lock is for.
#[derive(Clone, Copy)]
pub(super) enum LockKind {
    /// To look at a length that no writer is changing.
    Shared,
    /// To write.
    Exclusive,
}

/// Holds the lock until it goes. The kernel frees it when a process dies.
pub(super) struct Lock<'a>(&'a File);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Unlocking one's own lock does not fail; if it did, closing the file would do it.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

/// Takes the lock of a log, waiting at most [`LOCK_WAIT_MS`].
pub(super) fn locked<'a>(file: &'a File, path: &Path, kind: LockKind) -> Result<Lock<'a>, StoreError> {
    let operation = match kind {
        LockKind::Shared => FlockOperation::NonBlockingLockShared,
        LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let deadline = Instant::now() + Duration::from_millis(LOCK_WAIT_MS);
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(Lock(file)),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_micros(LOCK_POLL_US));
            }
            Err(Errno::WOULDBLOCK) => return Err(StoreError::Busy { path: path.to_owned(), wait_ms: LOCK_WAIT_MS }),
            Err(error) => return Err(StoreError::sys("lock", path)(error)),
        }
    }
}

/// A log open for writing, and what is known of its end.
pub(super) struct LogFile {
    file: File,
    directory: File,
    name: OsString,
    path: PathBuf,
    key: ChainKey,
    /// Where the next line goes.
    end: u64,
    /// Where the last line starts.
    last: u64,
    head: ChainHead,
}

/// The end of a log as found on disk.
struct Tail {
    end: u64,
    last: u64,
    head: ChainHead,
    torn: Vec<u8>,
}

impl LogFile {
    /// Opens or creates the log at `path`, checks its end, and moves a torn last line aside.
    pub(super) fn open(path: &Path, key: ChainKey, now_ms: u64) -> Result<LogFile, StoreError> {
        let not_plain = || StoreError::NotPlainFile { path: path.to_owned() };
        let name = path.file_name().ok_or_else(not_plain)?.to_owned();
        let directory = open_directory(path)?;
        // NOFOLLOW: a link in the log's place would make us write to whatever its maker chose.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(not_plain()),
            Err(error) => return Err(StoreError::sys("open", path)(error)),
        };
        let meta = file.metadata().map_err(StoreError::io("look at", path))?;
        // A second name would let others keep, or write, what is ours.
        if !meta.is_file() || meta.nlink() != 1 {
            return Err(not_plain());
        }
        check_rights(&meta, path, OwnerRule::Self_)?;
        directory.sync_all().map_err(StoreError::io("write the directory of", path))?;
        let head = ChainHead::default();
        let mut log = LogFile { file, directory, name, path: path.to_owned(), key, end: 0, last: 0, head };
        let handle = log.handle()?;
        let _lock = locked(&handle, path, LockKind::Exclusive)?;
        log.catch_up(now_ms)?;
        Ok(log)
    }

    /// The head after the last entry that this process wrote or chained onto.
    pub(super) fn head(&self) -> &ChainHead {
        &self.head
    }

    /// A second handle of the same open file, so that a lock does not borrow the log.
    fn handle(&self) -> Result<File, StoreError> {
        self.file.try_clone().map_err(StoreError::io("open", &self.path))
    }

    /// Chains the events onto what is the last entry now and writes them; all are durable, or none is in the log.
    pub(super) fn commit(&mut self, events: impl Iterator<Item = (u64, Event)>, now_ms: u64) -> Result<(), StoreError> {
        let handle = self.handle()?;
        let _lock = locked(&handle, &self.path, LockKind::Exclusive)?;
        self.check_place()?;
        self.catch_up(now_ms)?;
        let (mut head, mut text, mut last) = (self.head.clone(), Vec::new(), 0);
        for (at_ms, event) in events {
            last = text.len() as u64;
            text.extend(Entry::chain(event, &rfc3339(at_ms), &mut head, &self.key).to_line());
            text.push(b'\n');
        }
        let written = self.file.write_all_at(&text, self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Our own unfinished lines, under the lock and told to nobody. Where even this fails, the next batch finds
            // them: whole ones stay in the chain (and are then written twice), a torn one is moved aside.
            let _ = self.file.set_len(self.end);
            return Err(StoreError::io("write", &self.path)(error));
        }
        (self.last, self.end, self.head) = (self.end + last, self.end + text.len() as u64, head);
        Ok(())
    }

    /// The name must still stand for the file that is open: else we would write where nobody reads.
    fn check_place(&self) -> Result<(), StoreError> {
        let ours = self.file.metadata().map_err(StoreError::io("look at", &self.path))?;
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if named.st_ino == ours.ino() && named.st_dev == ours.dev() => {
                check_rights(&ours, &self.path, OwnerRule::Self_)
            }
            Ok(_) | Err(Errno::NOENT) => Err(StoreError::Replaced { path: self.path.clone() }),
            Err(error) => Err(StoreError::sys("look at", &self.path)(error)),
        }
    }

    /// Takes over what other processes have written since; the lock is held.
    fn catch_up(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let len = self.file.metadata().map_err(StoreError::io("look at", &self.path))?.len();
        if len == self.end {
            return Ok(());
        }
        let tail = if len < self.end { None } else { Some(self.tail(len)?) };
        // Cut shorter, or cut and grown again: what we know to have been written must still stand where it stood.
        let Some(tail) = tail.filter(|tail| tail.end >= self.end && self.knows_own_last()) else {
            return Err(StoreError::RolledBack { path: self.path.clone() });
        };
        (self.end, self.last, self.head) = (tail.end, tail.last, tail.head);
        if tail.torn.is_empty() { Ok(()) } else { self.move_aside(&tail.torn, now_ms) }
    }

    fn knows_own_last(&self) -> bool {
        if self.end == 0 {
            return true;
        }
        let mut line = vec![0; (self.end - self.last) as usize];
        self.file.read_exact_at(&mut line, self.last).is_ok()
            && line.pop() == Some(b'\n')
            && Entry::parse(&line).ok().and_then(|entry| entry.claimed_head()).as_ref() == Some(&self.head)
    }

    /// Reads the end of the log: the last entry must be right, and follow the one before it.
    fn tail(&self, len: u64) -> Result<Tail, StoreError> {
        let start = len.saturating_sub(TAIL_BYTES);
        let mut bytes = vec![0; (len - start) as usize];
        self.file.read_exact_at(&mut bytes, start).map_err(StoreError::io("read", &self.path))?;
        let line_start = |before: usize| match bytes[..before].iter().rposition(|b| *b == b'\n') {
            Some(at) => Some(at + 1),
            None if start == 0 => Some(0),
            None => None,
        };
        let too_long = |at: usize| StoreError::LineTooLong {
            path: self.path.clone(),
            offset: start + at as u64,
            bytes_max: LINE_BYTES_MAX,
        };
        let end =
            line_start(bytes.len()).filter(|end| bytes.len() - end <= LINE_BYTES_MAX).ok_or_else(|| too_long(0))?;
        let torn = bytes[end..].to_vec();
        if end == 0 {
            return Ok(Tail { end: 0, last: 0, head: ChainHead::default(), torn });
        }
        let last = line_start(end - 1).filter(|last| end - last <= LINE_BYTES_MAX + 1).ok_or_else(|| too_long(0))?;
        let before = if start + last as u64 == 0 {
            ChainHead::default()
        } else {
            let from = line_start(last - 1).ok_or_else(|| too_long(0))?;
            let before = Entry::parse(&bytes[from..last - 1]).ok().and_then(|entry| entry.claimed_head());
            before.ok_or_else(|| self.bad_tail(Tampering::NotAnEntry { line: line_before(&bytes[last..end - 1]) }))?
        };
        let mut verifier = Verifier::after(&self.key, before, None);
        match verifier.line(&bytes[last..end - 1]) {
            Ok(_) => {
                let head = verifier.head().clone();
                Ok(Tail { end: start + end as u64, last: start + last as u64, head, torn })
            }
            Err(tampering) => Err(self.bad_tail(tampering)),
        }
    }

    fn bad_tail(&self, tampering: Tampering) -> StoreError {
        // The lock is held: the lines are read by the open file, not by name.
        let lines = self.handle().and_then(|file| Lines::between(file, &self.path, 0, TAIL_BYTES));
        let hint = lines.and_then(|lines| hint(lines, &self.key)).ok().flatten();
        match hint.filter(|_| matches!(tampering, Tampering::Edited { .. })) {
            Some(hint) => StoreError::WrongKey { path: self.path.clone(), hint },
            None => StoreError::BadTail { path: self.path.clone(), tampering },
        }
    }

    /// Copies a torn last line to a file of its own and writes the event that names it in its place.
    fn move_aside(&mut self, torn: &[u8], now_ms: u64) -> Result<(), StoreError> {
        let name = self.write_torn(torn, now_ms)?;
        let event = Event::new(EventType::Security, Subject::default(), "move_torn_line", Outcome::Warned)
            .with("file", name.to_string_lossy().into_owned())
            .with("bytes", torn.len() as u64)
            .with("sha256", hex(&sha256(torn)));
        let mut head = self.head.clone();
        let mut line = Entry::chain(event, &rfc3339(now_ms), &mut head, &self.key).to_line();
        line.push(b'\n');
        let end = self.end + line.len() as u64;
        // First over the torn bytes, then cut to length: a crash in between leaves another torn line, never a log from
        // which bytes went without a word.
        self.file
            .write_all_at(&line, self.end)
            .and_then(|()| self.file.set_len(end))
            .and_then(|()| self.file.sync_data())
            .map_err(StoreError::io("write", &self.path))?;
        (self.last, self.end, self.head) = (self.end, end, head);
        Ok(())
    }

    fn write_torn(&self, torn: &[u8], now_ms: u64) -> Result<OsString, StoreError> {
        let time: String = rfc3339(now_ms).chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for attempt in 0..TORN_NAMES_MAX {
            let mut name = Path::new(&self.name).file_stem().unwrap_or(OsStr::new("audit")).to_owned();
            name.push(format!(".torn-{time}"));
            if attempt > 0 {
                name.push(format!("-{attempt}"));
            }
            let path = self.path.with_file_name(&name);
            let file = match openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => File::from(fd),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(StoreError::sys("create", &path)(error)),
            };
            file.write_all_at(torn, 0)
                .and_then(|()| file.sync_all())
                .and_then(|()| self.directory.sync_all())
                .map_err(StoreError::io("write", &path))?;
            return Ok(name);
        }
        Err(StoreError::sys("create a copy of the torn line of", &self.path)(Errno::EXIST))
    }
}

/// The number of the line before this one, as this one claims it; 0 where it claims nothing.
fn line_before(line: &[u8]) -> u64 {
    Entry::parse(line).ok().and_then(|entry| entry.seq()).map_or(0, |seq| seq.saturating_sub(1))
}
