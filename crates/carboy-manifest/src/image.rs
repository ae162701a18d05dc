//! `image` and `backend`: what the bottle sees as its system, and what makes the bottle.
//!
//! ```yaml
//! image: ~/images/debian                  # a directory; *.tar, *.tar.gz, *.tgz, *.tar.zst: an archive; Dockerfile: is built
//! image: {dockerfile: ~/src/app/build.df} # the same, said outright
//! ```
//!
//! *Must never* take a directory of the host that holds credentials for an image, nor a Dockerfile beside them: its whole
//! directory is handed to the build.

use std::path::{Path, PathBuf};

use carboy_core::plan::Image;
use serde::Serialize;

use crate::diagnostic::{Code, excerpt};
use crate::origin::Said;
use crate::schema::Scope;
use crate::yaml::{Entry, Node, Value};
use crate::{host_paths, keys};

/// What makes bottles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The kernel's namespaces, by carboy itself.
    #[default]
    Namespaces,
}

/// `backend`
pub(crate) fn backend(scope: &mut Scope<'_>, node: &Node) -> Option<Said<Backend>> {
    let text = scope.text(node, "`backend`")?;
    match text {
        "namespaces" => return Some(scope.said(Backend::Namespaces, node.at)),
        "docker" | "podman" | "runsc" | "gvisor" => {
            let message = format!("`backend: {text}` of {} is not available in this version", scope.owner);
            let fix = "use `backend: namespaces`, or remove the key: carboy makes its bottles itself, without a daemon \
                       that would have to be trusted; for another system inside use `image`";
            scope.error(node.at, Code::NotAvailable, message, fix);
        }
        other => {
            let message = format!("`backend` of {} is {}", scope.owner, excerpt(other));
            scope.error(node.at, Code::BadValue, message, "use `namespaces`, or remove the key");
        }
    }
    None
}

/// `image`: a path, or `{directory | archive | dockerfile: PATH}`.
pub(crate) fn image(scope: &mut Scope<'_>, node: &Node) -> Option<Said<Image>> {
    let (image, node) = match &node.value {
        Value::Text(_) => (guessed(path(scope, node, "`image`")?), node),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            let entries = scope.map(node, "`image`")?;
            scope.keys(entries, &keys::IMAGE, "`image`");
            let [Entry { key, value, .. }] = entries else {
                let message = format!("`image` of {} says {} things, not one", scope.owner, entries.len());
                let fix = "write one of {directory: PATH}, {archive: PATH}, {dockerfile: PATH}";
                scope.error(node.at, Code::BadValue, message, fix);
                return None;
            };
            let image = match key.as_str() {
                "directory" => Image::Directory(path(scope, value, "`image.directory`")?),
                "archive" => Image::Archive(path(scope, value, "`image.archive`")?),
                "dockerfile" => Image::Dockerfile(path(scope, value, "`image.dockerfile`")?),
                _ => return None,
            };
            (image, value)
        }
    };
    if let Some(reason) = refused_image(&image, scope.home, scope.carboy_home) {
        let message = format!("`image` of {} is refused: {reason}", scope.owner);
        let fix = match image {
            Image::Directory(_) | Image::Archive(_) => "keep images in a directory of their own, as in ~/images",
            Image::Dockerfile(_) => "keep the Dockerfile in a directory of its own: all of it is handed to the build",
        };
        scope.error(node.at, Code::BindRefused, message, fix);
        return None;
    }
    Some(scope.said(image, node.at))
}

/// Why this is never an image; `None` when it may be. Whoever opens it has to resolve symbolic links and ask again.
pub fn refused_image(image: &Image, home: &Path, carboy_home: &Path) -> Option<String> {
    let seen = match image {
        Image::Directory(path) | Image::Archive(path) => path,
        Image::Dockerfile(path) => path.parent()?,
    };
    host_paths::refused_source(seen, home, carboy_home)
}

fn path(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<PathBuf> {
    let text = scope.text(node, what)?;
    let path = host_paths::expand(text, scope.home);
    if path.is_none() {
        let message = format!("{what} of {} is {}", scope.owner, excerpt(text));
        let fix = "use a path of this host: absolute or beginning with `~/`, without `.` and `..`; the name of an image in \
                   a registry is nothing that carboy fetches (save it with `docker save` and name the file)";
        scope.error(node.at, Code::BadValue, message, fix);
    }
    path
}

/// By the name alone, so that `check` says the same on every machine.
fn guessed(path: PathBuf) -> Image {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let archive = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci"].iter().any(|end| name.ends_with(end));
    let dockerfile = ["dockerfile", "containerfile"]
        .iter()
        .any(|word| name == *word || name.starts_with(&format!("{word}.")) || name.ends_with(&format!(".{word}")));
    match (archive, dockerfile) {
        (true, _) => Image::Archive(path),
        (false, true) => Image::Dockerfile(path),
        (false, false) => Image::Directory(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_an_image_shows_in_its_name() {
        // E5
        let kind = |text: &str| match guessed(PathBuf::from(text)) {
            Image::Directory(_) => "directory",
            Image::Archive(_) => "archive",
            Image::Dockerfile(_) => "dockerfile",
        };
        for (text, want) in [
            ("/i/debian", "directory"),
            ("/i/debian.d", "directory"),
            ("/i/debian.tar", "archive"),
            ("/i/debian.tar.gz", "archive"),
            ("/i/debian.tgz", "archive"),
            ("/i/debian.tar.zst", "archive"),
            ("/i/Dockerfile", "dockerfile"),
            ("/i/Containerfile", "dockerfile"),
            ("/i/Dockerfile.dev", "dockerfile"),
            ("/i/dev.Dockerfile", "dockerfile"),
            ("/i/dockerfiles", "directory"),
        ] {
            assert_eq!(kind(text), want, "{text}");
        }
    }
}
