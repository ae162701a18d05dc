//! A regular expression over a stream: it knows, byte by byte, whether a match may still be under way.
//!
//! ```text
//!  place ─▶ lazy DFA, anchored there ─▶ dead: the longest match, or none        alive at the end: hold from that place
//! ```
//!
//! What matches at a place depends on the text alone and never on how it was cut. Linear in the longest match for each
//! place, and most places end at their first byte. *Must never* look further than its rule's most octets.

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Hir, HirKind, Look};

use crate::pattern::{PatternError, compile_error};
use crate::view::More;
use crate::window::Window;

/// Octets of the compiled program of one pattern.
const PROGRAM_BYTES_MAX: usize = 1024 * 1024;
/// Octets of the states of one pattern that a scan keeps.
const CACHE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Whether `\w`, `\d` and letters without case are those of ASCII or of Unicode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    Ascii,
    Unicode,
}

pub(super) struct Bounded {
    dfa: DFA,
    /// Bytes that a match can begin with.
    first: Box<[bool; 256]>,
    bytes_max: usize,
}

/// What is at a place.
pub(super) enum Fate {
    /// A match may be under way.
    Open,
    Nothing,
    Match {
        /// Index behind it.
        end: usize,
    },
}

impl Bounded {
    pub(super) fn new(pattern: &str, alphabet: Alphabet, bytes_max: usize) -> Result<Bounded, PatternError> {
        let config = syntax::Config::new().unicode(alphabet == Alphabet::Unicode).utf8(false);
        let hir = syntax::parse_with(pattern, &config).map_err(|error| compile_error(pattern, &error))?;
        if hir.properties().minimum_len().is_none_or(|len| len == 0) {
            return Err(PatternError::MatchesEmpty { pattern: pattern.to_owned() });
        }
        let program = thompson::Config::new()
            .utf8(false)
            .nfa_size_limit(Some(PROGRAM_BYTES_MAX))
            .which_captures(thompson::WhichCaptures::None);
        let nfa = thompson::Compiler::new()
            .configure(program)
            .build_from_hir(&ascii_boundaries(hir))
            .map_err(|error| compile_error(pattern, &error))?;
        // All matches, so that the longest is known: what is overwritten is better too long than too short.
        let config = DFA::config().match_kind(MatchKind::All).cache_capacity(CACHE_BYTES_MAX);
        let dfa =
            DFA::builder().configure(config).build_from_nfa(nfa).map_err(|error| compile_error(pattern, &error))?;
        let mut this = Bounded { dfa, first: Box::new([true; 256]), bytes_max };
        this.first = this.first_bytes();
        Ok(this)
    }

    pub(super) fn cache(&self) -> Cache {
        self.dfa.create_cache()
    }

    fn first_bytes(&self) -> Box<[bool; 256]> {
        let mut cache = self.cache();
        let mut first = Box::new([false; 256]);
        for byte in 0..=255u8 {
            let alone = ([byte, b' '], 0);
            // Every kind of byte that a look-behind tells apart.
            let behind = [b'a', b' ', b'\n', b'\r', 0x80].map(|before| ([before, byte], 1));
            first[usize::from(byte)] = std::iter::once(alone).chain(behind).any(|(data, at)| {
                let input = Input::new(&data).range(at..).anchored(Anchored::Yes);
                let next = self
                    .dfa
                    .start_state_forward(&mut cache, &input)
                    .ok()
                    .and_then(|start| self.dfa.next_state(&mut cache, start, byte).ok());
                next.is_none_or(|state| !state.is_dead())
            });
        }
        first
    }

    /// Can a match begin with this byte?
    pub(super) fn begins_with(&self, byte: u8) -> bool {
        self.first[usize::from(byte)]
    }

    /// What is at this index of the window?
    pub(super) fn at(&self, cache: &mut Cache, window: &Window<'_>, start: usize) -> Fate {
        let data = window.data;
        let input = Input::new(data).range(start..).anchored(Anchored::Yes);
        // Neither can fail: no byte makes such a DFA give up, and a full cache is emptied. If one does, a match is the safe
        // thing to believe.
        let gave_up = Fate::Match { end: (start + 1).min(data.len()) };
        let Ok(mut state) = self.dfa.start_state_forward(cache, &input) else { return gave_up };
        let mut longest = None;
        for (at, &byte) in data.iter().enumerate().skip(start) {
            let Ok(next) = self.dfa.next_state(cache, state, byte) else { return gave_up };
            state = next;
            if state.is_dead() {
                return ended(longest);
            }
            // A match shows one byte late.
            if state.is_match() {
                longest = Some(at);
            }
            if at - start >= self.bytes_max {
                return ended(longest);
            }
        }
        if window.more == More::Open {
            return Fate::Open;
        }
        let Ok(state) = self.dfa.next_eoi_state(cache, state) else { return gave_up };
        ended(if state.is_match() { Some(data.len()) } else { longest })
    }
}

fn ended(longest: Option<usize>) -> Fate {
    longest.map_or(Fate::Nothing, |end| Fate::Match { end })
}

/// The same expression with word boundaries of ASCII: those of Unicode need to see characters, not bytes. Where they
/// differ, these see a boundary more.
fn ascii_boundaries(hir: Hir) -> Hir {
    const PAIRS: [(Look, Look); 6] = [
        (Look::WordUnicode, Look::WordAscii),
        (Look::WordUnicodeNegate, Look::WordAsciiNegate),
        (Look::WordStartUnicode, Look::WordStartAscii),
        (Look::WordEndUnicode, Look::WordEndAscii),
        (Look::WordStartHalfUnicode, Look::WordStartHalfAscii),
        (Look::WordEndHalfUnicode, Look::WordEndHalfAscii),
    ];
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(PAIRS.iter().find(|(from, _)| *from == look).map_or(look, |(_, to)| *to)),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(ascii_boundaries(*repetition.sub));
            Hir::repetition(repetition)
        }
        HirKind::Capture(mut capture) => {
            capture.sub = Box::new(ascii_boundaries(*capture.sub));
            Hir::capture(capture)
        }
        HirKind::Concat(all) => Hir::concat(all.into_iter().map(ascii_boundaries).collect()),
        HirKind::Alternation(all) => Hir::alternation(all.into_iter().map(ascii_boundaries).collect()),
    }
}
