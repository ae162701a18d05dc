//! What of the host's files is there, and what a bottle may leave behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use carboy_bottle::LaunchError;
use carboy_core::plan::{Access, Bind, GeneratedFile};
use libtest_mimic::Trial;

use crate::harness::{Sketch, is_root, needs, prints, read_all, trial, write_all};

/// Runs a command of the host in a directory.
fn host(directory: &Path, program: &str, arguments: &[&str]) {
    let status = std::process::Command::new(program).args(arguments).current_dir(directory).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn repository(sketch: &Sketch) {
    host(&sketch.workspace, "git", &["init", "-q", "."]);
}

/// The files of a directory, git's own aside.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("the workspace is written as its owner, and stays its owner's", || {
            let sketch = Sketch::shell("echo made > file && mkdir d && stat -c %u:%g file .");
            let before = fs::metadata(&sketch.workspace)?;
            sketch.run()?.expect_output("1000:1000\n1000:1000")?;
            let made = fs::metadata(sketch.workspace.join("file"))?;
            assert_eq!((made.uid(), made.gid()), (before.uid(), before.gid()));
            Ok(())
        }),
        prints(
            "nothing but the meant places can be written",
            "for d in / /usr /etc /opt /dev /proc /bin /home /run /var /lib; do (touch $d/x) 2>/dev/null && echo $d; done; \
             for d in /tmp /var/tmp /home/agent /dev/shm .; do touch $d/x || echo no $d; done",
            "",
        ),
        trial("the host's homes, secrets and other directories are absent", || {
            let script = "ls / | tr '\\n' ' '; ls /root /home/carboytest /etc/shadow /etc/ssl/private /srv /boot /sys 2>/dev/null";
            let ran = Sketch::shell(script).run()?;
            let top = ["bin", "dev", "etc", "home", "lib", "opt", "proc", "run", "sbin", "tmp", "usr", "var"];
            for name in ran.stdout.split_whitespace() {
                let known = top.contains(&name) || name.starts_with("lib") || name == "mnt" || name == "work";
                assert!(known, "{name} in {}", ran.stdout);
            }
            Ok(())
        }),
        prints(
            "names resolve from carboy's own files",
            "whoami; getent hosts localhost | wc -l; grep nameserver /etc/resolv.conf; ls -ld /dev/null | cut -c1",
            "agent\n1\nnameserver 198.18.0.1\nc",
        ),
        trial("a read-only bind cannot be written, a bind within a bind is seen", || {
            let mut sketch =
                Sketch::shell("cat ro/given; (echo x > ro/given) 2>/dev/null || echo refused; cat ro/deep/f");
            let outer = tempfile::tempdir()?;
            fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755))?;
            fs::write(outer.path().join("given"), "given\n")?;
            fs::create_dir(outer.path().join("deep"))?;
            let inner = tempfile::tempdir()?;
            fs::set_permissions(inner.path(), fs::Permissions::from_mode(0o755))?;
            fs::write(inner.path().join("f"), "deep\n")?;
            let at = sketch.workspace.join("ro");
            let ro = |from: &Path, to: &Path| Bind { source: from.into(), target: to.into(), access: Access::ReadOnly };
            sketch.spec.binds.push(ro(inner.path(), &at.join("deep")));
            sketch.spec.binds.push(ro(outer.path(), &at));
            sketch.run()?.expect_output("given\nrefused\ndeep")
        }),
        trial("generated files are there and cannot be changed, the certificates over the system's too", || {
            let mut sketch = Sketch::shell(
                "cat /etc/carboy/ca.pem ~/.gitconfig /etc/ssl/certs/ca-certificates.crt; \
                 for f in /etc/carboy/ca.pem ~/.gitconfig; do (echo x > $f) 2>/dev/null && echo wrote; rm -f $f 2>/dev/null && echo removed; done",
            );
            for (path, content) in [
                ("/etc/carboy/ca.pem", "one\n"),
                ("/home/agent/.gitconfig", "two\n"),
                ("/etc/ssl/certs/ca-certificates.crt", "three\n"),
            ] {
                sketch.spec.files.push(GeneratedFile { path: path.into(), content: content.into() });
            }
            sketch.run()?.expect_output("one\ntwo\nthree")
        }),
        // B51
        needs(
            "git",
            trial("hooks, editor tasks and agent settings that exist cannot be changed or moved away", || {
                let script = "for f in .git/hooks/pre-commit .mcp.json .claude/settings.json .vscode/tasks.json; do \
                            (echo evil > $f) 2>/dev/null && echo \"wrote $f\"; rm -rf $f 2>/dev/null && echo \"removed $f\"; done; \
                          mv .git .git2 2>/dev/null && echo moved; mv .claude x 2>/dev/null && echo moved; \
                          mv .git/hooks .git/h2 2>/dev/null && echo moved; ln -sfn /tmp .vscode 2>/dev/null; \
                          git add -A && git -c user.name=a -c user.email=a@b commit -qm x && git ls-files | tr '\\n' ' '";
                let sketch = Sketch::shell(script);
                repository(&sketch);
                fs::write(sketch.workspace.join(".git/hooks/pre-commit"), "#!/bin/sh\n")?;
                for (directory, file) in [(".claude", "settings.json"), (".vscode", "tasks.json")] {
                    fs::create_dir(sketch.workspace.join(directory))?;
                    fs::write(sketch.workspace.join(directory).join(file), "{}\n")?;
                }
                fs::write(sketch.workspace.join("code.rs"), "fn main() {}\n")?;
                let ran = sketch.run()?;
                // The stubs are not committed.
                let link = ran.expect_output(".claude/settings.json .vscode/tasks.json .vscode/tmp code.rs");
                link.or_else(|_| ran.expect_output(".claude/settings.json .vscode/tasks.json code.rs"))?;
                assert_eq!(fs::read_to_string(sketch.workspace.join(".git/hooks/pre-commit"))?, "#!/bin/sh\n");
                assert!(!sketch.workspace.join(".mcp.json").exists());
                Ok(())
            }),
        ),
        trial("absent ones cannot be made, and no stub is left", || {
            let script = "(echo '{}' > .mcp.json) 2>/dev/null; (mkdir -p .claude && echo '{}' > .claude/settings.json) 2>/dev/null && echo made; \
                          (echo x > .vscode/tasks.json) 2>/dev/null && echo made; rm -rf .vscode .mcp.json 2>/dev/null; \
                          mv .claude .c 2>/dev/null && echo moved; cat .mcp.json | wc -c";
            let sketch = Sketch::shell(script);
            let ran = sketch.run()?;
            ran.expect_output("0")?;
            assert_eq!(names(&sketch.workspace), Vec::<String>::new());
            assert!(ran.report.cleaned.stubs_removed > 3);
            assert_eq!(ran.report.cleaned.failed, Vec::<String>::new());
            Ok(())
        }),
        trial("stubs of a run that crashed are removed at the next start", || {
            let sketch = Sketch::new(&["true"]);
            for name in [".mcp.json", "mine.json"] {
                fs::write(sketch.workspace.join(name), "")?;
            }
            let root = sketch.workspace.to_str().unwrap();
            let line = format!("{{\"Stub\":{{\"root\":\"{root}\",\"below\":\".mcp.json\",\"directory\":false}}}}\n");
            fs::write(sketch.options.state.join("earlier.journal"), line)?;
            sketch.run()?.expect_code(0)?;
            assert_eq!(names(&sketch.workspace), ["mine.json"]);
            assert_eq!(names(&sketch.options.state), Vec::<String>::new());
            Ok(())
        }),
        trial("of two bottles on one workspace the last removes the stubs", two_bottles),
        // B51
        needs(
            "git",
            trial("of the repository's settings branches and remotes stay, programs to run do not", || {
                let sketch = Sketch::shell(
                    "git config core.fsmonitor /tmp/evil && git config alias.st '!evil' && \
                 git remote add fork https://example.org/r.git && git config branch.x.remote fork",
                );
                repository(&sketch);
                let ran = sketch.run()?;
                let mut changes: Vec<&str> = ran.report.cleaned.quarantined.iter().map(|q| q.change.as_str()).collect();
                changes.sort_unstable();
                // Newer gits quote the exclamation mark.
                assert!(changes[0].starts_with("added alias.st = ") && changes[0].contains("!evil"), "{changes:?}");
                assert_eq!(changes[1..], ["added core.fsmonitor = /tmp/evil"]);
                let config = fs::read_to_string(sketch.workspace.join(".git/config"))?;
                assert!(!config.contains("evil"), "{config}");
                assert!(config.contains("https://example.org/r.git") && config.contains("[branch \"x\"]"), "{config}");
                assert!(fs::read_to_string(&ran.report.cleaned.quarantined[0].kept_at)?.contains("evil"));
                host(&sketch.workspace, "git", &["-c", "safe.directory=*", "status"]);
                Ok(())
            }),
        ),
        needs(
            "git",
            trial("hooks of a repository that was made inside are set aside", || {
                let sketch = Sketch::shell(
                    "git init -q . && mkdir -p .git/hooks && echo evil > .git/hooks/post-checkout && git config core.hooksPath x",
                );
                let ran = sketch.run()?;
                assert!(!sketch.workspace.join(".git/hooks").exists());
                assert_eq!(ran.report.cleaned.quarantined.len(), 2, "{:?}", ran.report.cleaned);
                Ok(())
            }),
        ),
        // B51
        trial("a steering file that is a link is refused, not followed", || {
            let sketch = Sketch::new(&["true"]);
            fs::create_dir(sketch.workspace.join(".claude"))?;
            symlink("/etc/passwd", sketch.workspace.join(".claude/settings.json"))?;
            match sketch.launch() {
                Err(error) => {
                    assert!(error.to_string().contains(".claude/settings.json"), "{error}");
                    assert!(!sketch.workspace.join(".vscode").exists());
                    Ok(())
                }
                Ok(_) => Err("launched".into()),
            }
        }),
        trial("a bind through a link that a bottle could have set is refused", || {
            let mut sketch = Sketch::new(&["true"]);
            let secret = tempfile::tempdir()?;
            symlink(secret.path(), sketch.workspace.join("cache"))?;
            let cache = sketch.workspace.join("cache");
            sketch.spec.binds.push(Bind { source: cache.clone(), target: cache, access: Access::ReadOnly });
            match sketch.launch() {
                Err(LaunchError::LinkInWritable { .. }) => Ok(()),
                other => Err(format!("{:?}", other.err()).into()),
            }
        }),
        trial("a workspace that was exchanged for a link after the plan was checked is refused", || {
            let sketch = Sketch::new(&["true"]);
            let secret = tempfile::tempdir()?;
            fs::remove_dir(&sketch.workspace)?;
            symlink(secret.path(), &sketch.workspace)?;
            match sketch.launch() {
                Err(LaunchError::LinkInWritable { .. }) => Ok(()),
                other => Err(format!("{:?}", other.err()).into()),
            }
        }),
        trial("a mount point that an earlier run made a link is refused", || {
            let mut sketch = Sketch::new(&["true"]);
            symlink("/etc", sketch.workspace.join("sub"))?;
            let other = tempfile::tempdir()?;
            let target = sketch.workspace.join("sub/cache");
            sketch.spec.binds.push(Bind { source: other.path().into(), target, access: Access::ReadOnly });
            match sketch.launch() {
                Err(LaunchError::Inside { step, .. }) => {
                    assert!(step.contains("sub/cache"), "{step}");
                    Ok(())
                }
                other => Err(format!("{:?}", other.err()).into()),
            }
        }),
        trial("a missing source is named", || {
            let mut sketch = Sketch::new(&["true"]);
            let gone = sketch.workspace.join("gone");
            sketch.spec.binds.push(Bind { source: gone.clone(), target: gone, access: Access::ReadOnly });
            match sketch.launch() {
                Err(error) if error.to_string().contains("gone") => Ok(()),
                other => Err(format!("{:?}", other.err()).into()),
            }
        }),
        prints(
            "mounts below the workspace do not show on the host, and no mount can be undone inside",
            "umount /proc/sys 2>/dev/null && echo undone; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; \
             grep -c 'shared:' /proc/self/mountinfo",
            "0",
        ),
    ];
    if is_root() {
        trials.push(trial("root is told when a file system has no id maps", || {
            let mut sketch = Sketch::new(&["true"]);
            let bind = Bind { source: "/proc/sys".into(), target: "/w".into(), access: Access::ReadWrite };
            sketch.spec.binds.push(bind);
            match sketch.launch() {
                Err(error @ LaunchError::NoIdmap { .. }) => {
                    assert!(error.to_string().contains("--user NAME"), "{error}");
                    Ok(())
                }
                other => Err(format!("{:?}", other.err()).into()),
            }
        }));
    }
    trials.extend(DETOURS.map(|(name, there, script)| {
        needs("git", trial(&format!("the host's git is not led astray by {name}"), move || detour(there, script)))
    }));
    trials.push(needs("git", trial("other repositories of the workspace stay", other_repositories_stay)));
    trials
}

/// Ways to have the host's git run something without touching what is guarded (B51). Each with the file that must not
/// be in force any more.
const DETOURS: [(&str, bool, &str); 8] = [
    ("commondir", true, "cp -r .git x; rm -rf x/HEAD; evil x/config; echo ../x > .git/commondir"),
    ("a .git file", false, "git init -q --separate-git-dir=x .; evil x/config"),
    ("a .git file to elsewhere", false, "echo gitdir: /home/agent/x > .git"),
    ("a .git link", false, "git init -q x; mv x/.git y; ln -s y .git; evil y/config"),
    (
        "a submodule",
        true,
        "git init -q sub; commit sub; evil sub/.git/config; \
        git update-index --add --cacheinfo 160000,$(git -C sub -c core.fsmonitor= rev-parse HEAD),sub",
    ),
    (
        "a submodule's hooks",
        true,
        "git init -q sub; mkdir -p sub/.git/hooks; echo 'touch pwned' > sub/.git/hooks/post-index-change; \
        chmod +x sub/.git/hooks/*",
    ),
    (
        "a bare repository",
        true,
        "git init -q --bare sub; git -C sub config --unset core.bare; evil sub/config; \
        git -C sub config core.worktree .",
    ),
    (
        "the end of a comment",
        true,
        "printf '[remote \"o\"]\\n\\turl = x # \\\\\\n[core] fsmonitor = touch pwned; false\\n' >> .git/config",
    ),
];

fn detour(repository_there: bool, script: &str) -> crate::harness::Outcome {
    let prelude = "evil() { printf '[core]\\n\\tfsmonitor = touch pwned; false\\n' >> $1; }; \
                   commit() { git -C $1 -c user.name=a -c user.email=a@b commit -q --allow-empty -m x; }; ";
    let sketch = Sketch::shell(&format!("{prelude} set -e; {script}"));
    if repository_there {
        repository(&sketch);
    }
    let ran = sketch.run()?;
    ran.expect_code(0)?;
    assert_eq!(ran.report.cleaned.failed, Vec::<String>::new());
    for directory in ["", "sub"] {
        let directory = sketch.workspace.join(directory);
        if directory.is_dir() {
            // It may fail: what matters is what it runs.
            let status = ["-c", "safe.directory=*", "status"];
            std::process::Command::new("git").args(status).current_dir(&directory).output()?;
            std::process::Command::new("git").args(["update-index", "--refresh"]).current_dir(&directory).output()?;
        }
    }
    let pwned = std::process::Command::new("find").arg(&sketch.workspace).args(["-name", "pwned"]).output()?;
    assert_eq!(String::from_utf8_lossy(&pwned.stdout), "");
    assert!(!ran.report.cleaned.quarantined.is_empty());
    Ok(())
}

/// What was there before the run stays as it is, and so does what git itself makes.
fn other_repositories_stay() -> crate::harness::Outcome {
    let sketch = Sketch::shell(
        "git init -q made && git -C made remote add o https://a.example/x && \
        git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git worktree add -q tree && touch sub/.git/x",
    );
    repository(&sketch);
    let sub = sketch.workspace.join("sub");
    fs::create_dir(&sub)?;
    host(&sub, "git", &["init", "-q", "."]);
    host(&sub, "git", &["config", "core.editor", "mine"]);
    fs::write(sub.join(".git/hooks/pre-commit"), "mine")?;
    let ran = sketch.run()?;
    ran.expect_code(0)?;
    assert_eq!(ran.report.cleaned.quarantined, vec![]);
    assert!(fs::read_to_string(sub.join(".git/config"))?.contains("mine"));
    assert!(fs::read_to_string(sketch.workspace.join("made/.git/config"))?.contains("a.example"));
    assert!(sketch.workspace.join(".git/worktrees/tree/commondir").exists());
    Ok(())
}

fn two_bottles() -> crate::harness::Outcome {
    let first = Sketch::new(&["true"]);
    let mut second = Sketch::shell(
        "read line; (echo x > .mcp.json) 2>/dev/null && echo wrote; (echo x > .vscode/tasks.json) 2>/dev/null && echo wrote; \
         echo over",
    );
    second.spec.binds = first.spec.binds.clone();
    second.spec.workdir = first.workspace.clone();
    let one = first.launch()?;
    let mut other = second.launch()?;
    one.start()?;
    assert_eq!(one.wait().cleaned.stubs_removed, 0);
    let Some(carboy_bottle::Stdio::Pipes { stdin, stdout, stderr: _stderr }) = other.take_stdio() else {
        return Err("no pipes".into());
    };
    other.start()?;
    write_all(&stdin, "go\n");
    assert_eq!(read_all(stdout), "over\n");
    assert!(other.wait().cleaned.stubs_removed > 3);
    assert_eq!(names(&first.workspace), Vec::<String>::new());
    Ok(())
}
