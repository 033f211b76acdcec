//! Services and replicas as the request path reads them.

pub mod spec;
