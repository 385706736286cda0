//! Tests of placement over real states.

mod displacement;
mod filters;
mod following;
mod properties;
mod scores;
mod support;
mod what_if;
