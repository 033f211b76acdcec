//! The data plane.

pub mod discovery;
pub mod table;
