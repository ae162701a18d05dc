//! E5: `carboy run` with an image in the place of the host's system.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{Person, RUN_WAIT_MAX, World};
use crate::{Case, case_with};

/// Statically linked, from the package `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";

pub fn cases() -> Vec<Case> {
    vec![
        case_with(
            "E5 a bottle of a directory sees its system and reaches what its routes allow",
            &["busybox"],
            directory,
        ),
        case_with("E5 a bottle of an archive is unpacked once, told, and runs", &["busybox", "tar"], archive),
        case_with("E5 an image where a bottle never looks is refused", &["busybox"], refused),
        case_with("E5 an interrupted launch leaves nothing of its image", &["busybox", "tar", "gzip"], interrupted),
        case_with("E5 a Dockerfile is built by buildah and runs", &["busybox", "buildah"], dockerfile),
    ]
}

/// A system around busybox, with a CA bundle where Debian has it.
fn system(at: &Path) {
    for dir in ["usr/bin", "etc/ssl/certs"] {
        fs::create_dir_all(at.join(dir)).unwrap();
    }
    fs::copy(BUSYBOX, at.join("usr/bin/busybox")).unwrap();
    fs::set_permissions(at.join("usr/bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["sh", "cat", "ls", "id", "wget", "head", "grep", "touch"] {
        symlink("busybox", at.join("usr/bin").join(name)).unwrap();
    }
    symlink("usr/bin", at.join("bin")).unwrap();
    fs::write(at.join("etc/ssl/certs/ca-certificates.crt"), "the image's own\n").unwrap();
    fs::write(at.join("etc/made-by"), "hand\n").unwrap();
}

fn world(person: Person, image: &str) -> (World, PathBuf) {
    let world = World::new(person);
    let at = world.dir.join("images/system");
    system(&at);
    world.bottle(&format!(
        "image: {}/{image}\negress:\n  routes:\n    - {{host: plain.example, ports: [80]}}\n",
        world.dir.join("images").display()
    ));
    (world, at)
}

fn directory(person: Person) {
    let (world, _) = world(person, "system");
    let ran = world.sh(
        "cat /etc/made-by; ls /usr; id -u; head -n 1 /etc/ssl/certs/ca-certificates.crt; echo made > made; \
         touch /usr/x 2>/dev/null || echo fixed; wget -q -O - http://denied.example/ 2>&1 | grep -c '403\\|bad address\\|timed out'",
    );
    let ran = ran.expect_code(0);
    assert_eq!(ran.stdout, "hand\nbin\n1000\n-----BEGIN CERTIFICATE-----\nfixed\n1\n", "{}", ran.stderr);
    assert_eq!(fs::read_to_string(world.project.join("made")).unwrap(), "made\n");
    world.assert_nothing_escaped();
}

/// The archive of a root file system in the way of `docker save`.
fn save(world: &World, system: &Path) {
    let images = world.dir.join("images");
    let tar = |dir: &Path, out: &str, what: &[&str]| {
        let done = Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(images.join(out)).args(what).status().unwrap();
        assert!(done.success());
    };
    tar(system, "layer.tar", &["."]);
    let manifest = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["layer.tar"]}]"#;
    world.write("images/manifest.json", manifest);
    tar(&images, "saved.tar", &["manifest.json", "layer.tar"]);
    world.write("images/done", "");
}

fn archive(person: Person) {
    let (world, at) = world(person, "saved.tar");
    save(&world, &at);
    fs::remove_dir_all(&at).unwrap();
    let ran = world.sh("cat /etc/made-by; ls /usr/lib 2>/dev/null | head -n 1").expect_code(0);
    assert_eq!(ran.stdout, "hand\n");
    assert!(ran.stderr.contains("unpacking the image"), "{}", ran.stderr);
    let again = world.sh("cat /etc/made-by").expect_code(0);
    assert!(!again.stderr.contains("unpacking"), "{}", again.stderr);
    assert_eq!(drafts(&world), 0);
}

fn refused(person: Person) {
    let (world, _) = world(person, "keys");
    fs::create_dir_all(world.dir.join("user/.ssh")).unwrap();
    symlink(world.dir.join("user/.ssh"), world.dir.join("images/keys")).unwrap();
    let ran = world.sh("true");
    assert_eq!(ran.code, 77, "{}", ran.stderr);
    assert!(ran.stderr.contains("is never visible in a bottle"), "{}", ran.stderr);
}

fn dockerfile(person: Person) {
    let (world, _) = world(person, "Dockerfile");
    // The tool keeps its layers in the person's home.
    world.write("user/.keep", "");
    world.write("images/Dockerfile", "FROM scratch\nCOPY system/ /\n");
    let ran = world.sh("cat /etc/made-by; id -u").expect_code(0);
    assert_eq!(ran.stdout, "hand\n1000\n");
    assert!(ran.stderr.contains("building the image") && ran.stderr.contains("with buildah"), "{}", ran.stderr);
    assert!(!world.sh("true").expect_code(0).stderr.contains("building"));
    world.write("images/Dockerfile", "FROM scratch\nCOPY gone/ /\n");
    let ran = world.sh("true");
    assert_eq!(ran.code, 78, "{}", ran.stderr);
    assert!(ran.stderr.contains("buildah ended with"), "{}", ran.stderr);
    assert_eq!(drafts(&world), 0);
}

/// What launches that did not end well have left.
fn drafts(world: &World) -> usize {
    let left = fs::read_dir(world.dir.join("home/images")).unwrap().flatten();
    left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".new-")).count()
}

/// An archive that takes long: four gigabytes of zeros in a file of some kilobytes.
fn endless(world: &World) {
    const PART: usize = 16 << 20;
    const PARTS: usize = 256;
    let gzip = |bytes: &[u8]| {
        let mut child =
            Command::new("gzip").args(["-1", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let out = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap();
        out
    };
    let mut header = [0u8; 512];
    header[..5].copy_from_slice(b"usr/x");
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", PART * PARTS).as_bytes());
    header[156] = b'0';
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    // Members of a gzip file stand one after the other.
    let layer = [gzip(&header), gzip(&vec![0; PART]).repeat(PARTS), gzip(&[0; 1024])].concat();
    let images = world.dir.join("images");
    fs::write(images.join("layer.tar"), layer).unwrap();
    world.write("images/manifest.json", r#"[{"Layers":["layer.tar"]}]"#);
    let tar =
        Command::new("tar").current_dir(&images).args(["-cf", "saved.tar", "manifest.json", "layer.tar"]).status();
    assert!(tar.unwrap().success());
    world.write("images/done", "");
}

fn interrupted(person: Person) {
    let (world, _) = world(person, "saved.tar");
    endless(&world);
    let mut child = world.carboy(&["run", "--bottle", "test", "--", "true"]).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("unpacking") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended before it had begun");
    }
    let draft = || fs::read_dir(world.dir.join("home/images")).ok().map(|_| drafts(&world));
    let deadline = Instant::now() + RUN_WAIT_MAX;
    while draft() != Some(1) {
        assert!(Instant::now() < deadline, "nothing was begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(70), "{rest}");
    assert!(rest.contains("nothing is left of it"), "{rest}");
    assert_eq!(drafts(&world), 0);
}
