//! Files of bot-bottle, the tool that the format descends from, as files of carboy (M40).
//!
//! ```text
//!   ~/.bot-bottle/{bottles,agents}/*.md, settings.yml, bot-bottle.json ─▶ Imported { files, notes }
//! ```
//!
//! What reads the same stays as it stands, comments and prose included. A removed key becomes what replaced it (M12 to
//! M15); what cannot be mapped stays in the new file as a comment and is told in a note: nothing is dropped in silence.
//! *Must never* widen: a route of which one part cannot be mapped is left out whole, because a route without its
//! `matches` would allow everything. Every file that is given out has passed carboy's own reader.

mod bottle;
mod emit;
mod gate;
mod json;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use carboy_core::ids::{AgentName, BottleName};

use crate::check::check;
use crate::diagnostic::{Code, Diagnostics, Position, Severity, excerpt};
use crate::files::{ManifestFiles, MapFiles, Places};
use crate::frontmatter;
use crate::load::Request;
use crate::lookup::{read_file, stems};
use crate::yaml::{self, Entry, Node, SyntaxErrorKind, Value};

/// What became of something that reads differently here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// It was written in another way and means the same.
    Rewritten,
    /// It has no counterpart; it stands in the new file as a comment.
    LeftOut,
    /// The whole file (or, of the JSON file, bottle or agent) was not taken over.
    NotCopied,
}

/// One thing that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What became of it.
    pub kind: NoteKind,
    /// The file of bot-bottle.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: u32,
    /// The key, as in `egress.routes`; empty when it is about the whole file.
    pub key: String,
    /// What it is about.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Note {
    /// `file:line: key: what`, and on a second line `  next: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { String::new() } else { format!("{}: ", excerpt(&self.key)) };
        write!(f, "{}:{}: {key}{}\n  next: {}", self.file.display(), self.line, self.what, self.fix)
    }
}

/// What was made of bot-bottle's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Files to write, by their path below `CARBOY_HOME`; sorted. Whether one of them is there already is for the caller
    /// to look at.
    pub files: Vec<(PathBuf, String)>,
    /// Everything that does not read as it did, in the order of files and lines.
    pub notes: Vec<Note>,
}

/// Reads bot-bottle's files of this user and makes carboy's of them. Without any the result is empty.
pub fn bot_bottle(files: &dyn ManifestFiles, places: &Places) -> Imported {
    let mut import = Import { places, made: BTreeMap::new(), notes: Vec::new() };
    let root = places.home.join(".bot-bottle");
    for (kind, dir) in [(Kind::Bottle, root.join("bottles")), (Kind::Agent, root.join("agents"))] {
        let mut found = Diagnostics::default();
        for stem in stems(files, &dir, &mut found) {
            let file = dir.join(format!("{stem}.md"));
            if let Some(bytes) = read_file(files, &file, &mut found) {
                import.markdown(kind, &file, &stem, &bytes);
            }
        }
        import.unreadable(&dir, &found);
    }
    let mut found = Diagnostics::default();
    let settings = root.join("settings.yml");
    if let Some(bytes) = read_file(files, &settings, &mut found) {
        import.settings(&settings, &bytes);
    }
    // M6: the file that bot-bottle itself had stopped reading; what stands in it is better asked about than lost.
    let mut stale = vec![places.home.join("bot-bottle.json"), root.join("bot-bottle.json")];
    if !files.same_directory(&places.home, &places.cwd) {
        stale.push(places.cwd.join("bot-bottle.json"));
    }
    for file in stale {
        if let Some(bytes) = read_file(files, &file, &mut found) {
            import.stale(&file, &bytes);
        }
    }
    import.unreadable(&root, &found);
    import.finish()
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bottle,
    Agent,
}

impl Kind {
    fn dir(self) -> &'static str {
        match self {
            Kind::Bottle => "bottles",
            Kind::Agent => "agents",
        }
    }

    /// Below `CARBOY_HOME`.
    fn target(self, name: &str) -> PathBuf {
        PathBuf::from(self.dir()).join(format!("{name}.md"))
    }
}

struct Import<'a> {
    places: &'a Places,
    /// New files with where they come from.
    made: BTreeMap<PathBuf, (String, PathBuf)>,
    notes: Vec<Note>,
}

/// A file being taken over.
struct Source<'a> {
    places: &'a Places,
    file: &'a Path,
    notes: &'a mut Vec<Note>,
}

impl Source<'_> {
    fn note(&mut self, kind: NoteKind, at: Position, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        let (what, fix) = (what.into(), fix.into());
        self.notes.push(Note { kind, file: self.file.to_path_buf(), line: at.line, key: key.to_owned(), what, fix });
    }
}

impl Import<'_> {
    fn source<'s>(&'s mut self, file: &'s Path) -> Source<'s> {
        Source { places: self.places, file, notes: &mut self.notes }
    }

    /// Directories and files that could not be read.
    fn unreadable(&mut self, fallback: &Path, found: &Diagnostics) {
        for one in found.iter().filter(|one| one.severity == Severity::Error) {
            let file = one.file.clone().unwrap_or_else(|| fallback.to_path_buf());
            self.source(&file).note(NoteKind::NotCopied, Position::START, "", &one.message, &one.fix);
        }
    }

    fn markdown(&mut self, kind: Kind, file: &Path, stem: &str, bytes: &[u8]) {
        let mut source = self.source(file);
        let text = match frontmatter::text_of(bytes) {
            Ok(text) => repaired(&mut source, text),
            Err(error) => {
                source.note(NoteKind::NotCopied, Position::START, "", error.to_string(), "save the file as UTF-8");
                return;
            }
        };
        let parts = match frontmatter::split(&text) {
            Ok(parts) => parts,
            Err(error) => {
                let fix = "begin the file with `---`, the keys, and `---` again, then import once more";
                source.note(NoteKind::NotCopied, Position::START, "", error.to_string(), fix);
                return;
            }
        };
        let Some(root) = tree(&mut source, parts.yaml, parts.first_line) else { return };
        let lines: Vec<&str> = parts.yaml.lines().collect();
        let origin = bottle::Lines { lines, first_line: parts.first_line };
        self.member(kind, file, stem, &root, &origin, parts.prose);
    }

    fn member(&mut self, kind: Kind, file: &Path, stem: &str, root: &[Entry], lines: &bottle::Lines<'_>, prose: &str) {
        let known = bottle::name(stem).is_some_and(|name| self.made.contains_key(&kind.target(&name)));
        let mut source = self.source(file);
        let Some(name) = bottle::name(stem) else {
            let fix = format!("give it a name of a-z, 0-9, `-` and `_` of at most 64 and copy it to {}/", kind.dir());
            source.note(NoteKind::NotCopied, Position::START, "", format!("{} is no name", excerpt(stem)), fix);
            return;
        };
        if name != stem {
            let what = format!("{} is no name here", excerpt(stem));
            source.note(NoteKind::Rewritten, Position::START, "", what, format!("it is called `{name}` now"));
        }
        let target = kind.target(&name);
        if known {
            let what = format!("there is another {} already", target.display());
            let fix = "merge the two by hand";
            source.note(NoteKind::NotCopied, Position::START, "", what, fix);
            return;
        }
        let front = match kind {
            Kind::Bottle => bottle::bottle(&mut source, &name, root, lines),
            Kind::Agent => bottle::agent(&mut source, &name, root, lines),
        };
        let prose = if prose.is_empty() { String::new() } else { format!("\n{prose}\n") };
        self.made.insert(target, (format!("---\n{front}---\n{prose}"), file.to_path_buf()));
    }

    fn settings(&mut self, file: &Path, bytes: &[u8]) {
        let mut source = self.source(file);
        let text = match frontmatter::text_of(bytes) {
            Ok(text) => repaired(&mut source, text),
            Err(error) => {
                source.note(NoteKind::NotCopied, Position::START, "", error.to_string(), "save the file as UTF-8");
                return;
            }
        };
        let Some(root) = tree(&mut source, &text, 1) else { return };
        let lines = bottle::Lines { lines: text.lines().collect(), first_line: 1 };
        if let Some(text) = settings::settings(&mut source, &root, &lines) {
            self.made.insert("settings.yml".into(), (text, file.to_path_buf()));
        }
    }

    fn stale(&mut self, file: &Path, bytes: &[u8]) {
        let stale = match json::read(bytes) {
            Ok(stale) => stale,
            Err((at, what)) => {
                self.source(file).note(NoteKind::NotCopied, at, "", what, "mend the file, then import once more");
                return;
            }
        };
        for (key, at) in stale.rest {
            let fix = "docs/manifest.md lists what there is; nothing was taken over";
            self.source(file).note(NoteKind::LeftOut, at, &key, "is neither `bottles` nor `agents`", fix);
        }
        let none = bottle::Lines { lines: Vec::new(), first_line: 1 };
        for (kind, members) in [(Kind::Bottle, stale.bottles), (Kind::Agent, stale.agents)] {
            for member in members {
                let Value::Map(mut entries) = member.value.value else {
                    let fix = "write it as a Markdown file";
                    self.source(file).note(NoteKind::NotCopied, member.value.at, &member.name, "is no map", fix);
                    continue;
                };
                let prose = prompt(kind, &mut entries);
                self.member(kind, file, &member.name, &entries, &none, &prose);
            }
        }
    }

    /// Looks at everything together as `carboy check` would; what does not stand is taken out, with what it leaves behind.
    fn finish(mut self) -> Imported {
        // Each round takes out at least one file, or ends.
        for _ in 0..=self.made.len() {
            let places = self.places;
            let files: MapFiles =
                self.made.iter().map(|(path, (text, _))| (places.carboy_home.join(path), text.as_bytes())).collect();
            let elsewhere = Places { cwd: places.carboy_home.join("bottles"), ..places.clone() };
            let report = check(&files, &Request { agent: None, bottles: Vec::new(), places: elsewhere });
            let errors = report.diagnostics.iter().filter(|one| one.severity == Severity::Error);
            let bad: BTreeMap<PathBuf, (String, String)> = errors
                .filter_map(|one| {
                    let path = one.file.as_ref()?.strip_prefix(&places.carboy_home).ok()?.to_path_buf();
                    Some((path, (one.message.clone(), one.fix.clone())))
                })
                .collect();
            if bad.is_empty() {
                break;
            }
            for (path, (what, fix)) in bad {
                if let Some((_, file)) = self.made.remove(&path) {
                    self.source(&file).note(NoteKind::NotCopied, Position::START, "", what, fix);
                }
            }
        }
        let files = self.made.into_iter().map(|(path, (text, _))| (path, text)).collect();
        self.notes.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        Imported { files, notes: self.notes }
    }
}

/// An agent's prompt of the JSON file stands below the front matter of its own.
fn prompt(kind: Kind, entries: &mut Vec<Entry>) -> String {
    let Some(index) = entries.iter().position(|entry| kind == Kind::Agent && entry.key == "prompt") else {
        return String::new();
    };
    match &entries[index].value.value {
        Value::Text(text) => {
            let text = text.trim().to_owned();
            entries.remove(index);
            text
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => String::new(),
    }
}

/// Booleans and null in another spelling, which that tool's reader took for what they look like.
fn repaired(source: &mut Source<'_>, text: &str) -> String {
    let (yaml, first_line) = match frontmatter::split(text) {
        Ok(parts) => (parts.yaml, parts.first_line),
        Err(_) => (text, 1),
    };
    let (_, errors) = yaml::parse(yaml, first_line);
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    // From the end of each line, so that the columns before stay true.
    for error in errors.iter().rev() {
        let SyntaxErrorKind::Ambiguous { text: spelled, .. } = &error.kind else { continue };
        let plain = match spelled.as_str() {
            "~" => "null".to_owned(),
            word => word.to_ascii_lowercase(),
        };
        let Some(line) = lines.get_mut(error.at.line as usize - 1) else { continue };
        let Some((start, _)) = line.char_indices().nth(error.at.column as usize - 1) else { continue };
        if ["true", "false", "null"].contains(&plain.as_str()) && line[start..].starts_with(spelled.as_str()) {
            line.replace_range(start..start + spelled.len(), &plain);
            let fix = format!("it is written `{plain}` now");
            source.note(NoteKind::Rewritten, error.at, "", format!("{} has one spelling here", excerpt(spelled)), fix);
        }
    }
    lines.concat()
}

/// The keys of a document; `None` when it is not read, which is noted.
fn tree(source: &mut Source<'_>, yaml: &str, first_line: u32) -> Option<Vec<Entry>> {
    let (root, errors) = yaml::parse(yaml, first_line);
    for error in &errors {
        let fix = format!("{}, then import once more", error.kind.fix());
        source.note(NoteKind::NotCopied, error.at, "", error.kind.to_string(), fix);
    }
    match root {
        _ if !errors.is_empty() => None,
        Node { value: Value::Map(entries), .. } => Some(entries),
        Node { value: Value::Null, .. } => Some(Vec::new()),
        Node { at, .. } => {
            source.note(NoteKind::NotCopied, at, "", "holds no keys", "write `key: value` lines");
            None
        }
    }
}

/// Names are checked here once, so that the rest may trust them.
fn valid(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Bottle => BottleName::parse(name).is_ok(),
        Kind::Agent => AgentName::parse(name).is_ok(),
    }
}

/// What carboy's reader says of a piece, the first error alone.
fn first_error(found: &Diagnostics) -> Option<(Code, String, String)> {
    let error = found.iter().find(|one| one.severity == Severity::Error)?;
    Some((error.code, error.message.clone(), error.fix.clone()))
}
