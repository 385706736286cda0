//! The data plane as clients and replicas see it, over real sockets.

mod hostile;
mod replicas;
mod rig;
mod secure;
mod serving;
