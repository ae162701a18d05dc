//! carboy-store
