//! carboy-manifest
