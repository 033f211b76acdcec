//! The registry's half of the guard against mass removal: whether lapsed leases are to be believed.
//!
//! A few leases lapse because their owners died. Most leases of a service lapsing at about the same time look rather like
//! a network that is cut between the owners and the registry, and the worst answer to that is to take every replica out. So
//! they are held, as LOST: still routable, and breakers decide whether requests reach them. What a service should have is
//! derived from its present records only, so that nothing ratchets up (Eureka's self-preservation does, across restarts).

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{LeaseId, ReplicaKey, ServiceName, policy};

use super::{Aspect, Override, OverrideTarget, ServiceEntry, View};

/// A lease that has lapsed, or is lapsed and held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The replica it guarded.
    pub key: ReplicaKey,
    /// Which lease.
    pub lease: LeaseId,
    /// What was granted.
    pub ttl: Duration,
    /// How long nothing was heard of its owner.
    pub silent_for: Duration,
}

/// What is to become of the suspects of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The service.
    pub service: ServiceName,
    /// These are to be removed.
    pub expire: Vec<Suspect>,
    /// These are to be held, if they are not yet.
    pub hold: Vec<Suspect>,
    /// How many leases the service should have, by its records.
    pub expected: usize,
}

/// Remembers which leases lapsed a short while ago: a service that loses its replicas one by one loses them, too.
#[derive(Debug, Default)]
pub struct Guard {
    /// By service and lease: until when each counts.
    recent: HashMap<ServiceName, HashMap<LeaseId, Instant>>,
}

/// The leases of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leases {
    /// Lapsed by now: the suspects.
    lapsed: usize,
    /// Removed within the last time to live.
    recent: usize,
    /// Not lapsed.
    alive: usize,
    /// Of these: registered since the first of the suspects was lost.
    newcomers: usize,
}

impl Guard {
    /// Judges the suspects of every service that has such, at `now`, which is `wall` by the wall clock.
    ///
    /// Those it lets go count as recent from then on, once each, whether or not the store takes their removal at once.
    pub fn judge(
        &mut self,
        view: &View,
        suspects: Vec<Suspect>,
        now: Instant,
        wall: SystemTime,
    ) -> Vec<Judgement> {
        self.recent.retain(|_, ends| {
            ends.retain(|_, end| now < *end);
            !ends.is_empty()
        });
        let mut by_service: HashMap<ServiceName, Vec<Suspect>> = HashMap::new();
        for suspect in suspects {
            by_service.entry(suspect.key.service.clone()).or_default().push(suspect);
        }
        let judged = by_service.into_iter().map(|(service, mut suspects)| {
            suspects.sort_by(|a, b| (&a.key, a.lease).cmp(&(&b.key, b.lease)));
            self.judge_service(view, service, suspects, now, wall)
        });
        let mut judged: Vec<_> = judged.collect();
        judged.sort_by(|a, b| a.service.cmp(&b.service));
        judged
    }

    fn judge_service(
        &mut self,
        view: &View,
        service: ServiceName,
        suspects: Vec<Suspect>,
        now: Instant,
        wall: SystemTime,
    ) -> Judgement {
        let leases = match view.service(&service) {
            Some(entry) => self.count(&service, entry, &suspects),
            None => Leases { lapsed: suspects.len(), recent: 0, alive: 0, newcomers: 0 },
        };
        let policy = view.policies().resolve(Some(&service)).guard;
        let holds = !is_released(view, &service, wall) && holds(&policy, leases);
        let (mut expire, mut hold) = (Vec::new(), Vec::new());
        for suspect in suspects {
            let is_overdue = view
                .get(&suspect.key)
                .and_then(|record| record.lost)
                .is_some_and(|lost| wall.duration_since(lost.since).unwrap_or_default() >= policy.hold_time);
            if holds && !is_overdue { hold.push(suspect) } else { expire.push(suspect) }
        }
        if !expire.is_empty() {
            self.remember(&service, &expire, now);
        }
        Judgement { service, expire, hold, expected: leases.expected() }
    }

    fn count(&self, service: &ServiceName, entry: &ServiceEntry, suspects: &[Suspect]) -> Leases {
        let leased = entry.replicas().filter(|record| record.lease.is_some());
        let lost = suspects.iter().filter_map(|suspect| entry.get(&suspect.key.replica)?.lost);
        let first_lost = lost.map(|lost| lost.revision).min();
        let is_suspect = |id: &gateway_proto::ReplicaId| {
            suspects.binary_search_by(|suspect| suspect.key.replica.cmp(id)).is_ok()
        };
        let (mut alive, mut newcomers) = (0, 0);
        for record in leased.filter(|record| !is_suspect(&record.key.replica)) {
            alive += 1;
            newcomers += usize::from(first_lost.is_some_and(|lost| record.incarnation > lost));
        }
        // One whose removal the store has not taken yet is among the suspects again.
        let is_counted = |lease: &LeaseId| suspects.iter().any(|suspect| suspect.lease == *lease);
        let recent = self.recent.get(service).map_or(0, |recent| match suspects.len() {
            // Comparing each with each is for the few; many suspects hold the service in any case.
            0..=64 => recent.keys().filter(|lease| !is_counted(lease)).count(),
            _ => 0,
        });
        Leases { lapsed: suspects.len(), recent, alive, newcomers }
    }

    fn remember(&mut self, service: &ServiceName, expired: &[Suspect], now: Instant) {
        let ends = self.recent.entry(service.clone()).or_default();
        // Bounded by what a service may have: each is remembered once, for its own time to live.
        ends.extend(expired.iter().map(|suspect| (suspect.lease, now + suspect.ttl)));
    }
}

impl Leases {
    /// What there would be if nothing had lapsed and nobody had come in its place.
    fn expected(self) -> usize {
        self.lapsed + self.recent + self.alive - self.newcomers
    }
}

fn holds(policy: &policy::Guard, leases: Leases) -> bool {
    let expected = leases.expected();
    // When as many are there as may remain, others have taken the place of the lost ones.
    let may_remain = (1.0 - policy.max_removal_ratio) * expected as f64;
    policy.holds_lapsed(leases.lapsed + leases.recent, expected) && (leases.alive as f64) < may_remain
}

fn is_released(view: &View, service: &ServiceName, wall: SystemTime) -> bool {
    let target =
        OverrideTarget { aspect: Aspect::Guard, service: service.clone(), replica: None, node: None };
    view.override_of(&target.id()).is_some_and(|entry: &std::sync::Arc<Override>| wall < entry.expires_at)
}
