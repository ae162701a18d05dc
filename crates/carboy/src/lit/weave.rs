//! `carboy lit weave`: the page on a disk.
//!
//! *Must never* write a page of a document whose copies of the library are out of date, or outside of its directory.

use std::path::Path;

use carboy_weave::{TreePath, page};
use serde_json::json;

use super::tree::Tree;
use super::{Opened, invalid, json_out, read_text, unwritable};
use crate::args::WeaveArgs;
use crate::report::{Exit, Failure, printable};

/// Endings of a document's name that its page leaves out.
const ENDINGS: &[&str] = &[".lit.md", ".md"];

/// The page's directory, beside the document.
const OUT: &str = "woven";

pub(super) fn weave(args: &WeaveArgs) -> Result<u8, Failure> {
    let opened = Opened::read(&args.document)?;
    let header = args.header.as_deref().map(read_text).transpose()?.unwrap_or_default();
    let stem = ENDINGS.iter().find_map(|ending| opened.name.strip_suffix(ending)).unwrap_or(&opened.name);
    let library = opened.library(args.library.as_deref());
    let site =
        page::weave(&opened.document, stem, &header, &library).map_err(|faults| invalid(&opened.path, &faults))?;
    // Never beside the document: `style.md` would replace somebody's `style.css`.
    let out = args.out.clone().unwrap_or_else(|| args.document.parent().unwrap_or(Path::new("")).join(OUT));
    if !args.check {
        std::fs::create_dir_all(&out).map_err(|error| unwritable(&out, &error))?;
    }
    let tree = Tree::at(&out);
    let mut differing = Vec::new();
    for (name, text) in &site.files {
        let path = TreePath::parse(name).map_err(|fault| Failure::new(Exit::Usage, &fault))?;
        if tree.bytes(&path)?.as_deref() != Some(text.as_bytes()) {
            differing.push(name.as_str());
            if !args.check {
                tree.write(&path, text.as_bytes())?;
            }
        }
    }
    if args.json {
        let files: Vec<&String> = site.files.keys().collect();
        json_out(
            &json!({"document": args.document, "page": out.join(&site.page), "files": files, "differing": differing}),
        )?;
    } else if args.check {
        differing.iter().for_each(|name| say!("out of date: {}", printable(&out.join(name).display().to_string())));
    } else {
        say!("{}", printable(&out.join(&site.page).display().to_string()));
    }
    Ok(if args.check && !differing.is_empty() { Exit::Found as u8 } else { 0 })
}
