//! How the registry reaches this data plane: over the snapshot stream, from disk, or once from a static list.
//!
//! [`Snapshot`], [`Assembly`] and [`Refusal`] are the pure half: what is held, and what a message does to it. [`Feed`]
//! owns the snapshot and brings every change to the table, `client` follows the control plane, [`Cache`] and
//! `keeper` keep the last snapshot on disk. Nothing here is on the request path.

mod assembly;
pub mod cache;
pub(crate) mod client;
mod feed;
pub(crate) mod keeper;
mod parse;
mod refusal;
mod snapshot;
mod status;
#[cfg(test)]
pub(crate) mod tests;

pub use assembly::{Assembly, Received};
pub use cache::Cache;
pub use feed::{Feed, View};
pub use refusal::Refusal;
pub use snapshot::Snapshot;
pub(crate) use snapshot::service_to_wire;
pub use status::{Source, Status};
