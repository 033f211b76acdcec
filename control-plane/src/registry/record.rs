//! One registered replica, as the store keeps it.

use std::{
    num::NonZeroU64,
    time::{Duration, SystemTime},
};

use gateway_proto::{
    Address, Endpoint, Health, Labels, LeaseId, Locality, Mode, Priority, ReplicaKey, Weight,
    time::{duration, timestamp},
    v1,
};

use super::{item::etag, sparse_text::SparseText};

/// Counts committed mutations; 0 before the first. Two revisions compare only within one epoch of the store.
pub type Revision = i64;

/// Everything durable about one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its service and its id there.
    pub key: ReplicaKey,
    /// Where requests reach it, and what is spoken there. No other replica of the service has the same address.
    pub endpoint: Endpoint,
    /// Its share of the service's traffic.
    pub weight: Weight,
    /// Its tier.
    pub priority: Priority,
    /// Where it runs.
    pub locality: Locality,
    /// Free text for people, at most 63 characters.
    pub version: SparseText,
    /// What its owner says of it.
    pub labels: Labels,
    /// Health as its owner reported it last.
    pub health: Health,
    /// Why, in its owner's words; empty when nothing was said.
    pub health_reason: SparseText,
    /// Since when, by the wall clock.
    pub health_since: SystemTime,
    /// The claim that keeps it here; `None` for a permanent replica.
    pub lease: Option<LeaseTerms>,
    /// Its lease lapsed, and the guard against mass removal holds it.
    pub lost: Option<Box<Lost>>,
    /// Somebody asked that it gets no more requests.
    pub drain: Option<Box<Drain>>,
    /// The request that registered it, if that named itself.
    pub request: Option<Box<RequestMark>>,
    /// Who registered it last; empty where nobody was asked who he is.
    pub registered_by: SparseText,
    /// Grows with every registration of this key, also across removal.
    pub incarnation: i64,
    /// The incarnation with which it came, since it, or the lost replica whose address it took over, was last absent.
    pub first_incarnation: i64,
    /// When this key was registered first since it was last absent.
    pub created_at: SystemTime,
    /// When anything of it changed last.
    pub updated_at: SystemTime,
    /// The revision of that change.
    pub revision: Revision,
}

/// Whose claim it is and how long it lasts without a renewal.
///
/// The deadline is no part of it: renewals are not durable, so that they cost no commit and change no revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Proof of ownership.
    pub id: LeaseId,
    /// In nanoseconds: half the room of a `Duration`.
    ttl: NonZeroU64,
}

impl LeaseTerms {
    /// A lease that lasts so long without a renewal, 1 s..=1 h.
    pub fn new(id: LeaseId, ttl: Duration) -> Self {
        let nanos = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        Self { id, ttl: NonZeroU64::new(nanos).unwrap_or(NonZeroU64::MIN) }
    }

    /// Granted time to live.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl.get())
    }
}

/// Since when a replica is held although its lease lapsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// By the wall clock.
    pub since: SystemTime,
    /// The latest incarnation then: what came after the loss has a greater one.
    pub incarnation: i64,
}

/// A replica that gets no new requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// When that was asked for.
    pub begun: SystemTime,
    /// Requests in flight are cut after this.
    pub deadline: SystemTime,
    /// For people.
    pub reason: Box<str>,
    /// Who asked.
    pub author: Box<str>,
    /// Whether it was the replica's owner: then its next registration ends the drain. An operator's drain outlasts it.
    pub by_owner: bool,
    /// Whether nothing is in flight any more, or the deadline has passed.
    pub is_over: bool,
    /// The registry's revision that began it: who has come there sends no new requests. 0 until it is durable.
    pub revision: Revision,
}

impl Drain {
    /// What is in flight has no longer than this, from when it was asked for last.
    pub const LONGEST: Duration = Duration::from_secs(3600);
}

/// A registration by which a repeated request is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestMark {
    /// The caller's own id of the request.
    pub id: u128,
    /// A hash of what was asked for.
    pub fingerprint: u64,
    /// When it was answered first.
    pub at: SystemTime,
    /// What was answered then.
    pub created: bool,
}

impl RequestMark {
    /// For so long a repeated request is known as such.
    const MEMORY: Duration = Duration::from_secs(600);

    /// Whether a repetition at `now` is still known. A wall clock that goes back makes the request young again, which does
    /// no harm.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        now.duration_since(self.at).unwrap_or_default() < Self::MEMORY
    }
}

impl Record {
    /// A permanent, healthy replica of which nothing more is known, at revision and incarnation 1.
    pub fn plain(key: ReplicaKey, address: Address, at: SystemTime) -> Self {
        Self {
            key,
            endpoint: address.into(),
            weight: Weight::DEFAULT,
            priority: Priority::default(),
            locality: Locality::default(),
            version: SparseText::default(),
            labels: Labels::default(),
            health: Health::Healthy,
            health_reason: SparseText::default(),
            health_since: at,
            lease: None,
            lost: None,
            drain: None,
            request: None,
            registered_by: SparseText::default(),
            incarnation: 1,
            first_incarnation: 1,
            created_at: at,
            updated_at: at,
            revision: 1,
        }
    }

    /// What was asked of it.
    pub fn mode(&self) -> Mode {
        match &self.drain {
            None => Mode::Serving,
            Some(drain) if drain.is_over => Mode::Drained,
            Some(_) => Mode::Draining,
        }
    }

    /// Its mode while it gets no new requests, and until when those in flight may take.
    pub fn as_drain(&self) -> Option<(Mode, SystemTime)> {
        self.drain.as_deref().map(|drain| (self.mode(), drain.deadline))
    }

    /// Health as data planes go by it.
    pub fn shown_health(&self) -> Health {
        if self.lost.is_some() { Health::Lost } else { self.health }
    }

    /// Whether this lease is what keeps it here.
    pub fn is_kept_by(&self, lease: LeaseId) -> bool {
        self.lease.is_some_and(|terms| terms.id == lease)
    }

    /// Whether data planes send it requests and it is heard of: what counts as a ready replica.
    pub fn is_ready(&self) -> bool {
        self.lost.is_none() && self.health.is_ready() && self.drain.is_none()
    }

    /// The wire's form, without the secret lease id and without the lease's deadline.
    pub fn to_wire(&self) -> v1::Replica {
        let (state_change_time, state_reason) = self.state_story();
        v1::Replica {
            state_change_time: Some(timestamp(state_change_time)),
            state_reason,
            lease: Some(v1::Lease {
                ttl: self.lease.map(|lease| duration(lease.ttl())),
                permanent: self.lease.is_none(),
                ..Default::default()
            }),
            create_time: Some(timestamp(self.created_at)),
            update_time: Some(timestamp(self.updated_at)),
            etag: etag(self.revision),
            registered_by: self.registered_by.to_string(),
            reported_health: match &self.lost {
                Some(_) => self.health.to_wire().into(),
                None => v1::HealthStatus::Unspecified.into(),
            },
            ..self.to_snapshot()
        }
    }

    /// The wire's form in snapshots: what requests may depend on. A thousand data planes are sent it for every replica,
    /// so it has nothing that only people read.
    pub fn to_snapshot(&self) -> v1::Replica {
        v1::Replica {
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            endpoint: Some(self.endpoint.to_wire()),
            weight: self.weight.get().into(),
            priority: self.priority.get().into(),
            locality: self.locality.to_wire(),
            version: self.version.to_string(),
            labels: self.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            health: self.shown_health().to_wire().into(),
            mode: self.mode().to_wire().into(),
            incarnation: self.incarnation,
            revision: self.revision,
            drain: self.drain.as_deref().map(Drain::to_wire),
            lease: self.lease.is_none().then(|| v1::Lease { permanent: true, ..Default::default() }),
            ..Default::default()
        }
    }

    /// What changed last of health and mode: when, and why.
    fn state_story(&self) -> (SystemTime, String) {
        let mut story = (self.health_since, self.health_reason.to_string());
        if let Some(drain) = self.drain.as_deref().filter(|drain| drain.begun >= story.0) {
            story = (drain.begun, drain.reason.to_string());
        }
        if let Some(lost) = self.lost.as_deref().filter(|lost| lost.since >= story.0) {
            story = (lost.since, "its lease lapsed together with too many others of the service".into());
        }
        story
    }
}

impl Drain {
    /// The wire's form.
    pub fn to_wire(&self) -> v1::Drain {
        v1::Drain {
            begin_time: Some(timestamp(self.begun)),
            deadline_time: Some(timestamp(self.deadline)),
            reason: self.reason.to_string(),
            author: self.author.to_string(),
            by_owner: self.by_owner,
            revision: self.revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_and_its_counters_fit_an_allocation_of_256_bytes() {
        // The next larger ones have 320: a word more costs every replica 64 bytes.
        assert!(size_of::<Record>() + 2 * size_of::<usize>() <= 256, "{}", size_of::<Record>());
    }
}
