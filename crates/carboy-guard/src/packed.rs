//! Packed regions inside a part: gzip, zlib and zstd data that no header announces, raw or as base64.
//!
//! A region begins at its magic bytes and is unpacked as it streams by, into a scanner of its own. A byte of it leaves
//! only when what it unpacks to is cleared. A match inside cannot be overwritten: it stops the stream. Data that turn
//! out to be something else are let go, having been scanned as they are all along.

use std::collections::VecDeque;
use std::sync::Arc;

use carboy_core::finding::{Detector, Finding, Severity};

use crate::detectors::Detectors;
use crate::inflate::{Coding, DecodedMax, Inflate};
use crate::stream::{Mode, ScanPlan, StreamScanner};
use crate::view::More;
use crate::window::Window;

/// Regions open at the same time; a magic number beyond them stops the stream, since nobody would look inside.
const REGIONS_MAX: usize = 8;
/// Most bytes that all regions of one scanner unpack to.
const UNPACKED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of a region that are unpacked at a time, by position in the region.
const PIECE_BYTES: u64 = 256;
/// Most bytes of regions that are held back; beyond them the stream stops.
const HELD_BYTES_MAX: u64 = 1024 * 1024;

/// How deep scanners may stand within each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth(u8);

impl Depth {
    pub(crate) const OUTERMOST: Depth = Depth(0);
    /// Packed data within packed data within packed data.
    const MAX: u8 = 3;
}

/// One stream's packed regions.
pub(crate) struct PackedScan {
    depth: Depth,
    cursor: u64,
    regions: Vec<Region>,
    unpacked: u64,
}
