//! What a program printed, kept beside the run: the last [`KEPT_BYTES_MAX`] of it.
//!
//! While the run lives the text stands in two files, `output.before` and `output`; the older one goes when the newer one
//! is full. At the end they become one.
//!
//! *Must never* end a run: a full disk costs the rest of this text and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Most of a program's output that is kept, in bytes.
pub const KEPT_BYTES_MAX: u64 = 1024 * 1024;

/// The output of a run that lives.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    /// `None` after a failure.
    file: Option<File>,
    written: u64,
}

fn current(dir: &Path) -> PathBuf {
    dir.join("output")
}

fn before(dir: &Path) -> PathBuf {
    dir.join("output.before")
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

impl Kept {
    /// Keeps output in this directory, which is carboy's own.
    pub fn open(dir: &Path) -> io::Result<Kept> {
        Ok(Kept { dir: dir.to_owned(), file: Some(create(&current(dir))?), written: 0 })
    }

    /// Adds to it.
    pub fn write(&mut self, bytes: &[u8]) {
        let added = self.try_write(bytes);
        if added.is_err() {
            self.file = None;
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_some() && self.written + bytes.len() as u64 > KEPT_BYTES_MAX {
            fs::rename(current(&self.dir), before(&self.dir))?;
            self.file = Some(create(&current(&self.dir))?);
            self.written = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.written += bytes.len() as u64;
        }
        Ok(())
    }

    /// Makes one file of the two.
    pub fn finish(&mut self) {
        self.file = None;
        if !before(&self.dir).exists() {
            return;
        }
        let whole = read(&self.dir);
        let made = whole.and_then(|whole| {
            let draft = self.dir.join("output.new");
            create(&draft)?.write_all(&whole)?;
            fs::rename(draft, current(&self.dir))
        });
        if made.is_ok() {
            let _ = fs::remove_file(before(&self.dir));
        }
    }
}

/// The last [`KEPT_BYTES_MAX`] of a run's output, whether it lives or not.
pub fn read(dir: &Path) -> io::Result<Vec<u8>> {
    let mut newer = tail(&current(dir), KEPT_BYTES_MAX)?;
    let room = KEPT_BYTES_MAX - newer.len() as u64;
    let mut whole = match tail(&before(dir), room) {
        Ok(older) => older,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    whole.append(&mut newer);
    Ok(whole)
}

fn tail(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mebibyte_is_kept_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::open(dir.path()).unwrap();
        let lines: Vec<String> = (0..200_000).map(|n| format!("line {n:08}\n")).collect();
        for line in &lines {
            kept.write(line.as_bytes());
        }
        let all = lines.concat().into_bytes();
        let last = &all[all.len() - KEPT_BYTES_MAX as usize..];
        assert!(read(dir.path()).unwrap() == last, "while it lives");
        kept.finish();
        assert!(read(dir.path()).unwrap() == last, "at the end");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["output"]);
    }
}
