//! `image:` of a bottle: a directory, an archive or a Dockerfile becomes a directory that holds a root file system.
//!
//! ```text
//!   Directory ──────────────────────────────────────────────────────────────▶ as it is
//!   Archive ───────────────────────────▶ content digest ─▶ unpacked once ───▶ $CARBOY_HOME/images/<digest>/root
//!   Dockerfile ─▶ digest of its context ─▶ built by the host's tool ─▶ archive ─▶ the same
//! ```
//!
//! An archive is somebody else's work: *must never* write outside the draft directory, make a device, a set-uid file or a
//! file of another owner, nor fill the disk without a bound. Nothing of an image is executed on the host, but a Dockerfile
//! is handed to the host's container tool, which executes it in that tool's own sandbox.

mod archive;
mod build;
mod layer;
mod read;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carboy_core::plan::{Image, RootSource};
use carboy_manifest::image::refused_image;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, ResolveFlags, flock, openat2};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use crate::home::{Home, private_dir};
use crate::vault::Lookup;
use read::Watched;

/// Largest archive, and most bytes that one unpacks to.
pub const BYTES_MAX: u64 = 32 * 1024 * 1024 * 1024;
/// Most entries of all layers together.
pub const ENTRIES_MAX: u64 = 2_000_000;
/// Longest wait for another launch that unpacks the same image.
pub const WAIT_MAX: Duration = Duration::from_secs(30 * 60);
/// How often a waiting launch looks again.
const WAIT_POLL: Duration = Duration::from_millis(100);

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or directory could not be used.
    #[error("cannot use {path} for the image: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It lies where no bottle looks.
    #[error("image {path} is refused: {why}; keep images in a directory of their own, as in ~/images")]
    Refused {
        /// Its real path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is something else.
    #[error("image {path} is no {wanted}; `image: {{directory|archive|dockerfile: PATH}}` says which of them it is")]
    Kind {
        /// Its real path.
        path: PathBuf,
        /// What it was taken for.
        wanted: &'static str,
    },
    /// No system is in it.
    #[error("image {path} holds neither /usr nor /bin: it is no root file system")]
    NoSystem {
        /// Its real path.
        path: PathBuf,
    },
    /// The archive is damaged, hostile, or of a kind that is not read.
    #[error("image {path}: {what}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong; names in it are escaped.
        what: String,
    },
    /// The build failed.
    #[error("image {path}: {what}")]
    Build {
        /// The Dockerfile.
        path: PathBuf,
        /// What is wrong, and the next step.
        what: String,
    },
    /// Another launch takes too long.
    #[error("another launch has been unpacking {path} for {WAIT_MAX:?}; try again when it has ended")]
    Busy {
        /// The image.
        path: PathBuf,
    },
    /// The person wants no more of it.
    #[error("interrupted while the image was made ready; nothing is left of it")]
    Interrupted,
}

/// What making an image ready needs.
#[derive(Clone)]
pub struct Job {
    /// The image.
    pub image: Image,
    /// Where unpacked images are kept.
    pub home: Home,
    /// The person's home, whose credentials are never shown.
    pub user_home: PathBuf,
    /// The person's environment.
    pub lookup: Arc<dyn Lookup>,
    /// Says what takes long.
    pub tell: crate::supervisor::Tell,
    /// Set when the person wants no more of it.
    pub stop: Arc<AtomicBool>,
}

/// The system of a bottle: the host's, or that of its image, made ready first. A signal that ends programs ends this.
///
/// # Errors
/// Whatever keeps the image from being a root file system; nothing is left behind then.
pub async fn root_of(image: Option<Image>, job: impl FnOnce(Image) -> Job) -> Result<RootSource, ImageError> {
    let Some(image) = image else { return Ok(RootSource::Host) };
    let path = path_of(&image).to_owned();
    let job = job(image);
    let stop = job.stop.clone();
    let system = |source| ImageError::Io { path: path.clone(), source };
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.push(signal(kind).map_err(system)?);
    }
    let listener = tokio::spawn(async move {
        let [a, b, c] = &mut signals[..] else { return };
        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
        stop.store(true, Ordering::Relaxed);
    });
    let made = tokio::task::spawn_blocking(move || prepare(&job)).await;
    listener.abort();
    made.map_err(|e| system(std::io::Error::other(e)))?.map(RootSource::Directory)
}

/// The path that the manifest names.
pub fn path_of(image: &Image) -> &Path {
    match image {
        Image::Directory(path) | Image::Archive(path) | Image::Dockerfile(path) => path,
    }
}

/// Does this path lead to something in a root file system? Links of the image are followed within it.
pub fn holds(root: &Path, path: &Path) -> bool {
    let Ok(root) = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { return false };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).is_ok()
}

/// Makes the image ready: its root's real path.
///
/// # Errors
/// See [`root_of`].
pub fn prepare(job: &Job) -> Result<PathBuf, ImageError> {
    let named = path_of(&job.image);
    let real = fs::canonicalize(named).map_err(|source| ImageError::Io { path: named.to_owned(), source })?;
    let image = match &job.image {
        Image::Directory(_) => Image::Directory(real.clone()),
        Image::Archive(_) => Image::Archive(real.clone()),
        Image::Dockerfile(_) => Image::Dockerfile(real.clone()),
    };
    // Asked of the text before; a link may lead where the text did not say.
    if let Some(why) = refused_image(&image, &job.user_home, job.home.root()) {
        return Err(ImageError::Refused { path: real, why });
    }
    let kind = fs::metadata(&real).map_err(|source| ImageError::Io { path: real.clone(), source })?;
    match image {
        Image::Directory(_) if !kind.is_dir() => Err(ImageError::Kind { path: real, wanted: "directory" }),
        Image::Directory(path) => with_system(path),
        Image::Archive(_) if !kind.is_file() => Err(ImageError::Kind { path: real, wanted: "archive file" }),
        Image::Archive(path) => {
            let key = digest_of(job, &path)?;
            kept(job, &path, &key, |draft| {
                say(job, format!("unpacking the image {} once", shown(&path)));
                archive::unpack(job, &path, draft)
            })
        }
        Image::Dockerfile(_) if !kind.is_file() => Err(ImageError::Kind { path: real, wanted: "Dockerfile" }),
        Image::Dockerfile(path) => {
            let key = build::key(job, &path)?;
            kept(job, &path, &key, |draft| {
                let built = draft.join("built.tar");
                build::build(job, &path, &key, &built)?;
                say(job, format!("unpacking what was built from {} once", shown(&path)));
                archive::unpack(job, &built, draft)?;
                fs::remove_file(&built).map_err(|source| ImageError::Io { path: built.clone(), source })
            })
        }
    }
}

fn with_system(root: PathBuf) -> Result<PathBuf, ImageError> {
    if holds(&root, Path::new("/usr")) || holds(&root, Path::new("/bin")) {
        Ok(root)
    } else {
        Err(ImageError::NoSystem { path: root })
    }
}

/// The image's directory, made when it is not there: under a lock, in a draft that gets its name when it is whole.
fn kept(
    job: &Job,
    path: &Path,
    key: &str,
    make: impl FnOnce(&Path) -> Result<(), ImageError>,
) -> Result<PathBuf, ImageError> {
    let images = images(job)?;
    let (done, draft) = (images.join(key), images.join(format!(".new-{key}")));
    if done.is_dir() {
        return with_system(done.join("root"));
    }
    let _lock = lock(job, path, &images.join(format!(".lock-{key}")))?;
    if done.is_dir() {
        return with_system(done.join("root"));
    }
    // What a launch left behind that was killed outright: the lock says that none goes on.
    clear(&draft)?;
    let made = (|| {
        private_dir(&draft).map_err(|error| home(&draft, error))?;
        let io = |source| ImageError::Io { path: draft.clone(), source };
        fs::create_dir(draft.join("root")).map_err(io)?;
        make(&draft)?;
        with_system(draft.join("root")).map_err(|_| ImageError::NoSystem { path: path.to_owned() })?;
        if job.stop.load(Ordering::Relaxed) {
            return Err(ImageError::Interrupted);
        }
        // A name that stands after a crash has to stand for whole files.
        rustix::fs::syncfs(File::open(&draft).map_err(io)?).map_err(|e| io(e.into()))?;
        fs::rename(&draft, &done).map_err(io)
    })();
    if made.is_err() {
        clear(&draft)?;
        if job.stop.load(Ordering::Relaxed) {
            return Err(ImageError::Interrupted);
        }
    }
    made.map(|()| done.join("root"))
}

fn images(job: &Job) -> Result<PathBuf, ImageError> {
    let images = job.home.root().join("images");
    private_dir(&images).map_err(|error| home(&images, error))?;
    // The home may be named through a link, and a bottle is shown real paths alone.
    fs::canonicalize(&images).map_err(|source| ImageError::Io { path: images, source })
}

fn home(path: &Path, error: crate::home::HomeError) -> ImageError {
    ImageError::Io { path: path.to_owned(), source: std::io::Error::other(error) }
}

fn clear(draft: &Path) -> Result<(), ImageError> {
    let (parent, name) = (draft.parent().unwrap_or(draft), draft.file_name().unwrap_or_default());
    removed(parent, name.as_encoded_bytes()).map_err(|source| ImageError::Io { path: draft.to_owned(), source })
}

/// Removes what an archive has made, as deep as that may be, without a stack or descriptors that are as deep.
fn removed(parent: &Path, name: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    crate::workspace::remove::remove(&parent, name)
}

/// One launch at a time; the file stays, because removing it would let two of them in.
fn lock(job: &Job, image: &Path, path: &Path) -> Result<File, ImageError> {
    let io = |source: std::io::Error| ImageError::Io { path: path.to_owned(), source };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| io(e.into()))?;
    let deadline = Instant::now() + WAIT_MAX;
    let mut told = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                if !told {
                    say(job, format!("waiting for another launch that makes {} ready", shown(image)));
                }
                told = true;
                if job.stop.load(Ordering::Relaxed) {
                    return Err(ImageError::Interrupted);
                }
                std::thread::sleep(WAIT_POLL);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ImageError::Busy { path: image.to_owned() }),
            Err(error) => return Err(io(error.into())),
        }
    }
}

/// The archive's content digest. A file that has not changed since it was read whole is not read again.
fn digest_of(job: &Job, path: &Path) -> Result<String, ImageError> {
    let io = |source| ImageError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if meta.len() > BYTES_MAX {
        return Err(too_much(path, "it has more", BYTES_MAX, "bytes"));
    }
    let state = |meta: &fs::Metadata| {
        format!(
            "{} {} {} {} {} {} {}",
            meta.dev(),
            meta.ino(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        )
    };
    let name = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
    let seen = images(job)?.join(format!(".seen-{name}"));
    let known = fs::read_to_string(&seen).unwrap_or_default();
    if let Some((before, digest)) = known.split_once('\n')
        && before == state(&meta)
        && digest.len() == 64
        && digest.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return Ok(digest.to_owned());
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut watched = Watched::new(&mut file, BYTES_MAX, &job.stop);
    loop {
        match watched.read(&mut buffer).map_err(io)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    let digest = hex(&hash.finalize());
    let after = file.metadata().map_err(io)?;
    if state(&after) == state(&meta) {
        // A note that saves time; another launch may be writing the same one.
        let _ = crate::home::write_private(&seen, format!("{}\n{digest}", state(&meta)).as_bytes());
    }
    Ok(digest)
}

fn too_much(path: &Path, what: &str, max: u64, unit: &str) -> ImageError {
    ImageError::Archive { path: path.to_owned(), what: format!("{what} than {max} {unit}") }
}

fn say(job: &Job, line: String) {
    (job.tell)(&line);
}

/// A path for a terminal.
fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

fn hex(bytes: &[u8]) -> String {
    carboy_core::audit::hex(bytes)
}
