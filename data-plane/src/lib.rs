//! The data plane.

pub mod routing;
