//! What happened at services and replicas since it was last told, with how long it took. Pure.
//!
//! Services are always told of, replicas only while somebody looks. A row of a busy service is 160 bytes at most, its latencies
//! most of them, as a test holds: a data plane that carries 1,000 busy services tells 160 kB a second, one without traffic
//! nothing.

use std::collections::HashMap;

use gateway_proto::{ReplicaId, ReplicaKey, ServiceName, latency::LATENCY_BUCKETS, v1};

use super::rows::count;
use crate::table::{Buckets, Replica, Service, Services, Traffic};

/// Remembers what was counted up to the last interval, of what was ever busy.
#[derive(Debug, Default)]
pub(super) struct StatsLedger {
    before: HashMap<ServiceName, Before>,
    /// Numbers the walks over the table: what the last one did not see is gone.
    walk: u64,
}

/// What was counted of one service.
#[derive(Debug, Default)]
struct Before {
    service: Remembered,
    /// Those that were ever busy, while they are wanted.
    replicas: HashMap<ReplicaId, Remembered>,
    /// What had come to it when there was nothing to tell of it.
    rest: Option<Traffic>,
    walk: u64,
}

#[derive(Debug, Default)]
struct Remembered {
    counted: Counted,
    /// None before anything was recorded.
    buckets: Option<Box<Buckets>>,
}

/// What has been counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counted {
    requests: u64,
    failures: u64,
    retries: u64,
    /// Latencies recorded, modulo 2^32.
    recorded: u32,
}

impl StatsLedger {
    /// Begins an interval: what was counted before is not told.
    pub(super) fn begin(services: &Services) -> Self {
        let mut ledger = Self::default();
        ledger.take(services, false);
        ledger
    }

    /// Begins an interval of replicas, too: what was counted at them before is not told.
    pub(super) fn begin_replicas(&mut self, services: &Services) {
        for service in services.values() {
            let before = self.before.entry(service.name().clone()).or_default();
            before.walk = self.walk;
            for replica in service.replicas().iter() {
                before.take_replica(replica);
            }
        }
    }

    /// Ends an interval and begins the next one. Services and, if they are wanted, replicas where nothing happened and nothing
    /// is in flight are left out. Replicas that were not wanted are forgotten.
    pub(super) fn take(&mut self, services: &Services, with_replicas: bool) -> Vec<v1::ReplicaStats> {
        self.walk += 1;
        let mut rows = Vec::new();
        for service in services.values() {
            let traffic = service.traffic();
            let before = match self.before.get_mut(service.name()) {
                Some(before) => before,
                None if traffic == Traffic::default() => continue,
                None => self.before.entry(service.name().clone()).or_default(),
            };
            before.walk = self.walk;
            if !with_replicas {
                before.replicas.clear();
            }
            if before.rest == Some(traffic) {
                continue;
            }
            let count = rows.len();
            rows.extend(before.take_service(service));
            if with_replicas {
                rows.extend(service.replicas().iter().filter_map(|replica| before.take_replica(replica)));
            }
            before.rest = (rows.len() == count).then_some(traffic);
        }
        let walk = self.walk;
        self.before.retain(|_, before| before.walk == walk);
        rows
    }
}

impl Before {
    fn take_service(&mut self, service: &Service) -> Option<v1::ReplicaStats> {
        // Read before what it counts, so that no latency is told before its request, nor a retry.
        let recorded = service.latencies_recorded();
        let attempts = service.attempts();
        let (requests, failures) = service.counters().totals();
        let counted = Counted { requests, failures, retries: attempts.retries, recorded };
        let row = self.service.row(counted, attempts.inflight, || service.latencies())?;
        Some(v1::ReplicaStats { service: service.name().to_string(), ..row })
    }

    fn take_replica(&mut self, replica: &Replica) -> Option<v1::ReplicaStats> {
        let recorded = replica.latencies_recorded();
        let counters = replica.counters();
        let counted = Counted {
            requests: counters.attempts,
            failures: counters.failures,
            retries: counters.retries,
            recorded,
        };
        let ReplicaKey { service, replica: id } = replica.key();
        let remembered = match self.replicas.get_mut(id) {
            Some(known) => known,
            None if counted == Counted::default() => return None,
            None => self.replicas.entry(id.clone()).or_default(),
        };
        let row = remembered.row(counted, counters.inflight, || replica.latencies())?;
        Some(v1::ReplicaStats { service: service.to_string(), replica_id: id.to_string(), ..row })
    }
}

impl Remembered {
    /// What was counted since, without a name; `None`: nothing, and nothing is in flight.
    fn row(
        &mut self,
        counted: Counted,
        inflight: u64,
        latencies: impl Fn() -> Buckets,
    ) -> Option<v1::ReplicaStats> {
        if inflight == 0 && self.counted == counted {
            return None;
        }
        let before = std::mem::replace(&mut self.counted, counted);
        let latency_bucket_counts = match before.recorded == counted.recorded {
            true => Vec::new(),
            false => {
                let buckets = latencies();
                let known = self.buckets.get_or_insert_with(|| Box::new([0; LATENCY_BUCKETS]));
                differences(&buckets, &std::mem::replace(&mut **known, buckets))
            }
        };
        Some(v1::ReplicaStats {
            request_count: count(counted.requests.saturating_sub(before.requests)),
            failure_count: count(counted.failures.saturating_sub(before.failures)),
            retry_count: count(counted.retries.saturating_sub(before.retries)),
            inflight_count: i32::try_from(inflight).unwrap_or(i32::MAX),
            latency_bucket_counts,
            // Of answers only.
            latency_p50: None,
            latency_p95: None,
            latency_p99: None,
            ..Default::default()
        })
    }
}

/// Bucket by bucket, without trailing zeros.
fn differences(now: &Buckets, before: &Buckets) -> Vec<i64> {
    let mut counts: Vec<i64> =
        now.iter().zip(before).map(|(now, before)| i64::from(now.wrapping_sub(*before))).collect();
    let len = counts.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
    counts.truncate(len);
    counts
}
