//! carboy-wire
