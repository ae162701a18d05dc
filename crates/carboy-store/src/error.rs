//! Everything that can go wrong with the log and the ledger on disk, in words that name the file and the next step.

use std::io;
use std::path::{Path, PathBuf};

use carboy_core::audit::Tampering;
use carboy_core::ports::AuditError;

use crate::audit::Hint;

/// The log, or the ledger, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused an operation.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no log.
    #[error("there is no audit log at {path}: it begins with the first run; `carboy audit path` names the place")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A symbolic link, a directory, a pipe or a device, or a file with a second name.
    #[error("{path} is not a plain file with one name; remove it or name another place")]
    NotPlainFile {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner can write it.
    #[error("{path} can be written by others (mode {mode:03o}); take that right away: chmod go-w {path}")]
    LooseMode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else, who could rewrite it.
    #[error("{path} belongs to user {owner}, not to user {user} who is running this")]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who wants to write.
        user: u32,
    },
    /// The end of the log does not hold, so nothing is chained onto it.
    #[error(
        "the end of {path} cannot be verified ({tampering}); keep it for inspection (`carboy audit verify`), then move it away to start a new log"
    )]
    BadTail {
        /// The log.
        path: PathBuf,
        /// What is wrong.
        tampering: Tampering,
    },
    /// The end of the log does not hold, and the reason may be the key.
    #[error("the end of {path} cannot be verified: {hint}")]
    WrongKey {
        /// The log.
        path: PathBuf,
        /// What the log looks like.
        hint: Hint,
    },
    /// Another process holds the lock for too long.
    #[error("{path} has been locked by another process for {wait_ms} ms; find it with `fuser {path}`")]
    Busy {
        /// The log.
        path: PathBuf,
        /// How long was waited.
        wait_ms: u64,
    },
    /// The log lost entries while it was in use.
    #[error(
        "{path} is shorter than it was, or its end is another one: entries were cut off while it was in use; keep the file for inspection and start the run anew"
    )]
    RolledBack {
        /// The log.
        path: PathBuf,
    },
    /// The name now stands for another file, or for none.
    #[error("{path} was removed or replaced while it was in use; put it back, or start the run anew with a new log")]
    Replaced {
        /// The log.
        path: PathBuf,
    },
    /// A line that is longer than any entry can be.
    #[error(
        "{path} holds a line of more than {bytes_max} bytes at byte {offset}: it is not an audit log, or was damaged"
    )]
    LineTooLong {
        /// The log.
        path: PathBuf,
        /// Where the line starts.
        offset: u64,
        /// The longest line that is read.
        bytes_max: usize,
    },
    /// A line that is no entry, met while following.
    #[error("{path} holds a line at byte {offset} that is not an entry; run `carboy audit verify`")]
    NotAnEntry {
        /// The log.
        path: PathBuf,
        /// Where the line starts.
        offset: u64,
    },
    /// An event that does not fit into a line.
    #[error("the event's particulars take {bytes} bytes, more than {bytes_max}; shorten them")]
    EventTooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        bytes_max: usize,
    },
    /// More events wait than the queue holds.
    #[error("{events} events wait to be written, and the disk does not keep up")]
    QueueFull {
        /// How many wait.
        events: usize,
    },
    /// An earlier write failed and was not made good yet.
    #[error("an earlier write failed and has not succeeded since: {cause}")]
    Failing {
        /// What the earlier write met.
        cause: String,
    },
    /// The database refused an operation.
    #[error("cannot {what} the ledger {path}: {source}; {next}")]
    Database {
        /// What was tried, as a verb.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The database's answer.
        source: rusqlite::Error,
        /// What to do.
        next: &'static str,
    },
    /// Locks and shared memory do not hold there.
    #[error(
        "{path} lies on a network file system ({kind}), on which a ledger is lost sooner or later; name a directory on a local disk with CARBOY_HOME"
    )]
    NetworkFileSystem {
        /// The ledger.
        path: PathBuf,
        /// Which one.
        kind: &'static str,
    },
    /// The library is one of those that can damage a database.
    #[error(
        "SQLite {found} can damage a ledger (a bug of write-ahead logs before 3.51.3); use a build with 3.51.3 or newer"
    )]
    OldSqlite {
        /// Its version.
        found: String,
    },
    /// A newer carboy wrote it.
    #[error(
        "{path} was written by a newer carboy (schema {found}, this one knows {known}); install that version again, or name another CARBOY_HOME"
    )]
    NewerSchema {
        /// The ledger.
        path: PathBuf,
        /// Its schema.
        found: u64,
        /// The newest that is known.
        known: u64,
    },
    /// It holds what no ledger does.
    #[error(
        "{path} is not a ledger, or was damaged ({what}); keep it for inspection, then put a copy in its place or move it away"
    )]
    NotALedger {
        /// The file.
        path: PathBuf,
        /// What was met.
        what: String,
    },
    /// The database finds its own pages wrong.
    #[error(
        "the ledger {path} is damaged ({source}): put a copy in its place, or move it away (`mv {path} {path}.damaged`) and what \
         was spent is counted anew; before that end its controller (`carboy controller stop --force`)"
    )]
    Damaged {
        /// The ledger.
        path: PathBuf,
        /// The database's answer.
        source: rusqlite::Error,
    },
    /// Another process keeps it.
    #[error(
        "{path} is kept by another process, which did not let go in {wait_ms} ms; find it with `fuser {path}.lock` and stop it"
    )]
    Kept {
        /// The ledger.
        path: PathBuf,
        /// How long was waited.
        wait_ms: u64,
    },
    /// Its owner may not write it.
    #[error("{path} cannot be written by its owner (mode {mode:03o}); give that right back: chmod u+rw {path}")]
    ReadOnly {
        /// The ledger.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The name now stands for another file, or for none.
    #[error(
        "{path} was removed or replaced while it was in use; put the file back that was there, nothing metered passes until then"
    )]
    LedgerReplaced {
        /// The file.
        path: PathBuf,
    },
    /// It lost something while it was in use.
    #[error(
        "{path} is shorter than it was: it was cut off while it was in use; keep it for inspection, put a copy in its place and start the controller anew"
    )]
    LedgerCut {
        /// The file.
        path: PathBuf,
    },
    /// No thread could be started.
    #[error("cannot start the {what} thread: {source}")]
    Thread {
        /// Whose.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The log was closed, or its writer is gone.
    #[error("the audit log is closed")]
    Closed,
    /// Closing gave up with acknowledged events still unwritten.
    #[error("{events} acknowledged events could not be written before closing: {cause}")]
    Unwritten {
        /// How many.
        events: usize,
        /// What the last write met.
        cause: String,
    },
    /// More entries were asked for than are given at once.
    #[error("{asked} entries are more than the {max} that are given at once; narrow the question by time or field")]
    TooMany {
        /// Asked for.
        asked: usize,
        /// Given at most.
        max: usize,
    },
}

impl StoreError {
    /// For `map_err` after a system call.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { what, path: path.to_owned(), source }
    }

    /// For `map_err` after a call of rustix.
    pub(crate) fn sys(what: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> StoreError {
        move |source| StoreError::Io { what, path: path.to_owned(), source: source.into() }
    }
}

impl From<StoreError> for AuditError {
    fn from(error: StoreError) -> AuditError {
        AuditError(error.to_string())
    }
}
