//! Whether a program needs nothing of the host: no interpreter that would load libraries, and no library named.

use std::fs;
use std::path::Path;

/// Program headers that say what is loaded (elf(5)).
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
/// Entry of the dynamic section that names a library.
const DT_NEEDED: u64 = 1;

/// Fails for a program that is not a 64-bit little-endian ELF file, or that is linked dynamically.
pub fn require_static(path: &Path) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    match what_it_needs(&bytes) {
        Some(needs) if needs.is_empty() => Ok(()),
        Some(needs) => Err(format!("{} is not static: it has {}", path.display(), needs.join(" and "))),
        None => Err(format!("{} is no ELF program for x86-64", path.display())),
    }
}

/// `None` for something that is no such program.
fn what_it_needs(bytes: &[u8]) -> Option<Vec<&'static str>> {
    if bytes.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let (table, size, count) = (number(bytes, 32, 8)?, number(bytes, 54, 2)?, number(bytes, 56, 2)?);
    let mut needs = Vec::new();
    for index in 0..count {
        let header = usize::try_from(table.checked_add(index * size)?).ok()?;
        match number(bytes, header, 4)? {
            PT_INTERP => needs.push("an interpreter"),
            PT_DYNAMIC if names_a_library(bytes, number(bytes, header + 8, 8)?, number(bytes, header + 32, 8)?)? => {
                needs.push("a library");
            }
            _ => {}
        }
    }
    Some(needs)
}

fn names_a_library(bytes: &[u8], at: u64, length: u64) -> Option<bool> {
    let (at, length) = (usize::try_from(at).ok()?, usize::try_from(length).ok()?);
    for entry in bytes.get(at..at.checked_add(length)?)?.chunks_exact(16) {
        if number(entry, 0, 8)? == DT_NEEDED {
            return Some(true);
        }
    }
    Some(false)
}

/// Little-endian.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    Some(field.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_system_is_linked_dynamically_and_a_text_is_none() {
        let own = fs::read("/proc/self/exe").unwrap();
        assert_eq!(what_it_needs(&own), Some(vec!["an interpreter", "a library"]));
        assert_eq!(what_it_needs(b"#!/bin/sh\n"), None);
        assert_eq!(what_it_needs(&own[..100]), None);
    }
}
