//! What end-to-end tests stand on: real processes on free ports, replicas that misbehave on command, clients, load.
//!
//! Every process and listener belongs to a value whose `Drop` ends it, so a failed test leaves nothing behind; the
//! logs of its processes are printed with its panic. Nothing here asserts on the gateway's behaviour: tests do.
//! It waits on conditions ([`eventually`]) and never for a fixed time.

pub mod authority;
pub mod binaries;
pub mod browser;
mod bytes_codec;
pub mod command;
pub mod demo_replica;
pub mod etcd;
mod eventually;
pub mod gateway;
pub mod history;
pub mod http1;
pub mod lapses;
pub mod load;
mod place;
pub mod planes;
mod process;
pub mod scripted;
pub mod tools;

pub use authority::Authority;
pub use browser::Browser;
pub use bytes_codec::BytesCodec;
pub use demo_replica::DemoReplica;
pub use etcd::Etcd;
pub use eventually::{bounded, ends_within, eventually, eventually_within, throughout};
pub use gateway::Gateway;
pub use load::Load;
pub use place::Place;
pub use planes::{ControlPlane, DataPlane};
pub use process::Process;
pub use scripted::{Act, Scripted, Seen};
