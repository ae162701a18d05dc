//! An archive of an image: which layers it holds, in which order.
//!
//! ```text
//!   oci-layout + index.json ─▶ (index ─▶) manifest ─▶ layers: blobs/sha256/…      digests are compared
//!   manifest.json (docker save) ──────────────────▶ layers: <id>/layer.tar, blobs/sha256/…
//!   neither, but usr/ or bin/ ────────────────────▶ the archive itself is the one layer (docker export)
//! ```
//!
//! *Must never* take a name from the archive for a path of the host: names are looked up among the archive's own members.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layer::Tree;
use super::read::{Hashed, Part, Watched, is_compressed, plain};
use super::{BYTES_MAX, ENTRIES_MAX, ImageError, Job, too_much};

/// Most members of the archive itself, and most layers.
const MEMBERS_MAX: usize = 100_000;
const LAYERS_MAX: usize = 512;
/// Largest description of an image.
const JSON_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most steps from an index to a manifest, and most links from one member to another.
const STEPS_MAX: usize = 4;

/// Unpacks the archive into `draft/root`.
pub(super) fn unpack(job: &Job, path: &Path, draft: &Path) -> Result<(), ImageError> {
    let io = |source| ImageError::Io { path: path.to_owned(), source };
    let wrong = |what: String| ImageError::Archive { path: path.to_owned(), what };
    let file = seekable(job, path, draft).map_err(io)?;
    let contents = Contents::read(job, &file).map_err(wrong)?;
    let layers = contents.layers().map_err(wrong)?;
    if layers.len() > LAYERS_MAX {
        return Err(too_much(path, "it has more layers", LAYERS_MAX as u64, "layers"));
    }
    let mut tree = Tree::open(&draft.join("root"), &draft.join("gone"), ENTRIES_MAX).map_err(io)?;
    let mut left = BYTES_MAX;
    for (number, layer) in layers.iter().enumerate() {
        if layers.len() > 1 {
            super::say(
                job,
                format!("layer {} of {}, {} MiB", number + 1, layers.len(), layer.length.div_ceil(1 << 20)),
            );
        }
        let part = Hashed::new(Part { file: &file, at: layer.at, left: layer.length });
        left = one_layer(job, part, layer, &mut tree, left)
            .map_err(|what| wrong(format!("layer {} of {}: {what}", number + 1, layers.len())))?;
    }
    if tree.skipped() > 0 {
        super::say(job, format!("{} devices, pipes and sockets of the image were left out", tree.skipped()));
    }
    drop(tree);
    super::removed(draft, b"gone").map_err(io)
}

/// Gives how many bytes are still allowed.
fn one_layer(job: &Job, mut part: Hashed<Part<'_>>, layer: &Layer, tree: &mut Tree, left: u64) -> Result<u64, String> {
    let words = |error: io::Error| error.to_string();
    let used = {
        let mut watched = Watched::new(plain(&mut part).map_err(words)?, left, &job.stop);
        tree.layer(&mut watched)?;
        // What stands behind the end of the archive is a part of the blob.
        io::copy(&mut watched, &mut io::sink()).map_err(words)?;
        watched.read_bytes()
    };
    let digest = part.finish().map_err(words)?;
    match &layer.sha256 {
        Some(said) if *said != digest => Err(format!("its content is not what its name says: {digest}, not {said}")),
        Some(_) | None => Ok(left - used),
    }
}

/// The archive as a file in which one can go to and fro: itself, or its plain form, which has no name any more.
fn seekable(job: &Job, path: &Path, draft: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let mut start = [0; 4];
    let length = Part { file: &file, at: 0, left: file.metadata()?.len() }.read(&mut start)?;
    if !is_compressed(&start[..length]) {
        return Ok(file);
    }
    let whole = draft.join("plain.tar");
    let mut out = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&whole)?;
    fs::remove_file(&whole)?;
    io::copy(&mut Watched::new(plain(file)?, BYTES_MAX, &job.stop), &mut out)?;
    Ok(out)
}

/// A member of the archive.
enum Member {
    File { at: u64, length: u64 },
    Link(String),
}

struct Layer {
    at: u64,
    length: u64,
    /// What its content has to be.
    sha256: Option<String>,
}

struct Contents<'f> {
    file: &'f File,
    members: HashMap<String, Member>,
    /// Does it look like a root file system?
    system: bool,
}

impl<'f> Contents<'f> {
    fn read(job: &Job, file: &'f File) -> Result<Self, String> {
        let words = |error: io::Error| error.to_string();
        let length = file.metadata().map_err(words)?.len();
        let whole = Watched::new(Part { file, at: 0, left: length }, BYTES_MAX, &job.stop);
        let mut archive = tar::Archive::new(whole);
        let mut contents = Contents { file, members: HashMap::new(), system: false };
        for entry in archive.entries().map_err(words)?.raw(true) {
            let entry = entry.map_err(|error| format!("it is no tar archive of an image ({error})"))?;
            let header = entry.header();
            // A name that is not text is none of an image's own members.
            let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            contents.system |= ["usr/", "bin/", "bin"].iter().any(|start| name.starts_with(start));
            if contents.system && contents.members.len() >= MEMBERS_MAX {
                break;
            }
            let kind = header.entry_type();
            let member = if kind.is_file() {
                Member::File { at: entry.raw_file_position(), length: entry.size() }
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = header.link_name_bytes().unwrap_or_default();
                Member::Link(String::from_utf8_lossy(&target).into_owned())
            } else {
                continue;
            };
            contents.members.insert(name, member);
            if contents.members.len() > MEMBERS_MAX {
                return Err(format!("it has more than {MEMBERS_MAX} members"));
            }
        }
        Ok(contents)
    }

    /// Where a member stands; the old form of `docker save` has links from one layer to another.
    fn find(&self, name: &str) -> Result<(u64, u64), String> {
        let mut name = name.to_owned();
        for _ in 0..STEPS_MAX {
            match self.members.get(&name) {
                Some(Member::File { at, length }) => return Ok((*at, *length)),
                Some(Member::Link(target)) => name = joined(&name, target),
                None => return Err(format!("it has no member `{}`", name.escape_debug())),
            }
        }
        Err(format!("its member `{}` is a link that leads nowhere", name.escape_debug()))
    }

    fn json(&self, name: &str, sha256: Option<&str>) -> Result<Value, String> {
        let (at, length) = self.find(name)?;
        if length > JSON_BYTES_MAX {
            return Err(format!("its member `{}` has more than {JSON_BYTES_MAX} bytes", name.escape_debug()));
        }
        let mut bytes = Vec::new();
        let mut part = Hashed::new(Part { file: self.file, at, left: length });
        part.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        let digest = part.finish().map_err(|error| error.to_string())?;
        if sha256.is_some_and(|said| said != digest) {
            return Err(format!("its member `{}` is not what its name says", name.escape_debug()));
        }
        serde_json::from_slice(&bytes).map_err(|_| format!("its member `{}` is no JSON", name.escape_debug()))
    }

    fn layers(&self) -> Result<Vec<Layer>, String> {
        if self.members.contains_key("oci-layout") && self.members.contains_key("index.json") {
            return self.oci();
        }
        if self.members.contains_key("manifest.json") {
            return self.saved();
        }
        if self.system {
            let length = self.file.metadata().map_err(|error| error.to_string())?.len();
            return Ok(vec![Layer { at: 0, length, sha256: None }]);
        }
        Err("it is neither an OCI image, nor made by `docker save`, nor a root file system".into())
    }

    fn saved(&self) -> Result<Vec<Layer>, String> {
        let manifest = self.json("manifest.json", None)?;
        let images = manifest.as_array().map(Vec::as_slice).unwrap_or_default();
        let [image] = images else {
            return Err(format!("it holds {} images: save one of them alone", images.len()));
        };
        let names = image.get("Layers").and_then(Value::as_array).ok_or("its manifest names no layers")?;
        names.iter().map(|name| self.layer(name.as_str().unwrap_or_default(), None)).collect()
    }

    fn oci(&self) -> Result<Vec<Layer>, String> {
        let mut document = self.json("index.json", None)?;
        for _ in 0..STEPS_MAX {
            if let Some(layers) = document.get("layers").and_then(Value::as_array) {
                return layers.iter().map(|layer| self.blob(layer)).collect();
            }
            let wanted = one_of(&document)?;
            let sha256 = digest(wanted)?;
            document = self.json(&format!("blobs/sha256/{sha256}"), Some(&sha256))?;
        }
        Err("its index leads to no manifest".into())
    }

    fn blob(&self, descriptor: &Value) -> Result<Layer, String> {
        let sha256 = digest(descriptor)?;
        self.layer(&format!("blobs/sha256/{sha256}"), Some(sha256.clone()))
    }

    fn layer(&self, name: &str, sha256: Option<String>) -> Result<Layer, String> {
        let (at, length) = self.find(name)?;
        Ok(Layer { at, length, sha256 })
    }
}

/// The manifest for this machine; more than one image is a question that nobody was asked.
fn one_of(index: &Value) -> Result<&Value, String> {
    let all = index.get("manifests").and_then(Value::as_array).ok_or("its index names no manifests")?;
    let here = |descriptor: &&Value| {
        let field = |name: &str| descriptor.pointer(&format!("/platform/{name}")).and_then(Value::as_str);
        field("os").is_none_or(|os| os == "linux") && field("architecture").is_none_or(|name| name == architecture())
    };
    let wanted: Vec<&Value> = all.iter().filter(here).collect();
    match wanted.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("it holds no image for linux/{}", architecture())),
        several => {
            Err(format!("it holds {} images for linux/{}: save one of them alone", several.len(), architecture()))
        }
    }
}

/// As registries call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// The hex digits of a `sha256:` digest, which are then a name within the archive.
fn digest(descriptor: &Value) -> Result<String, String> {
    let text = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default();
    match text.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) => {
            Ok(hex.to_owned())
        }
        Some(_) | None => Err(format!("`{}` is no sha256 digest", text.escape_debug())),
    }
}

/// A link's target, as seen from the member that holds it. It is a name in the archive and stays one.
fn joined(from: &str, target: &str) -> String {
    let mut path: PathBuf = Path::new(from).parent().map(Path::to_path_buf).unwrap_or_default();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = path.pop(),
            name => path.push(name),
        }
    }
    path.to_string_lossy().into_owned()
}
