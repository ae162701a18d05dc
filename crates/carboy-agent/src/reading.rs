//! What a person reads of an answer while it arrives.

use crate::screens::Screens;
use crate::layers::grounds::Grounds;

pub(crate) struct Reading {
    heard: String,
}

/// An answer that was read to its end.
pub(crate) struct Read {
    shown: String,
    violations: Vec<String>,
    redactions: Vec<String>,
}

impl Read {
    pub(crate) fn shown(&self) -> &str { &self.shown }
    pub(crate) fn violations(&self) -> &[String] { &self.violations }
    pub(crate) fn redactions(&self) -> &[String] { &self.redactions }
}

impl Reading {
    pub(crate) fn begin(_screens: &Screens, _grounds: &Grounds, _chars_max: u32) -> Reading {
        Reading { heard: String::new() }
    }
    pub(crate) fn hear(&mut self, text: &str, _show: &mut dyn FnMut(&str)) { self.heard.push_str(text); }
    pub(crate) fn end(self, text: &str, show: &mut dyn FnMut(&str)) -> Read {
        show(text);
        Read { shown: text.to_owned(), violations: Vec::new(), redactions: Vec::new() }
    }
}
