//! Whom a request may be sent to, judged by what the data plane knows at that moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use data_plane::{
    discovery::Snapshot,
    routing::{State, Tick},
    table::{Replica, ReplicaSpec, Unavailable},
};
use gateway_proto::{Mode, Priority, ReplicaId, ReplicaKey, ServiceName, Weight, policy};

use super::{Breakers, Checked, breaker::Expected, claim};

/// One pick's circumstances.
pub(crate) struct Picks<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) breakers: &'a Breakers,
    pub(crate) service: &'a ServiceName,
    pub(crate) tried: &'a [Arc<Replica>],
    pub(crate) now: Tick,
    pub(crate) policy: &'a policy::Breaker,
    /// Whether the request must not be sent twice.
    pub(crate) is_unrepeatable: bool,
    /// Those that share the traffic.
    pub(crate) sharing: &'a BTreeMap<ReplicaId, Weight>,
    /// Of these, the ones at which requests pile up; none where that is not known.
    pub(crate) piled_up: &'a BTreeSet<ReplicaId>,
}

/// Whether the registry lets new requests go to it.
pub(crate) fn takes_requests(spec: &ReplicaSpec) -> bool {
    spec.health.is_ready() && spec.mode == Mode::Serving
}

/// The tier of which so few let traffic through that all of it is asked, if there is one: while no other is better off.
pub(crate) fn open_tier(
    snapshot: &Snapshot,
    breakers: &Breakers,
    service: &ServiceName,
    policy: &policy::Breaker,
) -> Option<Priority> {
    let specs = snapshot.service(service).into_iter().flat_map(|service| &service.replicas);
    let states: Vec<_> = specs
        .filter(|spec| takes_requests(spec))
        .filter_map(|spec| {
            let key = ReplicaKey { service: service.clone(), replica: spec.id.clone() };
            Some((spec.priority, breakers.get(&key)?.state))
        })
        .filter(|(_, state)| *state != State::ForcedOpen)
        .collect();
    let of = |closed: bool| {
        states.iter().filter(move |(_, state)| state.lets_all_through() == closed).map(|(tier, _)| *tier)
    };
    let is_short = |tier: Priority| {
        let letting_through = of(true).filter(|one| *one == tier).count();
        let total = letting_through + of(false).filter(|one| *one == tier).count();
        policy.fails_open(letting_through, total)
    };
    let tier = of(true).min().or_else(|| of(false).min())?;
    states.iter().all(|(tier, _)| is_short(*tier)).then_some(tier)
}

impl Picks<'_> {
    /// A replica was picked.
    pub(crate) fn picked(&self, replica: &Replica, probe: bool) -> Checked {
        self.a_pick_is_registered_and_ready(replica)?;
        self.a_request_asks_each_replica_once(replica)?;
        self.the_best_tier_is_asked_first(replica)?;
        self.a_due_probe_goes_first(replica, probe)?;
        self.what_must_not_be_repeated_finds_nothing_out(replica, probe)?;
        self.what_must_not_be_repeated_goes_where_nothing_piles_up(replica, probe)
    }

    /// Requests go to replicas only that the data plane's snapshot holds, at their address, and that are ready and not
    /// being drained.
    fn a_pick_is_registered_and_ready(&self, replica: &Replica) -> Checked {
        let spec = self.specs().find(|spec| spec.id == replica.key().replica);
        let good = spec.is_some_and(|spec| spec == replica.spec() && takes_requests(spec));
        claim("a_pick_is_registered_and_ready", good, || format!("{replica:?} where {spec:?} is known"))
    }

    /// No request comes to one replica twice.
    fn a_request_asks_each_replica_once(&self, replica: &Replica) -> Checked {
        let again = self.tried.iter().any(|tried| tried.key() == replica.key());
        claim("a_request_asks_each_replica_once", !again, || format!("{} again", replica.key()))
    }

    /// Nobody is asked while a better tier has a replica that takes requests, lets all through and was not tried.
    fn the_best_tier_is_asked_first(&self, replica: &Replica) -> Checked {
        let better = self.askable().find(|spec| spec.priority < replica.priority() && self.is_closed(spec));
        claim("the_best_tier_is_asked_first", better.is_none(), || {
            format!("{} was picked while {better:?} could be", replica.key())
        })
    }

    /// When a replica's open time is over, the next request that may ask it is its probe.
    fn a_due_probe_goes_first(&self, replica: &Replica, probe: bool) -> Checked {
        let is_left = |spec: &ReplicaSpec| self.is_unrepeatable && self.is_spared(spec);
        let due = self.askable().find(|spec| self.is_due(spec) && !is_left(spec));
        claim("a_due_probe_goes_first", probe || due.is_none(), || {
            format!("{} was picked while {due:?} is due", replica.key())
        })
    }

    /// While another replica would take it, a request that must not be sent twice is no open breaker's first probe, for a while.
    fn what_must_not_be_repeated_finds_nothing_out(&self, replica: &Replica, probe: bool) -> Checked {
        let has_other = self.askable().any(|spec| spec.id != replica.key().replica && self.is_closed(spec));
        // Where it fails open, there is no choosing among what is left.
        let fails_open = || open_tier(self.snapshot, self.breakers, self.service, self.policy).is_some();
        let is_spent =
            probe && self.is_unrepeatable && has_other && self.is_spared(replica.spec()) && !fails_open();
        claim("what_must_not_be_repeated_finds_nothing_out", !is_spent, || format!("{} by it", replica.key()))
    }

    /// A request that must not be sent twice goes to none at which requests pile up, while another that shares the traffic is left.
    fn what_must_not_be_repeated_goes_where_nothing_piles_up(
        &self,
        replica: &Replica,
        probe: bool,
    ) -> Checked {
        let is_left = |id: &ReplicaId| {
            !self.piled_up.contains(id) && self.tried.iter().all(|tried| tried.key().replica != *id)
        };
        let is_spent = self.is_unrepeatable
            && !probe
            && self.piled_up.contains(&replica.key().replica)
            && self.sharing.keys().any(is_left);
        claim("what_must_not_be_repeated_goes_where_nothing_piles_up", !is_spent, || {
            format!(
                "{} was picked of {:?} while requests pile up at {:?}",
                replica.key(),
                self.sharing,
                self.piled_up
            )
        })
    }

    /// A request is turned away only when every replica was tried, rests, or is not ready.
    pub(crate) fn nobody_is_turned_away_in_vain(&self, unavailable: Unavailable) -> Checked {
        let tier = open_tier(self.snapshot, self.breakers, self.service, self.policy);
        let is_asked_regardless = |spec: &ReplicaSpec| {
            let is_forced = self.breaker(spec).is_some_and(|breaker| breaker.state == State::ForcedOpen);
            Some(spec.priority) == tier && !is_forced
        };
        let other = self
            .askable()
            .find(|spec| self.is_closed(spec) || self.is_due(spec) || is_asked_regardless(spec));
        claim("nobody_is_turned_away_in_vain", other.is_none(), || {
            format!("{unavailable:?} while {other:?} could be asked")
        })
    }

    /// Replicas that take requests and that the request has not tried.
    fn askable(&self) -> impl Iterator<Item = &ReplicaSpec> {
        let is_untried = |spec: &&ReplicaSpec| self.tried.iter().all(|tried| tried.key().replica != spec.id);
        self.specs().filter(|spec| takes_requests(spec)).filter(is_untried)
    }

    fn specs(&self) -> impl Iterator<Item = &ReplicaSpec> {
        self.snapshot.service(self.service).into_iter().flat_map(|service| &service.replicas)
    }

    fn breaker(&self, spec: &ReplicaSpec) -> Option<&Expected> {
        let key = ReplicaKey { service: self.service.clone(), replica: spec.id.clone() };
        self.breakers.get(&key)
    }

    fn is_closed(&self, spec: &ReplicaSpec) -> bool {
        self.breaker(spec).is_some_and(|breaker| breaker.state.lets_all_through())
    }

    fn is_spared(&self, spec: &ReplicaSpec) -> bool {
        self.breaker(spec).is_some_and(|breaker| breaker.spares(self.now, self.policy))
    }

    /// Whether the replica waits for a probe, which only those of the tier in use and of better ones get.
    fn is_due(&self, spec: &ReplicaSpec) -> bool {
        let in_use = self.specs().filter(|spec| takes_requests(spec) && self.is_closed(spec));
        let tier = in_use.map(|spec| spec.priority).min();
        tier.is_none_or(|tier| spec.priority <= tier)
            && self.breaker(spec).is_some_and(|breaker| breaker.is_due(self.now))
    }
}
