//! Reading a log as lines, in bounded memory and without disturbing its writers.
//!
//! A reader takes the lock only for as long as it takes to ask for the length: everything before that length is whole,
//! whatever writers do meanwhile (they only append). Readers may be anybody who can read the file, also of a copy.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::file::{LockKind, locked};
use crate::StoreError;

/// Longest line of a log without its line feed, in bytes. No entry is longer; what is longer is not an entry.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Opens a log for reading; says so when there is none.
pub(super) fn open_to_read(path: &Path) -> Result<File, StoreError> {
    // Without O_NONBLOCK a pipe in the log's place would hold the reader for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Err(StoreError::Missing { path: path.to_owned() }),
        Err(error) => return Err(StoreError::sys("open", path)(error)),
    };
    let meta = file.metadata().map_err(StoreError::io("look at", path))?;
    if meta.is_file() { Ok(file) } else { Err(StoreError::NotPlainFile { path: path.to_owned() }) }
}

/// Its length at a moment when no writer was in the middle of a batch.
pub(super) fn settled_len(file: &File, path: &Path) -> Result<u64, StoreError> {
    let _lock = locked(file, path, LockKind::Shared)?;
    Ok(file.metadata().map_err(StoreError::io("look at", path))?.len())
}

/// One line, or what stands where one should.
pub(super) enum Line<'a> {
    /// Without its line feed.
    Whole(&'a [u8]),
    /// The end of the file came before the line feed; so many bytes stand there.
    Torn(u64),
    /// No line feed within [`LINE_BYTES_MAX`]; the line starts at this byte.
    TooLong(u64),
}

/// Walks over the lines of a part of a log.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<Take<File>>,
    line: Vec<u8>,
    offset: u64,
}

impl Lines {
    /// The lines of a whole log as it is now.
    pub(super) fn of(path: &Path) -> Result<Lines, StoreError> {
        let file = open_to_read(path)?;
        let len = settled_len(&file, path)?;
        Lines::between(file, path, 0, len)
    }

    /// The lines that start at byte `from`, up to byte `to`.
    pub(super) fn between(mut file: File, path: &Path, from: u64, to: u64) -> Result<Lines, StoreError> {
        file.seek(SeekFrom::Start(from)).map_err(StoreError::io("read", path))?;
        let reader = BufReader::with_capacity(LINE_BYTES_MAX, file.take(to.saturating_sub(from)));
        Ok(Lines { path: path.to_owned(), reader, line: Vec::new(), offset: from })
    }

    /// The log that they are of.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next line starts.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line; none at the end. After [`Line::Torn`] and [`Line::TooLong`] there is no use in going on.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, StoreError> {
        self.line.clear();
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(StoreError::io("read", &self.path)(error)),
            };
            if chunk.is_empty() {
                let torn = self.line.len() as u64;
                return Ok(if torn == 0 { None } else { Some(Line::Torn(torn)) });
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let piece = end.unwrap_or(chunk.len());
            if self.line.len() + piece > LINE_BYTES_MAX {
                return Ok(Some(Line::TooLong(self.offset)));
            }
            self.line.extend_from_slice(&chunk[..piece]);
            self.reader.consume(piece + usize::from(end.is_some()));
            if end.is_some() {
                self.offset += self.line.len() as u64 + 1;
                return Ok(Some(Line::Whole(&self.line)));
            }
        }
    }
}
