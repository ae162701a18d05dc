//! What the tests need from the machine, and how to get it on Debian and Ubuntu. Asks before it installs.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the real clients are installed, unless `CARBOY_CLIENTS` says otherwise.
const CLIENTS: &str = "/opt/carboy-clients";
/// The ordinary user as whom a test that was started by root runs a second time.
pub const ORDINARY_USER: &str = "carboytest";

/// A command that shows that a thing is there, and the package that brings it.
struct Need {
    check: &'static [&'static str],
    package: &'static str,
}

const NEEDS: &[Need] = &[
    Need { check: &["cc", "--version"], package: "gcc" },
    Need { check: &["curl", "--version"], package: "curl" },
    Need { check: &["git", "--version"], package: "git" },
    Need { check: &["openssl", "version"], package: "openssl" },
    Need { check: &["bwrap", "--version"], package: "bubblewrap" },
    Need { check: &["node", "--version"], package: "nodejs" },
    Need { check: &["npm", "--version"], package: "npm" },
    Need { check: &["/usr/bin/python3", "-c", "import ensurepip, venv"], package: "python3-venv" },
    Need { check: &["java", "-version"], package: "default-jdk-headless" },
    Need { check: &["go", "version"], package: "golang-go" },
    Need { check: &["ls", "/usr/share/gocode/src/google.golang.org/grpc"], package: "golang-google-grpc-dev" },
    Need { check: &["/usr/sbin/nginx", "-v"], package: "nginx-light" },
    Need { check: &["jq", "--version"], package: "jq" },
    Need { check: &["tmux", "-V"], package: "tmux" },
    Need { check: &["wget", "--version"], package: "wget" },
    Need { check: &["vim", "--version"], package: "vim" },
    Need { check: &["sh", "-c", "ldd /bin/busybox 2>&1 | grep -q 'not a dynamic'"], package: "busybox-static" },
    Need { check: &["buildah", "--version"], package: "buildah" },
    Need { check: &["sh", "-c", "ls /usr/lib/postgresql/*/bin/initdb"], package: "postgresql" },
    Need { check: &["zsh", "--version"], package: "zsh" },
    Need { check: &["fish", "--version"], package: "fish" },
    Need { check: &["chromium", "--version"], package: "chromium" },
];

/// May things be installed?
#[derive(Clone, Copy, PartialEq)]
pub enum Consent {
    /// `CI=true`.
    Given,
    /// Somebody is asked.
    Ask,
}

/// Brings what is missing, as far as it is allowed; the rest is told. Tests skip what is not there, and say so.
pub fn satisfy(top: &Path) -> Result<(), String> {
    let consent = consent();
    packages(consent)?;
    clients(top, consent)?;
    ordinary_user()
}

/// What the environment says about installing.
pub fn consent() -> Consent {
    if std::env::var("CI").is_ok_and(|ci| ci == "true") { Consent::Given } else { Consent::Ask }
}

/// Where the real clients are.
pub fn clients_place() -> PathBuf {
    std::env::var_os("CARBOY_CLIENTS").map_or_else(|| PathBuf::from(CLIENTS), PathBuf::from)
}

fn succeeds(command: &[&str]) -> bool {
    let quiet = Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// Do we run as root?
pub fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout == b"0\n")
}

fn packages(consent: Consent) -> Result<(), String> {
    let missing: Vec<&str> = NEEDS.iter().filter(|need| !succeeds(need.check)).map(|need| need.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = ["apt-get", "install", "-q", "-y", "--no-install-recommends"];
    println!("needs: missing: {}", missing.join(" "));
    if !succeeds(&["apt-get", "--version"]) {
        println!("needs: no apt-get here; install them by hand, or the tests that need them are skipped");
        return Ok(());
    }
    let root = is_root();
    let line = format!("{}{} {}", if root { "" } else { "sudo " }, install.join(" "), missing.join(" "));
    if !root && !succeeds(&["sudo", "--version"]) || !agreed(consent, &line)? {
        println!("needs: not installed; the tests that need them are skipped. To install:\n  {line}");
        return Ok(());
    }
    if std::env::var_os("CARBOY_APT_FRESH").is_none() {
        privileged(root, &["apt-get", "update", "-q"], &[])?;
    }
    privileged(root, &install, &missing)
}

fn privileged(root: bool, command: &[&str], more: &[&str]) -> Result<(), String> {
    let words = (!root).then_some("sudo").into_iter().chain(["env", "DEBIAN_FRONTEND=noninteractive"]);
    let words: Vec<&str> = words.chain(command.iter().copied()).chain(more.iter().copied()).collect();
    let status = Command::new(words[0]).args(&words[1..]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{}` failed: {status}", words.join(" "))),
        Err(error) => Err(format!("cannot run `{}`: {error}", words.join(" "))),
    }
}

/// Asks whether this may be run, where that has not been said already.
pub fn agreed(consent: Consent, line: &str) -> Result<bool, String> {
    if consent == Consent::Given {
        return Ok(true);
    }
    print!("needs: run `{line}`? [y/N] ");
    let told = std::io::stdout().flush().and_then(|()| {
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let answer = told.map_err(|error| format!("cannot ask: {error}"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Real agents and SDKs from npm and PyPI, by their own script, which leaves alone what is there.
fn clients(top: &Path, consent: Consent) -> Result<(), String> {
    let (script, place) = (top.join("xtask/clients.sh"), clients_place());
    let there = place.join("versions").exists();
    if !there && !agreed(consent, &format!("{} {}", script.display(), place.display()))? {
        println!("needs: no real clients in {}; the tests that need them are skipped", place.display());
        return Ok(());
    }
    let status = Command::new("sh").arg(&script).arg(&place).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("needs: the real clients could not be installed; the tests that need them are skipped");
    }
    Ok(())
}

fn ordinary_user() -> Result<(), String> {
    if !is_root() || succeeds(&["id", "-u", ORDINARY_USER]) {
        return Ok(());
    }
    println!("needs: creating the user {ORDINARY_USER}");
    privileged(true, &["useradd", "--create-home", "--shell", "/bin/sh", ORDINARY_USER], &[])
}
