//! The proxy over real sockets: what clients receive and what replicas see, byte for byte.

mod access_log;
mod balancing;
mod bodies;
mod clients;
mod concurrency;
mod connects;
mod drains;
mod failover;
mod floods;
mod forced;
mod forwarding;
mod harness;
mod hints;
mod http2;
mod limits;
mod proxy_headers;
mod refusals;
mod replicas;
mod request_rules;
mod routes;
mod secure;
mod shutdown;
mod slowness;
mod streams;
mod tunnels;
mod upgrades;
