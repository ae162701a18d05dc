//! The files under `examples/` are what a person copies: together they are a home that `carboy check` finds nothing to
//! say about.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn every_example_passes_check_without_a_warning() {
    let home = tempfile::tempdir().unwrap();
    let carboy_home = home.path().join(".carboy");
    let mut count = 0;
    for kind in ["bottles", "agents"] {
        let (from, to) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(kind), carboy_home.join(kind));
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
            count += 1;
        }
    }
    fs::set_permissions(&carboy_home, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_carboy"));
    let output = command.arg("check").env_clear().env("HOME", home.path()).current_dir(home.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && count >= 8, "{said}");
    // The keys are nobody's here; about the files there is nothing to say.
    let secrets = |line: &&str| line.contains(": not set here (bottle") || line.starts_with("  fix: `export ");
    let rest: Vec<&str> = said.lines().filter(|line| !secrets(line)).collect();
    assert_eq!(rest, [format!("valid: {count} files checked")], "{said}");
}
