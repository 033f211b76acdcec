//! The data plane: an HTTP proxy that routes from its own copy of the registry, with local circuit breaking.
//!
//! It serves from the last snapshot for as long as the control plane is away. [`discovery`] keeps that snapshot,
//! [`routing`] decides, [`table`] holds what requests are routed by, [`proxy`] carries them. What they see is reported to
//! the control plane and shown to operators. [`start`] brings all of it up.

pub mod access_log;
mod admin;
pub mod clock;
pub mod config;
mod control_plane;
mod counts;
pub mod discovery;
#[cfg(test)]
mod fake_control_plane;
mod handles;
mod handover;
pub mod header_fields;
pub mod health;
mod program;
pub mod proxy;
mod report;
pub mod request_rules;
mod resolved;
pub mod routes;
pub mod routing;
mod running;
pub mod static_file;
pub mod table;
pub mod traces;

pub use config::Config;
pub use program::Program;
pub use running::{Running, start, start_at};
