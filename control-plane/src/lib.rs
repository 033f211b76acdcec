//! The control plane.

pub mod registry;
