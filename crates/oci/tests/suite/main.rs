//! The real program with real containers, as root, driven as engines drive it: by its command line, `config.json` and exit
//! statuses. Groups, folders and processes are the tests' own.

mod config;
mod engines;
mod hooks;
mod life;
mod limits;
mod support;
mod terminal;
