//! The Debian package, made by `dpkg-deb` from a directory. It runs no script at installation and depends on nothing:
//! the program is statically linked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DEBIAN_MACHINE, Release, output, pack, write};
use crate::tree;

/// Ubuntu 24.04 and later take the rights in new user namespaces away from programs without a profile. `doctor` prints
/// the same text; it is packed as a document, because older AppArmor, such as Debian 12's, cannot read it and would
/// complain at each boot.
const APPARMOR: &str = "abi <abi/4.0>,\ninclude <tunables/global>\n\
profile carboy /usr/bin/carboy flags=(unconfined) {\n  userns,\n}\n";
const MAINTAINER: &str = "carboy maintainers <carboy@carboy.invalid>";
/// What lintian is told, with the reason.
const OVERRIDES: &str = "# One file for every distribution: it is also the first process of each bottle, where no library can be relied on.\n\
carboy: shared-library-lacks-prerequisites [usr/bin/carboy]\n\
# The package is made by the project itself, not uploaded to Debian: there is no report to close.\n\
carboy: initial-upload-closes-no-bugs [usr/share/doc/carboy/changelog.gz:1]\n";

/// Writes `carboy_VERSION_amd64.deb`.
pub fn package(release: &Release) -> Result<PathBuf, String> {
    let stage = pack::fresh(&release.into.join("stage/deb"))?;
    pack::program(&release.binary, &stage.join("usr/bin/carboy"))?;
    for file in pack::GENERATED {
        let text = release.says(file.arguments)?;
        write(&stage.join(file.debian), text.as_bytes())?;
    }
    gzip(&stage.join("usr/share/man/man1/carboy.1"))?;
    documents(release, &stage.join("usr/share/doc/carboy"))?;
    write(&stage.join("usr/share/lintian/overrides/carboy"), OVERRIDES.as_bytes())?;
    // Before the control file, which is not counted.
    let kib = kib(&stage)?;
    write(&stage.join("DEBIAN/md5sums"), sums(&stage)?.as_bytes())?;
    write(&stage.join("DEBIAN/control"), control(&release.version, kib).as_bytes())?;
    pack::modes(&stage)?;
    let path = release.into.join(format!("carboy_{}_{DEBIAN_MACHINE}.deb", release.version));
    let mut command = Command::new("dpkg-deb");
    // xz with one thread: how many there are would show in the bytes.
    command.args([
        "--root-owner-group",
        "-Zxz",
        &format!("-z{}", release.effort.level()),
        "--threads-max=1",
        "--build",
    ]);
    command.arg(&stage).arg(&path);
    output(command.env("SOURCE_DATE_EPOCH", release.time.to_string()))?;
    Ok(path)
}

fn documents(release: &Release, directory: &Path) -> Result<(), String> {
    for document in pack::documents(&release.top)? {
        let place = match document.as_str() {
            // These two have Debian's own names.
            "LICENSE" | "CHANGELOG.md" => continue,
            other => directory.join(other),
        };
        let content = fs::read(release.top.join(&document)).map_err(|e| format!("cannot read {document}: {e}"))?;
        write(&place, &content)?;
    }
    write(&directory.join("examples/apparmor.d/carboy"), APPARMOR.as_bytes())?;
    write(&directory.join("copyright"), copyright(release)?.as_bytes())?;
    write(&directory.join("changelog"), changelog(release)?.as_bytes())?;
    gzip(&directory.join("changelog"))?;
    // README links to it.
    let changes = tree::text(&release.top, "CHANGELOG.md")?;
    write(&directory.join("CHANGELOG.md"), changes.as_bytes())
}

fn control(version: &str, kib: u64) -> String {
    format!(
        "Package: carboy\nVersion: {version}\nArchitecture: {DEBIAN_MACHINE}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {kib}\nSection: utils\nPriority: optional\nRecommends: ca-certificates\n\
         Suggests: git\nHomepage: https://github.com/carboy/carboy\n\
         Description: runs AI agents behind one door\n \
         A program in a carboy bottle works on your project and never holds a key.\n \
         Every byte it sends is read first, every host it reaches was allowed by you,\n \
         every refusal says what to do next, and all of it is in a log that cannot be\n \
         quietly changed.\n"
    )
}

fn copyright(release: &Release) -> Result<String, String> {
    let year = output(Command::new("date").args(["--utc", "+%Y", &format!("--date=@{}", release.time)]))?;
    let year = year.trim();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: carboy\n\
         Source: https://github.com/carboy/carboy\n\nFiles: *\nCopyright: {year} the carboy authors\nLicense: Apache-2.0\n\n\
         License: Apache-2.0\n{}\n",
        [
            " Licensed under the Apache License, Version 2.0 (the \"License\");",
            " you may not use this file except in compliance with the License.",
            " You may obtain a copy of the License at",
            " .",
            "     https://www.apache.org/licenses/LICENSE-2.0",
            " .",
            " On Debian systems, the full text is in /usr/share/common-licenses/Apache-2.0.",
        ]
        .join("\n")
    ))
}

/// One entry in Debian's form; what has changed stands in `CHANGELOG.md` beside it.
fn changelog(release: &Release) -> Result<String, String> {
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", &format!("--date=@{}", release.time)]);
    let date = output(date.env("LC_ALL", "C"))?;
    Ok(format!(
        "carboy ({}) unstable; urgency=medium\n\n  * See CHANGELOG.md for what has changed.\n\n -- {MAINTAINER}  {}\n",
        release.version,
        date.trim()
    ))
}

fn gzip(path: &Path) -> Result<(), String> {
    output(Command::new("gzip").args(["-9", "--no-name", "--force"]).arg(path)).map(|_| ())
}

/// Size of everything, as `Installed-Size` counts it.
fn kib(stage: &Path) -> Result<u64, String> {
    let mut sum = 0;
    for file in files(stage)? {
        sum += super::size(&stage.join(file))?.div_ceil(1024);
    }
    Ok(sum)
}

fn sums(stage: &Path) -> Result<String, String> {
    output(Command::new("md5sum").args(files(stage)?).current_dir(stage))
}

fn files(stage: &Path) -> Result<Vec<String>, String> {
    tree::files(stage)
}

/// One line per entry of a package, as `dpkg-deb --contents` has it.
pub fn contents(package: &Path) -> Result<String, String> {
    output(Command::new("dpkg-deb").arg("--contents").arg(package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packed_profile_is_the_one_that_doctor_prints() {
        let source = tree::text(&tree::root(), "crates/carboy-bottle/src/probe.rs").unwrap();
        // In the source, line ends are written out and long texts are continued.
        let source = source.replace("\\n\\\n", "\n").replace("\\n", "\n").replace("@EXE@", "/usr/bin/carboy");
        assert!(source.contains(APPARMOR), "{APPARMOR}");
    }
}
