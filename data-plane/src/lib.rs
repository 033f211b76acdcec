//! The data plane: an HTTP proxy that routes from its own copy of the registry, with local circuit breaking.
//!
//! It serves from the last snapshot for as long as the control plane is away. [`discovery`] keeps that snapshot,
//! [`routing`] decides, [`table`] holds what requests are routed by, [`proxy`] carries them.

pub mod clock;
mod control_plane;
pub mod discovery;
#[cfg(test)]
mod fake_control_plane;
pub mod proxy;
pub mod routing;
pub mod static_file;
pub mod table;
