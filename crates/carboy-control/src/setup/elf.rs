//! What kind of program a file is, from its first bytes.

use std::io::Read;
use std::path::Path;

/// Most bytes of a first line (the kernel reads no more than 256).
const HEAD_BYTES: u64 = 256;

/// What a file starts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The machine's own code.
    Native,
    /// A script, and the program that its first line names, without its directory (`node` of `/usr/bin/env node`).
    Script(String),
    /// Something else, or not readable.
    Other,
}

/// Looks at the first bytes of a program.
pub(super) fn kind_of(program: &Path) -> Kind {
    let mut head = Vec::new();
    let read = std::fs::File::open(program).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    if read.is_err() {
        return Kind::Other;
    }
    if head.starts_with(b"\x7fELF") {
        return Kind::Native;
    }
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some(Ok(line)) = line.strip_prefix(b"#!").map(std::str::from_utf8) else { return Kind::Other };
    let mut words = line.split_whitespace().filter(|word| !word.starts_with('-'));
    let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    match words.next().map(name) {
        Some(env) if env == "env" => words.next().map_or(Kind::Other, |word| Kind::Script(name(word))),
        Some(interpreter) => Kind::Script(interpreter),
        None => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_native_or_a_script_of_somebody() {
        let dir = tempfile::tempdir().unwrap();
        let of = |content: &[u8]| {
            let file = dir.path().join("f");
            std::fs::write(&file, content).unwrap();
            kind_of(&file)
        };
        assert_eq!(of(b"\x7fELF\x02\x01"), Kind::Native);
        assert_eq!(of(b"#!/usr/bin/env node\nx"), Kind::Script("node".into()));
        assert_eq!(of(b"#!/usr/bin/env -S node --x\nx"), Kind::Script("node".into()));
        assert_eq!(of(b"#! /bin/sh -e\n"), Kind::Script("sh".into()));
        assert_eq!(of(b"text"), Kind::Other);
        assert_eq!(kind_of(Path::new("/nonexistent/x")), Kind::Other);
    }
}
