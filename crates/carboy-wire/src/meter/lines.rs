//! The `data` of server-sent events, passed on as it comes and never collected (WHATWG HTML, "Server-sent events").

use crate::json::runs;

/// Longest field name that matters (`data`), with its colon and the space after it.
const HEAD_BYTES_MAX: usize = 8;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A part of an event's data; the line feed between two `data` lines is white space to JSON and left out.
    Data(&'a [u8]),
    /// `data: [DONE]`
    Done,
    /// The blank line.
    EventEnds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The field's name is being read.
    Head,
    /// In the value of a `data` line, at its beginning (`[DONE]` is told from JSON there).
    Value,
    Data,
    /// In a line that does not matter.
    Skip,
}

#[derive(Clone, Debug)]
pub(crate) struct Lines {
    place: Place,
    head: Vec<u8>,
    after_cr: bool,
    at_start: bool,
    /// The present event has data, in a line that ended or in this one.
    has_data: bool,
}

/// What has to be written before anything else can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// Nothing: no event has begun, or none that would come to be one.
    Nothing,
    /// The beginning of the mark that ends a stream; this completes it.
    Done(&'static str),
    /// An event with data, of which this line is not ended.
    InLine,
    /// An event with data, at the beginning of a line.
    BetweenLines,
}

impl Lines {
    pub(crate) fn new() -> Lines {
        Lines { place: Place::Head, head: Vec::new(), after_cr: false, at_start: true, has_data: false }
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut hear: impl FnMut(Piece<'_>)) {
        while let Some((&byte, next)) = bytes.split_first() {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                bytes = next;
                continue;
            }
            if matches!(byte, b'\r' | b'\n') {
                self.after_cr = byte == b'\r';
                self.line_ends(&mut hear);
                bytes = next;
                continue;
            }
            let (part, rest) = bytes.split_at(runs::line(bytes));
            self.part(part, &mut hear);
            bytes = rest;
        }
    }

    fn part(&mut self, mut part: &[u8], hear: &mut impl FnMut(Piece<'_>)) {
        while let Some((&byte, next)) = part.split_first() {
            match self.place {
                Place::Head if self.head.is_empty() && part.starts_with(b"data:") => {
                    (self.place, self.has_data) = (Place::Value, true);
                    part = &part[b"data:".len()..];
                }
                // Neither `data` nor a mark before it.
                Place::Head if self.head.is_empty() && !matches!(byte, b'd' | b'\xef') => self.place = Place::Skip,
                Place::Head => {
                    self.head.push(byte);
                    part = next;
                    if byte == b':' {
                        self.place = if self.name() == b"data:" { Place::Value } else { Place::Skip };
                        self.has_data |= self.place == Place::Value;
                        self.head.clear();
                    } else if self.head.len() > HEAD_BYTES_MAX {
                        self.place = Place::Skip;
                    }
                }
                Place::Value => {
                    // One space after the colon is not part of the value; more of them are white space to JSON.
                    let mark = b"[DONE]";
                    if byte == b' ' && self.head.is_empty() {
                        part = next;
                    } else if self.head.len() < mark.len() && mark[self.head.len()] == byte {
                        self.head.push(byte);
                        part = next;
                    } else {
                        if !self.head.is_empty() {
                            hear(Piece::Data(&self.head));
                            self.head.clear();
                        }
                        self.place = Place::Data;
                    }
                }
                Place::Data => {
                    hear(Piece::Data(part));
                    return;
                }
                Place::Skip => return,
            }
        }
    }

    /// How the stream stands. What ends a line of no importance is appended to `out`.
    pub(crate) fn open(&self, out: &mut Vec<u8>) -> Open {
        if self.after_cr {
            // Both are one line's end; a line feed on its own would be.
            out.push(b'\n');
        }
        match self.place {
            Place::Value if self.head.is_empty() => Open::InLine,
            // Events are maps: a bracket begins nothing else.
            Place::Value => Open::Done("[DONE]".get(self.head.len()..).unwrap_or_default()),
            Place::Data => Open::InLine,
            // Without its colon the line would be one of data as well.
            Place::Head if self.name() == b"data" => {
                out.push(b':');
                Open::InLine
            }
            Place::Head | Place::Skip => {
                if self.place == Place::Skip || !self.name().is_empty() {
                    out.push(b'\n');
                }
                if self.has_data { Open::BetweenLines } else { Open::Nothing }
            }
        }
    }

    /// What was read of the line; a mark may stand before the first one.
    fn name(&self) -> &[u8] {
        match self.head.strip_prefix(BOM) {
            Some(name) if self.at_start => name,
            Some(_) | None => &self.head,
        }
    }

    fn line_ends(&mut self, hear: &mut impl FnMut(Piece<'_>)) {
        match self.place {
            Place::Head if self.name().is_empty() => {
                self.has_data = false;
                hear(Piece::EventEnds);
            }
            Place::Value if self.head == b"[DONE]" => hear(Piece::Done),
            Place::Value => hear(Piece::Data(&self.head)),
            Place::Data => hear(Piece::Data(b"\n")),
            Place::Head | Place::Skip => {}
        }
        self.place = Place::Head;
        self.head.clear();
        self.at_start = false;
    }
}
