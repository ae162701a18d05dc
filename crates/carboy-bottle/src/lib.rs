//! carboy-bottle
