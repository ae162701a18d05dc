//! Talk to a person, on standard error or at a prompt.
//!
//! *Must never* end the program when nobody hears it: the standard library's macros panic when the terminal is gone, in
//! the middle of what has to be put in order before the program may end.

use std::fmt::Arguments;
use std::io::Write;

/// A line on standard error.
macro_rules! say {
    ($($text:tt)*) => { $crate::said::line(format_args!($($text)*)) };
}

/// The same without an end of line.
macro_rules! say_part {
    ($($text:tt)*) => { $crate::said::talk(format_args!($($text)*)) };
}

/// A part of what stands on a terminal's screen.
macro_rules! show_part {
    ($($text:tt)*) => { $crate::said::show(format_args!($($text)*)) };
}

/// In one piece: others may write to the same terminal.
pub fn line(text: Arguments<'_>) {
    talk(format_args!("{text}\n"));
}

pub fn talk(text: Arguments<'_>) {
    let _ = std::io::stderr().lock().write_all(text.to_string().as_bytes());
}

pub fn show(text: Arguments<'_>) {
    let _ = std::io::stdout().lock().write_fmt(text);
}
