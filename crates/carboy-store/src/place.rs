//! Where a file lies: whose it and its directory are, who can write them.
//!
//! *Must never* follow a link in a file's own place.

use std::fs::{DirBuilder, File, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::StoreError;

/// Those who are not the owner may not write.
const OTHERS_WRITE: u32 = 0o022;

/// Whose a file may be.
pub(crate) enum OwnerRule {
    /// Who runs this.
    Self_,
    /// Who runs this, or root.
    SelfOrRoot,
}

/// It must be his, and nobody else may write it.
pub(crate) fn check_rights(meta: &Metadata, path: &Path, rule: OwnerRule) -> Result<(), StoreError> {
    let user = rustix::process::geteuid().as_raw();
    let fits = match rule {
        OwnerRule::Self_ => meta.uid() == user,
        OwnerRule::SelfOrRoot => meta.uid() == user || meta.uid() == 0,
    };
    if !fits {
        return Err(StoreError::ForeignOwner { path: path.to_owned(), owner: meta.uid(), user });
    }
    if meta.mode() & OTHERS_WRITE != 0 {
        return Err(StoreError::LooseMode { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    Ok(())
}

/// Opens the directory of a file, making it (0700) where it is missing. Links on the way to it are the user's own affair;
/// what they lead to must be his.
pub(crate) fn open_directory(path: &Path) -> Result<File, StoreError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let builder = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    builder.map_err(StoreError::io("create the directory", directory))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, directory, flags, Mode::empty()).map_err(StoreError::sys("open the directory", directory))?;
    let file = File::from(fd);
    let meta = file.metadata().map_err(StoreError::io("look at", directory))?;
    check_rights(&meta, directory, OwnerRule::SelfOrRoot)?;
    Ok(file)
}
