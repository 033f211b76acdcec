//! The demo: a service with three replicas that can fail, and people's requests to it.

pub(crate) mod client;
pub(crate) mod fleet;
pub(crate) mod lab;
mod latency;
pub(crate) mod load;
pub(crate) mod replica;
pub(crate) mod status;
