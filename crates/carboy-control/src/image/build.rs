//! A Dockerfile, built by the container tool that the host has, once per content of its directory.
//!
//! *Must never* go through a shell, nor take a tool from anywhere but the person's own `PATH`. What the build prints is
//! shown without its control characters.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use carboy_bottle::host_process::{self, Heard, Program};
use sha2::{Digest, Sha256};

use super::read::Watched;
use super::{ImageError, Job, hex, say, shown};

/// Longest build, and longest step beside it.
pub const BUILD_WAIT_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// Longest wait for the tool to forget what was built.
const REMOVE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Most files of a context, and most bytes.
const FILES_MAX: u64 = 200_000;
const CONTEXT_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// In this order.
const TOOLS: [&str; 3] = ["buildah", "podman", "docker"];

/// The name under which what is built is kept: a digest of the Dockerfile and of everything beside it.
pub(super) fn key(job: &Job, dockerfile: &Path) -> Result<String, ImageError> {
    let context = context_of(dockerfile)?;
    let mut hash = Sha256::new();
    let mut work = Context { job, dockerfile, files: 0, bytes: CONTEXT_BYTES_MAX };
    hash.update(dockerfile.file_name().unwrap_or_default().as_encoded_bytes());
    hash.update([0]);
    work.directory(context, Path::new(""), &mut hash)?;
    Ok(format!("built-{}", hex(&hash.finalize())))
}

fn context_of(dockerfile: &Path) -> Result<&Path, ImageError> {
    dockerfile.parent().ok_or_else(|| ImageError::Kind { path: dockerfile.to_owned(), wanted: "Dockerfile" })
}

struct Context<'a> {
    job: &'a Job,
    dockerfile: &'a Path,
    files: u64,
    bytes: u64,
}

impl Context<'_> {
    fn error(&self, what: String) -> ImageError {
        ImageError::Build { path: self.dockerfile.to_owned(), what }
    }

    /// Names in their order, each with its kind, its execute bit and its content's digest. Links are not followed.
    fn directory(&mut self, at: &Path, below: &Path, hash: &mut Sha256) -> Result<(), ImageError> {
        let io = |source| ImageError::Io { path: at.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(at).map_err(io)? {
            names.push(entry.map_err(io)?.file_name());
            self.files += 1;
            if self.files > FILES_MAX {
                let next = "keep the Dockerfile in a directory of its own: all of it is handed to the build";
                return Err(self.error(format!("its directory holds more than {FILES_MAX} files; {next}")));
            }
        }
        names.sort();
        for name in names {
            let (path, below) = (at.join(&name), below.join(&name));
            let meta = fs::symlink_metadata(&path).map_err(|source| ImageError::Io { path: path.clone(), source })?;
            let bytes = below.as_os_str().as_encoded_bytes();
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
            if meta.is_dir() {
                hash.update(b"d");
                self.directory(&path, &below, hash)?;
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).map_err(|source| ImageError::Io { path: path.clone(), source })?;
                hash.update(b"l");
                hash.update(Sha256::digest(target.as_os_str().as_encoded_bytes()));
            } else if meta.is_file() {
                hash.update([b'f', u8::from(meta.mode() & 0o111 != 0)]);
                hash.update(self.file(&path)?);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<[u8; 32], ImageError> {
        let io = |source| ImageError::Io { path: path.to_owned(), source };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut watched = Watched::new(File::open(path).map_err(io)?, self.bytes, &self.job.stop);
        loop {
            match watched.read(&mut buffer).map_err(io)? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        self.bytes -= watched.read_bytes();
        Ok(hash.finalize().into())
    }
}

/// Builds, and leaves an archive at `out`. Nothing of it stays with the tool but its cache.
pub(super) fn build(job: &Job, dockerfile: &Path, key: &str, out: &Path) -> Result<(), ImageError> {
    let context = context_of(dockerfile)?;
    let error = |what: String| ImageError::Build { path: dockerfile.to_owned(), what };
    let (name, program) = TOOLS.iter().find_map(|name| Some((*name, job.lookup.find(name).ok()?))).ok_or_else(|| {
        error(format!(
            "it has to be built, and none of {} is on PATH: install one of them (`apt-get install buildah`), or build \
                 it elsewhere, `docker save` it, and name the archive",
            TOOLS.join(", ")
        ))
    })?;
    say(job, format!("building the image {} with {name} once", shown(dockerfile)));
    let commands = Commands::of(name, &[dockerfile, context, out], &format!("carboy-{}", &key[..32.min(key.len())]))
        .ok_or_else(|| error("its path, or that of CARBOY_HOME, is no text".into()))?;
    let built = run(job, &program, &commands.build).and_then(|()| run(job, &program, &commands.save));
    // Whether or not there is anything to remove; what is wrong with the build is told, not this.
    let never = AtomicBool::new(false);
    let how = Heard { stop: &never, wait_max: REMOVE_WAIT_MAX };
    let _ = host_process::run_heard(&program, &commands.remove, &how, |_| ());
    built.map_err(|what| error(format!("{name} {what}; its own words stand above")))
}

fn run(job: &Job, program: &Program, arguments: &[String]) -> Result<(), String> {
    let heard = Heard { stop: &job.stop, wait_max: BUILD_WAIT_MAX };
    let tell = job.tell.clone();
    host_process::run_heard(program, arguments, &heard, move |line| {
        let plain: String = line.chars().filter(|c| !c.is_control()).collect();
        tell(&plain);
    })
    .map_err(|error| error.to_string())
}

/// The tool's arguments, in this order; the last one whatever became of the others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) build: Vec<String>,
    pub(super) save: Vec<String>,
    pub(super) remove: Vec<String>,
}

impl Commands {
    /// `paths` are those of the Dockerfile, its directory and the archive, all of them absolute.
    pub(super) fn of(tool: &str, paths: &[&Path; 3], tag: &str) -> Option<Commands> {
        let [file, context, out] = paths.map(Path::to_str);
        let (file, context, out) = (file?, context?, out?);
        let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect();
        let save = match tool {
            "buildah" => words(&["push", tag, &format!("oci-archive:{out}")]),
            "podman" => words(&["save", "--format", "oci-archive", "--output", out, tag]),
            _ => words(&["save", "--output", out, tag]),
        };
        Some(Commands {
            build: words(&["build", "--file", file, "--tag", tag, context]),
            save,
            remove: words(&["rmi", tag]),
        })
    }
}
