//! The registry's half of the guard against mass removal: whether lapsed leases are to be believed.
//!
//! A few leases lapse because their owners died. Most leases of a service lapsing at about the same time look rather like
//! a network that is cut between the owners and the registry, and the worst answer to that is to take every replica out. So
//! they are held, as LOST: still routable, and breakers decide whether requests reach them. What a service should have is
//! derived from its present records only, so that nothing ratchets up (Eureka's self-preservation does, across restarts).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{LeaseId, ReplicaId, ReplicaKey, ServiceName, policy};

use super::{Aspect, OverrideTarget, Record, ServiceEntry, View};

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
    /// It was held when this process started or stood still, and its owner has not had one full time to live since to be
    /// heard of: it is not let go yet.
    pub is_excused: bool,
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
    /// Since when each lease is held. On the monotonic clock, or a wall clock that is set would let them all go at once.
    held: HashMap<LeaseId, Instant>,
}

/// The leases of one service, those of replicas that drain aside: they are on their way out in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leases {
    /// Lapsed by now: the suspects.
    lapsed: usize,
    /// Removed within the last time to live.
    recent: usize,
    /// Not lapsed, and there when the first of the suspects was lost.
    others: usize,
    /// Of replicas that came since, and that data planes send requests to.
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
        if !self.held.is_empty() {
            let present: HashSet<LeaseId> = suspects.iter().map(|suspect| suspect.lease).collect();
            self.held.retain(|lease, _| present.contains(lease));
        }
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
        let entry = view.service(&service);
        let (mut expire, mut hold, mut doubtful) = (Vec::new(), Vec::new(), Vec::new());
        for suspect in suspects {
            match entry.and_then(|entry| entry.get(&suspect.key.replica)) {
                Some(record) if record.is_kept_by(suspect.lease) => match record.drain {
                    None => doubtful.push((suspect, Arc::clone(record))),
                    // It gets no requests in any case.
                    Some(_) if suspect.is_excused => hold.push(suspect),
                    Some(_) => expire.push(suspect),
                },
                // It guards nothing any more.
                _ => expire.push(suspect),
            }
        }
        let leases = self.count(&service, entry, &doubtful);
        let policy = view.policies().resolve(Some(&service)).guard;
        let holds = leases.are_held(&policy) && !is_released(view, &service, wall);
        for (suspect, record) in doubtful {
            let is_overdue = self.is_overdue(&suspect, &record, policy.hold_time, now, wall);
            if suspect.is_excused || holds && !is_overdue {
                hold.push(suspect);
            } else {
                // Bounded by what a service may have: each is remembered once, for its own time to live.
                let ends = self.recent.entry(service.clone()).or_default();
                ends.insert(suspect.lease, now + suspect.ttl);
                expire.push(suspect);
            }
        }
        Judgement { service, expire, hold, expected: leases.expected() }
    }

    fn count(
        &self,
        service: &ServiceName,
        entry: Option<&ServiceEntry>,
        suspects: &[(Suspect, Arc<Record>)],
    ) -> Leases {
        let first_lost = suspects
            .iter()
            .filter_map(|(_, record)| record.lost.as_deref())
            .map(|lost| lost.incarnation)
            .min();
        let is_suspect =
            |id: &ReplicaId| suspects.binary_search_by(|(suspect, _)| suspect.key.replica.cmp(id)).is_ok();
        let recent = self.recent.get(service);
        let mut leases = Leases { lapsed: suspects.len(), recent: 0, others: 0, newcomers: 0 };
        let mut came_back = 0;
        let peers = entry.into_iter().flat_map(ServiceEntry::replicas);
        let peers = peers.filter(|record| record.lease.is_some() && record.drain.is_none());
        for record in peers.filter(|record| !is_suspect(&record.key.replica)) {
            if !is_newcomer(record, first_lost) {
                leases.others += 1;
            } else if record.is_ready() {
                // One that is not ready has taken nobody's place yet.
                leases.newcomers += 1;
            }
            // It was let go, and heard of before the store took its removal.
            let is_recent =
                |recent: &HashMap<_, _>| record.lease.is_some_and(|lease| recent.contains_key(&lease.id));
            came_back += usize::from(recent.is_some_and(is_recent));
        }
        if let Some(recent) = recent {
            // One whose removal the store has not taken yet is among the suspects again.
            let counted: HashSet<LeaseId> = suspects.iter().map(|(suspect, _)| suspect.lease).collect();
            leases.recent = recent.keys().filter(|lease| !counted.contains(lease)).count() - came_back;
        }
        leases
    }

    /// Whether a suspect has been held for as long as any may be.
    fn is_overdue(
        &mut self,
        suspect: &Suspect,
        record: &Record,
        hold_time: Duration,
        now: Instant,
        wall: SystemTime,
    ) -> bool {
        let Some(lost) = record.lost.as_deref() else { return false };
        // What was lost before this process began, only the wall clock knows.
        let known = || wall.duration_since(lost.since).ok().and_then(|since| now.checked_sub(since));
        let held_since = *self.held.entry(suspect.lease).or_insert_with(|| known().unwrap_or(now));
        now.saturating_duration_since(held_since) >= hold_time
    }
}

impl Leases {
    /// What there would be if nothing had lapsed and nobody had come in its place.
    fn expected(self) -> usize {
        self.lapsed + self.recent + self.others
    }

    /// Whether so many lapses are not to be believed, and nobody has taken the place of enough of them.
    fn are_held(self, policy: &policy::Guard) -> bool {
        let gone = self.lapsed + self.recent;
        let missing = gone.saturating_sub(self.newcomers);
        policy.holds_lapsed(gone, self.expected()) && policy.holds(missing, self.expected())
    }
}

/// Whether a replica came after the first of the suspects was lost. One that only registered anew did not.
fn is_newcomer(record: &Record, first_lost: Option<i64>) -> bool {
    first_lost.is_some_and(|lost| record.first_incarnation > lost)
}

pub(super) fn is_released(view: &View, service: &ServiceName, wall: SystemTime) -> bool {
    let target =
        OverrideTarget { aspect: Aspect::Guard, service: service.clone(), replica: None, node: None };
    view.override_of(&target.id()).is_some_and(|entry| wall < entry.expires_at)
}

#[cfg(test)]
mod tests;
