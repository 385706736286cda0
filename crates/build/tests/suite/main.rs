//! Builds with real containers on a root with nothing but busybox.

mod cache;
mod copying;
mod exchange;
mod failing;
mod running;
mod support;
