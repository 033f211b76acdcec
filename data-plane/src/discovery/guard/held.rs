//! What is held of one service, and since when.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use gateway_proto::{Policy, ReplicaId, ReplicaKey, ServiceName};

use super::{
    SETTLE,
    case::Case,
    judgement::{Judgement, LetGo},
};
use crate::table::{ReplicaSpec, ServiceSpec};

/// What is held of one service, and what has to be remembered for it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::discovery) struct HeldService {
    /// The policy in force; once the service is gone whole, the last known.
    pub(in crate::discovery) policy: Policy,
    /// Whether that is the default one.
    pub(super) follows_default: bool,
    /// How many replicas there were, without those that somebody removed since.
    pub(super) expected: usize,
    /// Since when, by the clock of confirmed time, as many as may remain of these take requests again.
    pub(super) replaced_at: Option<Duration>,
    /// The held ones.
    pub(in crate::discovery) replicas: BTreeMap<ReplicaId, HeldReplica>,
}

/// A replica that the registry no longer has and that is routed to all the same.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldReplica {
    /// As the registry had it last.
    pub spec: ReplicaSpec,
    /// When it was missing first, by the wall clock.
    pub missing_since: SystemTime,
    /// The same by the clock of confirmed time.
    pub(super) held_at: Duration,
}

/// What a restart has to know of one service.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::discovery) struct HeldEntry {
    pub(in crate::discovery) name: ServiceName,
    pub(in crate::discovery) policy: Policy,
    pub(in crate::discovery) follows_default: bool,
    pub(in crate::discovery) expected: usize,
    /// Each replica, when it was missing first, and for how long a control plane has confirmed that since.
    pub(in crate::discovery) replicas: Vec<(ReplicaSpec, SystemTime, Duration)>,
}

impl HeldEntry {
    pub(super) fn longest(&self) -> Duration {
        self.replicas.iter().map(|(_, _, held_for)| *held_for).max().unwrap_or_default()
    }
}

impl HeldReplica {
    /// How long it has been held, at this reading of the clock of confirmed time.
    pub(super) fn held_for(&self, confirmed: Duration) -> Duration {
        confirmed.saturating_sub(self.held_at)
    }
}

impl HeldService {
    /// A service of which nothing is held.
    pub(super) fn new(case: &Case<'_>) -> Self {
        let mut held = Self {
            policy: Policy::default(),
            follows_default: true,
            expected: 0,
            replaced_at: None,
            replicas: BTreeMap::new(),
        };
        held.follow(case);
        held
    }

    /// What was held before a restart, at this reading of the clock of confirmed time.
    pub(super) fn restored(entry: HeldEntry, confirmed: Duration) -> (ServiceName, Self) {
        let HeldEntry { name, policy, follows_default, expected, replicas } = entry;
        let replicas = replicas.into_iter().map(|(spec, missing_since, held_for)| {
            let held_at = confirmed.saturating_sub(held_for);
            (spec.id.clone(), HeldReplica { spec, missing_since, held_at })
        });
        let replicas = replicas.collect();
        (name, Self { policy, follows_default, expected, replaced_at: None, replicas })
    }

    /// What a restart has to know.
    pub(super) fn entry(&self, name: &ServiceName, confirmed: Duration) -> HeldEntry {
        let replicas = self.replicas.values();
        let replicas = replicas.map(|held| (held.spec.clone(), held.missing_since, held.held_for(confirmed)));
        HeldEntry {
            name: name.clone(),
            policy: self.policy,
            follows_default: self.follows_default,
            expected: self.expected,
            replicas: replicas.collect(),
        }
    }

    /// Takes over the policy that the registry has for the service, or had last.
    pub(super) fn follow(&mut self, case: &Case<'_>) {
        if let Some(entry) = case.after.or(case.before) {
            self.policy = entry.spec.policy;
            self.follows_default = entry.own_policy.is_none();
        }
    }

    pub(super) fn hold(&mut self, case: &Case<'_>, replica: &ReplicaSpec, judgement: &mut Judgement) {
        let held = HeldReplica { spec: replica.clone(), missing_since: case.wall, held_at: case.confirmed };
        self.replicas.insert(replica.id.clone(), held);
        judgement.touched.insert(case.name.clone());
        judgement.held.push(ReplicaKey { service: case.name.clone(), replica: replica.id.clone() });
    }

    /// Lets go of those that there is a reason for.
    pub(super) fn let_go(
        &mut self,
        name: &ServiceName,
        judgement: &mut Judgement,
        why: impl Fn(&HeldReplica) -> Option<LetGo>,
    ) {
        self.replicas.retain(|id, replica| {
            let Some(why) = why(replica) else { return true };
            judgement.touched.insert(name.clone());
            judgement.let_go.push((ReplicaKey { service: name.clone(), replica: id.clone() }, why));
            false
        });
    }

    /// Whether others have taken the place of the held ones, and have kept it for [`SETTLE`].
    ///
    /// Counted are replicas that the registry vouches for and that take requests: those that are LOST may be as gone as
    /// the held ones.
    pub(super) fn is_replaced(&mut self, spec: Option<&ServiceSpec>, confirmed: Duration) -> bool {
        use gateway_proto::Health::{Degraded, Healthy};
        let takes_requests =
            |replica: &&ReplicaSpec| replica.is_serving() && matches!(replica.health, Healthy | Degraded);
        let there = spec.map_or(0, |spec| spec.replicas.iter().filter(takes_requests).count());
        let absent = self.expected.saturating_sub(there);
        if self.policy.guard.holds(absent, self.expected) {
            self.replaced_at = None;
            return false;
        }
        let since = *self.replaced_at.get_or_insert(confirmed);
        confirmed.saturating_sub(since) >= SETTLE
    }
}
