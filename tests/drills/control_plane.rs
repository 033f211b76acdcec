//! Drills of the control plane: alone on a file, and several on an etcd of three members.
//!
//! What is held everywhere: nothing that was acknowledged is lost, nothing that was removed comes back, no lease of an owner who
//! renews it lapses, and no request that goes through the data plane fails.

pub(crate) mod alone;
pub(crate) mod away;
pub(crate) mod caller;
pub(crate) mod chaos;
pub(crate) mod clocks;
pub(crate) mod cluster;
pub(crate) mod cut_off;
pub(crate) mod data_planes;
pub(crate) mod dead_links;
pub(crate) mod disks;
pub(crate) mod drops;
pub(crate) mod etcd_disks;
pub(crate) mod follower;
pub(crate) mod forgetful;
pub(crate) mod greedy;
pub(crate) mod guesses;
pub(crate) mod histories;
pub(crate) mod input;
pub(crate) mod kills;
pub(crate) mod locked;
pub(crate) mod outages;
pub(crate) mod owner;
pub(crate) mod parts;
pub(crate) mod reconnection;
pub(crate) mod reporter;
pub(crate) mod rolling;
pub(crate) mod standstill;
pub(crate) mod strangers;
pub(crate) mod subscribers;
pub(crate) mod tracer;
pub(crate) mod writers;
