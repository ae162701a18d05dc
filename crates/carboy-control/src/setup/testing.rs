//! A home of real files for tests: programs are scripts that answer as the real ones do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Surroundings;

/// A person's machine below a temporary directory. (`/tmp` is none of the trees that every bottle sees.)
pub(super) struct FakeHome {
    pub(super) dir: tempfile::TempDir,
    pub(super) host: Surroundings,
}

impl FakeHome {
    pub(super) fn new() -> FakeHome {
        let dir = tempfile::tempdir().unwrap();
        let at = |below: &str| dir.path().canonicalize().unwrap().join(below);
        for below in ["home", "home/.carboy", "project", "etc", "bin"] {
            fs::create_dir_all(at(below)).unwrap();
        }
        // What is installed on the machine of the tests is not on its PATH.
        let path = at("bin").display().to_string();
        let host = Surroundings {
            home: at("home"),
            carboy_home: at("home/.carboy"),
            workspace: at("project"),
            environment: [("PATH".into(), path.into()), ("HOME".into(), at("home").into())].into(),
            etc: at("etc"),
        };
        FakeHome { dir, host }
    }

    /// Below the directory of all.
    pub(super) fn at(&self, below: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(below)
    }

    pub(super) fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.at(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A program that runs this with `/bin/sh`.
    pub(super) fn program(&self, below: &str, script: &str) -> PathBuf {
        self.executable(below, &format!("#!/bin/sh\n{script}\n"))
    }

    pub(super) fn executable(&self, below: &str, text: &str) -> PathBuf {
        let path = self.at(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Another process writes it: were it open for writing here, a child that another test forks meanwhile would hold
        // it open as well, and whoever starts the program then hears ETXTBSY.
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        path
    }

    pub(super) fn link(&self, below: &str, target: &str) {
        let path = self.at(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// Adds a directory to the end of `PATH`.
    pub(super) fn on_path(&mut self, below: &str) {
        let path = format!("{}:{}", self.host.variable("PATH").unwrap(), self.at(below).display());
        self.set("PATH", &path);
    }

    /// Scripts that need more than the shell: the tests' own directory still comes first.
    pub(super) fn system_on_path(&mut self) {
        let path = format!("{}:/usr/bin:/bin", self.at("bin").display());
        self.set("PATH", &path);
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.host.environment.insert(name.into(), value.into());
    }
}

/// The paths relative to the home, for comparing.
pub(super) fn below(path: &Path, host: &Surroundings) -> String {
    path.strip_prefix(&host.home).map_or_else(|_| path.display().to_string(), |rest| format!("~/{}", rest.display()))
}
