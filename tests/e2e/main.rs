//! End-to-end tests: what the gateway promises, held to by real processes on free ports.
//!
//! Names are sentences. A name that ends in `by_curl`, `by_grpcurl`, `by_h2spec`, `by_haproxy`, `by_etcd`,
//! `by_promtool`, `by_python`, `by_chromium`, `by_playwright`, `by_go`, `by_node`, `by_java`, `by_systemd`, `by_unshare`,
//! `by_bash` or `by_script` needs that tool.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

mod access;
mod access_log;
mod admin_side;
mod breakers;
mod call;
mod client;
mod clients;
mod contract;
mod control_tls;
mod copies;
mod dashboard;
mod demo;
mod deploy;
mod describe;
mod documents;
mod drain;
mod durability;
mod etcd;
mod etcd_access;
mod etcd_outages;
mod etcd_users;
mod eviction;
mod explain;
mod failover;
mod faults;
mod floods;
mod forwarding;
mod grpc;
mod guard;
mod handover;
mod health;
mod health_checks;
mod hostile;
mod http2;
mod lists;
mod logs;
mod many_control_planes;
mod metrics;
mod moving;
mod moving_back;
mod outage;
mod packaging;
mod passthrough;
mod policies;
mod policy_transactions;
mod predecessors;
mod reflection;
mod refusals;
mod release;
mod rest;
mod rotation;
mod routes;
mod run;
mod scripting;
mod secrets;
mod shells;
mod startup;
mod static_file;
mod statistics;
mod supervision;
mod tls;
mod top;
mod traces;
mod unix_socket;
mod upgrades;
