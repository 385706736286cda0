//! The store against real files, hostile archives and a real peer. Needs root, as the agent does: owners, device nodes and
//! `trusted.*` attributes are what is tested. Everything happens in temporary folders.

mod attacks;
mod crash;
mod fixtures;
mod hostile;
mod peers;
mod removal;
mod round_trip;
mod transfer;
mod unpacking;
