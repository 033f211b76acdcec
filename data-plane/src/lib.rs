//! The data plane.

pub mod discovery;
pub mod static_file;
pub mod table;
