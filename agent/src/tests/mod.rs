//! The agent's parts together: the core on a pretended machine, the session with a pretended server, and the whole agent with
//! real containers.

mod by_hand;
mod core;
mod harness;
mod names;
mod real;
mod session;
