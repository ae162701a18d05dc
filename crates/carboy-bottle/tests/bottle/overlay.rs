//! `workspace: overlay` in a real bottle: everything can be changed inside, and nothing changes outside.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use carboy_core::plan::Overlay;
use libtest_mimic::Trial;

use crate::harness::{Sketch, is_root, needs, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "E10 an overlay is written, removed from and replaced in, and the directory below stays as it is",
            || {
                let script = "set -e; cat old/file; echo new > old/file; rm gone; rm -r tree; mkdir tree; echo x > tree/x; \
                          echo made > made; mv old/other old/moved; chmod 600 mode; ln -s made link; stat -c %u:%g . made; ls";
                let (sketch, layer) = overlaid(script);
                sketch.run()?.expect_output("was\n1000:1000\n1000:1000\nlink\nmade\nmode\nold\ntree")?;
                assert_eq!(fs::read_to_string(sketch.workspace.join("old/file"))?, "was\n");
                assert_eq!(fs::read_to_string(sketch.workspace.join("tree/deep"))?, "deep\n");
                assert_eq!(fs::metadata(sketch.workspace.join("mode"))?.permissions().mode() & 0o777, 0o644);
                assert!(sketch.workspace.join("gone").exists() && !sketch.workspace.join("made").exists());
                assert_eq!(fs::read_to_string(layer.join("upper/made"))?, "made\n");
                assert!(fs::symlink_metadata(layer.join("upper/gone"))?.file_type().is_char_device());
                // Owned as the state is, so that the operator's own tools read it.
                assert_eq!(fs::metadata(layer.join("upper/made"))?.uid(), fs::metadata(&layer)?.uid());
                Ok(())
            },
        ),
        trial("E10 a second run sees what the first one changed, and an edit of the directory below", || {
            let (mut sketch, _layer) = overlaid("echo one > made; rm gone");
            sketch.run()?.expect_code(0)?;
            let work = sketch.spec.overlays[0].layer.join("work");
            // The kernel closes its own directory to everybody.
            fs::set_permissions(work.join("work"), fs::Permissions::from_mode(0o700))?;
            fs::remove_dir_all(&work)?;
            fs::create_dir(&work)?;
            fs::write(sketch.workspace.join("mode"), "edited outside\n")?;
            sketch.again("cat made mode; ls gone 2>/dev/null");
            sketch.run()?.expect_output("one\nedited outside")
        }),
        trial("the parts of an overlay have no name inside and its files give no rights", || {
            let script = "ls -A / | grep carboy; grep -c 'carboy-layers' /proc/self/mountinfo; \
                          cp /bin/sh s && chmod 4755 s && grep -c 'nosuid.*overlay' /proc/self/mountinfo; \
                          setfattr -n user.overlay.opaque -v y made 2>/dev/null && echo marked; \
                          mknod hole c 0 0 2>/dev/null && rm hole; ls -d /tmp/*/layer 2>/dev/null; true";
            let (sketch, _layer) = overlaid(script);
            let ran = sketch.run()?;
            let lines: Vec<&str> = ran.stdout.lines().collect();
            assert!(!ran.stdout.contains("marked"), "{}", ran.stdout);
            // The kernel's own listing names the options as they were given, relative to nothing.
            assert_eq!(lines.last(), Some(&"1"), "{} {}", ran.stdout, ran.stderr);
            Ok(())
        }),
        needs(
            "git",
            trial("E10 git works in an overlay and the repository below stays as it is", || {
                let (mut sketch, _layer) = overlaid("true");
                let git = |arguments: &[&str]| {
                    let who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"];
                    let mut command = std::process::Command::new("git");
                    command
                        .args(who)
                        .args(arguments)
                        .current_dir(&sketch.workspace)
                        .env("GIT_CONFIG_GLOBAL", "/dev/null");
                    let done = command.output().unwrap();
                    assert!(done.status.success(), "{arguments:?} {}", String::from_utf8_lossy(&done.stderr));
                };
                git(&["init", "-q"]);
                git(&["add", "mode"]);
                git(&["commit", "-q", "-m", "first"]);
                let head = fs::read(sketch.workspace.join(".git/logs/HEAD"))?;
                sketch.again(
                "set -e; git config user.name a; git config user.email a@example.org; git checkout -q -b topic; \
                 echo 2 > mode; git commit -qam second; git checkout -q main; git commit -q --allow-empty -m third; \
                 git rebase -q topic; git log --format=%s; git remote add o https://a.example/x; git gc -q; git fsck 2>&1",
            );
                let ran = sketch.run()?;
                ran.expect_output("third\nsecond\nfirst")?;
                assert_eq!(fs::read(sketch.workspace.join(".git/logs/HEAD"))?, head);
                assert_eq!(ran.report.cleaned, Default::default());
                Ok(())
            }),
        ),
        trial("an ordinary user's overlay of another group's directory is refused with what to do", || {
            if is_root() {
                return Ok(());
            }
            let (mut sketch, layer) = overlaid("true");
            // Nothing here belongs to this user.
            sketch.spec.overlays[0].source = "/usr/share".into();
            let error = sketch.launch().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("workspace: direct") && error.contains("chown"), "{error}");
            sketch.spec.overlays[0].layer = layer.join("absent");
            assert!(sketch.launch().is_err());
            Ok(())
        }),
        trial("a link in the place of a layer is refused", || {
            let (mut sketch, layer) = overlaid("true");
            let link = layer.with_file_name("link");
            symlink(&layer, &link)?;
            sketch.spec.overlays[0].layer = link;
            assert!(sketch.launch().is_err());
            Ok(())
        }),
    ]
}

/// A workspace with something in it, below an overlay.
fn overlaid(script: &str) -> (Sketch, PathBuf) {
    let mut sketch = Sketch::shell(script);
    let layer = sketch.options.state.join("layer");
    for dir in ["upper", "work"] {
        fs::create_dir_all(layer.join(dir)).unwrap();
    }
    for (path, text) in
        [("old/file", "was\n"), ("old/other", "o\n"), ("tree/deep", "deep\n"), ("gone", "g\n"), ("mode", "m\n")]
    {
        let path = sketch.workspace.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    sketch.spec.binds.clear();
    let (source, target) = (sketch.workspace.clone(), sketch.workspace.clone());
    sketch.spec.overlays.push(Overlay { source, target, layer: layer.clone() });
    (sketch, layer)
}
