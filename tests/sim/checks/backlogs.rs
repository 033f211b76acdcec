//! Where requests pile up, by what waits for a response head.

use std::collections::{BTreeMap, BTreeSet};

use data_plane::routing::balancing::{Load, MOST_PEERS, has_backlog};
use gateway_proto::{ReplicaId, Weight};

/// Those of the replicas that share the traffic at which requests pile up, when so many wait at each.
pub(crate) fn piled_up(
    sharing: &BTreeMap<ReplicaId, Weight>,
    unanswered: impl Fn(&ReplicaId) -> u64,
) -> BTreeSet<ReplicaId> {
    let load = |(id, weight): (&ReplicaId, &Weight)| Load {
        cost: unanswered(id) as f64,
        share: weight.get().into(),
    };
    let loads: Vec<_> = sharing.iter().map(load).collect();
    let is_piled_up = |place: usize| {
        let peers = 1..loads.len().min(MOST_PEERS + 1);
        has_backlog(loads[place], peers.map(|step| loads[(place + step) % loads.len()]))
    };
    let names = sharing.keys().enumerate().filter(|(place, _)| is_piled_up(*place));
    names.map(|(_, id)| id.clone()).collect()
}
