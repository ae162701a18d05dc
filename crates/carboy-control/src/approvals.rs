//! Questions that wait for an operator, as files below their agent's state: what `carboy approve` reads and answers.
//!
//! ```text
//!  engine ── post ──▶ asks/a-….json            asks/a-….answer ◀── carboy approve (another process, made once)
//!         ◀── watch: answers, and what is too late ──┘
//!         ── take down ─▶ asks/a-….came ──▶ carboy approve reads what came of it, where somebody answered
//!                     └─▶ asks/a-….decided   where the question came from: its conversation can still be read
//! ```
//!
//! The question itself is in the conversation, sealed, and its every step in the log: a file that somebody changes changes what is
//! shown, and runs nothing that was not asked for. *Must never* take an answer from a file of others, or a second one for the same
//! question. Nor let files of another kind, however many, hide a question.

mod carry;
pub mod conversation;
mod decided;
mod tidy;
mod warned;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carboy_core::ask::{Answered, Kind, Posted};
use carboy_core::ids::{AgentName, BottleName};
use carboy_core::ports::{AskBoard, AskBoardError};

use crate::home::{Home, HomeError, Reaches, draft_of, private_dir, read_private, write_private};

pub(crate) use carry::Carrier;
pub use decided::decided;
pub(crate) use warned::{Warned, Warnings};

/// Writes of one agent that wait at once; those beyond are not put up, and the model is told.
pub const APPROVALS_MAX: usize = 1_000;
/// Requests for a person that wait at once; those beyond are in the log and go to the webhook alone. A share of their own:
/// anybody may ask for a person, and none of them keeps a write from being asked about.
pub const HAND_OFFS_MAX: usize = 1_000;
/// Octets of one file.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// Files of every kind in one board's directory; one with more is not read in part.
pub const ENTRIES_MAX: usize = 16_384;
/// Outcomes of answers that are kept for those who answered; the oldest go first.
pub const CAME_MAX: usize = 1_000;
/// Origins of answered questions that are kept; the oldest go first.
pub const DECIDED_MAX: usize = 1_000;
/// How long they are kept.
const DECIDED_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How long is kept what nobody came back for.
const LEFT_BEHIND_MAX: Duration = Duration::from_secs(3_600);
/// The directory, below the agent's.
const DIR: &str = "asks";
const POSTED: &str = "json";
const ANSWER: &str = "answer";
const CAME: &str = "came";
const DECIDED: &str = "decided";

/// Where the questions of one agent are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBoard {
    dir: PathBuf,
}

/// A question that waits, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Where it is put up.
    pub board: FileBoard,
    /// The question.
    pub posted: Posted,
    /// The answer that was given and not taken yet.
    pub answer: Option<Answered>,
}

/// Why an answer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The files.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Somebody was faster.
    #[error("`{id}` is answered already; `carboy approve {id}` shows how")]
    Answered {
        /// The question.
        id: String,
    },
    /// It is too late.
    #[error("`{id}` is over: nobody answered it in time")]
    Over {
        /// The question.
        id: String,
    },
    /// It was taken down meanwhile.
    #[error("`{id}` waits no more: its conversation took it back, or is over; nothing was done")]
    Gone {
        /// The question.
        id: String,
    },
}

impl FileBoard {
    /// The board of an agent in a bottle's state.
    pub fn of(home: &Home, bottle: &BottleName, agent: &AgentName) -> FileBoard {
        FileBoard { dir: home.state(bottle).join("chat").join(agent.as_str()).join(DIR) }
    }

    /// Everything that waits, the oldest first.
    pub fn waits(&self) -> Result<Vec<Waits>, HomeError> {
        let mut all = Vec::new();
        for id in self.ids(POSTED)? {
            if let Some(waits) = self.read(&id)? {
                all.push(waits);
            }
        }
        all.sort_by_key(|waits| waits.posted.ask.opened_ms());
        Ok(all)
    }

    /// Leaves an answer, the first and only one.
    pub fn answer(&self, posted: &Posted, answer: &Answered) -> Result<(), AnswerError> {
        let id = posted.ask.id();
        if answer.at_ms >= posted.ask.expires_ms() {
            return Err(AnswerError::Over { id: id.to_owned() });
        }
        let path = self.path(id, ANSWER);
        let io = |source| HomeError::Io { path: path.clone(), source };
        let gone = || AnswerError::Gone { id: id.to_owned() };
        if !self.is_there(id, POSTED) {
            return Err(gone());
        }
        let text = serde_json::to_vec(answer).map_err(|e| io(e.into()))?;
        // Written whole under another name first: whoever looks for it finds all of it, or nothing.
        match draft_of(&path).and_then(|draft| draft.fill(&text, Reaches::Disk)?.place(&path)) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(AnswerError::Answered { id: id.to_owned() });
            }
            other => other.map_err(io)?,
        }
        // Taken down at the same moment: whoever did has seen the answer, says so and removes it, or nobody ever will.
        let unseen = !self.is_there(id, POSTED) && !self.is_there(id, CAME) && fs::remove_file(&path).is_ok();
        if unseen { Err(gone()) } else { Ok(()) }
    }

    /// What came of it, once its agent has taken the answer; read once.
    pub fn came_of(&self, id: &str) -> Result<Option<String>, HomeError> {
        let path = self.path(id, CAME);
        let text = read_private(&path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if text.is_some() {
            // Whoever does not remove it finds it gone in an hour.
            let _ = fs::remove_file(&path);
        }
        Ok(text)
    }

    fn read(&self, id: &str) -> Result<Option<Waits>, HomeError> {
        let of = |kind: &str| -> Result<Option<Vec<u8>>, HomeError> {
            Ok(read_private(&self.path(id, kind))?.filter(|bytes| bytes.len() <= FILE_BYTES_MAX))
        };
        let Some(posted) = of(POSTED)? else { return Ok(None) };
        let Ok(posted) = serde_json::from_slice::<Posted>(&posted) else { return Ok(None) };
        if posted.ask.id() != id {
            return Ok(None);
        }
        let answer = of(ANSWER)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Some(Waits { board: self.clone(), posted, answer }))
    }

    /// Ids with a file of this kind; a directory that is not there has none.
    fn ids(&self, kind: &str) -> Result<Vec<String>, HomeError> {
        let io = |source| HomeError::Io { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(error)),
        };
        let mut ids = Vec::new();
        for (place, entry) in entries.enumerate() {
            if place >= ENTRIES_MAX {
                let text =
                    format!("it has more than {ENTRIES_MAX} files; its agent clears away what is old when it runs");
                return Err(io(std::io::Error::other(text)));
            }
            let path = PathBuf::from(entry.map_err(io)?.file_name());
            ids.extend(parts(&path).filter(|(_, found)| *found == kind).map(|(id, _)| id.to_owned()));
        }
        Ok(ids)
    }

    fn path(&self, id: &str, kind: &str) -> PathBuf {
        self.dir.join(id).with_extension(kind)
    }

    fn is_there(&self, id: &str, kind: &str) -> bool {
        fs::symlink_metadata(self.path(id, kind)).is_ok()
    }
}

/// How much of a board questions of one kind may take.
struct Share {
    /// How their ids begin.
    prefix: &'static str,
    max: usize,
    name: &'static str,
}

impl Share {
    fn of(kind: Kind) -> Share {
        let (max, name) = match kind {
            Kind::HandOff => (HAND_OFFS_MAX, "requests for a person"),
            Kind::Approval => (APPROVALS_MAX, "approvals"),
            // Put up by no conversation.
            Kind::SuperviseProposal | Kind::DlpHold | Kind::Confirmation => (0, "questions of this kind"),
        };
        Share { prefix: kind.prefix(), max, name }
    }
}

/// Id and kind of a file of a board.
fn parts(path: &Path) -> Option<(&str, &str)> {
    let id = path.file_stem()?.to_str().filter(|id| is_id(id))?;
    Some((id, path.extension()?.to_str()?))
}

/// Is it the kind of a file that did not get its name yet?
fn is_draft(kind: &str) -> bool {
    let own = kind.strip_prefix("new-");
    own.is_some_and(|own| own.len() == 16 && own.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `a-` or another letter, and what names a question: no path, whatever it is read from.
fn is_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=64).contains(&id.len()) && id.bytes().all(plain)
}

impl AskBoard for FileBoard {
    fn post(&self, posted: &Posted) -> Result<(), AskBoardError> {
        let kept = || -> Result<(), HomeError> {
            private_dir(&self.dir)?;
            let path = self.path(posted.ask.id(), POSTED);
            let io = |source| HomeError::Io { path: path.clone(), source };
            let Share { prefix, max, name } = Share::of(posted.ask.kind());
            let of_it = |id: &String| id.split_once('-').is_some_and(|(of, _)| of == prefix);
            // One that is up already takes no other place.
            if !self.is_there(posted.ask.id(), POSTED) && self.ids(POSTED)?.iter().filter(|id| of_it(id)).count() >= max
            {
                let text = format!("{max} {name} wait already; `carboy approve` lists them, answer some");
                return Err(io(std::io::Error::other(text)));
            }
            write_private(&path, &serde_json::to_vec(posted).map_err(|e| io(e.into()))?)
        };
        kept().map_err(|error| AskBoardError(error.to_string()))
    }

    fn take_down(&self, id: &str, came_of_it: &str) -> Result<(), AskBoardError> {
        let posted = self.path(id, POSTED);
        if !is_id(id) || fs::symlink_metadata(&posted).is_err() {
            return Ok(());
        }
        let removed = |path: PathBuf| match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(HomeError::Io { path, source }),
        };
        let done = || -> Result<(), HomeError> {
            // For whoever answered, and nobody else: what anybody in a conversation can have taken down leaves no file. Before
            // the question goes: whoever waits for that reads it then.
            let question = read_private(&posted)?.unwrap_or_default();
            let came = || {
                self.keep_origin(id, &question)?;
                write_private(&self.path(id, CAME), came_of_it.as_bytes())
            };
            let answered = self.is_there(id, ANSWER);
            if answered {
                came()?;
            }
            removed(posted.clone())?;
            // Answered between the two looks.
            if removed(self.path(id, ANSWER))? && !answered {
                came()?;
            }
            Ok(())
        };
        done().map_err(|error| AskBoardError(error.to_string()))
    }
}

/// Everything that waits anywhere below this home, the oldest first.
pub fn all(home: &Home) -> Result<Vec<Waits>, HomeError> {
    let mut all = Vec::new();
    for board in boards(home) {
        all.extend(board.waits()?);
    }
    all.sort_by_key(|waits| waits.posted.ask.opened_ms());
    Ok(all)
}

fn boards(home: &Home) -> Vec<FileBoard> {
    let agents = directories(&home.states()).into_iter().flat_map(|state| directories(&state.join("chat")));
    agents.map(|agent| FileBoard { dir: agent.join(DIR) }).collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use carboy_core::ask::{Ask, Word};

    pub(super) fn board() -> (tempfile::TempDir, Home, FileBoard) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None).unwrap();
        let board = FileBoard::of(&home, &BottleName::parse("shop").unwrap(), &AgentName::parse("desk").unwrap());
        (dir, home, board)
    }

    fn posted(id: &str, opened_ms: u64) -> Posted {
        Posted {
            ask: Ask::approval(id, "bound", opened_ms, opened_ms + 100),
            agent: "desk".into(),
            user: "session-1".into(),
            session: "1".into(),
            tool: Some("refund".into()),
            title: "Refund?".into(),
            rows: vec![("Order".into(), "SH-1".into())],
            back: "00".repeat(32),
        }
    }

    fn yes(by: &str, at_ms: u64) -> Answered {
        Answered { word: Word::Approved, by: by.into(), say: None, at_ms }
    }

    #[test]
    fn u4_a_question_is_answered_once_and_what_came_of_it_is_read() {
        let (_dir, home, board) = board();
        assert_eq!(all(&home).unwrap(), []);
        let (later, earlier) = (posted("a-2", 20), posted("a-1", 10));
        board.post(&later).unwrap();
        board.post(&earlier).unwrap();
        let ids: Vec<String> = all(&home).unwrap().iter().map(|one| one.posted.ask.id().to_owned()).collect();
        assert_eq!(ids, ["a-1", "a-2"]);
        board.answer(&earlier, &yes("ann", 11)).unwrap();
        assert!(matches!(board.answer(&earlier, &yes("bob", 12)), Err(AnswerError::Answered { .. })));
        assert!(matches!(board.answer(&later, &yes("ann", 120)), Err(AnswerError::Over { .. })));
        assert_eq!(board.waits().unwrap()[0].answer, Some(yes("ann", 11)));
        board.take_down("a-1", "approved, and done").unwrap();
        board.take_down("a-1", "something else").unwrap();
        assert_eq!(board.came_of("a-1").unwrap().as_deref(), Some("approved, and done"));
        assert_eq!((board.came_of("a-1").unwrap(), board.waits().unwrap().len()), (None, 1));
        assert_eq!(decided(&home, "a-1").unwrap(), Some((board.clone(), earlier.origin())));
        let kept = fs::read_to_string(board.path("a-1", DECIDED)).unwrap();
        assert!(
            !kept.contains("SH-1") && !kept.contains("Refund"),
            "where it came from, not what it asked for: {kept}"
        );
        assert_eq!((decided(&home, "a-2").unwrap(), decided(&home, "../a-1").unwrap()), (None, None));
    }

    #[test]
    fn u4_h5_a_file_of_others_of_another_name_or_without_a_form_is_no_question_and_no_answer() {
        let (_dir, _, board) = board();
        board.post(&posted("a-1", 10)).unwrap();
        for (name, text) in [("a-2.json", "{"), ("a-3.json", ""), ("..json", "{}"), ("A-9.json", "{}")] {
            fs::write(board.dir.join(name), text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(board.dir.join(name), mode).unwrap();
        }
        fs::copy(board.path("a-1", POSTED), board.path("a-4", POSTED)).unwrap();
        let ids: Vec<String> = board.waits().unwrap().iter().map(|one| one.posted.ask.id().to_owned()).collect();
        assert_eq!(ids, ["a-1"]);
        fs::write(board.path("a-1", ANSWER), serde_json::to_vec(&yes("eve", 11)).unwrap()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(board.path("a-1", ANSWER), mode).unwrap();
        assert!(board.waits().is_err(), "an answer that others could have written is none");
    }

    pub(super) fn names(board: &FileBoard) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&board.dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn u4_no_number_of_other_files_hides_a_question_and_a_directory_that_is_too_full_is_an_error() {
        let (_dir, home, board) = board();
        private_dir(&board.dir).unwrap();
        for n in 0..5_000 {
            fs::write(board.path(&format!("h-{n}"), CAME), "x").unwrap();
        }
        board.post(&posted("a-1", 10)).unwrap();
        assert_eq!(all(&home).unwrap().len(), 1);
        for n in 5_000..ENTRIES_MAX {
            fs::write(board.path(&format!("h-{n}"), CAME), "x").unwrap();
        }
        let error = all(&home).unwrap_err().to_string();
        assert!(error.contains("more than 16384 files"), "{error}");
        board.tidy();
        assert_eq!((all(&home).unwrap().len(), names(&board).len()), (1, CAME_MAX + 1));
    }

    #[test]
    fn u4_a_question_that_nobody_answered_leaves_nothing_and_cannot_be_answered_any_more() {
        let (_dir, _, board) = board();
        let question = posted("a-1", 10);
        board.post(&question).unwrap();
        board.take_down("a-1", "the conversation was forgotten").unwrap();
        assert_eq!(names(&board), [] as [String; 0]);
        assert!(matches!(board.answer(&question, &yes("ann", 11)), Err(AnswerError::Gone { .. })));
        assert_eq!(names(&board), [] as [String; 0]);
    }

    #[test]
    fn u4_no_number_of_requests_for_a_person_keeps_a_write_off_the_board_and_the_operator_is_told_once() {
        let (_dir, _, board) = board();
        private_dir(&board.dir).unwrap();
        for n in 0..HAND_OFFS_MAX {
            fs::write(board.path(&format!("h-{n}"), POSTED), "{}").unwrap();
        }
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = told.clone();
        let warnings = Warnings::new(Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned())));
        let warned = Warned { board: board.clone(), warnings };
        let person = |id: &str| Posted { ask: Ask::hand_off(id, "1", 10, 110), ..posted(id, 10) };
        for n in 0..3 {
            let error = warned.post(&person(&format!("h-more-{n}"))).unwrap_err().to_string();
            assert!(error.contains("1000 requests for a person wait already; `carboy approve` lists them"), "{error}");
        }
        warned.post(&person("h-1")).unwrap();
        warned.post(&posted("a-1", 10)).unwrap();
        for n in 2..=APPROVALS_MAX {
            fs::write(board.path(&format!("a-{n}"), POSTED), "{}").unwrap();
        }
        warned.post(&posted("a-1", 10)).unwrap();
        warned.post(&posted("a-0", 10)).unwrap_err();
        let told: Vec<serde_json::Value> =
            told.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let about: Vec<_> = told.iter().map(|line| (&line["event"], &line["about"])).collect();
        let event = &"question_not_put_up".into();
        assert_eq!(about, [(event, &"hand_off".into()), (event, &"approval".into())]);
    }
}
