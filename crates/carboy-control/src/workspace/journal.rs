//! One apply, written down before it is done: what each path was and is to be, and where the original is kept.
//!
//! ```text
//! applies/<id>/journal    {"n":0,"path":…,"before":…,"after":…}    written before anything is changed
//!                         {"done":0}                                 after that change
//! applies/<id>/kept/0     the original of path 0
//! applies/<id>/done       the apply came to its end
//! ```
//!
//! An apply without `done` was interrupted: the next one goes on with it, and `undo` takes back what was done of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::Applied;
use super::tree::{Kind, Rel, Stamp};

/// Applies of one layer whose originals are kept.
pub const APPLIES_MAX: usize = 10;
/// Longest journal that is read.
const JOURNAL_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// What stood, or is to stand, at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// SHA-256 of a file's content, or the text of a link, in hexadecimal digits.
    pub content: String,
    /// Modified: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Owner and group.
    pub owner: (u32, u32),
}

impl Snapshot {
    /// Is it the same thing with the same content?
    pub fn is_same(&self, other: &Snapshot) -> bool {
        self.kind == other.kind && self.content == other.content
    }
}

/// One path of an apply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Its number: the name of the kept original.
    pub n: u64,
    /// Where.
    pub path: Rel,
    /// What stood there; `None` for nothing.
    pub before: Option<Snapshot>,
    /// What is to stand there; `None` for nothing.
    pub after: Option<Snapshot>,
    /// The layer's entry: inode and change time.
    pub layer: Option<(u64, (i64, u32))>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Done { done: u64 },
    Step(Step),
}

/// The journal of one apply.
#[derive(Debug)]
pub struct Journal {
    /// Its directory.
    pub directory: PathBuf,
    /// Its name: milliseconds since 1970, so that names sort by age.
    pub id: String,
    file: File,
    /// What was written down, in that order.
    pub steps: Vec<Step>,
    done: BTreeSet<u64>,
}

impl Journal {
    /// Goes on with an interrupted apply, or begins one of this name.
    pub fn begin(applies: &Path, id: &str) -> io::Result<Journal> {
        let open = ids(applies)?.pop().filter(|last| !applies.join(last).join("done").exists());
        let id = open.unwrap_or_else(|| id.to_owned());
        let directory = applies.join(&id);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join("kept"))?;
        Journal::open(&directory, &id)
    }

    /// The last apply; `None` when there is none.
    pub fn last(applies: &Path) -> io::Result<Option<Journal>> {
        ids(applies)?.pop().map(|id| Journal::open(&applies.join(&id), &id)).transpose()
    }

    fn open(directory: &Path, id: &str) -> io::Result<Journal> {
        let path = directory.join("journal");
        let mut file = File::options().create(true).read(true).append(true).mode(0o600).open(path)?;
        let (steps, done, ended) = read(&mut file)?;
        if !ended {
            // Cut off in the middle of a line: that step was never done.
            file.write_all(b"\n")?;
        }
        Ok(Journal { directory: directory.to_owned(), id: id.to_owned(), file, steps, done })
    }

    /// The number of the next step.
    pub fn next(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.n + 1)
    }

    /// Where the original of a step is kept.
    pub fn kept(&self, n: u64) -> PathBuf {
        self.directory.join("kept").join(n.to_string())
    }

    /// Writes a step down.
    pub fn plan(&mut self, step: Step) -> io::Result<()> {
        let mut line = serde_json::to_vec(&step)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.steps.push(step);
        Ok(())
    }

    /// Everything so far, the kept originals included, is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        Ok(rustix::fs::syncfs(&self.file)?)
    }

    /// A step was done.
    pub fn did(&mut self, n: u64) -> io::Result<()> {
        self.done.insert(n);
        self.file.write_all(format!("{{\"done\":{n}}}\n").as_bytes())
    }

    /// The apply came to its end.
    pub fn end(&self) -> io::Result<()> {
        File::create(self.directory.join("done"))?.sync_all()
    }

    /// Did it?
    pub fn is_ended(&self) -> bool {
        self.directory.join("done").exists()
    }

    /// Was this step done?
    pub fn was_done(&self, n: u64) -> bool {
        self.done.contains(&n)
    }
}

fn read(file: &mut File) -> io::Result<(Vec<Step>, BTreeSet<u64>, bool)> {
    let (mut steps, mut done, mut ended) = (Vec::new(), BTreeSet::new(), true);
    for line in BufReader::new(file.take(JOURNAL_BYTES_MAX)).split(b'\n') {
        let line = line?;
        match serde_json::from_slice(&line) {
            Ok(Line::Done { done: n }) => drop(done.insert(n)),
            Ok(Line::Step(step)) => steps.push(step),
            Err(_) => {}
        }
        ended = line.is_empty() || line.ends_with(b"}");
    }
    Ok((steps, done, ended))
}

/// The applies of a layer, oldest first.
pub fn ids(applies: &Path) -> io::Result<Vec<String>> {
    let listing = match std::fs::read_dir(applies) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in listing {
        found.extend(entry?.file_name().into_string().ok().filter(|n| n.bytes().all(|b| b.is_ascii_digit())));
    }
    found.sort();
    Ok(found)
}

/// Which of the layer's entries have been applied, in what version.
pub fn applied(applies: &Path) -> io::Result<Applied> {
    let mut applied = BTreeMap::new();
    for id in ids(applies)? {
        let journal = Journal::open(&applies.join(&id), &id)?;
        for step in &journal.steps {
            if let Some(layer) = step.layer.filter(|_| journal.was_done(step.n)) {
                applied.insert(step.path.clone(), layer);
            }
        }
    }
    Ok(applied.into_iter().collect())
}

/// What stands there, without its content.
pub fn bare(stamp: &Stamp) -> Snapshot {
    Snapshot { kind: stamp.kind, mode: stamp.mode, content: String::new(), mtime: stamp.mtime, owner: stamp.owner }
}
