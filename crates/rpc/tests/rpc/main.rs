//! Real connections over the loopback interface, with certificates made for each test.

mod enrollment;
mod handshake;
mod rotation;
mod support;
