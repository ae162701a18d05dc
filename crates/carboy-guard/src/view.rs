//! The normalised view of a byte stream: ASCII letters in lower case and digits, everything else dropped.
//!
//! Whoever splits a secret with spaces, dashes, zero-width characters, NULs, line breaks or `" + "`, changes its
//! case, or writes it in full-width or mathematical letters, leaves the view as it was. One literal in the view thus
//! stands for a family of disguises. A block of 64 bytes (by position in the stream) without anything kept is a
//! break, so that what a match can span is bounded.

/// Positions in the stream are grouped by this many bytes; a whole group of dropped bytes breaks a match.
const BLOCK: u64 = 64;
/// What a break looks like in the view: no literal has it.
pub(crate) const BREAK: u8 = 0;

const FOLD: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 128 {
        if (b as u8).is_ascii_alphanumeric() {
            table[b] = (b as u8).to_ascii_lowercase();
        }
        b += 1;
    }
    table
};

/// Where the view stands in the stream.
#[derive(Clone)]
pub(crate) struct View {
    /// Bytes of the stream that were taken.
    pub cursor: u64,
    block: u64,
    kept: bool,
}

/// Whether more bytes follow those at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    /// Perhaps.
    Open,
    /// None.
    Ended,
}

enum Unit {
    Kept { len: usize, byte: u8 },
    Dropped { len: usize },
    Incomplete,
}

impl View {
    pub(crate) fn new() -> Self {
        View { cursor: 0, block: 0, kept: false }
    }

    /// Takes `data`, which begins at the cursor, and appends its view. An incomplete character at the end is left
    /// for the next call unless the stream has ended.
    pub(crate) fn run(&mut self, data: &[u8], more: More, out: &mut Vec<u8>) {
        let mut at = 0;
        while at < data.len() {
            // The ASCII characters from here on, within this block: a letter that is none must not slow down the rest.
            let room = (BLOCK - self.cursor % BLOCK) as usize;
            let block = &data[at..(at + room).min(data.len())];
            let ascii = if block.is_ascii() { block.len() } else { block.iter().take_while(|b| b.is_ascii()).count() };
            if ascii > 0 {
                self.enter(&mut |byte, _| out.push(byte), at);
                self.kept |= squeeze(&block[..ascii], out);
                at += ascii;
                self.cursor += ascii as u64;
                continue;
            }
            match self.one(data, at, more, &mut |byte, _| out.push(byte)) {
                0 => return,
                len => at += len,
            }
        }
    }

    /// The same with positions: calls `emit(byte, index in data behind its character)` for each byte of the view.
    pub(crate) fn walk(&mut self, data: &[u8], more: More, mut emit: impl FnMut(u8, usize)) {
        let mut at = 0;
        while at < data.len() {
            match self.one(data, at, more, &mut emit) {
                0 => return,
                len => at += len,
            }
        }
    }

    fn one(&mut self, data: &[u8], at: usize, more: More, emit: &mut impl FnMut(u8, usize)) -> usize {
        let (len, byte) = match unit(&data[at..], more) {
            Unit::Incomplete => return 0,
            Unit::Dropped { len } => (len, None),
            Unit::Kept { len, byte } => (len, Some(byte)),
        };
        self.enter(emit, at);
        if let Some(byte) = byte {
            self.kept = true;
            emit(byte, at + len);
        }
        self.cursor += len as u64;
        len
    }

    fn enter(&mut self, emit: &mut impl FnMut(u8, usize), at: usize) {
        let block = self.cursor / BLOCK;
        if block != self.block {
            if !self.kept {
                emit(BREAK, at);
            }
            self.block = block;
            self.kept = false;
        }
    }
}

/// Appends the kept bytes of ASCII text that fits into a block; says whether there were any.
fn squeeze(block: &[u8], out: &mut Vec<u8>) -> bool {
    let mut kept = [0u8; BLOCK as usize];
    let mut n = 0;
    for &b in block {
        let folded = FOLD[usize::from(b)];
        kept[n & (BLOCK as usize - 1)] = folded;
        n += usize::from(folded != 0);
    }
    out.extend_from_slice(&kept[..n]);
    n > 0
}

/// Index where the last `count` kept characters before `end` begin. They stand in `data` without a break.
pub(crate) fn back(data: &[u8], end: usize, count: usize) -> usize {
    let (mut at, mut left) = (end, count);
    while left > 0 && at > 0 {
        let byte = data[at - 1];
        if byte < 0x80 {
            at -= 1;
            left -= usize::from(FOLD[usize::from(byte)] != 0);
            continue;
        }
        // The character that ends here, if one does: its lead byte says exactly this length.
        let len = (2..=4.min(at)).find(|&len| char_len(&data[at - len..at]) == Some(len)).unwrap_or(1);
        if let Unit::Kept { .. } = unit(&data[at - len..at], More::Ended) {
            left -= 1;
        }
        at -= len;
    }
    at
}

/// The view of a whole text.
pub(crate) fn fold(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    View::new().walk(text, More::Ended, |byte, _| {
        if byte != BREAK {
            out.push(byte);
        }
    });
    out
}

/// Length of the well-formed character that `data` is, if its lead byte and length agree.
fn char_len(data: &[u8]) -> Option<usize> {
    let len = lead_len(data[0])?;
    (data.len() >= len && data[1..len].iter().all(|b| b & 0xc0 == 0x80)).then_some(len)
}

fn lead_len(lead: u8) -> Option<usize> {
    match lead {
        0xc2..=0xdf => Some(2),
        0xe0..=0xef => Some(3),
        0xf0..=0xf4 => Some(4),
        _ => None,
    }
}

fn unit(data: &[u8], more: More) -> Unit {
    let lead = data[0];
    if lead < 0x80 {
        return match FOLD[usize::from(lead)] {
            0 => Unit::Dropped { len: 1 },
            byte => Unit::Kept { len: 1, byte },
        };
    }
    let Some(len) = lead_len(lead) else { return Unit::Dropped { len: 1 } };
    let have = data.len().min(len);
    if !data[1..have].iter().all(|b| b & 0xc0 == 0x80) {
        return Unit::Dropped { len: 1 };
    }
    if have < len {
        return if more == More::Open { Unit::Incomplete } else { Unit::Dropped { len: 1 } };
    }
    let first = u32::from(lead) & (0x7f >> len);
    let code = data[1..len].iter().fold(first, |code, b| code << 6 | u32::from(b & 0x3f));
    match letter(code) {
        Some(byte) => Unit::Kept { len, byte: byte.to_ascii_lowercase() },
        None => Unit::Dropped { len },
    }
}

/// The ASCII letter or digit that a character stands for in the eyes of a reader, or of a normalising program.
pub(crate) fn letter(code: u32) -> Option<u8> {
    const LATIN1: &[u8; 64] = b"AAAAAA?CEEEEIIII?NOOOOO?OUUUUY??aaaaaa?ceeeeiiii?nooooo?ouuuuy?y";
    const LATIN_A: &[u8; 128] = b"AaAaAaCcCcCcCcDdDdEeEeEeEeEeGgGgGgGgHhHhIiIiIiIiIi??JjKk?LlLlLlLlLlNnNnNn???OoOoOo??RrRrRrSsSsSsSsTtTtTtUuUuUuUuUuUuWwYyYZzZzZzs";
    const PAIRS: &[(&str, &str)] = &[
        ("асеорхуіѕјһԁԛԝъ", "aceopxyisjhdqwb"),
        ("АВЕКМНОРСТХУІЅЈ", "abekmhopctxyisj"),
        ("οανικρτυχ", "oavikptux"),
        ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "abezhikmnoptyx"),
        ("ℎℓℯℊℴ", "hlego"),
    ];
    let byte = match code {
        0xc0..=0xff => LATIN1[(code - 0xc0) as usize],
        0x100..=0x17f => LATIN_A[(code - 0x100) as usize],
        0xff01..=0xff5e => (code - 0xfee0) as u8,
        0xe0020..=0xe007e => (code - 0xe0000) as u8,
        0x24b6..=0x24e9 => b'a' + ((code - 0x24b6) % 26) as u8,
        0x1d400..=0x1d6a3 => b'a' + ((code - 0x1d400) % 26) as u8,
        0x1d7ce..=0x1d7ff => b'0' + ((code - 0x1d7ce) % 10) as u8,
        0x370..=0x52f | 0x2100..=0x214f => {
            let c = char::from_u32(code)?;
            PAIRS.iter().find_map(|(from, to)| from.chars().position(|x| x == c).map(|i| to.as_bytes()[i]))?
        }
        _ => return None,
    };
    byte.is_ascii_alphanumeric().then_some(byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn separators_case_and_look_alikes_vanish() {
        for text in ["gHp_Ab1", "g h\u{200b}p-a\u{ad}B1", "ｇＨｐａｂ１", "𝖌𝗁𝘱𝙖𝒃𝟏", "g\u{306}h\u{306}pаb1", "ğħpăb1"]
        {
            assert_eq!(fold(text.as_bytes()), b"ghpab1", "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_and_any_cut_give_the_same_view(
            text in proptest::collection::vec(prop_oneof!["[a-zA-Z0-9]{0,90}", "[ .,]{0,200}", "[àｇа𝖌\u{200b}]{0,9}"], 0..12),
            noise in proptest::collection::vec(any::<u8>(), 0..9),
            cut in 1usize..300,
        ) {
            let text = [text.concat().as_bytes(), &noise].concat();
            let mut whole = Vec::new();
            View::new().walk(&text, More::Ended, |b, _| whole.push(b));
            let (mut cut_up, mut view, mut end) = (Vec::new(), View::new(), 0);
            while end < text.len() {
                end = (end + cut).min(text.len());
                let more = if end == text.len() { More::Ended } else { More::Open };
                view.run(&text[view.cursor as usize..end], more, &mut cut_up);
            }
            prop_assert_eq!(cut_up, whole);
        }

        #[test]
        fn walking_back_finds_where_a_character_began(text in "[a1 àｇа𝖌\u{200b}\u{80}]{1,40}", drop in 0usize..3) {
            let text = &text.as_bytes()[..text.len() - drop.min(text.len())];
            let mut ends = vec![];
            View::new().walk(text, More::Ended, |b, end| if b != BREAK { ends.push(end) });
            for n in 1..=ends.len() {
                let start = back(text, text.len(), n);
                let mut rest = 0;
                View::new().walk(&text[start..], More::Ended, |b, _| rest += usize::from(b != BREAK));
                prop_assert_eq!(rest, n);
                prop_assert!(start < ends[ends.len() - n]);
            }
        }
    }
}
