//! Whole servers in one process, over real TLS on loopback and real disks, with agents that only say what agents say.

mod agent;
mod membership;
mod servers;
mod services;
