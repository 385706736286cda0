//! YAML as a tree with positions: parsing, interpolation of variables, merging of files.
//!
//! **Invariant:** a scalar keeps its raw text. What it means is decided by the field that reads it, so `on` stays a text in an
//! environment and `22:22` is never a number in base 60.
//! Deliberately not here: anything that knows a Compose key, except the merge rules, which are data.

pub(crate) mod cursor;
pub(crate) mod interpolate;
pub(crate) mod merge;
pub(crate) mod parse;
pub(crate) mod tree;
