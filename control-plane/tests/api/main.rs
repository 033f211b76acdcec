//! The control plane as its clients see it: in this process, on port 0, over real sockets.

#![cfg(test)]

mod discovery;
mod http;
mod keep_alive;
mod lifecycle;
mod lists;
mod observability;
mod overrides;
mod plane;
mod policies;
mod registry;
mod reporter;
mod supervision;
mod watch_breakers;
mod watch_replicas;
mod watch_stats;
