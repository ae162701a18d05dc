//! Words put into lines of a window, also where they come piece by piece.
//!
//! Lines of the text itself stay, and so does a command in backticks, so that it can be copied. A word that is longer than
//! a line is left to the terminal; scripts without blanks go on in the next line between any two of their characters.

use super::fit::width;

/// Where the next character will stand.
#[derive(Default)]
pub struct Flow {
    /// Columns of the line that are taken.
    at: usize,
    /// Blanks that are due before the next word, and go where a line ends.
    blanks: usize,
    /// Columns before the lines that a line of the text goes on in.
    hang: usize,
}

impl Flow {
    /// At the beginning of a line; its further lines are that far in.
    pub fn hanging(hang: usize) -> Flow {
        Flow { at: 0, blanks: 0, hang }
    }

    /// A whole text whose lines have no label.
    pub fn whole(text: &str, columns: Option<usize>) -> String {
        Flow::default().piece(text, columns)
    }

    /// The next piece of a text whose lines have no label; an item of a list goes on below its own words.
    /// Without a window it is as it is.
    pub fn piece(&mut self, text: &str, columns: Option<usize>) -> String {
        let Some(columns) = columns else { return text.to_owned() };
        let mut out = String::with_capacity(text.len() + 64);
        for line in text.split_inclusive('\n') {
            if self.at == 0 {
                self.hang = item(line).min(columns / 2);
            }
            self.line(line, columns, &mut out);
        }
        out
    }

    /// One line, or a part of it.
    pub fn line(&mut self, line: &str, columns: usize, out: &mut String) {
        let (text, ends) = line.strip_suffix('\n').map_or((line, false), |text| (text, true));
        let mut rest = text;
        loop {
            let word_at = rest.len() - rest.trim_start_matches(' ').len();
            self.blanks += word_at;
            rest = &rest[word_at..];
            if rest.is_empty() {
                break;
            }
            let (word, after) = rest.split_at(word_end(rest));
            self.word(word, columns, out);
            rest = after;
        }
        if ends {
            *self = Flow::default();
            out.push('\n');
        }
    }

    fn word(&mut self, word: &str, columns: usize, out: &mut String) {
        let wide = width(word);
        let blanks = std::mem::take(&mut self.blanks);
        if self.at + blanks + wide > columns && self.at > self.hang {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', self.hang));
            self.at = self.hang;
        } else {
            out.extend(std::iter::repeat_n(' ', blanks));
            self.at += blanks;
        }
        out.push_str(word);
        self.at += wide;
        if self.at > columns {
            // The terminal has gone on in its next line.
            self.at = (self.at - 1) % columns + 1;
        }
    }
}

/// Where a word ends: at a blank that stands in no pair of backticks, or beside a character of two columns.
fn word_end(text: &str) -> usize {
    let (mut quoted, mut before) = (false, None);
    for (at, c) in text.char_indices() {
        match c {
            '`' => quoted = !quoted && text[at + 1..].contains('`'),
            ' ' if !quoted => return at,
            _ => {}
        }
        if !quoted && before.is_some_and(|before| is_between(before, c)) {
            return at;
        }
        before = Some(c);
    }
    text.len()
}

/// May a line end between the two? Beside a wide character, but not before what closes or changes it.
fn is_between(before: char, c: char) -> bool {
    let joins = |c: char| matches!(c, '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{1f1e6}'..='\u{1f1ff}');
    let opens = |c: char| matches!(c, '(' | '[' | '"' | '\'' | '“' | '‘' | '（' | '「' | '『' | '【' | '《' | '〈');
    let closes = |c: char| {
        matches!(
            c,
            '、' | '。'
                | '，'
                | '．'
                | '：'
                | '；'
                | '？'
                | '！'
                | '）'
                | '」'
                | '』'
                | '】'
                | '》'
                | '〉'
                | '”'
                | '’'
                | '…'
                | 'ー'
                | '々'
        )
    };
    (wide(before) || wide(c))
        && !joins(before)
        && !joins(c)
        && !opens(before)
        && !closes(c)
        && !c.is_ascii_punctuation()
        && one(c) > 0
}

fn wide(c: char) -> bool {
    one(c) > 1
}

fn one(c: char) -> usize {
    if c.is_ascii() { 1 } else { width(c.encode_utf8(&mut [0; 4])) }
}

/// Columns before the words of a list's item, or of a line that begins further in.
fn item(line: &str) -> usize {
    let text = line.trim_start_matches(' ');
    let lead = line.len() - text.len();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let mark = match text.strip_prefix(['-', '*', '+', '•']) {
        Some(_) => 1,
        None if (1..=3).contains(&digits) && text[digits..].starts_with(['.', ')']) => digits + 1,
        None => return lead,
    };
    if text.chars().nth(mark) == Some(' ') { lead + mark + 1 } else { lead }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(columns: usize, pieces: &[&str]) -> String {
        let mut flow = Flow::default();
        pieces.iter().map(|piece| flow.piece(piece, Some(columns))).collect()
    }

    #[test]
    fn sentences_that_come_one_by_one_fill_the_lines_as_the_whole_would() {
        let want = "Agent: One sentence. Another\none, and a third.\n\nA line of\nits own\n";
        let all = "Agent: One sentence. Another one, and a third.\n\nA line of\nits own\n";
        assert_eq!(
            pieces(28, &["Agent: One sentence. ", "Another one, ", "and a third.\n\nA line of\nits own\n"]),
            want
        );
        assert_eq!(pieces(28, &[all]), want);
        assert_eq!(
            pieces(28, &["Agent: One sentence.", " Another one,", " and a third.\n\nA line of\nits own\n"]),
            want
        );
    }

    #[test]
    fn an_item_goes_on_below_its_own_words_and_a_command_stays_whole() {
        assert_eq!(
            pieces(20, &["1. a list of several words\n- and another of them\n"]),
            "1. a list of several\n   words\n- and another of\n  them\n"
        );
        assert_eq!(pieces(20, &["Now type `carboy ps -a` here."]), "Now type\n`carboy ps -a` here.");
        assert_eq!(
            pieces(20, &["see https://example.com/a/long/path there"]),
            "see\nhttps://example.com/a/long/path there"
        );
    }

    #[test]
    fn characters_of_two_columns_count_twice_and_a_picture_is_not_taken_apart() {
        assert_eq!(pieces(10, &["我们的退货政策是三十天。谢谢"]), "我们的退货\n政策是三十\n天。谢谢");
        assert_eq!(pieces(10, &["一二三四五。"]), "一二三四\n五。");
        assert_eq!(pieces(10, &["123456789 👩\u{200d}💻 on"]), "123456789\n👩\u{200d}💻 on");
        assert_eq!(width("ÄÖ🎉"), 4);
    }
}
