//! How the registry reaches this data plane: over the snapshot stream, from disk, or once from a static list.
//!
//! [`Snapshot`], [`Guard`] and [`Mirror`] are the pure half: what the registry has, what is held beyond it, and how
//! that is routed; [`Assembly`] and [`Refusal`] say what a message does to it. [`Feed`] owns the mirror and brings every
//! change to the table, `client` follows the control plane, `current` finds another one where that has lost its store, `ending` ends overrides in time, [`Cache`] and `keeper`
//! keep what is known on disk. Nothing here is on the request path.

mod assembly;
pub mod cache;
pub(crate) mod client;
mod current;
mod delta;
mod draft;
pub(crate) mod ending;
mod feed;
mod guard;
pub(crate) mod keeper;
mod mirror;
mod overrides;
mod parse;
mod refusal;
mod routes;
mod services;
mod services_file;
mod snapshot;
mod status;
#[cfg(test)]
pub(crate) mod tests;

pub use assembly::{Assembly, Received};
pub use cache::{Cache, Cached};
pub use feed::{Feed, Position, View};
pub use guard::{Guard, HeldReplica, Judgement, LetGo};
pub use mirror::{Mirror, Outcome};
pub use refusal::Refusal;
pub use services::Services;
pub(crate) use services_file::ServicesFile;
pub use snapshot::Snapshot;
pub use status::{Left, Source, Status};
