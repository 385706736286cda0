//! Real containers, run as root in groups and folders of the test's own.

mod exec;
mod life;
mod limits;
mod many;
mod privileges;
mod root;
mod support;
mod terminal;
