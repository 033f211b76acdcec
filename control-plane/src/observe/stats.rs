//! What data planes count, summed up for each who looks, and lately for those who look once.
//!
//! Each reader has sums of its own, from its last look on, so that slow and quick readers do not disturb each other. All
//! of it is bounded: rows of a message, rows of a reader, rows of all readers, names in the sums of lately.

mod latency;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{Invalid, ReplicaId, ServiceName, time::parse_duration, v1};

pub use self::latency::Latencies;
use super::recent::{Lately, Recent};

/// Rows taken from one message; a data plane sends more in several.
const MAX_REPORTED: usize = 2000;
/// Rows kept for one reader, of some 500 bytes.
const MAX_ROWS_OF_READER: usize = 10_000;
/// Rows kept for all readers.
const MAX_ROWS: usize = 50_000;
/// An interval that a data plane cannot mean: what is in flight is weighed by it.
const MAX_INTERVAL: Duration = Duration::from_secs(600);
/// Without this much quiet since somebody looked, data planes go on counting.
pub const LINGER: Duration = Duration::from_secs(10);

/// A service, or a replica of it.
pub(super) type Name = (ServiceName, Option<ReplicaId>);

/// Counts of one interval, as one data plane reported them, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StatsReport {
    rows: Vec<(Name, Sum)>,
    /// Rows that were more than is taken.
    pub cut: usize,
}

/// What happened at a service or a replica.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Sum {
    pub(super) requests: i64,
    pub(super) failures: i64,
    pub(super) retries: i64,
    /// What is in flight, times for how long: the mean is right however intervals overlap.
    pub(super) inflight_seconds: f64,
    pub(super) latencies: Latencies,
}

/// Readers and their sums.
#[derive(Debug, Default)]
pub struct Stats {
    readers: BTreeMap<ReaderId, Reader>,
    last_reader: ReaderId,
    row_count: usize,
    recent: Recent,
}

/// Names a reader.
pub(super) type ReaderId = u64;

/// What a reader wants summed up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Of this service only.
    pub service: Option<ServiceName>,
    /// Of each replica, too.
    pub per_replica: bool,
    /// Only what was reported here, and with what other control planes need to add it to what was reported there.
    pub for_peer: bool,
    /// Only what data planes tell anyhow: for this reader, none counts in detail.
    pub quietly: bool,
}

#[derive(Debug)]
struct Reader {
    wish: Wish,
    since: Instant,
    sums: BTreeMap<Name, Sum>,
}

/// Whether data planes are to count in detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Somebody looks.
    Somebody,
    /// Nobody does, but until then it would not pay to stop.
    Until(Instant),
    /// Nobody has ever looked.
    Nobody,
}

impl Attention {
    /// Whether it holds at `now`.
    pub fn is_paid(self, now: Instant) -> bool {
        match self {
            Self::Somebody => true,
            Self::Until(end) => now < end,
            Self::Nobody => false,
        }
    }
}

/// Checks counts; `None` when the message holds none.
///
/// # Errors
/// [`Invalid`] naming the row at fault.
pub(super) fn parse_stats(
    rows: Vec<v1::ReplicaStats>,
    interval: Option<prost_types::Duration>,
) -> Result<Option<StatsReport>, Invalid> {
    let Some(interval) = interval else {
        return match rows.is_empty() {
            true => Ok(None),
            false => Err(Invalid::new("stats_interval", "is required with stats")),
        };
    };
    let interval = parse_duration("stats_interval", interval)?.min(MAX_INTERVAL);
    let cut = rows.len().saturating_sub(MAX_REPORTED);
    let rows = rows.into_iter().take(MAX_REPORTED).enumerate().map(|(index, row)| {
        parse_row(row, interval).map_err(|invalid| invalid.within(&format!("stats[{index}]")))
    });
    Ok(Some(StatsReport { rows: rows.collect::<Result<_, _>>()?, cut }))
}

fn parse_row(wire: v1::ReplicaStats, interval: Duration) -> Result<(Name, Sum), Invalid> {
    let service = ServiceName::parse(&wire.service)?;
    let replica = match wire.replica_id.as_str() {
        "" => None,
        id => Some(ReplicaId::parse(id)?),
    };
    let sum = Sum {
        requests: wire.request_count.max(0),
        failures: wire.failure_count.max(0),
        retries: wire.retry_count.max(0),
        inflight_seconds: f64::from(wire.inflight_count.max(0)) * interval.as_secs_f64(),
        latencies: Latencies::from_wire(&wire.latency_bucket_counts),
    };
    Ok(((service, replica), sum))
}

impl StatsReport {
    /// Keeps what is counted of services that are `known`: names that a data plane makes up would take the room of others.
    pub(crate) fn keep_services(&mut self, known: impl Fn(&ServiceName) -> bool) {
        self.rows.retain(|((service, _), _)| known(service));
    }
}

impl Stats {
    /// Begins to sum up for a reader.
    pub fn begin(&mut self, wish: Wish, now: Instant) -> ReaderId {
        self.last_reader += 1;
        self.readers.insert(self.last_reader, Reader { wish, since: now, sums: BTreeMap::new() });
        self.last_reader
    }

    /// Forgets a reader. Yields whether data planes counted in detail for it.
    pub fn end(&mut self, id: ReaderId) -> bool {
        let Some(reader) = self.readers.remove(&id) else { return false };
        self.row_count -= reader.sums.len();
        !reader.wish.quietly
    }

    /// Whether data planes are to count in detail for anybody.
    pub fn wants_detail(&self) -> bool {
        self.readers.values().any(|reader| !reader.wish.quietly)
    }

    /// Whether somebody reads for himself, and not for another control plane.
    pub fn is_read_here(&self) -> bool {
        self.readers.values().any(|reader| !reader.wish.for_peer)
    }

    /// Adds a report that came at `at`, of a data plane here or from another control plane, to the sums of everybody it
    /// concerns. Yields how many rows there was no room for with readers.
    pub fn add(&mut self, report: &StatsReport, is_from_peer: bool, at: SystemTime) -> usize {
        let mut dropped = 0;
        for (name, sum) in &report.rows {
            self.recent.add(name, sum, at);
            let readers = self.readers.values_mut().filter(|reader| reader.wish.admits(name));
            for reader in readers.filter(|reader| !(is_from_peer && reader.wish.for_peer)) {
                let has_room = self.row_count < MAX_ROWS && reader.sums.len() < MAX_ROWS_OF_READER;
                if let Some(known) = reader.sums.get_mut(name) {
                    known.add(sum);
                } else if has_room {
                    reader.sums.insert(name.clone(), sum.clone());
                    self.row_count += 1;
                } else {
                    dropped += 1;
                }
            }
        }
        dropped
    }

    /// What happened at a service, or a replica of it, in the last ten seconds; `None`: nothing, or nobody tells.
    pub fn lately(
        &self,
        service: &ServiceName,
        replica: Option<&ReplicaId>,
        at: SystemTime,
    ) -> Option<Lately> {
        self.recent.get(&(service.clone(), replica.cloned()), at)
    }

    /// Forgets what was not asked lately.
    pub fn tidy(&mut self, at: SystemTime) {
        self.recent.tidy(at);
    }

    /// What has happened since the reader looked last, and how long ago that was; then it begins anew.
    pub fn take(&mut self, id: ReaderId, now: Instant) -> (Vec<v1::ReplicaStats>, Duration) {
        let Some(reader) = self.readers.get_mut(&id) else { return (Vec::new(), Duration::ZERO) };
        let sums = std::mem::take(&mut reader.sums);
        let interval = now.saturating_duration_since(std::mem::replace(&mut reader.since, now));
        self.row_count -= sums.len();
        let for_peer = reader.wish.for_peer;
        let asked = sums.into_iter().filter(|(_, sum)| for_peer || sum.requests > 0);
        (asked.map(|(name, sum)| sum.to_wire(&name, interval, for_peer)).collect(), interval)
    }
}

impl Wish {
    fn admits(&self, (service, replica): &Name) -> bool {
        self.service.as_ref().is_none_or(|only| only == service) && (self.per_replica || replica.is_none())
    }
}

impl Sum {
    pub(super) fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.retries = self.retries.saturating_add(other.retries);
        self.inflight_seconds += other.inflight_seconds;
        self.latencies.add(&other.latencies);
    }

    fn to_wire(&self, (service, replica): &Name, interval: Duration, for_peer: bool) -> v1::ReplicaStats {
        let inflight = match interval.is_zero() {
            true => 0.0,
            false => self.inflight_seconds / interval.as_secs_f64(),
        };
        let latency = |share| {
            let quantile = (!for_peer).then(|| self.latencies.quantile(share))?;
            quantile.map(gateway_proto::time::duration)
        };
        v1::ReplicaStats {
            service: service.to_string(),
            replica_id: replica.as_ref().map(ReplicaId::to_string).unwrap_or_default(),
            request_count: self.requests,
            failure_count: self.failures,
            retry_count: self.retries,
            inflight_count: rounded(inflight),
            latency_bucket_counts: if for_peer { self.latencies.to_wire() } else { Vec::new() },
            latency_p50: latency(0.50),
            latency_p95: latency(0.95),
            latency_p99: latency(0.99),
        }
    }
}

/// The nearest whole number; what is beyond the type's range becomes its end.
#[expect(clippy::cast_possible_truncation, reason = "a cast from a float saturates")]
fn rounded(number: f64) -> i32 {
    number.round() as i32
}

#[cfg(test)]
mod tests;
