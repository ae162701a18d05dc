//! Content codings of answers. Each push can be decoded without what follows it.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// What `?encoding=` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    pub fn parse(text: &str) -> Option<Coding> {
        match text {
            "identity" => Some(Coding::Identity),
            "gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            "br" => Some(Coding::Brotli),
            "zstd" => Some(Coding::Zstd),
            _ => None,
        }
    }

    pub fn token(self) -> Option<&'static str> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some("gzip"),
            Coding::Deflate => Some("deflate"),
            Coding::Brotli => Some("br"),
            Coding::Zstd => Some("zstd"),
        }
    }
}

/// An answer's encoder.
pub(crate) enum Encoder {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    /// HTTP's `deflate` is the zlib format (RFC 9110 §8.4.1.2).
    Deflate(ZlibEncoder<Vec<u8>>),
    /// Stored, not compressed: a decoder does not mind, and no encoder is needed for it.
    Brotli(Begun),
    /// Raw blocks, likewise.
    Zstd(Begun),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    Not,
    Yes,
}

const IN_MEMORY: &str = "compressing into memory does not fail";
/// Below the largest stored block of both formats (RFC 7932 §9.2: 65 536 with four nibbles; RFC 8878 §3.1.1.2.4: 128 KiB).
const BLOCK_BYTES: usize = 32 * 1024;

impl Encoder {
    pub fn new(coding: Coding) -> Encoder {
        match coding {
            Coding::Identity => Encoder::Identity,
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Coding::Deflate => Encoder::Deflate(ZlibEncoder::new(Vec::new(), Compression::fast())),
            Coding::Brotli => Encoder::Brotli(Begun::Not),
            Coding::Zstd => Encoder::Zstd(Begun::Not),
        }
    }

    /// All of `bytes`, decodable without what follows.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Encoder::Identity => bytes.to_vec(),
            Encoder::Gzip(encoder) => {
                encoder.write_all(bytes).and_then(|()| encoder.flush()).expect(IN_MEMORY);
                std::mem::take(encoder.get_mut())
            }
            Encoder::Deflate(encoder) => {
                encoder.write_all(bytes).and_then(|()| encoder.flush()).expect(IN_MEMORY);
                std::mem::take(encoder.get_mut())
            }
            Encoder::Brotli(begun) => brotli_blocks(begun, bytes),
            Encoder::Zstd(begun) => zstd_blocks(begun, bytes),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        match self {
            Encoder::Identity => Vec::new(),
            Encoder::Gzip(encoder) => encoder.finish().expect(IN_MEMORY),
            Encoder::Deflate(encoder) => encoder.finish().expect(IN_MEMORY),
            // WBITS (a zero bit) where nothing came before it, then ISLAST and ISLASTEMPTY.
            Encoder::Brotli(Begun::Not) => vec![0b110],
            Encoder::Brotli(Begun::Yes) => vec![0b11],
            Encoder::Zstd(begun) => {
                let mut out = zstd_head(begun);
                out.extend([1, 0, 0]);
                out
            }
        }
    }
}

/// RFC 7932 §9.2: ISLAST 0, MNIBBLES 0 (four), MLEN − 1 in sixteen bits, ISUNCOMPRESSED 1, zeros to the byte's end.
fn brotli_blocks(begun: &mut Begun, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for block in bytes.chunks(BLOCK_BYTES) {
        let head = ((block.len() as u32 - 1) << 3) | (1 << 19);
        // The stream's own head is one bit before the first block's: a window of 2^16.
        let head = if *begun == Begun::Not { head << 1 } else { head };
        *begun = Begun::Yes;
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}

fn zstd_head(begun: Begun) -> Vec<u8> {
    match begun {
        Begun::Yes => Vec::new(),
        // Magic number, no content size, no checksum, a window of 128 KiB (RFC 8878 §3.1.1.1).
        Begun::Not => vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3],
    }
}

fn zstd_blocks(begun: &mut Begun, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for block in bytes.chunks(BLOCK_BYTES) {
        out.extend(zstd_head(*begun));
        *begun = Begun::Yes;
        out.extend_from_slice(&((block.len() as u32) << 3).to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}
