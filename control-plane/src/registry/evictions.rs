//! Which replicas the registry removes because data planes cannot reach them, see `EvictionPolicy`.
//!
//! To take an address away on the word of data planes alone is worse than to keep a dead one, which they do not ask anyway. So
//! every doubt is in the replica's favour: silence, disagreement, a short break, a stall of this process, a service of which
//! nothing else passes, and too many at once.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{Policy, ReplicaKey, ServiceName};

use super::{Record, ServiceEntry, View, guard::is_released};

/// For so long an eviction counts against the share that may go at once.
const MEMORY: Duration = Duration::from_secs(3600);
/// Of one service, so many are remembered.
const MAX_RECENT: usize = 10_000;
/// Between two judgements that are further apart, nobody knows what was.
const MAX_GAP: Duration = Duration::from_secs(10);

/// What data planes that are connected and report see of one replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// The registration that they see.
    pub incarnation: i64,
    /// How many check it, and on how many of them it fails.
    pub checking: usize,
    /// See `checking`.
    pub failing: usize,
    /// How many report it.
    pub reporting: usize,
    /// How many reported it, cannot be heard now, and are not forgotten yet.
    pub silent: usize,
    /// The number of the last report, of any data plane, that said otherwise than that its checks fail, or came after nobody had known it.
    pub doubts: u64,
    /// Failures in a row over all of them, as far as they do not hang on the word of one among several.
    pub failures_in_a_row: u64,
    /// Why a check failed last.
    pub failure: String,
}

/// Why a replica is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Its checks fail everywhere.
    ChecksFailed {
        /// For how long they have.
        lasted: Duration,
        /// On how many data planes.
        nodes: usize,
        /// What the last one said.
        failure: String,
    },
    /// So many failures in a row.
    FailuresInARow {
        /// How many.
        count: u64,
        /// How many are too many.
        threshold: u32,
    },
}

/// A replica that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Which one.
    pub key: ReplicaKey,
    /// Which registration of it.
    pub incarnation: i64,
    /// Why.
    pub why: Why,
}

/// What is to become of the replicas of one service that should go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// The service.
    pub service: ServiceName,
    /// These are to be removed.
    pub evict: Vec<Eviction>,
    /// Why the others, of which there are so many, are not.
    pub held: Option<(usize, Held)>,
}

/// Why replicas stay that should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// No other replica of the service passes.
    NobodyElse,
    /// Too many would go, or have gone.
    TooMany,
}

/// What is to come of a permanent replica whose checks fail everywhere, if nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prospect {
    /// Which one.
    pub key: ReplicaKey,
    /// When it has failed for as long as the policy says.
    pub due: Instant,
    /// Why it stays all the same, from then on.
    pub held: Option<Held>,
}

/// Remembers since when replicas fail, and which were removed a short while ago.
#[derive(Debug, Default)]
pub struct Evictions {
    failing: HashMap<ReplicaKey, Failing>,
    /// By service: registrations that were to be removed, and when.
    recent: HashMap<ServiceName, HashMap<(ReplicaKey, i64), Instant>>,
    judged_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    incarnation: i64,
    /// See [`Sight`]: between two judgements a data plane may have said otherwise and changed its mind.
    doubts: u64,
    since: Instant,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksFailed { lasted, nodes, failure } => {
                let lasted = humantime::format_duration(Duration::from_secs(lasted.as_secs()));
                let planes = if *nodes == 1 { "the data plane" } else { "all data planes" };
                let which = if *nodes == 1 { "that checks it" } else { "that check it" };
                write!(
                    f,
                    "its health checks have failed for {lasted} on {planes} {which} ({nodes}): {failure}"
                )
            }
            Self::FailuresInARow { count, threshold } => {
                write!(f, "{count} failures in a row over all data planes, where {threshold} are too many")
            }
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NobodyElse => "no other replica of the service passes",
            Self::TooMany => {
                "more than guard.max_removal_ratio of the service would go, or have gone within an hour"
            }
        })
    }
}

impl Sight {
    /// Whether all that check it agree that it fails, and are more than those of which nobody knows what they see.
    fn fails_everywhere(&self) -> bool {
        self.failing > self.silent && self.failing == self.checking
    }
}

impl Evictions {
    /// Judges the replicas that fail somewhere, `sights`, at `now`, which is `wall` by the wall clock. To be called every second or
    /// so: what is not among them passes.
    pub fn judge(
        &mut self,
        view: &View,
        sights: &BTreeMap<ReplicaKey, Sight>,
        now: Instant,
        wall: SystemTime,
    ) -> Vec<Sentence> {
        self.follow(sights, now);
        let mut due: BTreeMap<&ServiceName, Vec<Eviction>> = BTreeMap::new();
        for (key, sight) in sights {
            let Some(record) = view.get(key) else { continue };
            let policy = view.policies().resolve(Some(&key.service));
            if let Some(why) = self.why(record, sight, &policy, now) {
                let eviction = Eviction { key: key.clone(), incarnation: record.incarnation, why };
                due.entry(&key.service).or_default().push(eviction);
            }
        }
        due.into_iter().map(|(service, due)| self.sentence(view, service, due, sights, wall)).collect()
    }

    /// Who is on the way to be evicted, as of the last judgement, which came to `sentences`.
    pub fn prospects(&self, view: &View, sentences: &[Sentence]) -> Vec<Prospect> {
        let mut prospects = Vec::new();
        for (key, failing) in &self.failing {
            let record = view.get(key).filter(|record| is_ours(record) && record.lease.is_none());
            let after = view.policies().resolve(Some(&key.service)).eviction.after;
            let is_it = record.is_some_and(|record| record.incarnation == failing.incarnation);
            let Some(due) = failing.since.checked_add(after).filter(|_| is_it && !after.is_zero()) else {
                continue;
            };
            let sentence = sentences.iter().find(|sentence| sentence.service == key.service);
            let held = sentence.and_then(|sentence| sentence.held).map(|(_, held)| held);
            let held = held.filter(|_| self.judged_at.is_some_and(|judged_at| due <= judged_at));
            prospects.push(Prospect { key: key.clone(), due, held });
        }
        prospects
    }

    /// What is about to be removed counts for a while, once, however often the store refuses to take it.
    pub fn evicted(&mut self, eviction: &Eviction, now: Instant) {
        let recent = self.recent.entry(eviction.key.service.clone()).or_default();
        // The guard keeps it far below that, unless it is off.
        if recent.len() < MAX_RECENT {
            recent.insert((eviction.key.clone(), eviction.incarnation), now);
        }
    }

    /// Keeps since when each replica fails everywhere; who does not any more starts over.
    fn follow(&mut self, sights: &BTreeMap<ReplicaKey, Sight>, now: Instant) {
        let gap = self.judged_at.map(|before| now.saturating_duration_since(before)).unwrap_or_default();
        self.judged_at = Some(now);
        if gap > MAX_GAP {
            self.failing.values_mut().for_each(|failing| failing.since += gap);
        }
        self.failing.retain(|key, failing| {
            sights.get(key).is_some_and(|sight| {
                let is_same = sight.incarnation == failing.incarnation && sight.doubts == failing.doubts;
                sight.fails_everywhere() && is_same
            })
        });
        for (key, sight) in sights.iter().filter(|(_, sight)| sight.fails_everywhere()) {
            if !self.failing.contains_key(key) {
                let failing = Failing { incarnation: sight.incarnation, doubts: sight.doubts, since: now };
                self.failing.insert(key.clone(), failing);
            }
        }
        self.recent.retain(|_, gone| {
            gone.retain(|_, at| now.saturating_duration_since(*at) < MEMORY);
            !gone.is_empty()
        });
    }

    fn why(&self, record: &Record, sight: &Sight, policy: &Policy, now: Instant) -> Option<Why> {
        if !is_ours(record) || record.incarnation != sight.incarnation || sight.reporting == 0 {
            return None;
        }
        let policy = policy.eviction;
        let threshold = policy.failure_count;
        if threshold > 0 && sight.failures_in_a_row >= threshold.into() {
            return Some(Why::FailuresInARow { count: sight.failures_in_a_row, threshold });
        }
        let failing = self.failing.get(&record.key).filter(|_| record.lease.is_none())?;
        let lasted = now.saturating_duration_since(failing.since);
        let is_long = !policy.after.is_zero() && lasted >= policy.after;
        let (nodes, failure) = (sight.failing, sight.failure.clone());
        is_long.then_some(Why::ChecksFailed { lasted, nodes, failure })
    }

    fn sentence(
        &self,
        view: &View,
        service: &ServiceName,
        due: Vec<Eviction>,
        sights: &BTreeMap<ReplicaKey, Sight>,
        wall: SystemTime,
    ) -> Sentence {
        let held = |count: usize, why| Some((count, why));
        let is_due = |key: &ReplicaKey| due.binary_search_by(|eviction| eviction.key.cmp(key)).is_ok();
        let passes = |record: &Arc<Record>| {
            let fails = sights.get(&record.key).is_some_and(Sight::fails_everywhere);
            record.is_ready() && !fails && !is_due(&record.key)
        };
        let peers = || view.service(service).into_iter().flat_map(ServiceEntry::replicas);
        let service = service.clone();
        if !peers().any(passes) {
            return Sentence { service, evict: Vec::new(), held: held(due.len(), Held::NobodyElse) };
        }
        let recent = self.recent.get(&service).into_iter().flat_map(HashMap::keys);
        let recent = recent.filter(|(key, _)| !is_due(key)).count();
        let expected = peers().filter(|record| record.drain.is_none()).count() + recent;
        let guard = view.policies().resolve(Some(&service)).guard;
        if guard.holds_lapsed(due.len() + recent, expected) && !is_released(view, &service, wall) {
            return Sentence { service, evict: Vec::new(), held: held(due.len(), Held::TooMany) };
        }
        Sentence { service, evict: due, held: None }
    }
}

/// One that drains is on its way out, and one that is lost is the guard's.
fn is_ours(record: &Record) -> bool {
    record.drain.is_none() && record.lost.is_none()
}

#[cfg(test)]
mod tests;
