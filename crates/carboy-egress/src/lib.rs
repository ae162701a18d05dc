//! carboy-egress
