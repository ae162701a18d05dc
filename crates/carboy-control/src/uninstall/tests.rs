//! Trees that a hostile program could leave, and homes that hold more than carboy's.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;

/// Inventory and removal at once.
fn uninstalled(home: &Home, log: Log, written: Written) -> Inventory {
    let found = inventory(home, log, written).unwrap();
    let left = remove(home, &found);
    assert!(left.is_empty(), "{left:?}");
    found
}

fn there(dir: &Path) -> Vec<String> {
    names(dir).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn what_people_wrote_and_what_is_not_known_stays() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("home");
    let home = Home::open(&root, None).unwrap();
    for path in ["bottles/a.md", "agents/a.md", "settings.yml", "audit/audit.jsonl", "ca/ca.key", "photos/cat.jpg"] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), "x").unwrap();
    }
    let found = uninstalled(&home, Log::Keep, Written::Keep);
    assert_eq!(found.unknown, [root.join("photos")]);
    assert_eq!(there(&root), ["agents", "audit", "bottles", "photos", "settings.yml"]);
    uninstalled(&home, Log::Remove, Written::Remove);
    // `--all` does not reach what carboy does not know.
    assert_eq!(there(&root), ["photos"]);
    fs::remove_dir_all(root.join("photos")).unwrap();
    uninstalled(&home, Log::Remove, Written::Remove);
    assert!(!root.exists());
}

#[test]
fn links_are_removed_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("home"), dir.path().join("outside"));
    let home = Home::open(&root, None).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("mine"), "x").unwrap();
    fs::create_dir_all(root.join("state/b/home")).unwrap();
    symlink(&outside, root.join("state/b/home/link")).unwrap();
    symlink(outside.join("mine"), root.join("state/b/home/file")).unwrap();
    // Even what carboy itself would have made.
    symlink(&outside, root.join("images")).unwrap();
    uninstalled(&home, Log::Remove, Written::Remove);
    assert!(!root.exists());
    assert_eq!(there(&outside), ["mine"]);
}

#[test]
fn a_tree_that_nobody_may_read_and_that_is_deeper_than_any_path_goes_too() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("home");
    let home = Home::open(&root, None).unwrap();
    let state = root.join("state/b");
    fs::create_dir_all(&state).unwrap();
    // Names that removal itself uses.
    fs::create_dir_all(state.join("removing-1/removing-2/x")).unwrap();
    fs::write(state.join("removing-1/removing-2/x/file"), "x").unwrap();
    // Deeper than PATH_MAX, and than a recursion's stack would go.
    let mut deep = open_directory(&state).unwrap();
    for _ in 0..5_000 {
        rustix::fs::mkdirat(&deep, "d", Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        deep = rustix::fs::openat(&deep, "d", flags, Mode::empty()).unwrap();
    }
    fs::DirBuilder::new().mode(0o000).create(state.join("closed")).unwrap();
    fs::create_dir_all(state.join("shut/inner")).unwrap();
    fs::write(state.join("shut/inner/file"), "x").unwrap();
    fs::set_permissions(state.join("shut/inner"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(state.join("shut"), fs::Permissions::from_mode(0o100)).unwrap();
    uninstalled(&home, Log::Remove, Written::Remove);
    assert!(!root.exists());
}

#[test]
fn of_the_directory_of_sockets_the_sockets_alone_go() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = dir.path().join("runtime");
    fs::create_dir(&runtime).unwrap();
    let home = Home::open(&dir.path().join("home"), Some(&runtime)).unwrap();
    drop(UnixListener::bind(runtime.join("carboy/r-1.sock")).unwrap());
    fs::write(runtime.join("carboy/notes.sock"), "not a socket").unwrap();
    let found = uninstalled(&home, Log::Remove, Written::Remove);
    assert_eq!(found.unknown, [runtime.join("carboy/notes.sock")]);
    assert_eq!(there(&runtime.join("carboy")), ["notes.sock"]);
    fs::remove_file(runtime.join("carboy/notes.sock")).unwrap();
    let home = Home::open(&dir.path().join("home"), Some(&runtime)).unwrap();
    uninstalled(&home, Log::Remove, Written::Remove);
    assert_eq!(there(&runtime), Vec::<String>::new());
}

#[test]
fn an_interrupted_run_is_named_before_its_journal_goes() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(&dir.path().join("home"), None).unwrap();
    fs::create_dir_all(home.states().join("work")).unwrap();
    fs::write(home.states().join("work/r-1.journal"), "x").unwrap();
    assert_eq!(inventory(&home, Log::Keep, Written::Keep).unwrap().interrupted, ["work"]);
    // A run that lives keeps its own locked, and was not cut short.
    let live = fs::File::open(home.states().join("work/r-1.journal")).unwrap();
    flock(&live, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(inventory(&home, Log::Keep, Written::Keep).unwrap().interrupted, [""; 0]);
}
