//! `settings.yml`, key by key: budgets and what a spent one does read the same; the rest stays where carboy's reader takes it.

use super::bottle::{Lines, Piece, amounts, gone, written};
use super::{NoteKind, Source, emit, first_error};
use crate::diagnostic::{Code, Diagnostics};
use crate::files::MapFiles;
use crate::settings as reader;
use crate::yaml::Entry;

/// `settings.yml`; `None` when no key of it has a counterpart.
pub(super) fn settings(source: &mut Source<'_>, root: &[Entry], lines: &Lines<'_>) -> Option<String> {
    let mut pieces = Vec::new();
    for entry in root {
        if matches!(entry.key.as_str(), "budget" | "ceiling") {
            pieces.push(amounts(source, entry, |source, one| settings_error(source, &one)));
            continue;
        }
        pieces.push(match settings_error(source, entry) {
            None => Piece::Same(entry.clone()),
            Some((_, what, fix)) => gone(source, entry, NoteKind::LeftOut, &what, &fix),
        });
    }
    let kept = pieces.iter().any(|piece| matches!(piece, Piece::Same(_) | Piece::New(_)));
    kept.then(|| written(&pieces, root, lines))
}

/// What carboy's reader says of settings with this key alone.
fn settings_error(source: &Source<'_>, entry: &Entry) -> Option<(Code, String, String)> {
    let mut text = String::new();
    emit::entry(&mut text, &entry.key, &entry.value, 0);
    let files: MapFiles = [(source.places.settings(), text)].into_iter().collect();
    let mut found = Diagnostics::default();
    reader::load(&files, source.places, &mut found);
    first_error(&found)
}
