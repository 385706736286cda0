//! Tests of placement over real states.

mod filters;
mod following;
mod properties;
mod scores;
mod support;
