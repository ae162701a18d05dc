//! Apply and undo over layers as the kernel writes them, made by hand: whiteouts and opaque marks need no rights.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use carboy_core::ids::{BottleName, RunId};
use proptest::prelude::*;

use super::apply::apply;
use super::change::What;
use super::plan::{Conflicts, LeftSort, Steering, Wanted, plan};
use super::tree::Rel;
use super::undo::undo;
use super::*;
use crate::home::Home;

/// A workspace, a home, and the layer of bottle `b` over it.
struct Trial {
    _dir: tempfile::TempDir,
    home: Home,
    host: PathBuf,
    layer: Layer,
}

impl Trial {
    fn new(fill: impl FnOnce(&Path)) -> Trial {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let home = Home::open(&path.join("home"), None).unwrap();
        let host = path.join("work");
        fs::create_dir(&host).unwrap();
        fill(&host);
        let mut trial = Trial { _dir: dir, home, layer: layer_of_b(&path, &host), host };
        trial.begin(1);
        trial
    }

    /// A run begins and ends.
    fn begin(&mut self, n: u64) {
        drop(self.held(n).unwrap());
        let bottle = BottleName::parse("b").unwrap();
        self.layer = layers(&self.home, &bottle).unwrap().remove(0);
    }

    fn held(&self, n: u64) -> Result<Held, WorkspaceError> {
        let (bottle, run) = (BottleName::parse("b").unwrap(), RunId::parse(&format!("r-{n}")).unwrap());
        let of = RunOf { bottle: &bottle, run: &run, workdir: &self.host, mode: Mode::Overlay, started_ms: n };
        hold(&self.home, &of)
    }

    fn upper(&self, path: &str) -> PathBuf {
        let path = self.layer.upper().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn plan(&self, wanted: &Wanted) -> super::plan::Plan {
        plan(&self.layer, wanted).unwrap()
    }

    fn apply(&self) -> super::apply::Outcome {
        apply(&self.layer, self.plan(&Wanted::default()), "1000").unwrap()
    }
}

fn layer_of_b(path: &Path, host: &Path) -> Layer {
    layer_of(&Home::open(&path.join("home"), None).unwrap(), &BottleName::parse("b").unwrap(), host)
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::CharacterDevice, 0o000.into(), 0).unwrap();
}

fn opaque(path: &Path) {
    fs::create_dir_all(path).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.overlay.opaque", b"y", flags).unwrap();
}

fn rel(path: &str) -> Rel {
    Rel::parse(Path::new(path)).unwrap()
}

/// Everything below a directory: kind, mode and content.
fn picture(root: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                waiting.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                format!("{:?}", fs::read(&path).unwrap())
            };
            let mode = if meta.is_symlink() { 0 } else { meta.permissions().mode() & 0o7777 };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (mode, content));
        }
    }
    found
}

/// A node of a made-up tree.
#[derive(Clone, Debug)]
enum Node {
    File(u8, u32),
    Link(&'static str),
    Directory(u32, Mark, BTreeMap<&'static str, Node>),
    Gone,
}

/// Is a directory of a layer opaque?
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Opaque,
    Merged,
}

fn nodes(layer: bool) -> impl Strategy<Value = BTreeMap<&'static str, Node>> {
    let name = || prop::sample::select(vec!["a", "b", "c\n", "d"]);
    let leaf = prop_oneof![
        4 => (0_u8..3, prop::sample::select(vec![0o644_u32, 0o600, 0o755])).prop_map(|(c, m)| Node::File(c, m)),
        1 => prop::sample::select(vec!["a", "../..", "/etc/passwd"]).prop_map(Node::Link),
        (if layer { 3 } else { 0 }) + 1 => Just(if layer { Node::Gone } else { Node::File(9, 0o644) }),
    ];
    let tree = leaf.prop_recursive(3, 24, 4, move |inner| {
        let mark = prop_oneof![Just(Mark::Merged), Just(if layer { Mark::Opaque } else { Mark::Merged })];
        (prop::sample::select(vec![0o755_u32, 0o700, 0o555]), mark, prop::collection::btree_map(name(), inner, 0..4))
            .prop_map(|(mode, mark, children)| Node::Directory(mode, mark, children))
    });
    prop::collection::btree_map(name(), tree, 0..4)
}

fn write(root: &Path, nodes: &BTreeMap<&'static str, Node>) {
    for (name, node) in nodes {
        let path = root.join(name);
        match node {
            Node::File(content, mode) => {
                fs::write(&path, vec![b'0' + content; 3]).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Node::Link(target) => symlink(target, &path).unwrap(),
            Node::Gone => whiteout(&path),
            Node::Directory(mode, mark, children) => {
                fs::create_dir(&path).unwrap();
                write(&path, children);
                if *mark == Mark::Opaque {
                    opaque(&path);
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
}

/// What a program inside sees: the kernel's own rule.
fn merged(
    below: Option<&BTreeMap<&'static str, Node>>,
    above: &BTreeMap<&'static str, Node>,
) -> BTreeMap<&'static str, Node> {
    let mut result = below.cloned().unwrap_or_default();
    for (name, node) in above {
        let under = match result.remove(name) {
            Some(Node::Directory(_, _, children)) => Some(children),
            Some(_) | None => None,
        };
        match node {
            Node::Gone => {}
            Node::Directory(mode, mark, children) => {
                let under = under.filter(|_| *mark == Mark::Merged);
                let children = merged(under.as_ref(), children);
                result.insert(name, Node::Directory(*mode, Mark::Merged, children));
            }
            Node::File(..) | Node::Link(_) => drop(result.insert(name, node.clone())),
        }
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn an_apply_makes_what_the_program_saw_and_undo_makes_what_was(below in nodes(false), above in nodes(true)) {
        let trial = Trial::new(|host| write(host, &below));
        write(&trial.layer.upper(), &above);
        let before = picture(&trial.host);
        let expected = tempfile::tempdir().unwrap();
        write(expected.path(), &merged(Some(&below), &above));
        let outcome = trial.apply();
        prop_assert!(outcome.left.is_empty(), "{:?}", outcome.left);
        prop_assert_eq!(picture(&trial.host), picture(expected.path()));
        // Nothing is left to do, and what was applied leaves the layer when the next run begins.
        prop_assert!(plan(&trial.layer, &Wanted::default()).unwrap().actions.is_empty());
        let undone = undo(&trial.layer, Conflicts::Keep).unwrap();
        prop_assert!(undone.is_none_or(|undone| undone.left.is_empty()));
        prop_assert_eq!(picture(&trial.host), before);
        // And once more, as if the undo had been a mistake.
        trial.apply();
        prop_assert_eq!(picture(&trial.host), picture(expected.path()));
    }
}

#[test]
fn what_the_host_changed_meanwhile_is_a_conflict_until_it_is_forced_and_then_it_can_be_had_back() {
    let trial = Trial::new(|host| {
        for name in ["edited", "removed", "same"] {
            fs::write(host.join(name), "base").unwrap();
        }
    });
    for name in ["edited", "removed", "same", "both"] {
        fs::write(trial.upper(name), "bottle").unwrap();
    }
    fs::write(trial.host.join("edited"), "host").unwrap();
    fs::write(trial.host.join("both"), "host").unwrap();
    fs::remove_file(trial.host.join("removed")).unwrap();
    let planned = trial.plan(&Wanted::default());
    let conflicts: Vec<_> = planned.left.iter().map(|l| (l.path.shown(), l.sort)).collect();
    let conflict = |name: &str| (name.to_owned(), LeftSort::Conflict);
    assert_eq!(conflicts, [conflict("both"), conflict("edited"), conflict("removed")]);
    assert_eq!(planned.actions.iter().map(|a| a.change.path.shown()).collect::<Vec<_>>(), ["same"]);
    let forced = Wanted { conflicts: Conflicts::Overwrite, ..Wanted::default() };
    assert_eq!(apply(&trial.layer, trial.plan(&forced), "1").unwrap().done.len(), 4);
    assert_eq!(fs::read_to_string(trial.host.join("edited")).unwrap(), "bottle");
    // Changed again: undo does not take it.
    fs::write(trial.host.join("both"), "host once more").unwrap();
    let undone = undo(&trial.layer, Conflicts::Keep).unwrap().unwrap();
    assert_eq!(undone.left.iter().map(|l| l.path.shown()).collect::<Vec<_>>(), ["both"]);
    assert_eq!(fs::read_to_string(trial.host.join("edited")).unwrap(), "host");
    assert!(undo(&trial.layer, Conflicts::Overwrite).unwrap().unwrap().left.is_empty());
    assert_eq!(fs::read_to_string(trial.host.join("both")).unwrap(), "host");
    assert!(undo(&trial.layer, Conflicts::Keep).unwrap().is_none());
}

#[test]
fn what_steers_the_host_stays_in_the_layer_whatever_way_it_comes() {
    // B51
    let trial = Trial::new(|host| {
        fs::create_dir_all(host.join(".git/objects")).unwrap();
        fs::create_dir_all(host.join(".git/refs")).unwrap();
        fs::write(host.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(host.join(".git/config"), "[core]\n\tbare = false\n").unwrap();
        // Left by an earlier apply, when it was nothing but a file.
        fs::create_dir_all(host.join("slow/objects")).unwrap();
        fs::create_dir_all(host.join("slow/refs")).unwrap();
        fs::write(host.join("slow/config"), "[core]\n\tfsmonitor = evil\n").unwrap();
    });
    let evil = "[core]\n\tbare = false\n\tfsmonitor = evil\n[branch \"x\"]\n\tremote = o\n";
    let held = [
        (".mcp.json", "{}"),
        (".claude/settings.json", "{}"),
        ("deep/.vscode/tasks.json", "{}"),
        (".IDEA/workspace.xml", "x"),
        (".git/hooks/post-checkout", "#!/bin/sh\nevil"),
        ("sub/.git/hooks/pre-commit", "evil"),
        ("module/.git", "gitdir: /home/somebody/repo/.git/worktrees/x\n"),
        ("slow/HEAD", "ref: refs/heads/main\n"),
        (".git/commondir", "../elsewhere\n"),
    ];
    for (path, text) in held {
        fs::write(trial.upper(path), text).unwrap();
    }
    fs::write(trial.upper(".git/config"), evil).unwrap();
    symlink("/tmp/evil", trial.upper(".cursor")).unwrap();
    fs::write(trial.upper(".git/hooks/pre-push.sample"), "sample").unwrap();
    fs::write(trial.upper("free"), "x").unwrap();
    let planned = trial.plan(&Wanted::default());
    let mut left: Vec<String> = planned.left.iter().map(|l| l.path.shown()).collect();
    left.sort();
    let mut expected: Vec<String> = held.iter().map(|(path, _)| (*path).to_owned()).collect();
    // The directories that only steering files can be in go with them.
    expected.extend([".git/config", ".cursor", ".IDEA"].map(str::to_owned));
    expected.sort();
    assert_eq!(left, expected);
    assert!(apply(&trial.layer, planned, "1").unwrap().left.is_empty());
    assert_eq!(
        fs::read_to_string(trial.host.join(".git/config")).unwrap(),
        "[core]\n\tbare = false\n[branch \"x\"]\n\tremote = o\n"
    );
    assert!(trial.host.join(".git/hooks/pre-push.sample").exists() && !trial.host.join(".mcp.json").exists());
    // Named, or asked for as a whole, it goes over.
    let one = Wanted { paths: vec![rel(".mcp.json")], ..Wanted::default() };
    assert_eq!(apply(&trial.layer, trial.plan(&one), "2").unwrap().done.len(), 1);
    let all = Wanted { steering: Steering::Apply, ..Wanted::default() };
    apply(&trial.layer, trial.plan(&all), "3").unwrap();
    assert_eq!(fs::read_to_string(trial.host.join(".git/config")).unwrap(), evil);
}

#[test]
fn no_special_file_no_set_uid_bit_and_no_write_through_a_link() {
    // B51
    let victim = tempfile::tempdir().unwrap();
    let victim = victim.path().canonicalize().unwrap();
    fs::write(victim.join("bashrc"), "mine").unwrap();
    let trial = Trial::new(|host| {
        // A link of the host's own; the bottle put a directory in its place, in which it wrote.
        symlink(&victim, host.join("link")).unwrap();
        symlink(victim.join("bashrc"), host.join("file-link")).unwrap();
    });
    opaque(&trial.upper("link"));
    fs::write(trial.upper("link/bashrc"), "evil").unwrap();
    fs::write(trial.upper("file-link"), "evil").unwrap();
    symlink("../../../..", trial.upper("up")).unwrap();
    fs::write(trial.upper("tool"), "x").unwrap();
    fs::set_permissions(trial.upper("tool"), fs::Permissions::from_mode(0o6755)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, trial.upper("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let planned = trial.plan(&Wanted::default());
    assert_eq!(
        planned.left.iter().map(|l| (l.path.shown(), l.sort)).collect::<Vec<_>>(),
        [("pipe".into(), LeftSort::Unusable)]
    );
    assert_eq!(planned.leading_out, [(rel("up"), "../../../..".to_owned())]);
    let outcome = apply(&trial.layer, planned, "1").unwrap();
    assert!(outcome.left.is_empty(), "{outcome:?}");
    assert_eq!(fs::read_to_string(victim.join("bashrc")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(trial.host.join("link/bashrc")).unwrap(), "evil");
    assert_eq!(fs::metadata(trial.host.join("tool")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(trial.host.join("up")).unwrap(), Path::new("../../../.."));
    // A link that is put on the way after the plan was made is not followed either.
    let late = Trial::new(|host| fs::create_dir(host.join("d")).unwrap());
    fs::write(late.upper("d/bashrc"), "evil").unwrap();
    let planned = late.plan(&Wanted::default());
    fs::remove_dir(late.host.join("d")).unwrap();
    symlink(&victim, late.host.join("d")).unwrap();
    assert_eq!(apply(&late.layer, planned, "1").unwrap().left.len(), 1);
    assert_eq!(fs::read_to_string(victim.join("bashrc")).unwrap(), "mine");
}

#[test]
fn a_repository_that_the_host_moved_on_in_waits_as_a_whole_and_its_objects_do_not() {
    let trial = Trial::new(|host| {
        fs::create_dir_all(host.join(".git/refs/heads")).unwrap();
        fs::create_dir_all(host.join(".git/objects")).unwrap();
        for name in [".git/HEAD", ".git/index", ".git/refs/heads/main"] {
            fs::write(host.join(name), "base").unwrap();
        }
    });
    for name in [".git/index", ".git/refs/heads/main", ".git/objects/ab", "file"] {
        fs::write(trial.upper(name), "bottle").unwrap();
    }
    fs::write(trial.host.join(".git/refs/heads/main"), "host").unwrap();
    let planned = trial.plan(&Wanted::default());
    let mut left: Vec<_> = planned.left.iter().map(|l| l.path.shown()).collect();
    left.sort();
    assert_eq!(left, [".git/index", ".git/refs/heads/main"]);
    assert_eq!(planned.actions.iter().map(|a| a.change.path.shown()).collect::<Vec<_>>(), [".git/objects/ab", "file"]);
}

#[test]
fn the_next_run_sees_the_host_where_everything_was_applied_and_the_base_where_it_was_not() {
    let mut trial = Trial::new(|host| {
        fs::create_dir(host.join("d")).unwrap();
        for name in ["applied", "waiting", "d/x"] {
            fs::write(host.join(name), "base").unwrap();
        }
    });
    fs::write(trial.upper("applied"), "bottle").unwrap();
    fs::write(trial.upper("waiting"), "bottle").unwrap();
    whiteout(&trial.upper("d/x"));
    let some = Wanted { paths: vec![rel("applied"), rel("d")], ..Wanted::default() };
    assert_eq!(apply(&trial.layer, trial.plan(&some), "1").unwrap().done.len(), 2);
    fs::write(trial.host.join("applied"), "edited on the host").unwrap();
    fs::write(trial.host.join("waiting"), "edited on the host").unwrap();
    trial.begin(2);
    assert!(!trial.layer.upper().join("applied").exists() && !trial.layer.upper().join("d").exists());
    assert!(trial.layer.upper().join("waiting").exists());
    let planned = trial.plan(&Wanted::default());
    assert_eq!(
        planned.left.iter().map(|l| (l.path.shown(), l.sort)).collect::<Vec<_>>(),
        [("waiting".into(), LeftSort::Conflict)]
    );
    assert!(planned.actions.is_empty());
}

#[test]
fn an_interrupted_apply_is_gone_on_with_and_taken_back_as_one() {
    let trial = Trial::new(|host| fs::write(host.join("a"), "base").unwrap());
    for name in ["a", "b", "c"] {
        fs::write(trial.upper(name), "bottle").unwrap();
    }
    let before = picture(&trial.host);
    let first = Wanted { paths: vec![rel("a"), rel("b")], ..Wanted::default() };
    apply(&trial.layer, trial.plan(&first), "1").unwrap();
    // As it is after a kill: no end, a half line, and a temporary file.
    let apply_1 = trial.layer.applies().join("1");
    fs::remove_file(apply_1.join("done")).unwrap();
    let journal = fs::read_to_string(apply_1.join("journal")).unwrap();
    let open = "{\"n\":2,\"path\":\"c\",\"before\":null,\"after\":{\"kind\":\"file\",\"mode\":420,\"content\":\"\",\"mtime\":[0,0],\"owner\":[0,0]},\"layer\":null}\n";
    fs::write(apply_1.join("journal"), format!("{journal}{open}{{\"n\":3,\"pa")).unwrap();
    fs::write(trial.host.join(".carboy-apply-1-2"), "half").unwrap();
    let outcome = apply(&trial.layer, trial.plan(&Wanted::default()), "2").unwrap();
    assert_eq!(outcome.done.iter().map(|d| (d.path.shown(), d.what)).collect::<Vec<_>>(), [("c".into(), What::Added)]);
    assert!(!trial.host.join(".carboy-apply-1-2").exists() && !trial.layer.applies().join("2").exists());
    assert!(undo(&trial.layer, Conflicts::Keep).unwrap().unwrap().left.is_empty());
    assert_eq!(picture(&trial.host), before);
}

#[test]
fn one_run_at_a_time_has_a_layer_and_none_while_it_is_applied() {
    let trial = Trial::new(|_| {});
    let first = trial.held(2).unwrap();
    assert!(matches!(trial.held(3), Err(WorkspaceError::LayerInUse { .. })));
    let bottle = BottleName::parse("b").unwrap();
    assert!(matches!(alone(&trial.home, &bottle), Err(WorkspaceError::Busy { .. })));
    drop(first);
    let alone = alone(&trial.home, &bottle).unwrap();
    assert!(matches!(trial.held(4), Err(WorkspaceError::Busy { .. })));
    drop(alone);
    trial.held(5).unwrap();
}
