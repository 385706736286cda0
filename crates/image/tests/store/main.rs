//! The store against real files, hostile archives and a real peer. Needs root, as the agent does: owners, device nodes and
//! `trusted.*` attributes are what is tested. Everything happens in temporary folders.

mod attacks;
mod building;
mod collecting;
mod crash;
mod fixtures;
mod hostile;
mod killed;
mod looking;
mod peers;
mod registry;
mod removal;
mod round_trip;
mod streaming;
mod transfer;
mod unpacking;
mod verifying;
