//! The repository's files, as the checks see them.

use std::fs;
use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask stands one below the top").to_owned()
}

/// All files under `top` by path relative to it, sorted; build output, hidden directories but `.ci` and `.cargo`, and
/// links are left out.
pub fn files(top: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    walk(top, top, &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(top: &Path, directory: &Path, found: &mut Vec<String>) -> Result<(), String> {
    let error = |error: std::io::Error| format!("cannot read {}: {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let (kind, name) = (entry.file_type().map_err(error)?, entry.file_name().to_string_lossy().into_owned());
        let skipped = matches!(name.as_str(), "target" | "node_modules" | "venv");
        let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
        if kind.is_dir() && !skipped && !hidden {
            walk(top, &entry.path(), found)?;
        } else if kind.is_file() {
            let path = entry.path();
            let relative = path.strip_prefix(top).map_err(|error| error.to_string())?;
            found.push(relative.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// A file's text.
pub fn text(top: &Path, file: &str) -> Result<String, String> {
    fs::read_to_string(top.join(file)).map_err(|error| format!("cannot read {file}: {error}"))
}

/// Whether a source file is nothing but tests.
pub fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/") || file.starts_with("tests/")
}
