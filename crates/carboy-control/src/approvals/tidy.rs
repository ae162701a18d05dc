//! What was left behind on a board, cleared away.
//!
//! *Must never* take a question that waits, or an answer to one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{
    ANSWER, CAME, CAME_MAX, DECIDED, DECIDED_FOR, DECIDED_MAX, FileBoard, LEFT_BEHIND_MAX, POSTED, is_draft, parts,
};

/// Files of one kind of which only the newest stay.
#[derive(Default)]
struct Newest {
    all: BinaryHeap<(Reverse<SystemTime>, PathBuf)>,
}

impl Newest {
    /// One more; the oldest where there are too many.
    fn add(&mut self, written: SystemTime, path: PathBuf, max: usize) -> Option<PathBuf> {
        self.all.push((Reverse(written), path));
        if self.all.len() > max { self.all.pop().map(|(_, oldest)| oldest) } else { None }
    }
}

impl FileBoard {
    /// Clears away what nobody came back for in an hour: outcomes, answers whose question is gone, drafts of those who were
    /// killed; and after a week where answered questions came from. Of either only so many stay. It reads a directory of any
    /// size, or one that is full would stay so.
    pub(super) fn tidy(&self) {
        let (mut came, mut decided) = (Newest::default(), Newest::default());
        // What cannot be removed now is tried again.
        let remove = |path: &Path| drop(fs::remove_file(path));
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some((id, kind)) = parts(&path) else { continue };
            let Some(age_max) = self.kept_for(id, kind) else { continue };
            let Ok(written) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
            if SystemTime::now().duration_since(written).is_ok_and(|age| age > age_max) {
                remove(&path);
                continue;
            }
            let too_many = match kind {
                CAME => came.add(written, path, CAME_MAX),
                DECIDED => decided.add(written, path, DECIDED_MAX),
                _ => None,
            };
            too_many.iter().for_each(|oldest| remove(oldest));
        }
    }

    /// How long a file of this kind stays; for as long as its question where it is none of these.
    fn kept_for(&self, id: &str, kind: &str) -> Option<Duration> {
        match kind {
            DECIDED => Some(DECIDED_FOR),
            CAME => Some(LEFT_BEHIND_MAX),
            ANSWER if !self.is_there(id, POSTED) => Some(LEFT_BEHIND_MAX),
            draft if is_draft(draft) => Some(LEFT_BEHIND_MAX),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{board, names};
    use super::*;
    use crate::home::private_dir;

    fn made_at(path: &Path, age: Duration) {
        fs::write(path, "x").unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn u4_what_nobody_came_back_for_is_cleared_away_after_an_hour_and_questions_with_their_answers_stay() {
        let (_dir, _, board) = board();
        let (old, lately) = (LEFT_BEHIND_MAX + Duration::from_secs(60), LEFT_BEHIND_MAX - Duration::from_secs(60));
        private_dir(&board.dir).unwrap();
        for name in
            ["a-1.json", "a-1.answer", "a-2.answer", "a-3.came", "a-4.new-00ff00ff00ff00ff", "a-5.new-1", "notes.txt"]
        {
            made_at(&board.dir.join(name), old);
        }
        for name in ["b-2.answer", "b-3.came", "b-4.new-00ff00ff00ff00ff"] {
            made_at(&board.dir.join(name), lately);
        }
        made_at(&board.dir.join("c-1.decided"), DECIDED_FOR + Duration::from_secs(60));
        made_at(&board.dir.join("c-2.decided"), DECIDED_FOR - Duration::from_secs(60));
        board.tidy();
        let stay = [
            "a-1.answer",
            "a-1.json",
            "a-5.new-1",
            "b-2.answer",
            "b-3.came",
            "b-4.new-00ff00ff00ff00ff",
            "c-2.decided",
            "notes.txt",
        ];
        assert_eq!(names(&board), stay);
    }

    #[test]
    fn u4_of_outcomes_that_nobody_reads_the_newest_stay() {
        let (_dir, _, board) = board();
        private_dir(&board.dir).unwrap();
        for (kind, max) in [(CAME, CAME_MAX), (DECIDED, DECIDED_MAX)] {
            for n in 0..max + 3 {
                made_at(&board.path(&format!("a-{n}"), kind), Duration::from_secs(3_000 - n as u64));
            }
            board.tidy();
            let gone = (0..max + 3).filter(|n| !board.is_there(&format!("a-{n}"), kind)).collect::<Vec<_>>();
            assert_eq!(gone, [0, 1, 2], "{kind}");
        }
    }
}
