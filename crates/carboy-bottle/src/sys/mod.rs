//! The only place with `unsafe`: system calls that no safe crate wraps, and the clone of the bottle's first process.
//!
//! Each function here takes and gives owned or borrowed descriptors and plain values; nothing outside sees a raw
//! pointer. *Architecture invariant:* between clone and exec (in [`spawn`]) only system calls are made, because the
//! supervisor has other threads and one of them may have held any lock at that moment.

#![allow(unsafe_code)]

pub mod datagram;
pub mod mount;
pub mod names;
pub mod process;
pub mod spawn;
pub mod time;
