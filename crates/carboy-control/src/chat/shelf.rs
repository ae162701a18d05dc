//! Where an agent's notes lie: plain files of one directory.
//!
//! ```text
//!  put ─▶ draft (O_EXCL, 0600) ─▶ written, synced ─▶ linked to its name, which must be free ─▶ directory synced
//! ```
//!
//! *Must never* follow a link, replace a file, or resolve a name anywhere but in the directory that was opened (G78).

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use carboy_agent::builtin::notes::NOTE_CHARS_MAX;
use carboy_agent::builtin::{NoteError, NoteName, NoteShelf};
use carboy_core::ports::Later;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, linkat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::ChatError;

/// The directory, below the working directory.
pub const NOTES_DIR: &str = "notes";
/// Notes that it takes.
pub const NOTES_MAX: usize = 10_000;
/// Octets of the largest note: a character has four at most.
const NOTE_BYTES_MAX: u64 = NOTE_CHARS_MAX as u64 * 4;
/// How a draft's name begins; no note's name begins with a dot.
const DRAFT: &str = ".draft-";
/// Others may not write in it.
const OTHERS_WRITE: u32 = 0o022;

/// See the module.
#[derive(Clone)]
pub struct DirShelf(Arc<Inner>);

struct Inner {
    dir: File,
    drafts: AtomicU64,
}

impl DirShelf {
    /// The directory `notes` below `workdir`, made (0700) where it is missing.
    pub fn open(workdir: &Path) -> Result<DirShelf, ChatError> {
        let path = workdir.join(NOTES_DIR);
        let refused = |why: String| ChatError::Shelf { path: path.clone(), why };
        let open = |at: &File| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(at, NOTES_DIR, flags, Mode::empty()).map(File::from)
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, workdir, flags, Mode::empty()).map_err(|e| refused(e.to_string()))?;
        let parent = File::from(parent);
        let dir = match open(&parent) {
            Err(Errno::NOENT) => match mkdirat(&parent, NOTES_DIR, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => open(&parent),
                Err(error) => Err(error),
            },
            other => other,
        };
        let dir = match dir {
            Ok(dir) => dir,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(refused("it is a link or no directory; remove it or rename it".into()));
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        let meta = dir.metadata().map_err(|e| refused(e.to_string()))?;
        let user = rustix::process::geteuid().as_raw();
        if meta.uid() != user || meta.mode() & OTHERS_WRITE != 0 {
            let mode = meta.mode() & 0o777;
            return Err(refused(format!("others can write in it (owner {}, mode {mode:03o}): chmod go-w", meta.uid())));
        }
        Ok(DirShelf(Arc::new(Inner { dir, drafts: AtomicU64::new(0) })))
    }
}

impl NoteShelf for DirShelf {
    fn put<'a>(&'a self, name: &'a NoteName, content: &'a str) -> Later<'a, Result<(), NoteError>> {
        let (inner, name, content) = (self.0.clone(), name.as_str().to_owned(), content.to_owned());
        Box::pin(async move {
            let put = tokio::task::spawn_blocking(move || inner.put(&name, &content));
            put.await.map_err(|e| NoteError::Unavailable(e.to_string()))?
        })
    }

    fn label(&self) -> &str {
        NOTES_DIR
    }
}

impl Inner {
    fn put(&self, name: &str, content: &str) -> Result<(), NoteError> {
        let failed = |e: &dyn std::fmt::Display| NoteError::Unavailable(e.to_string());
        // A `NoteName` is a plain name; whatever it may once be made of, nothing else is given to the kernel.
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(failed(&"a note's name is no plain name"));
        }
        match self.known(name, content) {
            Some(known) => return known,
            None if self.count().map_err(|e| failed(&e))? >= NOTES_MAX => {
                return Err(NoteError::Full { notes_max: NOTES_MAX });
            }
            None => {}
        }
        let draft = format!("{DRAFT}{}-{}", std::process::id(), self.drafts.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, &*draft, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(&e))?;
        let mut file = File::from(file);
        let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
        let linked = match written {
            Ok(()) => linkat(&self.dir, &*draft, &self.dir, name, AtFlags::empty()).map_err(std::io::Error::from),
            Err(error) => Err(error),
        };
        // It is ours and of no use any more.
        let _ = unlinkat(&self.dir, &*draft, AtFlags::empty());
        match linked {
            Ok(()) => self.dir.sync_all().map_err(|e| failed(&e)),
            // Somebody was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                self.known(name, content).unwrap_or(Err(NoteError::Taken))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// What stands under the name, if anything: the same note, or another one.
    fn known(&self, name: &str, content: &str) -> Option<Result<(), NoteError>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return None,
            // A link, a directory, a file that may not be read: the name is taken.
            Err(_) => return Some(Err(NoteError::Taken)),
            Ok(fd) => File::from(fd),
        };
        let is_note = file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= NOTE_BYTES_MAX);
        let mut text = Vec::new();
        let same = is_note && file.take(NOTE_BYTES_MAX).read_to_end(&mut text).is_ok() && text == content.as_bytes();
        Some(if same { Ok(()) } else { Err(NoteError::Taken) })
    }

    fn count(&self) -> Result<usize, Errno> {
        let mut count = 0;
        for entry in Dir::read_from(&self.dir)? {
            count += usize::from(!entry?.file_name().to_bytes().starts_with(b"."));
            if count >= NOTES_MAX {
                break;
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn put(shelf: &DirShelf, name: &str, text: &str) -> Result<(), NoteError> {
        shelf.0.put(name, text)
    }

    #[test]
    fn g75_a_note_is_a_private_file_of_its_own_and_the_same_write_makes_no_second_one() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = DirShelf::open(dir.path()).unwrap();
        let name = NoteName::of_write(1_764_486_000_000, "key");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(shelf.put(&name, "buy milk")).unwrap();
        runtime.block_on(shelf.put(&name, "buy milk")).unwrap();
        let notes = dir.path().join("notes");
        let files: Vec<String> =
            fs::read_dir(&notes).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files, [name.as_str()]);
        assert!(files[0].starts_with("note_20251130_") && files[0].len() == "note_20251130_0123456789ab.txt".len());
        let file = notes.join(&files[0]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "buy milk");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&notes)), (0o600, 0o700));
    }

    #[test]
    fn g78_nothing_is_written_outside_the_directory_whatever_stands_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = DirShelf::open(dir.path()).unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "untouched").unwrap();
        let notes = dir.path().join("notes");
        symlink(&outside, notes.join("link.txt")).unwrap();
        symlink(dir.path().join("not-there"), notes.join("dangling.txt")).unwrap();
        fs::create_dir(notes.join("dir.txt")).unwrap();
        rustix::fs::mknodat(CWD, notes.join("pipe.txt"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        for name in ["link.txt", "dangling.txt", "dir.txt", "pipe.txt"] {
            assert_eq!(put(&shelf, name, "x"), Err(NoteError::Taken), "{name}");
        }
        for name in ["../escaped.txt", "/tmp/escaped.txt", "..", ".", "", "a/b.txt", ".hidden", "a\0b"] {
            assert!(matches!(put(&shelf, name, "x"), Err(NoteError::Unavailable(_))), "{name}");
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
        assert!(!dir.path().join("not-there").exists());
        put(&shelf, "a.txt", "mine").unwrap();
        assert_eq!(put(&shelf, "a.txt", "other"), Err(NoteError::Taken));
        assert_eq!(fs::read_to_string(notes.join("a.txt")).unwrap(), "mine");
        // The directory is the one that was opened, whatever its name leads to now.
        fs::rename(&notes, dir.path().join("moved")).unwrap();
        symlink("/tmp", &notes).unwrap();
        put(&shelf, "b.txt", "still mine").unwrap();
        assert!(dir.path().join("moved/b.txt").exists());
        assert!(DirShelf::open(dir.path()).err().unwrap().to_string().contains("a link"));
    }

    #[test]
    fn g78_of_many_who_write_one_name_at_once_one_wins_and_no_draft_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = DirShelf::open(dir.path()).unwrap();
        let writers: Vec<_> = (0..8)
            .map(|n| {
                let shelf = shelf.clone();
                std::thread::spawn(move || put(&shelf, "same.txt", &format!("writer {n}")).is_ok())
            })
            .collect();
        let won = writers.into_iter().map(|w| w.join().unwrap()).filter(|won| *won).count();
        assert_eq!((won, fs::read_dir(dir.path().join("notes")).unwrap().count()), (1, 1));
    }

    #[test]
    fn a_directory_in_which_others_write_keeps_no_notes() {
        let dir = tempfile::tempdir().unwrap();
        let notes = dir.path().join("notes");
        fs::create_dir(&notes).unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(DirShelf::open(dir.path()).err().unwrap().to_string().contains("others can write"));
    }
}
