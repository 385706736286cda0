//! Real containers, run as root in groups and folders of the test's own.

mod create;
mod exec;
mod life;
mod limits;
mod live;
mod many;
mod modes;
mod privileges;
mod root;
mod support;
mod terminal;
mod user;
