//! `carboy lit`: programs written as documents. What is decided is decided in `carboy-weave`; files are read and written
//! here.
//!
//! *Must never* replace a file that somebody has edited since it was tangled, unless told to.

mod positions;
mod sync;
mod tree;
mod weave;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carboy_weave::limits::DOCUMENT_BYTES_MAX;
use carboy_weave::map::Record;
use carboy_weave::sync::Base;
use carboy_weave::verify::{Difference, drifts};
use carboy_weave::{Document, Faults, Tangled, TreePath, diff, hook, tangle};
use serde_json::json;

use crate::args::{HookArgs, HookKind, LitCommand, TangleArgs, VerifyArgs};
use crate::print;
use crate::report::{Exit, Failure, Palette, printable};
use tree::read_all;

pub use tree::Tree;

/// How often `--watch` looks.
const WATCH_MS: u64 = 300;
/// Where the record is, beside the document.
const STATE: &str = ".lit";

/// Does what was asked.
pub fn lit(command: LitCommand) -> Result<u8, Failure> {
    match command {
        LitCommand::Tangle(args) => tangle_command(&args),
        LitCommand::Verify(args) => verify(&args),
        LitCommand::Sync(args) => sync::sync(&args),
        LitCommand::Weave(args) => weave::weave(&args),
        LitCommand::Map(args) => positions::map(&args),
        LitCommand::Hook(args) => hook_command(&args),
    }
}

/// A document on a disk.
struct Opened {
    /// As it was named.
    path: PathBuf,
    /// Its name alone.
    name: String,
    /// Its directory: the top of its files.
    tree: Tree,
    document: Document,
}

impl Opened {
    fn read(path: &Path) -> Result<Opened, Failure> {
        let text = read_text(path)?;
        let document = Document::parse(&text).map_err(|faults| invalid(path, &faults))?;
        let name = file_name(path)?;
        Ok(Opened { path: path.to_owned(), name, tree: Tree::at(path.parent().unwrap_or(Path::new("."))), document })
    }

    /// What it tangles to; never itself.
    fn tangled(&self) -> Result<Tangled, Failure> {
        let tangled = tangle(&self.document).map_err(|faults| invalid(&self.path, &faults))?;
        if tangled.files.keys().any(|path| path.as_str() == self.name) {
            let said = format!("{}: the document would replace itself", self.shown());
            return Err(Failure::words(Exit::Config, said).hint("give the chunk's file another name"));
        }
        Ok(tangled)
    }

    /// Its name for a person.
    fn shown(&self) -> String {
        printable(&self.path.display().to_string())
    }

    fn library(&self, named: Option<&Path>) -> Tree {
        named.map_or_else(|| self.tree.repository(), Tree::at)
    }

    fn record_path(&self) -> PathBuf {
        self.tree.top().join(STATE).join(format!("{}.map", self.name))
    }

    /// What the files were when they and the document last agreed.
    fn base(&self) -> Result<Base, Failure> {
        let path = self.record_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Base::new()),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        Record::from_json(&text).map(|record| record.base()).map_err(|error| {
            Failure::words(Exit::Failed, format!("{}: {error}", printable(&path.display().to_string())))
        })
    }

    /// Notes down that document and files agree.
    fn keep(&self, tangled: &Tangled) -> Result<(), Failure> {
        let dir = self.tree.top().join(STATE);
        let told = |error: std::io::Error| unwritable(&dir, &error);
        match std::fs::create_dir(&dir) {
            // What is tangled is no part of what is committed.
            Ok(()) => std::fs::write(dir.join(".gitignore"), "*\n").map_err(told)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(told(error)),
        }
        if std::fs::symlink_metadata(&dir).map_err(told)?.is_symlink() {
            return Err(unwritable(&dir, &std::io::Error::other("it is a link; remove it")));
        }
        let name =
            TreePath::parse(&format!("{}.map", self.name)).map_err(|fault| Failure::new(Exit::Failed, &fault))?;
        let (record, state) = (Record::of(&self.name, tangled).to_json(), Tree::at(&dir));
        if state.bytes(&name)?.as_deref() != Some(record.as_bytes()) {
            state.write(&name, record.as_bytes())?;
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| {
        Failure::words(Exit::Usage, format!("{} names no document", printable(&path.display().to_string())))
    })
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let size = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    if size > DOCUMENT_BYTES_MAX as u64 {
        let said = format!("it has {size} bytes, more than {DOCUMENT_BYTES_MAX}; split it");
        return Err(unreadable(path, &std::io::Error::other(said)));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::words(Exit::Failed, format!("cannot read {}: {error}", printable(&path.display().to_string())))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::words(Exit::Failed, format!("cannot write {}: {error}", printable(&path.display().to_string())))
}

/// Faults of a document, each as `FILE:LINE: …`, where an editor finds it.
/// A document that is not in order, with every problem at its line.
pub fn invalid(path: &Path, faults: &Faults) -> Failure {
    let shown = printable(&path.display().to_string());
    let lines: Vec<String> = faults
        .problems()
        .iter()
        .map(|problem| format!("{shown}:{}: {}", problem.line, printable(&problem.fault.to_string())))
        .collect();
    Failure::diagnostics(Exit::Config, &lines.join("\n"))
}

fn json_out(value: &serde_json::Value) -> Result<(), Failure> {
    print(format!("{value}\n").as_bytes()).map(drop)
}

/// A diff's lines on standard output.
fn show_diff(lines: &[String]) -> Result<(), Failure> {
    let palette = Palette::stdout();
    let mut out = String::new();
    for line in lines {
        let plain = printable(line);
        out += &match line.as_bytes().first() {
            Some(b'-') => palette.bad(&plain),
            Some(b'+') => palette.good(&plain),
            Some(b'@') => palette.faint(&plain),
            Some(_) | None => plain,
        };
        out.push('\n');
    }
    print(out.as_bytes()).map(drop)
}

fn tangle_command(args: &TangleArgs) -> Result<u8, Failure> {
    // Read before it is tangled: a change that comes in between is seen the next time.
    let mut seen = std::fs::read(&args.document).ok();
    let first = tangle_once(args);
    if !args.watch {
        return first;
    }
    let mut told = first.map_err(|failure| say!("{}", failure.message)).is_err();
    // Until the person ends it.
    loop {
        std::thread::sleep(Duration::from_millis(WATCH_MS));
        let now = std::fs::read(&args.document).ok();
        if now == seen || now.is_none() {
            continue;
        }
        seen = now;
        match tangle_once(args) {
            Ok(_) if told => {
                told = false;
                say!("tangled again");
            }
            Ok(_) => {}
            Err(failure) => {
                told = true;
                say!("{}", failure.message);
            }
        }
    }
}

fn tangle_once(args: &TangleArgs) -> Result<u8, Failure> {
    let opened = Opened::read(&args.document)?;
    let tangled = opened.tangled()?;
    if tangled.files.is_empty() {
        let said = format!("{} holds no file", opened.shown());
        return Err(
            Failure::words(Exit::Config, said).hint("give a chunk one: ```sh {chunk=\"main\" file=\"main.sh\"}")
        );
    }
    let found = read_all(&opened.tree, tangled.files.keys())?;
    let differing: Vec<&TreePath> = tangled
        .files
        .iter()
        .filter(|(path, file)| found.get(*path).map(Vec::as_slice) != Some(file.text.as_bytes()))
        .map(|(path, _)| path)
        .collect();
    if !args.force {
        untouched(&opened, &differing, &found)?;
    }
    if !args.dry_run {
        for path in &differing {
            opened.tree.write(path, tangled.files[*path].text.as_bytes())?;
        }
        opened.keep(&tangled)?;
    }
    let names: Vec<&str> = differing.iter().map(|path| path.as_str()).collect();
    if args.json {
        json_out(
            &json!({"document": args.document, "files": tangled.files.len(), "written": names, "dry_run": args.dry_run}),
        )?;
    } else {
        let verb = if args.dry_run { "would write" } else { "wrote" };
        names.iter().for_each(|name| say!("{verb} {}", printable(name)));
        say!("{} of {} files {}", names.len(), tangled.files.len(), if args.dry_run { "differ" } else { "written" });
    }
    Ok(0)
}

/// Files that are about to be replaced are what they were when they were last tangled: otherwise an edit would be lost.
fn untouched(opened: &Opened, differing: &[&TreePath], found: &BTreeMap<TreePath, Vec<u8>>) -> Result<(), Failure> {
    let base = opened.base()?;
    let edited = differing.iter().find(|path| {
        let was = base.get(**path).map(String::as_bytes);
        found.get(**path).is_some_and(|now| Some(now.as_slice()) != was)
    });
    let Some(path) = edited else { return Ok(()) };
    let said = format!(
        "{} is not what this document last tangled to: it was edited, or is somebody else's",
        printable(path.as_str())
    );
    Err(Failure::words(Exit::Refused, said).hint(format!(
        "`carboy lit sync {0}` brings the edit into the document; `carboy lit tangle --force {0}` loses it",
        opened.shown()
    )))
}

fn verify(args: &VerifyArgs) -> Result<u8, Failure> {
    let opened = Opened::read(&args.document)?;
    let tangled = opened.tangled()?;
    let found = read_all(&opened.tree, tangled.files.keys())?;
    let library = opened.library(args.library.as_deref());
    let drifts = drifts(&opened.document, &tangled, &opened.name, &found, &library);
    if args.json {
        let list: Vec<serde_json::Value> = drifts
            .iter()
            .map(|drift| json!({"file": drift.path.as_str(), "line": drift.line, "what": what(&drift.what)}))
            .collect();
        json_out(&json!({"document": args.document, "files": tangled.files.len(), "drifts": list}))?;
    } else {
        for drift in &drifts {
            say!("{}:{}: {}: {}", opened.shown(), drift.line, printable(drift.path.as_str()), what(&drift.what));
            if let Difference::Lines(lines) = &drift.what {
                show_diff(lines)?;
            }
        }
        match drifts.len() {
            0 => say!("{} files are what {} says", tangled.files.len(), opened.shown()),
            n => say!("{n} differ; `carboy lit sync {}` brings both sides together", opened.shown()),
        }
    }
    Ok(if drifts.is_empty() { 0 } else { Exit::Found as u8 })
}

fn what(difference: &Difference) -> String {
    match difference {
        Difference::Missing => "there is no such file".to_owned(),
        Difference::NotText(at) => format!("not UTF-8 text from byte {at} on"),
        Difference::Lines(_) => "differs".to_owned(),
        Difference::Include(fault) => printable(&fault.to_string()),
    }
}

fn hook_command(args: &HookArgs) -> Result<u8, Failure> {
    let name = args.document.to_str().filter(|name| !name.chars().any(char::is_control)).ok_or_else(|| {
        Failure::words(Exit::Usage, "the document's name is no plain text").hint("rename the document")
    })?;
    let text = match args.kind {
        HookKind::Git => hook::pre_commit(name),
        HookKind::Claude => hook::claude(name),
    };
    print(text.as_bytes())
}

/// A difference of two texts of one file, for `--dry-run`.
fn difference(name: &str, old: &str, new: &str) -> Vec<String> {
    diff::unified(old, new, &|line, _| format!("{name}:{line}"))
}
