//! The demo: a service with three replicas that can fail, and people's requests to it.

pub(crate) mod replica;
