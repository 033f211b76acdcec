//! The control plane as its clients see it: in this process, on port 0, over real sockets.

#![cfg(test)]

mod access;
mod dashboard;
mod discovery;
mod floods;
mod http;
mod jwks;
mod keep_alive;
mod lifecycle;
mod lists;
mod moving;
mod observability;
mod origin;
mod overrides;
mod peers;
mod plane;
mod policies;
mod quotas;
mod registry;
mod reporter;
mod rest;
mod rest_decisions;
mod routes;
mod statistics;
mod strangers;
mod streams;
mod supervision;
mod unix_socket;
mod watch_breakers;
mod watch_replicas;
mod watch_stats;
