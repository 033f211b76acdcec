//! How the registry reaches this data plane.

mod assembly;
pub mod cache;
mod parse;
mod refusal;
mod snapshot;
#[cfg(test)]
mod tests;

pub use assembly::{Assembly, Received};
pub use cache::Cache;
pub use refusal::Refusal;
pub use snapshot::Snapshot;
