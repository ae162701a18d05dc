//! Server-sent events (WHATWG HTML, "Server-sent events"): an incremental parser and its encoder.
//!
//! The parser takes the bytes of a stream in any split and gives the same events. It never holds more than its bound
//! and never guesses: a stream that exceeds the bound is an error, for good.

use std::borrow::Cow;

/// Bound that suits LLM streams: single events above 1 MiB occur (images, tool arguments), above 8 MiB none is known.
pub const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event. `retry` fields and comments are no events and are not reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event` field; empty means `message`.
    pub name: String,
    /// The `data` lines, joined by line feeds.
    pub data: String,
    /// The `id` field, when this very event carries one.
    pub id: Option<String>,
}

/// The stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event, or one comment line, is larger than the parser may hold.
    #[error("a server-sent event is larger than {bytes_max} bytes; end the stream or raise the bound")]
    EventTooLarge {
        /// The bound that was passed.
        bytes_max: usize,
    },
}

/// Finds the events in a byte stream.
///
/// An event counts once its blank line is there; what is unfinished when the stream ends is no event, as the standard
/// says. [`Parser::is_idle`] tells a clean end from a cut one.
#[derive(Debug)]
pub struct Parser {
    bytes_max: usize,
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    at_start: bool,
    after_cr: bool,
    failed: Option<SseError>,
}

impl Parser {
    /// `bytes_max` bounds one event together with the line that is being read; see [`EVENT_BYTES_MAX`].
    pub fn new(bytes_max: usize) -> Self {
        Parser {
            bytes_max,
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            at_start: true,
            after_cr: false,
            failed: None,
        }
    }

    /// Reads on and appends the events that became complete. After an error every further call fails the same way.
    pub fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !bytes.is_empty() {
            // The line of a CR ended with the CR, so that a lone CR does not wait for the next chunk.
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.held_bytes() + self.line.len() + part.len() > self.bytes_max {
                let error = SseError::EventTooLarge { bytes_max: self.bytes_max };
                self.failed = Some(error);
                self.line = Vec::new();
                self.event = Event::default();
                return Err(error);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            events.extend(self.end_line());
        }
        Ok(())
    }

    /// Nothing of an unfinished line or event is held: the stream may end here without loss.
    pub fn is_idle(&self) -> bool {
        self.line.is_empty() && !self.has_data && self.event == Event::default()
    }

    fn held_bytes(&self) -> usize {
        self.event.name.len() + self.event.data.len() + self.event.id.as_ref().map_or(0, String::len)
    }

    fn end_line(&mut self) -> Option<Event> {
        let mut line = std::mem::take(&mut self.line);
        let skipped = if std::mem::take(&mut self.at_start) && line.starts_with(BOM) { BOM.len() } else { 0 };
        let text = &line[skipped..];
        let event = if text.is_empty() {
            self.dispatch()
        } else {
            self.field(text);
            None
        };
        line.clear();
        self.line = line;
        event
    }

    fn dispatch(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        std::mem::take(&mut self.has_data).then_some(event)
    }

    fn field(&mut self, line: &[u8]) {
        let (name, value) = match line.iter().position(|b| *b == b':') {
            // A comment; servers send them to keep the connection alive.
            Some(0) => return,
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match name {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(&value);
            }
            b"event" => self.event.name = value.into_owned(),
            b"id" if !value.contains('\0') => self.event.id = Some(value.into_owned()),
            _ => {}
        }
    }
}

impl Event {
    /// An event with a name; an empty one leaves the `event` line out.
    pub fn new(name: impl Into<String>, data: impl Into<String>) -> Self {
        Event { name: name.into(), data: data.into(), id: None }
    }

    /// Appends the event as it stands on the wire, with line feeds. Every kind of line break in `data` starts a new
    /// `data` line; in `name` and `id`, which have one line each, a line break becomes a space, so that no value can
    /// smuggle in an event of its own.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if !self.name.is_empty() {
            encode_field(out, "event", &one_line(&self.name));
        }
        if let Some(id) = &self.id {
            encode_field(out, "id", &one_line(id));
        }
        let data = if self.data.contains('\r') {
            Cow::Owned(self.data.replace("\r\n", "\n").replace('\r', "\n"))
        } else {
            Cow::Borrowed(&self.data[..])
        };
        for line in data.split('\n') {
            encode_field(out, "data", line);
        }
        out.push(b'\n');
    }
}

fn encode_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\r', '\n']) { Cow::Owned(text.replace(['\r', '\n'], " ")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(stream: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        Parser::new(EVENT_BYTES_MAX).feed(stream, &mut events).unwrap();
        events
    }

    #[test]
    fn every_line_ending_ends_a_line() {
        let want = vec![Event::new("a", "1\n2"), Event::new("", "3")];
        for end in ["\n", "\r", "\r\n"] {
            assert_eq!(parse(["event: a", "data: 1", "data:2", "", "data: 3", "", ""].join(end).as_bytes()), want);
        }
        assert_eq!(parse(b"event: a\rdata: 1\r\ndata: 2\n\r\ndata: 3\r\r"), want);
    }

    #[test]
    fn a_mark_comments_and_unknown_fields_are_passed_over() {
        assert_eq!(parse(b"\xef\xbb\xbf: hi\nretry: 10\nfoo: bar\ndata: x\n\n"), vec![Event::new("", "x")]);
        assert_eq!(parse(b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n"), vec![Event::new("", "x")]);
    }

    #[test]
    fn an_event_without_data_is_none_and_one_with_empty_data_is_one() {
        assert_eq!(parse(b"event: a\n\nevent: b\ndata\n\n"), vec![Event::new("b", "")]);
        assert_eq!(parse(b"data:  two\n\n"), vec![Event::new("", " two")]);
    }

    #[test]
    fn an_id_with_a_nul_is_ignored_and_bad_utf8_is_replaced() {
        let event = Event { id: Some("7".into()), ..Event::new("", "\u{fffd}") };
        assert_eq!(parse(b"id: 7\nid: 8\0\ndata: \xff\n\n"), vec![event]);
    }

    #[test]
    fn an_unfinished_event_is_none_and_shows() {
        let mut parser = Parser::new(64);
        let mut events = Vec::new();
        parser.feed(b"data: x\n", &mut events).unwrap();
        assert!(events.is_empty() && !parser.is_idle());
        parser.feed(b"\n", &mut events).unwrap();
        assert!(events.len() == 1 && parser.is_idle());
    }

    #[test]
    fn an_event_beyond_the_bound_ends_the_stream_for_good() {
        for stream in
            [&b"data: 0123456789\ndata: 0123456789\n\n"[..], b":01234567890123456789", b"01234567890123456789"]
        {
            let mut parser = Parser::new(16);
            let mut events = Vec::new();
            let error = SseError::EventTooLarge { bytes_max: 16 };
            assert_eq!(parser.feed(stream, &mut events), Err(error));
            assert_eq!(parser.feed(b"\n", &mut events), Err(error));
            assert!(events.is_empty());
        }
    }

    proptest! {
        #[test]
        fn chunking_never_changes_events(
            stream in "(\u{feff})?((data|event|id|retry|x|)(: ?[a-zé:\0]{0,8})?(\r\n|\r|\n)){0,24}",
            cuts in prop::collection::vec(0_usize..200, 0..8),
            bytes_max in prop_oneof![Just(24_usize), Just(EVENT_BYTES_MAX)],
        ) {
            let stream = stream.as_bytes();
            let mut whole = Vec::new();
            let result = Parser::new(bytes_max).feed(stream, &mut whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::new(bytes_max);
            let mut split = Vec::new();
            let mut last = Ok(());
            for pair in cuts.windows(2) {
                last = parser.feed(&stream[pair[0]..pair[1]], &mut split);
            }
            prop_assert_eq!(split, whole);
            prop_assert_eq!(last, result);
        }

        #[test]
        fn what_is_encoded_comes_back(name in "[a-z. ]{0,8}", data in "[ -~é\n]{0,40}", id in prop::option::of("[a-z]{0,4}")) {
            let name = name.trim_start().to_owned();
            let event = Event { name, data, id };
            let mut wire = Vec::new();
            event.encode(&mut wire);
            event.encode(&mut wire);
            prop_assert_eq!(parse(&wire), vec![event.clone(), event]);
        }

        #[test]
        fn no_value_smuggles_in_an_event(name in "[a\r\n:]{0,8}", data in "[a\r\n:]{0,12}") {
            let mut wire = Vec::new();
            Event::new(name, data).encode(&mut wire);
            prop_assert_eq!(parse(&wire).len(), 1);
        }
    }
}
