//! Text on the screen: cleaned, cut to its place, in one of few styles.
//!
//! *Must never* put a character there that moves a cursor, turns a line round, or is wider than it says.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use crate::report::{printable, width};
use crate::top::figures::Level;

/// Most characters of a text that are looked at: a screen is not wider.
const CHARS_MAX: usize = 1_024;

/// How the screen looks: what the person's terminal can show, and the host's clock.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub colour: bool,
    pub ascii: bool,
    /// A moment, seen from another one, as it is said on this host.
    pub local: fn(u64, u64) -> String,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
    /// The bar along the top, and what is selected.
    Turned,
    Level(Level),
}

impl Look {
    /// The terminal's own colours alone, and never one for the ground: it is readable on light and dark ones.
    pub fn style(&self, tone: Tone) -> Style {
        let plain = Style::new();
        let coloured = |colour| if self.colour { plain.fg(colour) } else { plain };
        match tone {
            Tone::Plain => plain,
            Tone::Strong => plain.add_modifier(Modifier::BOLD),
            Tone::Faint => plain.add_modifier(Modifier::DIM),
            Tone::Good => coloured(Color::Green),
            // Yellow cannot be read on white; magenta can on both.
            Tone::Warn => coloured(Color::Magenta).add_modifier(Modifier::BOLD),
            Tone::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Turned => plain.add_modifier(Modifier::REVERSED),
            Tone::Level(Level::Low) => coloured(Color::Green),
            Tone::Level(Level::Half) => coloured(Color::Cyan),
            Tone::Level(Level::Much) => coloured(Color::Yellow),
            Tone::Level(Level::NearlyAll) => coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// The one of two that the terminal can show.
    pub fn pick(&self, wide: &'static str, ascii: &'static str) -> &'static str {
        if self.ascii { ascii } else { wide }
    }

    /// A text that does nothing to a terminal.
    pub fn clean(&self, text: &str) -> String {
        let text: String = text.chars().take(CHARS_MAX).collect();
        let shown = |c: char| match c {
            // They choose between forms of what is before them, and terminals disagree about the width of those.
            '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => None,
            c if self.ascii && !c.is_ascii() => Some('?'),
            c => Some(c),
        };
        printable(&text).chars().filter_map(shown).collect()
    }
}

/// A part of the screen.
pub struct Canvas<'b> {
    pub buffer: &'b mut Buffer,
    pub area: Rect,
    pub look: Look,
}

impl<'b> Canvas<'b> {
    /// A smaller part of it.
    pub fn part(&mut self, area: Rect) -> Canvas<'_> {
        Canvas { area: area.intersection(self.area), buffer: self.buffer, look: self.look }
    }

    /// Writes from a column of a line on, in at most so many columns; the column after it.
    pub fn put(&mut self, x: u16, y: u16, columns: u16, text: &str, tone: Tone) -> u16 {
        let (left, room) = (self.area.x.saturating_add(x), self.area.width.saturating_sub(x).min(columns));
        if y >= self.area.height || room == 0 {
            return x;
        }
        let text = self.cut(&self.look.clean(text), usize::from(room));
        let style = self.look.style(tone);
        let (end, _) = self.buffer.set_stringn(left, self.area.y + y, &text, usize::from(room), style);
        end.saturating_sub(self.area.x)
    }

    /// Writes so that it ends before a column.
    pub fn put_right(&mut self, end: u16, y: u16, columns: u16, text: &str, tone: Tone) {
        let text = self.cut(&self.look.clean(text), usize::from(columns));
        let wide = u16::try_from(width(&text)).unwrap_or(columns);
        self.put(end.saturating_sub(wide), y, columns, &text, tone);
    }

    /// Parts one after the other on a line; the column after them.
    pub fn line(&mut self, y: u16, parts: &[(String, Tone)]) -> u16 {
        parts.iter().fold(0, |x, (text, tone)| self.put(x, y, u16::MAX, text, *tone))
    }

    /// A style over what stands in a line already.
    pub fn tint(&mut self, y: u16, tone: Tone) {
        if y < self.area.height {
            let line = Rect::new(self.area.x, self.area.y + y, self.area.width, 1);
            self.buffer.set_style(line, self.look.style(tone));
        }
    }

    /// What does not fit ends in a mark.
    fn cut(&self, text: &str, columns: usize) -> String {
        if width(text) <= columns {
            return text.to_owned();
        }
        let mark = self.look.pick("…", "~");
        let mut kept = String::new();
        let mut wide = 0;
        for c in text.chars() {
            let more = width(c.encode_utf8(&mut [0; 4]));
            if wide + more + 1 > columns {
                break;
            }
            wide += more;
            kept.push(c);
        }
        kept + mark
    }
}
