//! The control plane.

mod clock;
mod expiry;
pub mod leases;
mod metrics;
pub mod observe;
pub mod publish;
pub mod registry;
pub mod store;
mod writer;
