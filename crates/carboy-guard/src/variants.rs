//! D1, D2: a secret in every disguise that an agent can put on with one command.
//!
//! The list is derived once per distinct secret and remembered for at most [`MEMO_SECRETS_MAX`] of them (D3); what
//! leaves the memo is zeroised (D5), and callers get copies (D4). Content codings (gzip, zlib, brotli, zstd bodies) are
//! undone by the scanners; the compressed literals here match only data made the same way.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::{Zeroize, Zeroizing};

/// D3: distinct secrets whose variants are remembered.
pub const MEMO_SECRETS_MAX: usize = 256;
/// Shortest variant, in bytes: shorter ones would be found everywhere.
pub const VARIANT_BYTES_MIN: usize = 8;
/// Longest secret for which forms that multiply its length are derived, in bytes.
const ALL_FORMS_BYTES_MAX: usize = 2048;

/// One disguise.
#[derive(Clone)]
pub struct Variant {
    /// Its stable name, as findings report it: `literal`, `base64`, `hex_upper`…
    pub form: &'static str,
    /// The bytes to look for.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The same disguise of the secret's placeholder, where it is as long.
    pub(crate) instead: Option<Instead>,
    /// The six bits of base64 before and behind it, as far as they are the secret's.
    edges: (u8, u8),
}

/// What stands in the place of a secret that comes back: its placeholder, written in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instead {
    pub(crate) bytes: Arc<[u8]>,
    /// Within base64 the characters before and behind a variant hold bits of the secret beside those of others: what of
    /// their six bits has to be turned over.
    pub(crate) lead: u8,
    pub(crate) trail: u8,
}

/// D1: the variants of `secret`, the literal first, no bytes twice. The list is the caller's own (D4).
pub fn variants(secret: &[u8]) -> Vec<Variant> {
    static MEMO: Mutex<Memo> = Mutex::new(Memo::new());
    MEMO.lock().unwrap_or_else(PoisonError::into_inner).variants(secret)
}

/// Least recently used first. It is keyed by digest, so that it holds no secret but in the variants themselves.
struct Memo {
    entries: Vec<([u8; 32], Vec<Variant>)>,
}

impl Memo {
    const fn new() -> Self {
        Memo { entries: Vec::new() }
    }

    fn variants(&mut self, secret: &[u8]) -> Vec<Variant> {
        let digest = carboy_core::audit::hmac_sha256(&[0; 32], secret);
        if let Some(at) = self.entries.iter().position(|(key, _)| *key == digest) {
            let entry = self.entries.remove(at);
            self.entries.push(entry);
        } else {
            if self.entries.len() == MEMO_SECRETS_MAX {
                self.entries.remove(0);
            }
            self.entries.push((digest, derive(secret)));
        }
        self.entries.last().map(|(_, list)| list.clone()).unwrap_or_default()
    }
}

/// [`variants`], each with the same disguise of `fake`. For a run's own credentials, once: nothing of it is remembered.
pub(crate) fn paired(secret: &[u8], fake: &[u8]) -> Vec<Variant> {
    let (real, fakes) = (all(secret), all(fake));
    // The same disguises in the same order, unless one of the two is too long for some.
    let fits = real.len() == fakes.len();
    let fakes = fakes.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let pairs = real.into_iter().zip(fakes).map(|(variant, twin)| {
        let twin = twin.filter(|twin| fits && twin.form == variant.form && twin.bytes.len() == variant.bytes.len());
        let instead = twin.map(|twin| {
            let (lead, trail) = (variant.edges.0 ^ twin.edges.0, variant.edges.1 ^ twin.edges.1);
            Instead { bytes: Arc::from(&twin.bytes[..]), lead, trail }
        });
        Variant { instead, ..variant }
    });
    distinct(pairs)
}

fn derive(secret: &[u8]) -> Vec<Variant> {
    distinct(all(secret).into_iter())
}

/// D1: no bytes twice, and none that are too short to be told from others.
fn distinct(list: impl Iterator<Item = Variant>) -> Vec<Variant> {
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let kept = list.filter(|v| v.bytes.len() >= VARIANT_BYTES_MIN && seen.insert(v.bytes.to_vec())).collect();
    seen.drain().for_each(|mut bytes| bytes.zeroize());
    kept
}

fn all(secret: &[u8]) -> Vec<Variant> {
    let mut list = List { variants: Vec::new() };
    list.add("literal", secret.to_vec());
    list.base64s(secret);
    let reversed: Zeroizing<Vec<u8>> = Zeroizing::new(secret.iter().rev().copied().collect());
    list.add("reversed", reversed.to_vec());
    list.add("rot13", secret.iter().map(|&b| rot13(b)).collect());
    // What usual encoders keep as it is differs: nothing, Python's `quote`, JavaScript's `encodeURIComponent`.
    for kept in ["-._~", "-._~/", "-._~!*'()"] {
        list.add("percent_encoded", percent_reserved(secret, kept.as_bytes()));
    }
    list.add("json_escaped", json_escaped(secret));
    // As JSON has to be, and as Gson, .NET and Go's encoders for JSON in HTML do it.
    for escaped in ["", "<>&='", "\"&'+<>`", "<>&"] {
        list.add("json_escaped", json_escaped_html(secret, escaped.as_bytes()));
    }
    list.add("html_named", html_named(secret, |_| false));
    list.add("html_named", html_named(secret, |b| b"/`=".contains(&b)));
    list.add("base32", base32(secret, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"));
    list.add("base32_unpadded", without_padding(base32(secret, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")));
    list.add("base32_lower", without_padding(base32(secret, b"abcdefghijklmnopqrstuvwxyz234567")));
    list.each("hex_lower", secret, |b| format!("{b:02x}"));
    list.each("hex_upper", secret, |b| format!("{b:02X}"));
    if secret.len() <= ALL_FORMS_BYTES_MAX {
        list.escapes(secret);
        list.nested(secret, &reversed);
        list.other_bases(secret);
        list.compressed(secret);
    }
    list.variants
}

struct List {
    variants: Vec<Variant>,
}

impl List {
    fn add(&mut self, form: &'static str, bytes: Vec<u8>) {
        self.variants.push(Variant { form, bytes: Zeroizing::new(bytes), instead: None, edges: (0, 0) });
    }

    /// What of base64 stays the same within a longer text, and the characters that do not.
    fn within(&mut self, form: &'static str, secret: &[u8], offset: usize, engine: &impl Engine) {
        self.add(form, base64_middle(secret, offset, engine));
        if let Some(last) = self.variants.last_mut() {
            last.edges = base64_edges(secret, offset);
        }
    }

    fn each(&mut self, form: &'static str, secret: &[u8], write: impl Fn(u8) -> String) {
        self.add(form, secret.iter().flat_map(|&b| write(b).into_bytes()).collect());
    }

    fn base64s(&mut self, secret: &[u8]) {
        self.add("base64", STANDARD.encode(secret).into_bytes());
        self.add("base64_unpadded", STANDARD_NO_PAD.encode(secret).into_bytes());
        self.add("base64_url", URL_SAFE.encode(secret).into_bytes());
        self.add("base64_url_unpadded", URL_SAFE_NO_PAD.encode(secret).into_bytes());
        for offset in 0..3 {
            self.within("base64_inside", secret, offset, &STANDARD_NO_PAD);
            self.within("base64_inside", secret, offset, &URL_SAFE_NO_PAD);
        }
    }

    fn escapes(&mut self, secret: &[u8]) {
        self.each("percent_encoded_all", secret, |b| format!("%{b:02x}"));
        self.each("percent_encoded_all", secret, |b| format!("%{b:02X}"));
        self.each("percent_encoded_twice", secret, |b| format!("%25{b:02x}"));
        self.each("unicode_escaped", secret, |b| format!("\\u{b:04x}"));
        self.each("unicode_escaped", secret, |b| format!("\\u{b:04X}"));
        self.each("code_point_escaped", secret, |b| format!("\\u{{{b:x}}}"));
        self.each("hex_escaped", secret, |b| format!("\\x{b:02x}"));
        self.each("hex_array", secret, |b| format!("0x{b:02x}, "));
        self.each("octal_escaped", secret, |b| format!("\\{b:03o}"));
        self.each("decimal_array", secret, |b| format!("{b}, "));
        self.each("binary", secret, |b| format!("{b:08b} "));
        self.each("quoted_printable", secret, |b| format!("={b:02X}"));
        self.each("html_decimal", secret, |b| format!("&#{b};"));
        self.each("html_hex", secret, |b| format!("&#x{b:x};"));
        if let Ok(text) = std::str::from_utf8(secret) {
            self.add("utf16le", text.encode_utf16().flat_map(u16::to_le_bytes).collect());
            self.add("utf16be", text.encode_utf16().flat_map(u16::to_be_bytes).collect());
            self.add("utf32le", text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect());
        }
    }

    fn nested(&mut self, secret: &[u8], reversed: &[u8]) {
        let once = Zeroizing::new(STANDARD.encode(secret));
        let bare = Zeroizing::new(STANDARD_NO_PAD.encode(secret));
        let twice = Zeroizing::new(STANDARD.encode(once.as_bytes()));
        self.add("base64_twice", twice.as_bytes().to_vec());
        self.add("base64_twice", STANDARD.encode(bare.as_bytes()).into_bytes());
        for offset in 0..3 {
            self.add("base64_twice", base64_middle(bare.as_bytes(), offset, &STANDARD_NO_PAD));
        }
        self.add("base64_thrice", base64_middle(twice.as_bytes(), 0, &STANDARD_NO_PAD));
        self.each("hex_of_base64", bare.as_bytes(), |b| format!("{b:02x}"));
        self.add("base64_reversed", bare.bytes().rev().collect());
        self.add("base64_of_hex", base64_middle(carboy_core::audit::hex(secret).as_bytes(), 0, &STANDARD_NO_PAD));
        let wide: Zeroizing<Vec<u8>> = Zeroizing::new(secret.iter().flat_map(|&b| [b, 0]).collect());
        for offset in 0..3 {
            self.add("base64_of_reversed", base64_middle(reversed, offset, &STANDARD_NO_PAD));
            self.add("base64_of_utf16", base64_middle(&wide, offset, &STANDARD_NO_PAD));
        }
    }

    fn other_bases(&mut self, secret: &[u8]) {
        self.add("base58", base58(secret));
        self.add("ascii85", base85(secret, |digit| digit + b'!'));
        const PYTHON: &[u8; 85] =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
        self.add("base85", base85(secret, |digit| PYTHON[usize::from(digit)]));
        // The first full line only: a line carries its own length.
        self.add("uuencoded", uuencoded(&secret[..secret.len().min(45)]));
    }

    fn compressed(&mut self, secret: &[u8]) {
        use flate2::Compression;
        use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
        let level = Compression::default;
        let run = |result: std::io::Result<Vec<u8>>| result.unwrap_or_default();
        let mut gz = GzEncoder::new(Vec::new(), level());
        let gzip = run(gz.write_all(secret).and_then(|()| gz.finish()));
        let mut z = ZlibEncoder::new(Vec::new(), level());
        let zlib = run(z.write_all(secret).and_then(|()| z.finish()));
        let mut d = DeflateEncoder::new(Vec::new(), level());
        let deflate = run(d.write_all(secret).and_then(|()| d.finish()));
        self.add("gzip_base64", STANDARD.encode(&gzip).into_bytes());
        self.add("zlib_base64", STANDARD.encode(&zlib).into_bytes());
        self.add("deflate_base64", STANDARD.encode(&deflate).into_bytes());
        self.add("gzip", gzip);
        self.add("zlib", zlib);
        self.add("deflate", deflate);
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        self.add("zstd", compress_to_vec(secret, CompressionLevel::Fastest));
    }
}

/// The characters of base64 that stay the same when `offset` (mod 3) unknown bytes stand before and any stand after.
fn base64_middle(secret: &[u8], offset: usize, engine: &impl Engine) -> Vec<u8> {
    let mut padded = Zeroizing::new(vec![0; offset]);
    padded.extend_from_slice(secret);
    let mut text = engine.encode(&*padded).into_bytes();
    if !padded.len().is_multiple_of(3) {
        text.pop();
    }
    text.drain(..[0, 2, 3][offset]);
    text
}

/// A character of base64 with these of its six bits turned over; every other one stays.
pub(crate) fn turned_over(byte: u8, bits: u8) -> u8 {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of_url = matches!(byte, b'-' | b'_');
    let standard = [(b'-', b'+'), (b'_', b'/')].into_iter().find(|(url, _)| *url == byte).map_or(byte, |(_, std)| std);
    let Some(value) = DIGITS.iter().position(|digit| *digit == standard) else { return byte };
    match DIGITS[(value as u8 ^ (bits & 0x3f)) as usize] {
        b'+' if of_url => b'-',
        b'/' if of_url => b'_',
        turned => turned,
    }
}

/// The secret's bits in the characters that [`base64_middle`] leaves out at either end.
fn base64_edges(secret: &[u8], offset: usize) -> (u8, u8) {
    let (first, last) = (secret.first().copied().unwrap_or(0), secret.last().copied().unwrap_or(0));
    let lead = [0, first >> 4, first >> 6][offset];
    let trail = [0, (last & 0x03) << 4, (last & 0x0f) << 2][(offset + secret.len()) % 3];
    (lead, trail)
}

fn rot13(b: u8) -> u8 {
    match b {
        b'a'..=b'z' => (b - b'a' + 13) % 26 + b'a',
        b'A'..=b'Z' => (b - b'A' + 13) % 26 + b'A',
        _ => b,
    }
}

fn percent_reserved(secret: &[u8], kept: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || kept.contains(b);
    secret.iter().flat_map(|b| if plain(b) { vec![*b] } else { format!("%{b:02X}").into_bytes() }).collect()
}

fn json_escaped(secret: &[u8]) -> Vec<u8> {
    let escape = |&b: &u8| match b {
        b'"' | b'\\' | b'/' => vec![b'\\', b],
        b'\n' => b"\\n".to_vec(),
        b'\t' => b"\\t".to_vec(),
        b'\r' => b"\\r".to_vec(),
        b'<' | b'>' | b'&' | b'\'' => format!("\\u{b:04x}").into_bytes(),
        _ => vec![b],
    };
    secret.iter().flat_map(escape).collect()
}

/// JSON in which `escaped` are written as their code.
fn json_escaped_html(secret: &[u8], escaped: &[u8]) -> Vec<u8> {
    let escape = |&b: &u8| match b {
        _ if escaped.contains(&b) => format!("\\u{b:04X}").into_bytes(),
        b'"' | b'\\' => vec![b'\\', b],
        b'\n' => b"\\n".to_vec(),
        b'\t' => b"\\t".to_vec(),
        b'\r' => b"\\r".to_vec(),
        _ => vec![b],
    };
    secret.iter().flat_map(escape).collect()
}

fn html_named(secret: &[u8], by_code: impl Fn(u8) -> bool) -> Vec<u8> {
    let escape = |&b: &u8| match b {
        b'&' => b"&amp;".to_vec(),
        b'<' => b"&lt;".to_vec(),
        b'>' => b"&gt;".to_vec(),
        b'"' => b"&quot;".to_vec(),
        b'\'' => b"&#39;".to_vec(),
        _ if by_code(b) => format!("&#x{b:X};").into_bytes(),
        _ => vec![b],
    };
    secret.iter().flat_map(escape).collect()
}

fn base32(secret: &[u8], alphabet: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(secret.len().div_ceil(5) * 8);
    for chunk in secret.chunks(5) {
        let word = (0..5).fold(0u64, |word, i| word << 8 | u64::from(chunk.get(i).copied().unwrap_or(0)));
        let digits = (chunk.len() * 8).div_ceil(5);
        for i in 0..8 {
            out.push(if i < digits { alphabet[(word >> (35 - 5 * i) & 31) as usize] } else { b'=' });
        }
    }
    out
}

fn without_padding(mut text: Vec<u8>) -> Vec<u8> {
    text.retain(|&b| b != b'=');
    text
}

fn base58(secret: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits: Vec<u8> = Vec::new();
    for &byte in secret {
        let mut carry = u32::from(byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    let zeros = secret.iter().take_while(|&&b| b == 0).count();
    digits.extend(std::iter::repeat_n(0, zeros));
    digits.iter().rev().map(|&d| ALPHABET[usize::from(d)]).collect()
}

fn base85(secret: &[u8], digit: impl Fn(u8) -> u8) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in secret.chunks(4) {
        let word = (0..4).fold(0u32, |word, i| word << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..=chunk.len() as u32 {
            out.push(digit((word / 85u32.pow(4 - i) % 85) as u8));
        }
    }
    out
}

fn uuencoded(line: &[u8]) -> Vec<u8> {
    let mut out = vec![b' ' + line.len() as u8];
    for chunk in line.chunks(3) {
        let word = (0..3).fold(0u32, |word, i| word << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        out.extend((0..4).map(|i| b' ' + (word >> (18 - 6 * i) & 63) as u8));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"s3cr3t/V4lue&with+odd\"chars";

    #[test]
    fn d1_the_literal_comes_first_and_nothing_twice() {
        let list = variants(SECRET);
        assert_eq!((list[0].form, &list[0].bytes[..]), ("literal", SECRET));
        let distinct: HashSet<&[u8]> = list.iter().map(|v| &v.bytes[..]).collect();
        assert_eq!(distinct.len(), list.len());
    }

    #[test]
    fn d2_every_named_form_is_derived() {
        let list = variants(SECRET);
        let find = |form: &str| list.iter().any(|v| v.form == form);
        for form in [
            "base64",
            "base64_inside",
            "base64_twice",
            "base32",
            "hex_lower",
            "hex_upper",
            "percent_encoded",
            "percent_encoded_all",
            "gzip",
            "gzip_base64",
            "html_named",
            "html_decimal",
            "html_hex",
            "json_escaped",
            "unicode_escaped",
            "rot13",
            "reversed",
            "utf16le",
            "utf16be",
            "zlib",
            "deflate",
            "zstd",
        ] {
            assert!(find(form), "{form}");
        }
        // Unpadded forms differ from the padded ones only where there is padding.
        let padded = variants(b"0123456789");
        assert!(padded.iter().any(|v| v.form == "base64_unpadded" && &v.bytes[..] == b"MDEyMzQ1Njc4OQ"));
        assert!(padded.iter().any(|v| v.form == "hex_upper") || padded.iter().any(|v| v.form == "hex_lower"));
        assert!(variants(b"\xff\xfe\xfdabcdef").iter().any(|v| v.form == "base64_url"));
    }

    #[test]
    fn d2_the_usual_encoders_own_spellings_are_derived() {
        let list = variants(b"aB3/dE6+gH9=jK2&mN5(pQ8");
        for spelling in [
            "aB3/dE6%2BgH9%3DjK2%26mN5%28pQ8",
            "aB3%2FdE6%2BgH9%3DjK2%26mN5(pQ8",
            "aB3/dE6+gH9\\u003DjK2\\u0026mN5(pQ8",
            "aB3/dE6\\u002BgH9=jK2\\u0026mN5(pQ8",
            "aB3/dE6+gH9=jK2\\u0026mN5(pQ8",
            "aB3&#x2F;dE6+gH9&#x3D;jK2&amp;mN5(pQ8",
        ] {
            assert!(list.iter().any(|v| v.bytes[..] == *spelling.as_bytes()), "{spelling}");
        }
    }

    #[test]
    fn d2_base64_is_found_at_each_byte_offset() {
        for before in 0..7 {
            for after in 0..4 {
                let text = STANDARD.encode([&vec![b'x'; before][..], SECRET, &vec![b'y'; after][..]].concat());
                let found = variants(SECRET)
                    .iter()
                    .any(|v| v.form.starts_with("base64") && memchr::memmem::find(text.as_bytes(), &v.bytes).is_some());
                assert!(found, "{before} before, {after} after");
            }
        }
    }

    #[test]
    fn known_encodings_come_out_right() {
        assert_eq!(base32(b"foobar", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), b"MZXW6YTBOI======");
        assert_eq!(base58(b"Hello World!"), b"2NEpo7TZRRrLZSi2U");
        assert_eq!(base85(b"Man ", |d| d + b'!'), b"9jqo^");
        assert_eq!(uuencoded(b"Cat"), b"#0V%T");
    }

    #[test]
    fn d3_the_memo_evicts_and_never_grows() {
        let mut memo = Memo::new();
        for i in 0..MEMO_SECRETS_MAX + 50 {
            memo.variants(format!("secret{i:04}").as_bytes());
            memo.variants(b"secret0000");
            assert!(memo.entries.len() <= MEMO_SECRETS_MAX);
        }
        assert_eq!(memo.entries.len(), 256);
        // What is used stays; what is oldest went.
        let holds = |text: &[u8]| memo.entries.iter().any(|(_, list)| &list[0].bytes[..] == text);
        assert!(holds(b"secret0000") && !holds(b"secret0001") && holds(b"secret0305"));
    }

    #[test]
    fn d4_a_callers_list_is_its_own() {
        let mut memo = Memo::new();
        let mut first = memo.variants(SECRET);
        first[0].bytes[0] ^= 0xff;
        first.truncate(1);
        let second = memo.variants(SECRET);
        assert_eq!(&second[0].bytes[..], SECRET);
        assert!(second.len() > 20);
    }

    #[test]
    fn d5_what_the_memo_holds_is_of_a_type_that_zeroises_itself() {
        fn zeroises<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        zeroises(&variants(SECRET)[0].bytes);
    }
}
