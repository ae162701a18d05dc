//! carboy-guard
