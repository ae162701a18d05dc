//! Manifests on disk, behind the manifest crate's view of the world.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use carboy_manifest::ManifestFiles;
use carboy_manifest::files::{DIRECTORY_FILES_MAX, FileError};

/// The host's file system, read only.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

fn unreadable(error: &std::io::Error) -> FileError {
    FileError::Unreadable(error.to_string())
}

/// `None` when it is absent.
fn open(path: &Path) -> Result<Option<std::fs::File>, FileError> {
    match std::fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(&e)),
    }
}

fn content(file: std::fs::File, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    if !file.metadata().map_err(|e| unreadable(&e))?.is_file() {
        return Err(FileError::Unreadable("not a regular file".into()));
    }
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content).map_err(|e| unreadable(&e))?;
    if content.len() as u64 > bytes_max {
        return Err(FileError::TooLarge { bytes_max });
    }
    Ok(content)
}

impl ManifestFiles for DiskFiles {
    fn list(&self, dir: &Path) -> Result<Vec<String>, FileError> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(unreadable(&e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| unreadable(&e))?;
            let is_file = std::fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file());
            // A name that is not UTF-8 cannot be an entity's name.
            names.extend(entry.file_name().into_string().ok().filter(|_| is_file));
            if names.len() > DIRECTORY_FILES_MAX {
                break;
            }
        }
        Ok(names)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        match open(path)? {
            Some(file) => content(file, bytes_max).map(Some),
            None => Ok(None),
        }
    }

    fn read_of_root(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
        let Some(file) = open(path)? else {
            // Absent is only what has no name: a link that leads nowhere says that there is to be something.
            return match path.ancestors().find(|name| name.is_symlink() && name.metadata().is_err()) {
                Some(link) => Err(FileError::Unreadable(format!("{} is a link that leads nowhere", link.display()))),
                None => Ok(None),
            };
        };
        // What is looked at is what is read: the file by its descriptor. Its directory, because who may write that can put
        // another file in its place.
        let of_file = file.metadata().map_err(|e| unreadable(&e))?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let of_dir = std::fs::metadata(dir).map_err(|e| unreadable(&e))?;
        for (what, meta) in [("it", of_file), ("its directory", of_dir)] {
            if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
                let (owner, mode) = (meta.uid(), meta.mode() & 0o777);
                let why = format!(
                    "{what} belongs to uid {owner} with mode {mode:o}, so others than root can have written it"
                );
                return Err(FileError::Unreadable(why));
            }
        }
        content(file, bytes_max).map(Some)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn same_directory(&self, a: &Path, b: &Path) -> bool {
        match (a.canonicalize(), b.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use carboy_manifest::{Code, Manifest, Places, Request};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_home_under_another_name_is_the_same_home() {
        // M5: an agent of the user's own is not taken for a repository's because of a link.
        let dir = tempfile::tempdir().unwrap();
        let (home, link) = (dir.path().join("u"), dir.path().join("link"));
        Home::open(&home.join(".carboy"), None).unwrap();
        symlink(&home, &link).unwrap();
        for (path, text) in [("bottles/dev.md", "---\n---\n"), ("agents/a.md", "---\nbottle: dev\n---\n")] {
            fs::create_dir_all(home.join(".carboy").join(path).parent().unwrap()).unwrap();
            fs::write(home.join(".carboy").join(path), text).unwrap();
        }
        let places = Places { carboy_home: home.join(".carboy"), home, cwd: link };
        let request = Request { agent: Some("a".into()), bottles: vec![], places };
        let loaded = Manifest::load(&DiskFiles, &request).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.repository_agent.is_none() && loaded.warnings.is_empty(), "{}", loaded.warnings);
    }

    #[test]
    fn a_file_of_the_system_is_roots_alone_or_it_is_refused() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settings.yml");
        let read = || DiskFiles.read_of_root(&file, 100);
        assert_eq!(read(), Ok(None));
        fs::write(&file, "capture: t1\n").unwrap();
        let mode = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&file, 0o644);
        let refused = |found: Result<Option<Vec<u8>>, FileError>| matches!(found, Err(FileError::Unreadable(_)));
        if !rustix::process::getuid().is_root() {
            assert!(refused(read()));
            return;
        }
        assert_eq!(read(), Ok(Some(b"capture: t1\n".to_vec())));
        mode(&file, 0o664);
        assert!(refused(read()));
        mode(&file, 0o644);
        mode(dir.path(), 0o777);
        assert!(refused(read()));
        mode(dir.path(), 0o755);
        chown(&file, Some(1000), None).unwrap();
        assert!(refused(read()));
    }

    #[test]
    fn a_link_that_leads_nowhere_is_no_absent_file_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let (file, etc) = (dir.path().join("settings.yml"), dir.path().join("etc"));
        assert_eq!(DiskFiles.read_of_root(&etc.join("settings.yml"), 100), Ok(None));
        symlink(dir.path().join("gone"), &file).unwrap();
        symlink(dir.path().join("gone"), &etc).unwrap();
        for path in [&file, &etc.join("settings.yml")] {
            let read = DiskFiles.read_of_root(path, 100);
            assert!(matches!(&read, Err(FileError::Unreadable(why)) if why.contains("leads nowhere")), "{read:?}");
        }
    }

    #[test]
    fn files_of_the_tool_before_are_pointed_at_although_carboy_has_made_its_home() {
        // M6, M40
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_owned();
        Home::open(&home.join(".carboy"), None).unwrap();
        fs::create_dir_all(home.join(".bot-bottle/bottles")).unwrap();
        let places = Places { carboy_home: home.join(".carboy"), cwd: home.join("work"), home };
        let request = Request { agent: None, bottles: vec!["dev".into()], places };
        let errors = Manifest::load(&DiskFiles, &request).unwrap_err();
        assert!(errors.iter().any(|found| found.code == Code::ForeignFiles), "{errors}");
    }
}
