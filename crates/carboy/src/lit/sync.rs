//! `carboy lit sync`: document and files brought together, or told why not.
//!
//! *Must never* write one of them where the other cannot be made to agree.

use std::collections::BTreeSet;
use std::path::Path;

use carboy_weave::bootstrap::bootstrap;
use carboy_weave::sync::{Base, Clash, Side, SyncError, sync as bring_together};
use carboy_weave::{Document, Kind, TreePath, tangle};
use serde_json::json;

use super::tree::{Tree, read_all};
use super::{Opened, difference, file_name, invalid, json_out, read_text, show_diff};
use crate::args::{SyncArgs, TakeSide};
use crate::report::{Exit, Failure, printable};

pub(super) fn sync(args: &SyncArgs) -> Result<u8, Failure> {
    if let Some(template) = &args.bootstrap {
        return fill(args, template);
    }
    let opened = Opened::read(&args.document)?;
    let tangled = opened.tangled()?;
    let found = read_all(&opened.tree, tangled.files.keys())?;
    let base = match &args.base {
        Some(path) => base_of(path)?,
        None => opened.base()?,
    };
    let side = match args.take {
        None => Side::Neither,
        Some(TakeSide::Sources) => Side::Sources,
        Some(TakeSide::Document) => Side::Document,
    };
    let library = opened.library(args.library.as_deref());
    let synced =
        bring_together(&opened.document, &base, side, &found, &library).map_err(|e| refused(args, &opened, e))?;
    let files: Vec<&TreePath> = synced
        .files
        .iter()
        .filter(|(path, text)| found.get(*path).map(Vec::as_slice) != Some(text.as_bytes()))
        .map(|(path, _)| path)
        .collect();
    let document_changed = synced.document != opened.document.text();
    if !args.dry_run {
        // The document first: it is what the files are made from.
        if document_changed {
            write_document(&opened.path, &synced.document)?;
        }
        for path in &files {
            opened.tree.write(path, synced.files[*path].as_bytes())?;
        }
        let opened = Opened::read(&args.document)?;
        opened.keep(&opened.tangled()?)?;
    }
    told(args, &opened, document_changed.then_some(synced.document.as_str()), &files)
}

fn told(args: &SyncArgs, opened: &Opened, document: Option<&str>, files: &[&TreePath]) -> Result<u8, Failure> {
    let names: Vec<&str> = files.iter().map(|path| path.as_str()).collect();
    if args.json {
        let changed = document.is_some();
        json_out(
            &json!({"document": args.document, "document_changed": changed, "written": names, "dry_run": args.dry_run}),
        )?;
        return Ok(0);
    }
    if let Some(text) = document.filter(|_| args.dry_run) {
        show_diff(&difference(&opened.name, opened.document.text(), text))?;
    }
    let verb = if args.dry_run { "would change" } else { "changed" };
    let all = document.map(|_| opened.shown()).into_iter().chain(names.into_iter().map(printable));
    let all: Vec<String> = all.collect();
    all.iter().for_each(|name| say!("{verb} {name}"));
    if all.is_empty() {
        say!("{} and its files agree", opened.shown());
    }
    Ok(0)
}

/// What an earlier version of the document tangles to.
fn base_of(path: &Path) -> Result<Base, Failure> {
    let document = Document::parse(&read_text(path)?).map_err(|faults| invalid(path, &faults))?;
    let tangled = tangle(&document).map_err(|faults| invalid(path, &faults))?;
    Ok(tangled.files.into_iter().map(|(path, file)| (path, file.text)).collect())
}

fn refused(args: &SyncArgs, opened: &Opened, error: SyncError) -> Failure {
    match &error {
        SyncError::Faults(faults) => invalid(&opened.path, faults),
        SyncError::Conflicts(clashes) => {
            if args.json {
                let list = clashes.iter().map(|clash| {
                    json!({"file": clash.path.as_str(), "line": clash.line, "base": clash.conflict.base,
                        "document": clash.conflict.ours, "source": clash.conflict.theirs})
                });
                // Where nobody reads it, the error below still says it.
                let _ = json_out(&json!({"document": args.document, "conflicts": list.collect::<Vec<_>>()}));
            } else {
                clashes.iter().for_each(|clash| show_clash(opened, clash));
            }
            Failure::new(Exit::Found, &error)
        }
        SyncError::Missing(_) | SyncError::NotText(_) | SyncError::NoBase(_) | SyncError::Shared { .. } => {
            Failure::new(Exit::Found, &error)
        }
        SyncError::Indentation { .. } | SyncError::Reference { .. } | SyncError::NotExact(_) => {
            Failure::new(Exit::Found, &error)
        }
    }
}

/// Both changes of one place, each as a diff from what it was.
fn show_clash(opened: &Opened, clash: &Clash) {
    let conflict = &clash.conflict;
    let places = [
        (format!("{}:{}", opened.name, clash.line), &conflict.ours),
        (format!("{}:{}", clash.path, conflict.theirs_line), &conflict.theirs),
    ];
    for (place, side) in places {
        let lines = carboy_weave::diff::unified(&conflict.base, side, &|_, _| place.clone());
        // Standard output that is gone takes the diff with it; the error is told all the same.
        let _ = show_diff(&lines);
    }
}

fn write_document(path: &Path, text: &str) -> Result<(), Failure> {
    let name = TreePath::parse(&file_name(path)?).map_err(|fault| Failure::new(Exit::Usage, &fault))?;
    Tree::at(path.parent().unwrap_or(Path::new("."))).write(&name, text.as_bytes())
}

/// Makes the document from a template and the files.
fn fill(args: &SyncArgs, template: &Path) -> Result<u8, Failure> {
    if !args.force && !args.dry_run && args.document.exists() {
        let shown = printable(&args.document.display().to_string());
        return Err(Failure::words(Exit::Refused, format!("{shown} is there already")).hint("`--force` replaces it"));
    }
    let tree = Tree::at(args.document.parent().unwrap_or(Path::new(".")));
    let library = args.library.as_deref().map_or_else(|| tree.repository(), Tree::at);
    let text = bootstrap(&read_text(template)?, &tree, &library).map_err(|faults| invalid(template, &faults))?;
    if args.dry_run {
        return crate::print(text.as_bytes());
    }
    write_document(&args.document, &text)?;
    let opened = Opened::read(&args.document)?;
    let tangled = opened.tangled()?;
    opened.keep(&tangled)?;
    let parts = opened.document.blocks().iter().filter(|block| block.kind != Kind::Plain).count();
    if args.json {
        json_out(&json!({"document": args.document, "document_changed": true, "files": tangled.files.len()}))?;
    } else {
        let names: BTreeSet<&str> = tangled.files.keys().map(TreePath::as_str).collect();
        say!("wrote {}: {} files in {parts} blocks", opened.shown(), names.len());
    }
    Ok(0)
}
