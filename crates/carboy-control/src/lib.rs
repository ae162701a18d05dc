//! carboy-control
