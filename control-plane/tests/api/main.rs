//! The control plane as its clients see it: in this process, on port 0, over real sockets.

#![cfg(test)]

mod discovery;
mod http;
mod lifecycle;
mod observability;
mod origin;
mod plane;
mod registry;
mod rest;
mod streams;
