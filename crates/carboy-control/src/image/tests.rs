//! E5: images of every kind, and archives that somebody made to do harm.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Mutex;

use flate2::Compression;
use serde_json::json;

use super::build::Commands;
use super::*;
use crate::host_programs::{Fence, Program};

struct Host {
    path: OsString,
}

impl Lookup for Host {
    fn variable(&self, name: &str) -> Option<OsString> {
        (name == "PATH").then(|| self.path.clone())
    }

    fn find(&self, name: &str) -> Result<Program, String> {
        Fence::new(&|name| self.variable(name), &[]).find(name).map_err(|e| e.to_string())
    }

    fn command(&self, _: &[String], _: Duration) -> Result<Vec<u8>, String> {
        Err("nothing is run".into())
    }

    fn fenced(&self, _: &[PathBuf]) -> Arc<dyn Lookup> {
        Arc::new(Host { path: self.path.clone() })
    }
}

struct Stage {
    dir: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    path: OsString,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        Stage { dir, told: Arc::default(), stop: Arc::default(), path: OsString::new() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    fn job(&self, image: Image) -> Job {
        let told = self.told.clone();
        Job {
            image,
            home: Home::open(&self.root().join(".carboy"), None).unwrap(),
            user_home: self.root(),
            lookup: Arc::new(Host { path: self.path.clone() }),
            tell: Arc::new(move |line| told.lock().unwrap().push(line.to_owned())),
            stop: self.stop.clone(),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.root().join("images").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn archive(&self, content: &[u8]) -> Result<PathBuf, String> {
        let path = self.write("image.tar", content);
        prepare(&self.job(Image::Archive(path))).map_err(|error| error.to_string())
    }

    /// One layer over a little system, as a plain root file system archive.
    fn layer(&self, entries: &[Entry]) -> Result<PathBuf, String> {
        let base = [dir("usr"), dir("etc"), file("etc/base", "b")];
        let entries: Vec<Entry> = base.iter().chain(entries).cloned().collect();
        self.archive(&saved(&[tar_of(&entries)]))
    }

    /// Whatever lies about beside the images that are done and the notes about them.
    fn litter(&self) -> Vec<String> {
        let names = fs::read_dir(self.root().join(".carboy/images")).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".new-")).collect()
    }
}

#[derive(Clone)]
struct Entry {
    kind: u8,
    path: &'static str,
    link: &'static str,
    content: Vec<u8>,
    mode: u32,
}

fn entry(kind: u8, path: &'static str, link: &'static str) -> Entry {
    Entry { kind, path, link, content: Vec::new(), mode: 0o644 }
}

fn file(path: &'static str, content: &str) -> Entry {
    Entry { content: content.as_bytes().to_vec(), ..entry(b'0', path, "") }
}

fn dir(path: &'static str) -> Entry {
    entry(b'5', path, "")
}

fn link(path: &'static str, to: &'static str) -> Entry {
    entry(b'2', path, to)
}

fn hard(path: &'static str, to: &'static str) -> Entry {
    entry(b'1', path, to)
}

/// Headers by hand: the writer of a library makes no hostile ones.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        bytes[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        bytes[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(tar::EntryType::new(entry.kind));
        header.set_size(entry.content.len() as u64);
        header.set_mode(entry.mode);
        header.set_uid(12345);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&entry.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn named(members: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let members: Vec<Entry> =
        members.into_iter().map(|(name, content)| Entry { content, ..entry(b'0', name.leak(), "") }).collect();
    tar_of(&members)
}

/// As `docker save` writes it.
fn saved(layers: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{"Config": "c.json", "RepoTags": ["x:latest"], "Layers": names}]).to_string();
    let mut members: Vec<(String, Vec<u8>)> = names.into_iter().zip(layers.iter().cloned()).collect();
    members.push(("manifest.json".into(), manifest.into_bytes()));
    named(members)
}

fn sha(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// As an OCI image layout, with an image for another machine and an attestation beside it.
fn oci(layers: &[Vec<u8>]) -> Vec<u8> {
    let mut members: Vec<(String, Vec<u8>)> =
        vec![("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut blob = |content: Vec<u8>| {
        let digest = sha(&content);
        let length = content.len();
        members.push((format!("blobs/sha256/{digest}"), content));
        json!({"digest": format!("sha256:{digest}"), "size": length})
    };
    let described: Vec<_> = layers.iter().map(|layer| blob(layer.clone())).collect();
    let manifest = blob(json!({"schemaVersion": 2, "layers": described}).to_string().into_bytes());
    let with = |os: &str, architecture: &str| {
        let mut descriptor = manifest.clone();
        descriptor["platform"] = json!({"os": os, "architecture": architecture});
        descriptor
    };
    let index = json!({"manifests": [with("linux", arch()), with("linux", "s390x"), with("unknown", "unknown")]});
    let index = blob(index.to_string().into_bytes());
    members.push(("index.json".into(), json!({"manifests": [index]}).to_string().into_bytes()));
    named(members)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let frame = |part: &[u8]| ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest);
    let (a, b) = bytes.split_at(bytes.len() / 2);
    // Two frames and one to skip between them, as parallel writers make them.
    [frame(a), vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], frame(b)].concat()
}

fn two_layers() -> [Vec<u8>; 2] {
    let program = Entry { mode: 0o6755, ..file("usr/bin/tool", "#!x") };
    [
        tar_of(&[
            dir("usr"),
            dir("usr/bin"),
            program,
            link("bin", "usr/bin"),
            file("etc/kept", "1"),
            file("etc/gone", "1"),
            dir("opt/all"),
            file("opt/all/old", "1"),
        ]),
        tar_of(&[
            file("etc/.wh.gone", ""),
            file("opt/all/.wh..wh..opq", ""),
            file("opt/all/new", "2"),
            file("bin/second", "2"),
            hard("usr/bin/again", "usr/bin/tool"),
        ]),
    ]
}

fn expect_two_layers(root: &Path) {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(
        (read("etc/kept"), read("opt/all/new"), read("usr/bin/second"), read("usr/bin/again")),
        ("1".into(), "2".into(), "2".into(), "#!x".into())
    );
    assert!(
        !root.join("etc/gone").exists() && !root.join("opt/all/old").exists() && !root.join("etc/.wh.gone").exists()
    );
    assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    // No set-uid bit, our own uid, the age that it had.
    assert_eq!((meta("usr/bin/tool").mode() & 0o7777, meta("etc/kept").mode() & 0o7777), (0o755, 0o644));
    assert_eq!(meta("usr/bin/tool").uid(), rustix::process::geteuid().as_raw());
    assert_eq!(meta("etc/kept").mtime(), 1_700_000_000);
    assert_eq!(meta("opt/all").mode() & 0o7777, 0o755);
}

#[test]
fn every_kind_of_archive_gives_the_same_tree_once() {
    // E5
    let [a, b] = two_layers();
    let forms = [
        saved(&[a.clone(), b.clone()]),
        saved(&[gzip(&a), zstd(&b)]),
        oci(&[a.clone(), b.clone()]),
        oci(&[zstd(&a), gzip(&b)]),
        gzip(&oci(&[gzip(&a), b.clone()])),
        zstd(&saved(&[a, b])),
    ];
    for form in forms {
        let stage = Stage::new();
        let root = stage.archive(&form).unwrap();
        expect_two_layers(&root);
        assert!(root.starts_with(stage.root().join(".carboy/images")) && stage.litter().is_empty());
        let told = stage.told.lock().unwrap().len();
        assert!(told > 0);
        fs::write(root.join("etc/mark"), "here before").unwrap();
        assert_eq!(stage.archive(&form).unwrap(), root);
        assert!(root.join("etc/mark").exists() && stage.told.lock().unwrap().len() == told);
    }
}

#[test]
fn the_archive_of_a_root_file_system_is_one_layer() {
    // E5
    let stage = Stage::new();
    let root = stage.archive(&tar_of(&[dir("./"), dir("./usr"), file("./usr/x", "1")])).unwrap();
    assert_eq!(fs::read_to_string(root.join("usr/x")).unwrap(), "1");
}

#[test]
fn another_content_of_the_same_name_is_another_image() {
    // E5
    let stage = Stage::new();
    let one = stage.layer(&[file("etc/x", "1")]).unwrap();
    let two = stage.layer(&[file("etc/x", "2")]).unwrap();
    assert_ne!(one, two);
    assert_eq!(fs::read_to_string(two.join("etc/x")).unwrap(), "2");
}

#[test]
fn hostile_entries_are_refused_by_name_and_nothing_is_left() {
    // E5
    let long: &'static str = "x".repeat(100).leak();
    let cases: Vec<(Vec<Entry>, &str)> = vec![
        (vec![file("/etc/passwd", "x")], "entry `/etc/passwd` begins at the host's root"),
        (vec![file("../outside", "x")], "entry `../outside` leads out of the image"),
        (vec![file("etc/../../outside", "x")], "leads out of the image"),
        (vec![hard("etc/x", "/etc/passwd")], "is a link that begins at the host's root"),
        (vec![hard("etc/x", "../../../outside")], "is a link that leads out"),
        (vec![hard("etc/x", "etc/none")], "links to something that is no file of the image"),
        (vec![hard("etc/x", "usr")], "links to something that is no file of the image"),
        (vec![link("etc/x", "")], "is a link to nothing"),
        (vec![file("etc/.wh...", "")], "is a whiteout of nothing"),
        (vec![file("etc/base/below", "")], "Not a directory"),
        (vec![entry(b'S', "etc/sparse", "")], "is of kind 'S'"),
        (
            vec![Entry { content: vec![b'x'; 5000], ..entry(b'L', "././@LongLink", "") }, file(long, "")],
            "description of more than 4096",
        ),
        (vec![Entry { content: b"21 size=999999999999\n".to_vec(), ..entry(b'x', "pax", "") }, file("a", "")], "8 GiB"),
        (vec![Entry { content: b"24 path=../../outside2\n\n".to_vec(), ..entry(b'x', "pax", "") }, file("a", "")], ""),
        (vec![file("bad\u{1b}[2Jname/..", "")], "bad\\u{1b}[2Jname"),
    ];
    for (entries, words) in cases {
        let stage = Stage::new();
        let error = stage.layer(&entries).unwrap_err();
        assert!(error.contains(words) && !error.contains('\u{1b}'), "{words}: {error}");
        assert!(error.contains("image.tar") && stage.litter().is_empty(), "{error}");
        let outside = ["outside", "outside2", "images/outside", ".carboy/outside", ".carboy/images/outside"];
        assert!(outside.iter().all(|name| !stage.root().join(name).exists()), "{words}");
    }
}

#[test]
fn a_tree_that_gets_deep_through_its_own_links_is_refused_and_leaves_nothing() {
    // E5: each path is short, and begins with a link to where the one before ended.
    let level = ["a"; 40].join("/");
    let mut entries = vec![dir("s0")];
    let deeper = |entries: &mut Vec<Entry>, number: usize| {
        let below: &'static str = format!("s{number}/{level}").leak();
        entries.extend([dir(below), link(format!("s{}", number + 1).leak(), below)]);
    };
    (0..super::layer::DEPTH_MAX / 40).for_each(|number| deeper(&mut entries, number));
    assert_eq!(Stage::new().layer(&entries).err(), None);
    deeper(&mut entries, super::layer::DEPTH_MAX / 40);
    let stage = Stage::new();
    let error = stage.layer(&entries).unwrap_err();
    assert!(error.contains(&format!("is in more than {} directories", super::layer::DEPTH_MAX)), "{error}");
    assert!(stage.litter().is_empty(), "{:?}", stage.litter());
}

#[test]
fn a_draft_that_is_deeper_than_a_stack_is_cleared() {
    // E5: left by a launch that was killed, made when nothing limited the depth.
    let stage = Stage::new();
    let draft = stage.root().join("draft");
    fs::create_dir(&draft).unwrap();
    let mut at = rustix::fs::open(&draft, OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..19_000 {
        rustix::fs::mkdirat(&at, "a", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "a", OFlags::PATH, Mode::empty()).unwrap();
    }
    clear(&draft).unwrap();
    clear(&draft).unwrap();
    assert!(!draft.exists());
}

#[test]
fn links_that_lead_out_lead_nowhere_else_while_the_image_is_made() {
    // E5: the next entry would be written through the link of the one before.
    let up: &'static str = "../".repeat(40).leak();
    let victim = || {
        let stage = Stage::new();
        let victim = stage.write("victim/file", b"mine");
        let dir: &'static str = victim.parent().unwrap().to_str().unwrap().to_owned().leak();
        (stage, victim, dir)
    };
    // Nothing of that name in the image.
    let (stage, file_of_the_host, dir_of_the_host) = victim();
    let error = stage.layer(&[link("etc/out", dir_of_the_host), file("etc/out/file", "theirs")]).unwrap_err();
    assert!(error.contains("entry `etc/out/file` goes through a link that leads nowhere in the image"), "{error}");
    assert_eq!(fs::read_to_string(file_of_the_host).unwrap(), "mine");
    // Something of that name in the image: that is meant.
    let (stage, file_of_the_host, dir_of_the_host) = victim();
    let root = stage
        .layer(&[
            dir(dir_of_the_host.trim_start_matches('/')),
            link("etc/out", dir_of_the_host),
            file("etc/out/file", "theirs"),
            link("etc/up", up),
            file("etc/up/over", "theirs"),
            link("etc/self", "file-behind"),
            file("etc/self", "replaced, not followed"),
            hard("etc/second", "etc/out"),
        ])
        .unwrap();
    assert_eq!(fs::read_to_string(file_of_the_host).unwrap(), "mine");
    assert!(root.join(dir_of_the_host.trim_start_matches('/')).join("file").exists() && root.join("over").exists());
    assert_eq!(fs::read_to_string(root.join("etc/self")).unwrap(), "replaced, not followed");
    assert!(!root.join("etc/file-behind").exists());
    assert!(fs::symlink_metadata(root.join("etc/second")).unwrap().is_symlink());
}

#[test]
fn devices_pipes_and_set_uid_bits_are_left_out() {
    // E5
    let stage = Stage::new();
    let root = stage
        .layer(&[
            entry(b'3', "dev/sda", ""),
            entry(b'4', "dev/sdb", ""),
            entry(b'6', "pipe", ""),
            Entry { mode: 0o4777, ..file("usr/su", "x") },
        ])
        .unwrap();
    assert!(!root.join("dev/sda").exists() && !root.join("pipe").exists());
    assert_eq!(fs::metadata(root.join("usr/su")).unwrap().mode() & 0o7777, 0o755);
    assert!(stage.told.lock().unwrap().iter().any(|line| line.starts_with("3 devices")));
}

#[test]
fn what_a_layer_replaces_is_replaced_whatever_it_was() {
    // E5
    let stage = Stage::new();
    let lower = tar_of(&[dir("usr"), dir("etc/d"), file("etc/d/x", "1"), file("etc/f", "1"), link("etc/l", "d")]);
    let upper =
        tar_of(&[file("etc/d", "now a file"), dir("etc/f"), file("etc/f/y", "2"), dir("etc/l"), file("etc/l/z", "3")]);
    let root = stage.archive(&saved(&[lower, upper])).unwrap();
    assert_eq!(fs::read_to_string(root.join("etc/d")).unwrap(), "now a file");
    assert!(root.join("etc/f/y").exists() && root.join("etc/l/z").exists());
    assert!(!fs::symlink_metadata(root.join("etc/l")).unwrap().is_symlink());
}

#[test]
fn a_layer_that_is_not_what_its_name_says_is_refused() {
    // E5
    let stage = Stage::new();
    let layer = tar_of(&[dir("usr"), file("usr/x", "the right one")]);
    let mut archive = oci(&[layer]);
    let at = archive.windows(13).position(|w| w == b"the right one").unwrap();
    archive[at..at + 13].copy_from_slice(b"the other one");
    let error = stage.archive(&archive).unwrap_err();
    assert!(error.contains("layer 1 of 1: its content is not what its name says"), "{error}");
    assert!(stage.litter().is_empty());
}

#[test]
fn what_is_no_image_is_told_from_one() {
    // E5
    let system = tar_of(&[dir("usr"), file("usr/x", "1")]);
    let twice = json!([{"Layers": ["a"]}, {"Layers": ["b"]}]).to_string();
    for (archive, words) in [
        (b"not a tar archive at all".to_vec(), "no tar archive"),
        (tar_of(&[file("readme", "x")]), "neither an OCI image"),
        (saved(&[tar_of(&[file("readme", "x")])]), "holds neither /usr nor /bin"),
        (named(vec![("manifest.json".into(), twice.into_bytes())]), "it holds 2 images: save one of them alone"),
        (named(vec![("manifest.json".into(), br#"[{"Layers":["gone"]}]"#.to_vec())]), "has no member `gone`"),
        (named(vec![("manifest.json".into(), br#"[{"Layers":["../../etc/passwd"]}]"#.to_vec())]), "has no member"),
        (named(vec![("manifest.json".into(), b"{".to_vec())]), "is no JSON"),
        (saved(&[gzip(&system)[..40].to_vec()]), "layer 1 of 1"),
        (saved(&[system[..700].to_vec()]), "layer 1 of 1"),
    ] {
        let stage = Stage::new();
        let error = stage.archive(&archive).unwrap_err();
        assert!(error.contains(words), "{words}: {error}");
        assert!(stage.litter().is_empty());
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    // E5
    let stop = AtomicBool::new(false);
    let bomb = gzip(&vec![0; 1 << 22]);
    let mut watched = Watched::new(read::plain(&bomb[..]).unwrap(), 1 << 20, &stop);
    let error = std::io::copy(&mut watched, &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("more than 1048576 bytes"));
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    let mut tree = layer::Tree::open(&dir.path().join("root"), &dir.path().join("gone"), 2).unwrap();
    let error = tree.layer(&tar_of(&[file("a", ""), file("b", ""), file("c", "")])[..]).unwrap_err();
    assert_eq!(error, "the image has more than 2 entries");
}

#[test]
fn an_interrupted_launch_leaves_nothing_and_one_that_was_killed_is_cleared_away() {
    // E5
    let stage = Stage::new();
    let [a, b] = two_layers();
    let archive = saved(&[a, b]);
    stage.stop.store(true, Ordering::Relaxed);
    let path = stage.write("image.tar", &archive);
    let images = stage.root().join(".carboy/images");
    let job = stage.job(Image::Archive(path.clone()));
    assert!(prepare(&job).is_err() && stage.litter().is_empty());
    // After the digest, in the middle of the unpacking.
    stage.stop.store(false, Ordering::Relaxed);
    let (stop, told) = (stage.stop.clone(), stage.told.clone());
    let halfway = Job {
        tell: Arc::new(move |line: &str| {
            told.lock().unwrap().push(line.to_owned());
            stop.store(line.starts_with("layer 2"), Ordering::Relaxed);
        }),
        ..job.clone()
    };
    assert!(matches!(prepare(&halfway), Err(ImageError::Interrupted)));
    assert!(stage.litter().is_empty() && stage.told.lock().unwrap().iter().any(|line| line.starts_with("layer 2")));
    stage.stop.store(false, Ordering::Relaxed);
    let draft = images.join(format!(".new-{}", sha(&archive)));
    fs::create_dir_all(draft.join("root/usr/half")).unwrap();
    let root = prepare(&job).unwrap();
    expect_two_layers(&root);
    assert!(!root.join("usr/half").exists() && stage.litter().is_empty());
}

#[test]
fn two_launches_at_once_unpack_once() {
    // E5
    let stage = Stage::new();
    let [a, b] = two_layers();
    let path = stage.write("image.tar", &oci(&[a, b]));
    let jobs: Vec<Job> = (0..4).map(|_| stage.job(Image::Archive(path.clone()))).collect();
    let roots: Vec<PathBuf> = std::thread::scope(|scope| {
        let started: Vec<_> = jobs.iter().map(|job| scope.spawn(|| prepare(job).unwrap())).collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|root| root == &roots[0]));
    expect_two_layers(&roots[0]);
    let unpacked = stage.told.lock().unwrap().iter().filter(|line| line.starts_with("unpacking")).count();
    assert_eq!(unpacked, 1);
}

#[test]
fn a_directory_is_used_as_it_is_and_asked_again_where_its_links_lead() {
    // E5, B51
    let stage = Stage::new();
    stage.write("tree/usr/x", b"");
    stage.write("empty/readme", b"");
    fs::create_dir(stage.root().join(".ssh")).unwrap();
    symlink("tree", stage.root().join("images/linked")).unwrap();
    symlink("../.ssh", stage.root().join("images/keys")).unwrap();
    let at = |name: &str| prepare(&stage.job(Image::Directory(stage.root().join("images").join(name))));
    assert_eq!(at("tree").unwrap(), stage.root().join("images/tree"));
    assert_eq!(at("linked").unwrap(), stage.root().join("images/tree"));
    assert!(matches!(at("keys"), Err(ImageError::Refused { .. })));
    assert!(matches!(at("empty"), Err(ImageError::NoSystem { .. })));
    assert!(matches!(at("tree/usr/x"), Err(ImageError::Kind { wanted: "directory", .. })));
    assert!(matches!(at("none"), Err(ImageError::Io { .. })));
    let tree = stage.root().join("images/tree");
    assert!(matches!(prepare(&stage.job(Image::Archive(tree))), Err(ImageError::Kind { wanted: "archive file", .. })));
}

/// A tool that builds as the real ones are called: it leaves an archive where it is told.
fn tool(stage: &mut Stage, name: &str, script: &str) {
    let bin = stage.root().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    stage.path = bin.into();
}

#[test]
fn a_dockerfile_is_built_once_for_each_content_of_its_directory() {
    // E5
    let mut stage = Stage::new();
    let built = stage.write("built.tar", &oci(&[tar_of(&[dir("usr"), file("usr/x", "1")])]));
    let calls = stage.root().join("calls");
    let script = format!(
        "echo \"$@\" >> {calls}; case $1 in build) printf 'STEP \\033[31m1\\n';; push) /bin/cp {built} \"${{3#oci-archive:}}\";; esac",
        calls = calls.display(),
        built = built.display()
    );
    tool(&mut stage, "buildah", &script);
    let dockerfile = stage.write("app/Dockerfile", b"FROM scratch\nCOPY x /usr/x\n");
    stage.write("app/x", b"1");
    let job = stage.job(Image::Dockerfile(dockerfile.clone()));
    let root = prepare(&job).unwrap();
    assert_eq!(fs::read_to_string(root.join("usr/x")).unwrap(), "1");
    assert!(!root.parent().unwrap().join("built.tar").exists() && stage.litter().is_empty());
    assert!(stage.told.lock().unwrap().contains(&"STEP [31m1".to_owned()), "{:?}", stage.told.lock().unwrap());
    assert_eq!(prepare(&job).unwrap(), root);
    let count = || fs::read_to_string(&calls).unwrap().lines().filter(|line| line.starts_with("build ")).count();
    assert_eq!(count(), 1);
    let line = fs::read_to_string(&calls).unwrap();
    assert!(line.contains(&format!("--file {}", dockerfile.display())) && line.contains("rmi carboy-built-"), "{line}");
    stage.write("app/x", b"2");
    assert_ne!(prepare(&job).unwrap(), root);
    assert_eq!(count(), 2);
}

#[test]
fn a_build_that_cannot_be_says_why_and_leaves_nothing() {
    // E5
    let mut stage = Stage::new();
    let dockerfile = stage.write("app/Dockerfile", b"FROM scratch\n");
    let job = |stage: &Stage| stage.job(Image::Dockerfile(dockerfile.clone()));
    let error = prepare(&job(&stage)).unwrap_err().to_string();
    assert!(error.contains("none of buildah, podman, docker is on PATH: install one of them"), "{error}");
    tool(&mut stage, "podman", "echo no such base >&2; exit 125");
    let error = prepare(&job(&stage)).unwrap_err().to_string();
    assert!(error.contains("podman ended with exit status: 125"), "{error}");
    assert!(stage.told.lock().unwrap().contains(&"no such base".to_owned()) && stage.litter().is_empty());
}

#[test]
fn each_tool_is_called_in_its_own_way() {
    // E5
    let paths = [Path::new("/c/Dockerfile"), Path::new("/c"), Path::new("/out.tar")];
    let lines = |tool: &str| {
        let commands = Commands::of(tool, &paths, "t").unwrap();
        [commands.build, commands.save, commands.remove].map(|words| words.join(" "))
    };
    assert_eq!(lines("buildah"), ["build --file /c/Dockerfile --tag t /c", "push t oci-archive:/out.tar", "rmi t"]);
    assert_eq!(lines("podman")[1], "save --format oci-archive --output /out.tar t");
    assert_eq!(lines("docker")[1], "save --output /out.tar t");
}

#[test]
fn an_image_holds_what_its_own_links_lead_to_and_nothing_of_the_host() {
    // E5
    let stage = Stage::new();
    stage.write("tree/etc/certs/real.pem", b"");
    let tree = stage.root().join("images/tree");
    symlink("/etc/certs/real.pem", tree.join("etc/bundle.pem")).unwrap();
    symlink("/proc/self/environ", tree.join("etc/out")).unwrap();
    assert!(holds(&tree, Path::new("/etc/bundle.pem")) && !holds(&tree, Path::new("/etc/out")));
    assert!(!holds(&tree, Path::new("/etc/passwd")));
}
