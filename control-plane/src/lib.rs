//! The control plane.

mod clock;
pub mod leases;
pub mod publish;
pub mod registry;
pub mod store;
