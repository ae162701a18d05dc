//! About how many tokens a text has, without a vocabulary (C5): for gates that warn and for what a person is shown.
//!
//! Words, figures and signs are told apart and weighed; the weights were fitted to an independent reconstruction of the
//! densest of the current tokenizers (ctok 1.3.0, family 4.7). On the samples of the tests it is within a fifth of that,
//! where a quarter of the octets is 12 % (Russian) to 74 % (base64) below or above it.

/// Thousandths of a token.
const WORD: u64 = 1850;
/// A word is that up to so many letters, and more for each one beyond.
const WORD_LETTERS: u64 = 12;
const LETTER: u64 = 400;
const DIGIT: u64 = 430;
const SPACES: u64 = 720;
const SIGN: u64 = 870;
const LATIN: u64 = 900;
const ALPHABETIC: u64 = 500;
const SYLLABLE: u64 = 1430;
const IDEOGRAPH: u64 = 1030;
const BEYOND: u64 = 2900;
const BROKEN: u64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Upper,
    /// The second one or a later one of capitals.
    Uppers,
    Lower,
    Space,
    Spaces,
    Other,
}

/// About how many tokens these octets of a request are; `text` is the body as it is sent. Off by a fifth in what people and
/// programs write, and no bound of anything: see [`input_bound`](super::input_bound).
pub fn count_tokens(text: &[u8]) -> u64 {
    let mut milli: u64 = 0;
    let mut last = Last::Other;
    let mut letters = 0;
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let (weight, now) = weigh(c, last, &mut letters);
            milli = milli.saturating_add(weight);
            last = now;
        }
        milli = milli.saturating_add(BROKEN.saturating_mul(chunk.invalid().len() as u64));
    }
    milli.div_ceil(1000)
}

/// What a character adds: the first letter of a word all of it, the second of two spaces both of them.
fn weigh(c: char, last: Last, letters: &mut u64) -> (u64, Last) {
    match c {
        // `camelCase` is two words and `HTTPServer` as well; `HTTP` is one.
        'a'..='z' => (word(matches!(last, Last::Lower | Last::Upper), letters), Last::Lower),
        'A'..='Z' if matches!(last, Last::Upper | Last::Uppers) => (word(true, letters), Last::Uppers),
        'A'..='Z' => (word(false, letters), Last::Upper),
        '0'..='9' => (DIGIT, Last::Other),
        // An indentation; one space alone belongs to the word behind it.
        ' ' if last == Last::Space => (SPACES, Last::Spaces),
        ' ' => (0, if last == Last::Spaces { Last::Spaces } else { Last::Space }),
        '\n' | '\r' | '\t' => (0, Last::Other),
        '!'..='~' => (SIGN, Last::Other),
        '\u{0}'..='\u{7f}' => (BROKEN, Last::Other),
        '\u{80}'..='\u{24f}' => (LATIN, Last::Other),
        '\u{250}'..='\u{10ff}' => (ALPHABETIC, Last::Other),
        '\u{ac00}'..='\u{d7af}' => (SYLLABLE, Last::Other),
        '\u{10000}'.. => (BEYOND, Last::Other),
        _ => (IDEOGRAPH, Last::Other),
    }
}

fn word(goes_on: bool, letters: &mut u64) -> u64 {
    *letters = if goes_on { *letters + 1 } else { 1 };
    match (goes_on, *letters > WORD_LETTERS) {
        (false, _) => WORD,
        (true, true) => LETTER,
        (true, false) => 0,
    }
}
