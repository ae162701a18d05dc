//! carboy-sim
