//! Real groups, made as root below parents of the tests' own.

mod group;
mod limits;
mod support;
