//! What happened at services and replicas since it was last told, with how long it took. Pure.
//!
//! Services are always told of, replicas only while somebody looks. A row of a busy service is 160 bytes at most, its latencies
//! most of them, as a test holds: a data plane that carries 1,000 busy services tells 160 kB a second, one without traffic
//! nothing.

use std::collections::HashMap;

use gateway_proto::{ReplicaId, ServiceName, v1};

use super::rows::count;
use crate::table::{Buckets, LATENCY_BUCKETS, Replica, Service, Services};

/// Remembers what was counted up to the last interval, of what was ever busy.
#[derive(Debug, Default)]
pub(super) struct StatsLedger {
    before: HashMap<Name, Remembered>,
    /// Numbers the walks over the table: what the last one did not see is gone.
    walk: u64,
}

/// A service, or a replica of it.
type Name = (ServiceName, Option<ReplicaId>);

#[derive(Debug, Default)]
struct Remembered {
    counted: Counted,
    /// None before anything was recorded.
    buckets: Option<Box<Buckets>>,
    walk: u64,
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
            for replica in service.replicas().iter() {
                self.take_replica(replica);
            }
        }
    }

    /// Ends an interval and begins the next one. Services and, if they are wanted, replicas where nothing happened and nothing
    /// is in flight are left out. Replicas that were not wanted are forgotten.
    pub(super) fn take(&mut self, services: &Services, with_replicas: bool) -> Vec<v1::ReplicaStats> {
        self.walk += 1;
        let mut rows = Vec::new();
        for service in services.values() {
            rows.extend(self.take_service(service));
            if with_replicas {
                for replica in service.replicas().iter() {
                    rows.extend(self.take_replica(replica));
                }
            }
        }
        let walk = self.walk;
        self.before.retain(|_, remembered| remembered.walk == walk);
        rows
    }

    fn take_service(&mut self, service: &Service) -> Option<v1::ReplicaStats> {
        // Read before what it counts, so that no latency is told before its request, nor a retry.
        let recorded = service.latencies_recorded();
        let attempts = service.attempts();
        let (requests, failures) = service.counters().totals();
        let counted = Counted { requests, failures, retries: attempts.retries, recorded };
        let name = (service.name().clone(), None);
        self.row(name, counted, attempts.inflight, || service.latencies())
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
        let key = replica.key();
        let name = (key.service.clone(), Some(key.replica.clone()));
        self.row(name, counted, counters.inflight, || replica.latencies())
    }

    fn row(
        &mut self,
        name: Name,
        counted: Counted,
        inflight: u64,
        latencies: impl Fn() -> Buckets,
    ) -> Option<v1::ReplicaStats> {
        let is_quiet = inflight == 0;
        let remembered = match self.before.get_mut(&name) {
            Some(known) => known,
            None if is_quiet && counted == Counted::default() => return None,
            None => self.before.entry(name.clone()).or_default(),
        };
        remembered.walk = self.walk;
        if is_quiet && remembered.counted == counted {
            return None;
        }
        let before = std::mem::replace(&mut remembered.counted, counted);
        let latency_bucket_counts = match before.recorded == counted.recorded {
            true => Vec::new(),
            false => {
                let buckets = latencies();
                let known = remembered.buckets.get_or_insert_with(|| Box::new([0; LATENCY_BUCKETS]));
                differences(&buckets, &std::mem::replace(&mut **known, buckets))
            }
        };
        Some(v1::ReplicaStats {
            service: name.0.to_string(),
            replica_id: name.1.map(|id| id.to_string()).unwrap_or_default(),
            request_count: count(counted.requests.saturating_sub(before.requests)),
            failure_count: count(counted.failures.saturating_sub(before.failures)),
            retry_count: count(counted.retries.saturating_sub(before.retries)),
            inflight_count: i32::try_from(inflight).unwrap_or(i32::MAX),
            latency_bucket_counts,
            // Of answers only.
            latency_p50: None,
            latency_p95: None,
            latency_p99: None,
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
