//! E5: a bottle whose system is an image. Made by hand around a statically linked busybox (`apt-get install
//! busybox-static`), so that nothing of the host's libraries can be in play.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use carboy_core::plan::{Access, Bind, GeneratedFile, RootSource};
use libtest_mimic::{Failed, Trial};

use crate::harness::{Sketch, needs, trial};

const APPLETS: [&str; 16] = [
    "sh", "ls", "cat", "id", "touch", "mount", "readlink", "echo", "stat", "test", "grep", "mkdir", "rm", "pwd", "wc",
    "ln",
];

pub fn trials() -> Vec<Trial> {
    let all = vec![
        trial("E5 the system inside is the image's and nothing of the host's is visible", system),
        trial("E5 nothing of an image can be written and nothing of the host is reached through its links", fixed),
        trial("E5 carboy's own files stand over those of the image", own_files),
        trial("E5 the workspace and binds stand where the image has no directory for them", targets),
        trial("E5 a hostile tree is no way out: links and names that every bottle has of its own", hostile),
        trial("E5 an image that is named through a link is refused", linked),
    ];
    all.into_iter().map(|trial| needs("busybox", trial)).collect()
}

/// A root file system: busybox, a library directory, an `/etc`, links as a merged-usr distribution has them.
fn tree(at: &Path) {
    for dir in [
        "usr/bin",
        "usr/share/only-in-image",
        "etc/ssl/certs",
        "opt/tool",
        "var/lib/x",
        "var/tmp",
        "home/somebody",
        "dev",
        "proc",
    ] {
        fs::create_dir_all(at.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", at.join("usr/bin/busybox")).unwrap();
    fs::set_permissions(at.join("usr/bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    APPLETS.iter().for_each(|name| symlink("busybox", at.join("usr/bin").join(name)).unwrap());
    symlink("usr/bin", at.join("bin")).unwrap();
    symlink("/usr/bin", at.join("sbin")).unwrap();
    for (path, text) in [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nimage:x:1234:1234::/:/bin/sh\n"),
        ("etc/image-release", "made by hand\n"),
        ("etc/ssl/certs/ca-certificates.crt", "the image's\n"),
        ("opt/tool/version", "7\n"),
        ("var/lib/x/state", "kept\n"),
        ("home/somebody/secret", "not taken\n"),
        ("dev/null", "no device\n"),
    ] {
        fs::write(at.join(path), text).unwrap();
    }
}

fn sketch(script: &str) -> (Sketch, PathBuf) {
    let mut sketch = Sketch::new(&["sh", "-c", script]);
    let root = sketch.workspace.parent().unwrap().join("image");
    tree(&root);
    sketch.spec.root = RootSource::Directory(root.clone());
    (sketch, root)
}

fn says(script: &str, expected: &str) -> Result<(), Failed> {
    let (sketch, _) = sketch(script);
    sketch.run()?.expect_output(expected)
}

fn system() -> Result<(), Failed> {
    says(
        "ls /usr; ls /usr/share; cat /opt/tool/version /etc/image-release /var/lib/x/state",
        "bin\nshare\nonly-in-image\n7\nmade by hand\nkept",
    )?;
    says(
        "id -u; readlink /bin; readlink /sbin; ls /home; ls -A /proc/self >/tmp/n && echo proc; echo x > /dev/null && echo dev",
        "1000\nusr/bin\n/usr/bin\nagent\nproc\ndev",
    )?;
    // Neither by a path nor by a mount of the host's.
    says("ls /usr/lib /lib /lib64 2>/dev/null; grep -c -E ' /(usr/lib|lib|lib64) ' /proc/self/mounts", "0")
}

fn fixed() -> Result<(), Failed> {
    let script = "for f in /x /usr/x /usr/bin/x /opt/tool/x /etc/x /etc/ssl/x /var/x /var/lib/x/x /bin/busybox; do \
                  (echo bad > $f) 2>/dev/null && echo wrote $f; done; \
                  rm -f /opt/tool/version 2>/dev/null; cat /opt/tool/version; \
                  echo t > /tmp/t && echo v > /var/tmp/v && cat /tmp/v && echo h > /home/agent/h && echo fine";
    let (sketch, root) = sketch(script);
    sketch.run()?.expect_output("7\nv\nfine")?;
    assert!(!root.join("var/tmp/v").exists());
    Ok(())
}

fn own_files() -> Result<(), Failed> {
    let (mut sketch, root) = sketch(
        "grep -c image /etc/passwd; cat /etc/carboy/ca.pem /etc/ssl/certs/ca-certificates.crt; grep nameserver \
         /etc/resolv.conf; grep -c agent /etc/passwd; ls -A / | grep carboy",
    );
    for path in ["/etc/carboy/ca.pem", "/etc/ssl/certs/ca-certificates.crt"] {
        sketch.spec.files.push(GeneratedFile { path: path.into(), content: b"carboy's\n".to_vec() });
    }
    sketch.run()?.expect_output("0\ncarboy's\ncarboy's\nnameserver 198.18.0.1\n1")?;
    assert_eq!(fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt")).unwrap(), "the image's\n");
    Ok(())
}

fn targets() -> Result<(), Failed> {
    let (mut sketch, root) =
        sketch("cat /opt/data/f /opt/tool/version /usr/local/new/f; cat /var/lib/x/state; echo w > /opt/data/w; pwd");
    fs::write(sketch.workspace.join("f"), "shown\n").unwrap();
    for (target, access) in [("/opt/data", Access::ReadWrite), ("/usr/local/new", Access::ReadOnly)] {
        sketch.spec.binds.push(Bind { source: sketch.workspace.clone(), target: target.into(), access });
    }
    let workspace = sketch.workspace.display().to_string();
    sketch.run()?.expect_output(&format!("shown\n7\nshown\nkept\n{workspace}"))?;
    assert!(sketch.workspace.join("w").exists() && !root.join("opt/data").exists());
    Ok(())
}

fn hostile() -> Result<(), Failed> {
    let (sketch, root) = sketch(
        "cat /etc/machine-id /var/lib/link /link 2>/dev/null; ls /etc >/dev/null && ls -d /var /tmp /run /home/agent",
    );
    let secret = sketch.workspace.parent().unwrap().join("secret");
    fs::write(&secret, "of the host").unwrap();
    // Outside it would lead to the secret; inside it leads nowhere.
    symlink(&secret, root.join("link")).unwrap();
    symlink(&secret, root.join("var/lib/link")).unwrap();
    symlink(&secret, root.join("etc/machine-id")).unwrap();
    for name in ["run", "tmp", "mnt"] {
        symlink("/etc", root.join(name)).unwrap();
    }
    fs::remove_dir_all(root.join("home")).unwrap();
    symlink(secret.parent().unwrap(), root.join("home")).unwrap();
    symlink("/", root.join(".carboy-image")).unwrap();
    symlink("/", root.join(".carboy-staging")).unwrap();
    let ran = sketch.run()?;
    assert!(!ran.stdout.contains("of the host"), "{}", ran.stdout);
    ran.expect_output("/home/agent\n/run\n/tmp\n/var")
}

fn linked() -> Result<(), Failed> {
    let (mut sketch, root) = sketch("true");
    let link = root.with_file_name("link");
    symlink(&root, &link).unwrap();
    sketch.spec.root = RootSource::Directory(link);
    let error = sketch.launch().err().ok_or("a link was followed")?.to_string();
    assert!(error.contains("symbolic link"), "{error}");
    Ok(())
}
