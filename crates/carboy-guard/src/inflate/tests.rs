use std::io::Write;

use proptest::prelude::*;

use super::*;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    w.write_all(text).unwrap();
    w.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    w.write_all(text).unwrap();
    w.finish().unwrap()
}

fn raw(text: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    w.write_all(text).unwrap();
    w.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Brotli data of one uncompressed meta-block (RFC 7932 9.2): the simplest encoder there is.
fn brotli(text: &[u8]) -> Vec<u8> {
    assert!((1..=65536).contains(&text.len()));
    // WBITS 16 is the bit 0; then ISLAST 0, MNIBBLES 4 as 00, MLEN − 1 in 16 bits, ISUNCOMPRESSED 1.
    let bits = ((text.len() as u32 - 1) << 4) | 1 << 20;
    let mut out = bits.to_le_bytes()[..3].to_vec();
    out.extend_from_slice(text);
    out.push(3); // ISLAST, ISLASTEMPTY
    out
}

fn decode(codings: &[Coding], body: &[u8], max: u64, cut: usize) -> Result<Vec<u8>, InflateError> {
    let mut inflate = Inflate::new(codings, DecodedMax(max));
    let mut out = Vec::new();
    for chunk in body.chunks(cut.max(1)) {
        let mut rest = chunk;
        loop {
            let before = out.len();
            let step = inflate.push(rest, &mut out)?;
            assert!(out.len() - before <= OUT_PER_CALL_MAX);
            rest = &rest[step.consumed..];
            if !step.more {
                assert!(rest.is_empty());
                break;
            }
        }
    }
    inflate.finish()?;
    Ok(out)
}

const BIG: u64 = 1 << 30;

#[test]
fn every_coding_is_undone_whole_and_byte_by_byte() {
    let text = b"the quick brown fox ".repeat(500);
    for (coding, body) in [
        (Coding::Gzip, gzip(&text)),
        (Coding::Deflate, zlib(&text)),
        (Coding::Deflate, raw(&text)),
        (Coding::Zstd, zstd(&text)),
        (Coding::Brotli, brotli(&text)),
    ] {
        assert_eq!(decode(&[coding], &body, BIG, usize::MAX).unwrap(), text, "{coding:?}");
        assert_eq!(decode(&[coding], &body, BIG, 1).unwrap(), text, "{coding:?} byte by byte");
    }
}

#[test]
fn stacked_codings_are_undone_in_reverse_order() {
    let text = b"stacked".repeat(1000);
    let codings = Coding::parse_list("gzip, identity, zstd , deflate").unwrap();
    assert_eq!(codings, [Coding::Gzip, Coding::Zstd, Coding::Deflate]);
    let body = zlib(&zstd(&gzip(&text)));
    assert_eq!(decode(&codings, &body, BIG, 7).unwrap(), text);
}

#[test]
fn unknown_and_too_many_codings_are_refused() {
    assert_eq!(Coding::parse_list("compress"), Err(UnknownCoding::Name { name: "compress".into() }));
    assert_eq!(Coding::parse_list("gzip,gzip,gzip,gzip"), Err(UnknownCoding::TooMany));
    assert_eq!(Coding::parse_list(" identity ,").unwrap(), []);
}

#[test]
fn several_gzip_members_and_zstd_frames_are_one_text() {
    let body = [gzip(b"one "), gzip(b"two")].concat();
    assert_eq!(decode(&[Coding::Gzip], &body, BIG, 3).unwrap(), b"one two");
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
    let body = [zstd(b"one "), skippable.to_vec(), zstd(b"two")].concat();
    assert_eq!(decode(&[Coding::Zstd], &body, BIG, 3).unwrap(), b"one two");
}

#[test]
fn a_body_that_ends_early_is_an_error_at_every_length() {
    for (coding, body) in
        [(Coding::Gzip, gzip(b"abcabcabc")), (Coding::Deflate, zlib(b"abcabc")), (Coding::Zstd, zstd(b"abcabc"))]
    {
        for len in 1..body.len() {
            assert_eq!(decode(&[coding], &body[..len], BIG, 4), Err(InflateError::Truncated { coding }), "{len}");
        }
        assert_eq!(decode(&[coding], b"", BIG, 1).unwrap(), b"");
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for (coding, mut body) in [
        (Coding::Gzip, gzip(b"abc")),
        (Coding::Deflate, zlib(b"abc")),
        (Coding::Zstd, zstd(b"abc")),
        (Coding::Brotli, brotli(b"abc")),
    ] {
        body.extend_from_slice(b"hidden!!");
        assert_eq!(decode(&[coding], &body, BIG, 5), Err(InflateError::TrailingData { coding }));
    }
}

#[test]
fn a_wrong_checksum_is_corrupt() {
    let mut body = gzip(b"abc");
    let at = body.len() - 8;
    body[at] ^= 1;
    assert_eq!(decode(&[Coding::Gzip], &body, BIG, 9), Err(InflateError::Corrupt { coding: Coding::Gzip }));
}

#[test]
fn a_bomb_stops_at_the_limit_and_never_fills_memory() {
    let body = gzip(&vec![0; 50_000_000]);
    assert_eq!(decode(&[Coding::Gzip], &body, 1_000_000, usize::MAX), Err(InflateError::TooLarge { max: 1_000_000 }));
    let twice = gzip(&body);
    let both = [Coding::Gzip, Coding::Gzip];
    assert_eq!(decode(&both, &twice, 1_000_000, usize::MAX), Err(InflateError::TooLarge { max: 1_000_000 }));
}

proptest! {
    #[test]
    fn chunking_never_changes_what_is_decoded(text in proptest::collection::vec(0u8..4, 1..5000), cut in 1usize..600) {
        for (coding, body) in
            [(Coding::Gzip, gzip(&text)), (Coding::Deflate, raw(&text)), (Coding::Zstd, zstd(&text)), (Coding::Brotli, brotli(&text))]
        {
            prop_assert_eq!(decode(&[coding], &body, BIG, cut).unwrap(), text.clone());
        }
    }

    #[test]
    fn noise_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300), cut in 1usize..40) {
        for (coding, magic) in [(Coding::Gzip, &[0x1f, 0x8b, 8, 0][..]), (Coding::Deflate, &[]), (Coding::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]), (Coding::Brotli, &[])] {
            let body = [magic, &body].concat();
            let _ = decode(&[coding], &body, 100_000, cut);
        }
    }
}
