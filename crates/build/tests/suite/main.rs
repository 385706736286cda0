//! Builds with real containers on a root with nothing but busybox.

mod cache;
mod copying;
mod failing;
mod running;
mod support;
