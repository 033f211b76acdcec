//! The proxy over real sockets: what clients receive and what replicas see, byte for byte.

mod bodies;
mod failover;
mod forwarding;
mod harness;
mod refusals;
