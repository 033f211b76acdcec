//! Whom a request may be sent to, judged by what the data plane knows at that moment.

use std::sync::Arc;

use data_plane::{
    discovery::Snapshot,
    routing::{State, Tick},
    table::{Replica, Unavailable},
};
use gateway_proto::{ReplicaKey, ServiceName};

use super::{Breakers, Checked, claim};

/// One pick's circumstances.
pub(crate) struct Picks<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) breakers: &'a Breakers,
    pub(crate) service: &'a ServiceName,
    pub(crate) tried: &'a [Arc<Replica>],
    pub(crate) now: Tick,
}

impl Picks<'_> {
    /// A replica was picked.
    pub(crate) fn picked(&self, replica: &Replica, probe: bool) -> Checked {
        self.a_pick_is_registered_and_ready(replica)?;
        self.a_request_asks_each_replica_once(replica)?;
        self.a_due_probe_goes_first(replica, probe)
    }

    /// Requests go to replicas only that the data plane's snapshot holds, at their address, and that are ready.
    fn a_pick_is_registered_and_ready(&self, replica: &Replica) -> Checked {
        let spec = self
            .snapshot
            .service(self.service)
            .and_then(|service| service.replicas.iter().find(|spec| spec.id == replica.key().replica));
        let good = spec.is_some_and(|spec| spec == replica.spec() && spec.health.is_ready());
        claim("a_pick_is_registered_and_ready", good, || format!("{replica:?} where {spec:?} is known"))
    }

    /// No request comes to one replica twice.
    fn a_request_asks_each_replica_once(&self, replica: &Replica) -> Checked {
        let again = self.tried.iter().any(|tried| tried.key() == replica.key());
        claim("a_request_asks_each_replica_once", !again, || format!("{} again", replica.key()))
    }

    /// When a replica's open time is over, the next request that may ask it is its probe.
    fn a_due_probe_goes_first(&self, replica: &Replica, probe: bool) -> Checked {
        let due = self.askable().find(|key| self.breakers.get(key).is_some_and(|b| b.is_due(self.now)));
        claim("a_due_probe_goes_first", probe || due.is_none(), || {
            format!("{} was picked while {due:?} is due", replica.key())
        })
    }

    /// A request is turned away only when every replica was tried, rests, or is not ready.
    pub(crate) fn nobody_is_turned_away_in_vain(&self, unavailable: Unavailable) -> Checked {
        let other = self.askable().find(|key| {
            self.breakers.get(key).is_some_and(|b| b.state == State::Closed || b.is_due(self.now))
        });
        claim("nobody_is_turned_away_in_vain", other.is_none(), || {
            format!("{unavailable:?} while {other:?} could be asked")
        })
    }

    /// Ready replicas that the request has not tried.
    fn askable(&self) -> impl Iterator<Item = ReplicaKey> {
        let replicas = self.snapshot.service(self.service).into_iter().flat_map(|service| &service.replicas);
        replicas
            .filter(|spec| spec.health.is_ready())
            .map(|spec| ReplicaKey { service: self.service.clone(), replica: spec.id.clone() })
            .filter(|key| self.tried.iter().all(|tried| tried.key() != key))
    }
}
