//! `carboy lit map`: positions in files, as positions in the document.
//!
//! *Must never* hold a line back until the next one comes: a test's output is read while it runs.

use std::io::{BufRead, Write};
use std::path::{Component, Path, PathBuf};

use carboy_weave::TreePath;
use carboy_weave::map::Translator;
use serde_json::json;

use super::tree::read_all;
use super::{Opened, json_out};
use crate::args::MapArgs;
use crate::print;
use crate::report::{Exit, Failure, printable};

pub(super) fn map(args: &MapArgs) -> Result<u8, Failure> {
    let opened = Opened::read(&args.document)?;
    let tangled = opened.tangled()?;
    let found = read_all(&opened.tree, tangled.files.keys())?;
    let resolver = Resolver::new(&opened)?;
    let resolve = |text: &str| resolver.resolve(text);
    let name = args.document.to_string_lossy();
    let translator = Translator::new(&name, &opened.document, &tangled, &found, &resolve);
    if let (Some(file), Some(line)) = (&args.file, args.line) {
        return one(args, &translator, &resolver, file, line as usize);
    }
    let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if input.read_until(b'\n', &mut bytes).map_err(|e| Failure::new(Exit::Failed, &e))? == 0 {
            return Ok(0);
        }
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let written = match std::str::from_utf8(body) {
            Ok(text) => out.write_all(translator.line(text).as_bytes()),
            Err(_) => out.write_all(body),
        };
        let ended = written.and_then(|()| out.write_all(&bytes[body.len()..])).and_then(|()| out.flush());
        match ended {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(0),
            Err(e) => return Err(Failure::new(Exit::Failed, &e)),
            Ok(()) => {}
        }
    }
}

fn one(
    args: &MapArgs,
    translator: &Translator<'_>,
    resolver: &Resolver,
    file: &Path,
    line: usize,
) -> Result<u8, Failure> {
    let shown = printable(&file.display().to_string());
    let path = file.to_str().and_then(|text| resolver.resolve(text));
    let place = path.and_then(|path| translator.place(&path, line, args.column as usize)).ok_or_else(|| {
        Failure::words(
            Exit::Found,
            format!("line {line} of {shown} is not in {}", printable(&args.document.display().to_string())),
        )
        .hint("`carboy lit verify` says whether the file is what the document says")
    })?;
    if args.json {
        json_out(
            &json!({"document": args.document, "line": place.line, "column": place.column, "exact": place.exact}),
        )?;
        return Ok(0);
    }
    let near = if place.exact { "" } else { " (the nearest line above; the file was edited)" };
    print(
        format!("{}:{}:{}{near}\n", printable(&args.document.display().to_string()), place.line, place.column)
            .as_bytes(),
    )
}

/// Which file of the document a path in some output is: compilers name paths from the working directory or from the top
/// of a workspace, which is this directory or one above the document.
struct Resolver {
    top: PathBuf,
    starts: Vec<PathBuf>,
}

impl Resolver {
    fn new(opened: &Opened) -> Result<Resolver, Failure> {
        let failed = |e: std::io::Error| Failure::new(Exit::Failed, &e);
        let top = std::fs::canonicalize(opened.tree.top()).map_err(failed)?;
        let cwd = std::env::current_dir().map_err(failed)?;
        let starts = std::iter::once(cwd).chain(top.ancestors().map(Path::to_owned)).collect();
        Ok(Resolver { top, starts })
    }

    fn resolve(&self, text: &str) -> Option<TreePath> {
        let mut all = self.starts.iter().filter_map(|start| {
            let path = plain(&start.join(text))?;
            TreePath::parse(path.strip_prefix(&self.top).ok()?.to_str()?).ok()
        });
        // The document's own directory is among them, so a file that is there wins over none.
        let first = all.next()?;
        let there = |path: &TreePath| self.top.join(path.as_str()).is_file();
        Some(if there(&first) { first } else { all.find(there)? })
    }
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => plain.pop().then_some(())?,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) | Component::Normal(_) => plain.push(part),
        }
    }
    Some(plain)
}
