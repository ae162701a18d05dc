//! Terminal escapes in a program's output: which modes it has set, when it calls the person, what may be shown again.
//!
//! A state machine over bytes in the manner of ECMA-48; it understands just enough to find where a sequence begins and
//! ends, so that no part of one is ever taken for text.
//!
//! *Must never* keep more of one sequence than [`SEQUENCE_BYTES_MAX`], and never let text through [`plain`] that moves
//! a cursor.

mod allowed;

use std::collections::BTreeSet;

/// Longest sequence that is looked into; of a longer one only its end is looked for.
pub const SEQUENCE_BYTES_MAX: usize = 1024;
/// Longest text of a notification, in characters.
pub const CALL_CHARS_MAX: usize = 160;
/// Private modes that are undone when a client leaves and set again when one comes (DEC and xterm): cursor keys, cursor
/// hidden, alternate screens, mouse, focus, paste.
const MODES: [u16; 14] = [1, 25, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1048, 1049, 2004];
/// The cursor: the one mode that is on where nobody has said otherwise.
const CURSOR: u16 = 25;

/// Something that a program says to the person and not to the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// It rang the bell.
    Bell,
    /// It asked for a notification (OSC 9, OSC 777), in these words: one printable line of [`SEQUENCE_BYTES_MAX`] at
    /// most. Not made short: half of a secret is not recognised as one any more, so whoever shows them looks for
    /// secrets first and cuts then.
    Words(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    Escape,
    /// `ESC [` … a byte of 0x40 to 0x7e.
    Control,
    /// `ESC ]`, `ESC P`, `ESC X`, `ESC ^`, `ESC _` … BEL or `ESC \`.
    Words,
    WordsEscape,
}

/// Follows the bytes of one terminal, in pieces of any size.
#[derive(Debug)]
pub struct Follow {
    state: State,
    sequence: Vec<u8>,
    /// Modes that are not as a terminal has them at first.
    changed: BTreeSet<u16>,
    calls: Vec<Call>,
}

/// What one byte was.
enum Seen {
    /// Text, or a control character.
    Byte(u8),
    /// In the middle of a sequence.
    Inside,
    /// The last byte of a sequence.
    Sequence,
    /// A sequence that was broken off, for a new one.
    Restart,
}

impl Default for Follow {
    fn default() -> Self {
        Follow { state: State::Text, sequence: Vec::new(), changed: BTreeSet::new(), calls: Vec::new() }
    }
}

impl Follow {
    /// Takes the next bytes; gives what the program called out in them, [`CALLS_MAX`] at most.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Call> {
        let mut rest = bytes.iter();
        loop {
            if self.state == State::Text {
                // Most output is text: it is passed over at once.
                let special = rest.as_slice().iter().position(|byte| matches!(byte, 0x07 | 0x1b));
                rest = rest.as_slice()[special.unwrap_or(rest.len())..].iter();
            }
            let Some(byte) = rest.next() else { break };
            match self.step(*byte) {
                Seen::Byte(0x07) => self.call(Call::Bell),
                Seen::Sequence => self.whole_sequence(),
                Seen::Byte(_) | Seen::Inside | Seen::Restart => {}
            }
        }
        std::mem::take(&mut self.calls)
    }

    /// What brings another terminal into the modes that this one is in.
    pub fn enter(&self) -> Vec<u8> {
        self.changed.iter().flat_map(|mode| set(*mode, *mode != CURSOR)).collect()
    }

    /// What brings a terminal back into the modes of a shell.
    pub fn leave(&self) -> Vec<u8> {
        // Backwards: the mouse before the alternate screen, as programs do it themselves.
        let mut bytes: Vec<u8> = self.changed.iter().rev().flat_map(|mode| set(*mode, *mode == CURSOR)).collect();
        bytes.extend(b"\x1b[0m");
        bytes
    }

    fn call(&mut self, call: Call) {
        if self.calls.len() < CALLS_MAX && !self.calls.contains(&call) {
            self.calls.push(call);
        }
    }

    fn step(&mut self, byte: u8) -> Seen {
        match (self.state, byte) {
            (State::Text | State::Escape | State::Control, 0x1b) => {
                self.begin(State::Escape);
                Seen::Restart
            }
            (State::Text, _) => Seen::Byte(byte),
            (State::Escape, b'[') => self.go(State::Control, byte),
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => self.go(State::Words, byte),
            // Intermediate bytes of an escape: `ESC ( B`.
            (State::Escape, 0x20..=0x2f) => self.go(State::Escape, byte),
            (State::Control, 0x20..=0x3f) => self.go(State::Control, byte),
            // A control character inside a control sequence is carried out where it stands; CAN and SUB break off.
            (State::Control | State::Escape, 0x00..=0x17 | 0x19 | 0x1c..=0x1f) => Seen::Inside,
            (State::Escape | State::Control, _) => self.end(byte),
            (State::Words, 0x07) => self.end(byte),
            (State::Words, 0x1b) => self.go(State::WordsEscape, byte),
            (State::Words, 0x18 | 0x1a) => self.end(byte),
            (State::Words, _) => self.go(State::Words, byte),
            (State::WordsEscape, b'\\') => self.end(byte),
            // It was the beginning of another sequence.
            (State::WordsEscape, _) => {
                self.begin(State::Escape);
                match self.step(byte) {
                    Seen::Sequence => Seen::Sequence,
                    Seen::Byte(_) | Seen::Inside | Seen::Restart => Seen::Inside,
                }
            }
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.sequence.clear();
        self.sequence.push(0x1b);
    }

    fn go(&mut self, state: State, byte: u8) -> Seen {
        self.state = state;
        if self.sequence.len() < SEQUENCE_BYTES_MAX {
            self.sequence.push(byte);
        }
        Seen::Inside
    }

    fn end(&mut self, byte: u8) -> Seen {
        self.go(State::Text, byte);
        Seen::Sequence
    }

    fn whole_sequence(&mut self) {
        let sequence = std::mem::take(&mut self.sequence);
        if let Some(words) = words_of(&sequence) {
            self.call(Call::Words(words));
        } else if let Some((modes, on)) = modes_of(&sequence) {
            for mode in modes {
                let as_at_first = on == (mode == CURSOR);
                if as_at_first {
                    self.changed.remove(&mode);
                } else {
                    self.changed.insert(mode);
                }
            }
        } else if sequence == b"\x1bc" {
            // A full reset.
            self.changed.clear();
        }
        self.sequence = sequence;
    }
}

/// Most calls that are taken out of one piece of output.
pub const CALLS_MAX: usize = 4;

fn set(mode: u16, on: bool) -> Vec<u8> {
    format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }).into_bytes()
}

/// `ESC [ ? 1 ; 2 h`: the modes that matter, and whether they are set.
fn modes_of(sequence: &[u8]) -> Option<(Vec<u16>, bool)> {
    let inner = sequence.strip_prefix(b"\x1b[?")?;
    let (last, numbers) = inner.split_last()?;
    let on = match last {
        b'h' => true,
        b'l' => false,
        _ => return None,
    };
    let numbers = std::str::from_utf8(numbers).ok()?.split(';').filter_map(|n| n.parse().ok());
    Some((numbers.filter(|n| MODES.contains(n)).collect(), on))
}

/// `ESC ] 9 ; text BEL` (but not `9;4;`, a progress bar) and `ESC ] 777 ; notify ; title ; text BEL`.
fn words_of(sequence: &[u8]) -> Option<String> {
    let inner = sequence.strip_prefix(b"\x1b]")?;
    let inner = inner.strip_suffix(b"\x07").or_else(|| inner.strip_suffix(b"\x1b\\"))?;
    let text = if let Some(text) = inner.strip_prefix(b"777;notify;") {
        String::from_utf8_lossy(text).replacen(';', ": ", 1)
    } else {
        let text = inner.strip_prefix(b"9;")?;
        let first = text.split(|b| *b == b';').next().unwrap_or_default();
        // ConEmu's numbered commands are no words.
        if !first.is_empty() && first.iter().all(u8::is_ascii_digit) && first.len() <= 2 {
            return None;
        }
        String::from_utf8_lossy(text).into_owned()
    };
    Some(one_line(&text))
}

/// One line of at most [`CALL_CHARS_MAX`] characters without anything that a terminal would act on.
pub fn short(text: &str) -> String {
    one_line(text).chars().take(CALL_CHARS_MAX).collect()
}

/// One line of any length without anything that a terminal would act on.
fn one_line(text: &str) -> String {
    let shown = |c: &char| !c.is_control() && !is_invisible(*c);
    text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { c }).filter(shown).collect()
}

/// Does it reorder what stands around it, or stand there unseen?
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Output as it may be shown once more to a terminal that comes later: without bells, without questions that this
/// terminal would answer into the program's input, and without words to anything but the screen (clipboard, titles,
/// notifications).
pub fn again(bytes: &[u8]) -> Vec<u8> {
    let mut follow = Follow::default();
    let (mut out, mut text) = (Vec::with_capacity(bytes.len()), Vec::new());
    for byte in bytes {
        match follow.step(*byte) {
            Seen::Byte(byte) => text.push(byte),
            // A character is not continued behind a sequence.
            Seen::Inside | Seen::Restart => shown_text(&mut text, &mut out),
            Seen::Sequence => {
                shown_text(&mut text, &mut out);
                if allowed::is_for_the_screen(&follow.sequence) {
                    out.extend(&follow.sequence);
                }
            }
        }
    }
    shown_text(&mut text, &mut out);
    out
}

/// Whole characters of UTF-8 alone. U+0080 to U+009F begin sequences like ESC does, in many terminals as characters
/// (`C2 9B`), in some as bytes; a byte of that range that is a part of another character is none.
fn shown_text(text: &mut Vec<u8>, out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        let shown = chunk.valid().chars().filter(|c| !c.is_control() || allowed::CONTROLS.contains(c));
        let mut buffer = [0; 4];
        shown.for_each(|c| out.extend(c.encode_utf8(&mut buffer).as_bytes()));
    }
    text.clear();
}

/// Output as text alone: no escapes, no control characters but line ends and tabs. What a terminal shows of it is
/// what is in it.
pub fn plain(bytes: &[u8]) -> String {
    let mut follow = Follow::default();
    let mut text = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match follow.step(*byte) {
            Seen::Byte(byte) if byte >= 0x20 && byte != 0x7f || byte == b'\n' || byte == b'\t' => text.push(byte),
            Seen::Byte(_) | Seen::Inside | Seen::Sequence | Seen::Restart => {}
        }
    }
    let text = String::from_utf8_lossy(&text);
    // C1 controls (U+0080 to U+009F) are escapes to some terminals.
    text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control() && !is_invisible(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_followed_across_pieces_and_undone_in_reverse() {
        let mut follow = Follow::default();
        for piece in [&b"\x1b[?10"[..], b"49h\x1b[?25l\x1b[?1000;1006h", b"text\x1b[?1000l"] {
            follow.feed(piece);
        }
        assert_eq!(follow.enter(), b"\x1b[?25l\x1b[?1006h\x1b[?1049h");
        assert_eq!(follow.leave(), b"\x1b[?1049l\x1b[?1006l\x1b[?25h\x1b[0m");
        follow.feed(b"\x1bc");
        assert_eq!((follow.enter(), follow.leave()), (vec![], b"\x1b[0m".to_vec()));
    }

    #[test]
    fn a_bell_is_a_call_and_the_end_of_a_title_is_none() {
        let mut follow = Follow::default();
        assert_eq!(follow.feed(b"\x1b]0;a title\x07text"), []);
        assert_eq!(follow.feed(b"\x07\x07"), [Call::Bell]);
        assert_eq!(follow.feed(b"\x1b]9;Claude is wait"), []);
        assert_eq!(follow.feed(b"ing\x1b[\x1b\\"), [], "an escape inside breaks it off");
        assert_eq!(follow.feed(b"\x1b]9;is waiting\x1b\\"), [Call::Words("is waiting".into())]);
        assert_eq!(follow.feed(b"\x1b]9;4;1;50\x07"), [], "a progress bar");
        assert_eq!(follow.feed(b"\x1b]777;notify;Codex;done\x07"), [Call::Words("Codex: done".into())]);
    }

    #[test]
    fn a_notification_moves_no_cursor_and_comes_whole_to_whoever_makes_it_short() {
        let mut follow = Follow::default();
        let long = format!("\x1b]9;a\u{9b}2J\u{202e}b{}\x07", "x".repeat(500));
        let [Call::Words(words)] = &follow.feed(long.as_bytes())[..] else { panic!("one call") };
        assert_eq!((words.chars().count(), &words[..3]), (504, "a2J"));
        assert_eq!(short(words).chars().count(), CALL_CHARS_MAX);
        // Without an end it is never more than the maximum, and what follows its end is text again.
        follow.feed(b"\x1b]9;");
        for _ in 0..100 {
            follow.feed(&[b'y'; 1000]);
        }
        assert!(follow.sequence.len() <= SEQUENCE_BYTES_MAX);
    }

    #[test]
    fn what_is_shown_again_asks_nothing_of_the_terminal() {
        let shown = again(
            b"a\x1b[c\x1b[6n\x1b[31mred\x1b]52;c;ZXZpbA==\x07\x07\x1bP+q544e\x1b\\\x1b[2J\x1b[>1u\x1b(Bz\x1b[?1049h",
        );
        assert_eq!(shown, b"a\x1b[31mred\x1b[2J\x1b(Bz\x1b[?1049h");
    }

    #[test]
    fn what_begins_a_sequence_without_an_escape_is_not_shown_again_and_other_characters_are() {
        let c1 = "a\u{9d}52;c;ZXZpbA==\u{9c}\u{9b}6n\u{9b}c\u{90}$qm\u{9c}z";
        assert_eq!(again(c1.as_bytes()), b"a52;c;ZXZpbA==6nc$qmz");
        assert_eq!(again(b"a\x9bc\x9d52;c;x\x9cz\xc2\x1b[31m\x9b6n"), b"ac52;c;xz\x1b[31m6n");
        // Their second octets are of the same range.
        let text = "\u{11b}\u{d0}\u{e9} \u{65e5}\u{672c} \u{1f600}";
        assert_eq!(again(text.as_bytes()), text.as_bytes());
    }

    #[test]
    fn sequences_that_are_not_known_to_be_harmless_are_not_shown_again() {
        let questions = [
            "1$w",
            "1;1;1;1;1;1*y",
            "1'|",
            "?2;1;0S",
            "#R",
            "1;2#|",
            "?1$p",
            ">0q",
            "5i",
            "?2048h",
            "?2l",
            "2h",
            "?u",
            "0t",
            "1;2;3;4;5T",
            "?996n",
            "!p",
            "0x",
            "1+T",
            "?1;2c",
            "1;?2m",
            "?15n",
        ];
        for question in questions {
            let shown = again(format!("a\x1b[{question}z").as_bytes());
            assert!(
                shown.starts_with(b"a") && !shown.contains(&0x1b),
                "{question}: {:?}",
                String::from_utf8_lossy(&shown)
            );
        }
        for question in ["Z", " G", "%@", "([6n", "P$qm", "\\"] {
            assert!(!again(format!("a\x1b{question}z").as_bytes()).contains(&0x1b), "{question}");
        }
        let harmless = "\x1b[4 q\x1b[38;2;1;2;3;4:3m\x1b[10;20H\x1b[2J\x1b[1;24r\x1b7\x1b8\x1b(0\x1b[?25;12l\x1b[u\x1b[4h\x1b=\x1b#8\x1bM";
        assert_eq!(again(harmless.as_bytes()), harmless.as_bytes());
    }

    #[test]
    fn plain_text_holds_nothing_that_a_terminal_acts_on() {
        assert_eq!(plain(b"a\x1b[2Jb\r\n\x1b]0;t\x07c\x08\td\xc2\x9b2J\x9b3"), "ab\nc\td2J\u{fffd}3");
    }

    mod laws {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn pieces_change_nothing(bytes in proptest::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b']'), Just(0x07), Just(b'?'), Just(b'h'), any::<u8>()], 0..300), cut in 0_usize..300) {
                let (mut whole, mut parts) = (Follow::default(), Follow::default());
                whole.feed(&bytes);
                let cut = cut.min(bytes.len());
                parts.feed(&bytes[..cut]);
                parts.feed(&bytes[cut..]);
                prop_assert_eq!(whole.enter(), parts.enter());
                prop_assert_eq!(&whole.sequence, &parts.sequence);
            }

            #[test]
            fn what_is_shown_again_is_text_and_allowed_sequences_for_every_input(bytes in proptest::collection::vec(prop_oneof![
                4 => prop::sample::select(&b"\x1b\x1b\x1b[[[]PZ()?;:$'#*! 0125cnpqtuxyhlmwSR|HJ\x07\x18\\"[..]),
                2 => prop::sample::select(&[0xc2, 0x9b, 0x9d, 0x9c, 0x90, 0xc4, 0xe2, 0x80][..]),
                1 => any::<u8>(),
            ], 0..300)) {
                let shown = again(&bytes);
                prop_assert!(allowed::tests::is_allowed(&shown), "{:?}", String::from_utf8_lossy(&shown));
                prop_assert_eq!(again(&shown), shown);
            }

            #[test]
            fn plain_is_plain_for_every_input(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
                let text = plain(&bytes);
                prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
                prop_assert_eq!(plain(text.as_bytes()), text);
            }
        }
    }
}
