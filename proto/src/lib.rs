//! The contract between the gateway's parts.
//!
//! [`v1`] is generated from `gateway/v1/*.proto`. The other modules are the vocabulary: types that can only hold
//! valid values. The edges parse wire messages into them once; everything behind the edges uses nothing else.
//!
//! This crate does no IO, reads no clock and knows neither plane.

mod address;
mod code;
pub mod content;
pub mod endpoint;
pub mod explain;
#[cfg(test)]
mod fuzz;
mod hazard;
mod invalid;
pub mod json;
pub mod latency;
mod lease_id;
mod left;
mod name;
pub mod nearest;
mod networks;
pub mod policy;
pub mod reason;
#[cfg(test)]
mod reference;
mod replica;
pub mod route;
pub mod size;
pub mod time;
pub mod token;
mod url;

pub use address::Address;
pub use code::code_name;
pub use endpoint::{Endpoint, Protocol, TlsServerName};
pub use hazard::{Hazard, destination};
pub use invalid::{Check, Invalid, Violation};
pub use lease_id::LeaseId;
pub use left::why_left;
pub use name::{NodeId, ReplicaId, ReplicaKey, RouteName, ServiceName};
pub use networks::{InvalidNetwork, Networks};
pub use policy::Policy;
pub use replica::{Health, Labels, Locality, Mode, Priority, Weight};
pub use route::Route;
pub use url::{ControlPlaneUrl, unix_path, web_url, without_user};

/// Messages, clients and servers of `gateway.v1`.
#[allow(missing_docs, clippy::all, rustdoc::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("gateway.v1");
}

/// The part of etcd's API that the control plane speaks to its store: not the gateway's contract, and in no descriptor.
#[allow(missing_docs, clippy::all, rustdoc::all, unreachable_pub)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// The encoded `FileDescriptorSet` of `gateway.v1` and all it imports, for gRPC reflection and JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gateway.bin"));
