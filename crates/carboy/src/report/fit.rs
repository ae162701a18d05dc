//! Text made to fit a person's window: long lines wrapped at words, tables cut.
//!
//! *Must never* change what goes to a pipe or a file: where there is no window, nothing is wrapped or cut.

use std::os::fd::AsFd;

use ratatui::text::Span;

use super::flow::Flow;

/// Narrowest window that anything is fitted to; a narrower one wraps by itself.
const COLUMNS_MIN: usize = 40;
/// Widest label that continuation lines stand beside, in columns.
const LABEL_COLUMNS_MAX: usize = 26;
/// Widest column of a table but the last, in columns, when it is cut.
const CELL_COLUMNS_MAX: usize = 20;

/// Columns of the window behind this stream; `None` where it is no terminal or does not say.
pub fn columns(stream: impl AsFd) -> Option<usize> {
    if !rustix::termios::isatty(&stream) {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stream).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= COLUMNS_MIN)
}

/// Every line wrapped at word boundaries, what follows indented to where its text began. A command in backticks stays
/// whole, so that it can be copied.
pub fn wrapped(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    text.split_inclusive('\n').map(|line| wrap(line, columns)).collect()
}

fn wrap(line: &str, columns: usize) -> String {
    if width(line) <= columns {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len() + 64);
    Flow::hanging(hang(line).min(columns / 2)).line(line, columns, &mut out);
    out
}

/// Where the text of a line begins: after its label, when there is one, else a little in.
fn hang(line: &str) -> usize {
    let plain: Vec<char> = visible(line).collect();
    let lead = plain.iter().take_while(|c| **c == ' ').count();
    let gap = (lead..plain.len().min(LABEL_COLUMNS_MAX)).find(|at| plain[*at..].starts_with(&[' ', ' ']));
    gap.map_or(lead + 2, |gap| gap + plain[gap..].iter().take_while(|c| **c == ' ').count())
}

/// Columns of a line, its colours and its end aside.
pub fn width(text: &str) -> usize {
    Span::raw(visible(text).collect::<String>()).width()
}

/// The characters that take up a column. Only this program's own colours are known; all else was made printable.
fn visible(text: &str) -> impl Iterator<Item = char> {
    let mut colour = false;
    text.chars().filter(move |c| match c {
        '\u{1b}' => {
            colour = true;
            false
        }
        'm' if colour => {
            colour = false;
            false
        }
        '\n' => false,
        _ => !colour,
    })
}

/// The first characters, with `…` for what is left out.
pub fn cut(text: &str, columns_max: usize) -> String {
    if text.chars().count() <= columns_max {
        return text.to_owned();
    }
    text.chars().take(columns_max.saturating_sub(1)).chain(['…']).collect()
}

/// How a column of a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Lines of a table, its head first; every row has as many cells as the head. The last column takes what is left of the
/// window; `None` cuts nothing.
pub fn table(head: &[(&str, Side)], rows: &[Vec<String>], columns: Option<usize>) -> Vec<String> {
    let names = head.iter().map(|(name, _)| (*name).to_owned()).collect();
    let cells_max = if columns.is_some() { CELL_COLUMNS_MAX } else { usize::MAX };
    let all: Vec<Vec<String>> = std::iter::once(&names)
        .chain(rows)
        .map(|row: &Vec<String>| {
            let last = row.len().saturating_sub(1);
            row.iter().enumerate().map(|(i, cell)| if i < last { cut(cell, cells_max) } else { cell.clone() }).collect()
        })
        .collect();
    let wide = |i: usize| all.iter().map(|row| row[i].chars().count()).max().unwrap_or_default();
    let before: Vec<usize> = (0..head.len().saturating_sub(1)).map(wide).collect();
    let used: usize = before.iter().map(|width| width + 2).sum();
    let last_max = columns.map_or(usize::MAX, |columns| columns.saturating_sub(used).max(1));
    let line = |row: &Vec<String>| {
        let mut out = String::new();
        for (i, cell) in row.iter().enumerate() {
            match (before.get(i), head[i].1) {
                (None, _) => out.push_str(&cut(cell, last_max)),
                (Some(width), Side::Left) => out.push_str(&format!("{cell:<width$}  ")),
                (Some(width), Side::Right) => out.push_str(&format!("{cell:>width$}  ")),
            }
        }
        out.trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_goes_on_below_its_own_text_and_a_command_stays_whole() {
        let line =
            "  refused    1 × host_not_allowed: no route of this bottle names this host, see `carboy allow x-1`\n";
        let want = "  refused    1 × host_not_allowed: no route of\n             this bottle names this host, see\n             \
                    `carboy allow x-1`\n";
        assert_eq!(wrapped(line, Some(48)), want);
        assert_eq!(wrapped(line, None), line);
    }

    #[test]
    fn colours_take_up_no_room() {
        let line = "\u{1b}[31mred\u{1b}[0m and then some more words here and there\n";
        assert_eq!(width(line), 43);
        assert_eq!(wrapped(line, Some(43)), line);
    }

    #[test]
    fn a_table_fits_its_window_and_a_pipe_gets_all_of_it() {
        let head = [("RUN", Side::Left), ("REQ", Side::Right), ("COMMAND", Side::Left)];
        let rows = [vec!["r-1".to_owned(), "12".to_owned(), "claude: mend the tests and then some".to_owned()]];
        let cut = table(&head, &rows, Some(24));
        assert_eq!(cut, ["RUN  REQ  COMMAND", "r-1   12  claude: mend …"].map(str::to_owned));
        assert_eq!(cut[1].chars().count(), 24);
        assert!(table(&head, &rows, None)[1].ends_with("and then some"));
    }
}
