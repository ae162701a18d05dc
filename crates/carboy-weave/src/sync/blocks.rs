//! Which block an edited line belongs to, and the document with the blocks as they became.
//!
//! A changed line stays in the block of the line whose place it takes. A new line goes into the block of the line before
//! it if its indentation allows that, else into the block of the line after it, else into the block that refers to the
//! one before. *Must never* write a block that is used in two places and became two things.

use std::collections::BTreeMap;

use super::SyncError;
use crate::TreePath;
use crate::attributes::{Eof, Refs, reference};
use crate::diff::{Hunk, hunks, lines};
use crate::document::{Block, Document, Kind};
use crate::tangle::{Origin, Tangled, TangledFile, is_blank};

/// What became of the blocks.
#[derive(Default)]
pub(super) struct Bodies {
    /// By block: what it became at each place where it is used.
    places: BTreeMap<usize, Vec<Place>>,
    /// By block: the end of its file.
    ends: BTreeMap<usize, Eof>,
}

/// A block at one of its places.
struct Place {
    /// `FILE:LINE`.
    at: String,
    body: String,
}

/// The lines of each instance: what stands before the first line, then each line with what follows it.
struct Slots<'s> {
    path: &'s TreePath,
    file: &'s TangledFile,
    document: &'s Document,
    slots: Vec<Vec<Vec<String>>>,
}

impl Bodies {
    /// Takes the edits of one file over: `now` is what the document says, `new` what it has to say.
    pub(super) fn take(
        &mut self,
        document: &Document,
        path: &TreePath,
        file: &TangledFile,
        now: &str,
        new: &str,
    ) -> Result<(), SyncError> {
        let mut slots = Slots::of(document, path, file);
        let (now, new) = (lines(now), lines(new));
        for hunk in hunks(&now, &new) {
            slots.apply(&hunk, &new)?;
        }
        for (number, instance) in file.instances.iter().enumerate() {
            let first = file.origins.iter().position(|origin| origin.instance == number).unwrap_or(0) + 1;
            let body = slots.slots[number].concat().concat();
            self.places.entry(instance.block).or_default().push(Place { at: format!("{path}:{first}"), body });
        }
        Ok(())
    }

    /// Notes how a file ends.
    pub(super) fn end(&mut self, tangled: &Tangled, file: &TangledFile, eof: Eof) {
        if let Some(last) = tangled.chunks[&file.chunk].blocks.last().filter(|_| eof != file.eof) {
            self.ends.insert(*last, eof);
        }
    }

    /// The document with all of it.
    pub(super) fn document(
        &self,
        document: &Document,
        includes: &BTreeMap<usize, String>,
    ) -> Result<String, SyncError> {
        let (text, mut out, mut at) = (document.text(), String::new(), 0);
        for (index, block) in document.blocks().iter().enumerate() {
            let was = &text[block.body.clone()];
            let body = match includes.get(&block.line) {
                Some(included) => included.as_str(),
                None => self.body(index, block, was)?,
            };
            let end = self.ends.get(&index);
            if body == was && end.is_none() {
                continue;
            }
            out.push_str(&text[at..block.open.start]);
            out.push_str(&reopened(text, block, body, end.copied()));
            at = block.close.end;
        }
        out.push_str(&text[at..]);
        Ok(out)
    }

    /// What a block became, everywhere the same.
    fn body<'b>(&'b self, index: usize, block: &Block, was: &'b str) -> Result<&'b str, SyncError> {
        let places = self.places.get(&index).map_or(&[][..], Vec::as_slice);
        let edited = places.iter().find(|place| place.body != was);
        let Some(edited) = edited else { return Ok(was) };
        match places.iter().find(|place| place.body != edited.body) {
            Some(other) => {
                let (edited, other) = (edited.at.clone(), other.at.clone());
                Err(SyncError::Shared { chunk: chunk_name(block), edited, other })
            }
            None => Ok(&edited.body),
        }
    }
}

/// A block with another body; its fences grow if they have to.
fn reopened(text: &str, block: &Block, body: &str, end: Option<Eof>) -> String {
    let fence = block.fence.around(body);
    let more = fence.mark.to_string().repeat(fence.length - block.fence.length);
    let mut open = text[block.open.clone()].to_owned();
    match end {
        Some(Eof::None) => open.insert_str(open.rfind('}').unwrap_or(open.len()), " eof=\"none\""),
        Some(Eof::Newline) => {
            open =
                [" eof=\"none\"", "eof=\"none\" ", "eof=\"none\""].iter().fold(open, |o, word| o.replacen(word, "", 1));
        }
        None => {}
    }
    let close = &text[block.close.clone()];
    let inner = close.trim_start_matches(' ');
    format!("{more}{open}{body}{}{more}{inner}", &close[..close.len() - inner.len()])
}

fn chunk_name(block: &Block) -> String {
    match &block.kind {
        Kind::Chunk(part) => part.name.clone(),
        Kind::Plain | Kind::Include { .. } => String::new(),
    }
}

/// Where new lines may go: an instance, a slot of it, and whether they take the place of what is there.
#[derive(Clone, Copy)]
struct Target {
    instance: usize,
    slot: usize,
}

impl<'s> Slots<'s> {
    fn of(document: &'s Document, path: &'s TreePath, file: &'s TangledFile) -> Slots<'s> {
        let of = |block: &Block| {
            let own = document.lines(block).map(|line| vec![line.to_owned()]);
            std::iter::once(Vec::new()).chain(own).collect()
        };
        let slots = file.instances.iter().map(|instance| of(&document.blocks()[instance.block])).collect();
        Slots { path, file, document, slots }
    }

    fn block(&self, instance: usize) -> &'s Block {
        &self.document.blocks()[self.file.instances[instance].block]
    }

    /// The slot that holds a line of the document.
    fn slot(&self, instance: usize, line: usize) -> Target {
        Target { instance, slot: line - self.block(instance).line }
    }

    fn of_origin(&self, origin: Origin) -> Target {
        self.slot(origin.instance, origin.line)
    }

    fn apply(&mut self, hunk: &Hunk, new: &[&str]) -> Result<(), SyncError> {
        let fresh = &new[hunk.new.clone()];
        let old: Vec<Target> = self.file.origins[hunk.old.clone()].iter().map(|o| self.of_origin(*o)).collect();
        for target in &old {
            self.slots[target.instance][target.slot].clear();
        }
        // As many lines as before: each stays where its predecessor was, as after a formatter or a renaming.
        if old.len() == fresh.len() && old.iter().zip(fresh).all(|(target, line)| self.fits(*target, line)) {
            for (target, line) in old.iter().zip(fresh) {
                self.put(*target, &[line])?;
            }
            return Ok(());
        }
        let targets = if old.is_empty() { self.around(hunk.old.start) } else { old };
        let fitting = targets.iter().find(|target| fresh.iter().all(|line| self.fits(**target, line)));
        match (fitting, targets.first()) {
            (Some(target), _) => self.put(*target, fresh),
            (None, Some(first)) => Err(SyncError::Indentation {
                path: self.path.clone(),
                line: hunk.new.start + 1,
                chunk: chunk_name(self.block(first.instance)),
            }),
            (None, None) => Err(SyncError::NotExact(self.path.clone())),
        }
    }

    /// Where lines between two lines may go, the best first.
    fn around(&self, at: usize) -> Vec<Target> {
        let before = at.checked_sub(1).and_then(|n| self.file.origins.get(n));
        let mut targets: Vec<Target> = before.map(|origin| self.of_origin(*origin)).into_iter().collect();
        targets.extend(self.file.origins.get(at).map(|origin| {
            let next = self.of_origin(*origin);
            Target { slot: next.slot - 1, ..next }
        }));
        let mut inner = before.map(|origin| origin.instance);
        while let Some((parent, line)) = inner.and_then(|instance| self.file.instances[instance].parent) {
            targets.push(self.slot(parent, line));
            inner = Some(parent);
        }
        let mut roots = self.file.instances.iter().enumerate().filter(|(_, instance)| instance.parent.is_none());
        targets
            .extend(roots.next_back().map(|(instance, _)| Target { instance, slot: self.slots[instance].len() - 1 }));
        targets
    }

    fn fits(&self, target: Target, line: &str) -> bool {
        let indent = self.file.instances[target.instance].indent.as_str();
        is_blank(line) || line.strip_prefix(indent).is_some_and(|rest| indent.is_empty() || !is_blank(rest))
    }

    fn put(&mut self, target: Target, fresh: &[&str]) -> Result<(), SyncError> {
        let block = self.block(target.instance);
        let refs = matches!(&block.kind, Kind::Chunk(part) if part.refs == Refs::Chunks);
        let indent = self.file.instances[target.instance].indent.as_str();
        for line in fresh {
            let own = line.strip_prefix(indent).unwrap_or(line);
            if refs && reference(own).is_some() {
                let (path, text) = (self.path.clone(), own.trim().to_owned());
                return Err(SyncError::Reference { path, text, line: block.line });
            }
            self.slots[target.instance][target.slot].push(own.to_owned());
        }
        Ok(())
    }
}
