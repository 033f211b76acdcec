//! The way of renewals to a store that several control planes share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use gateway_proto::{LeaseId, ReplicaKey};
use tokio::sync::mpsc;

/// Without a word from the store for so long, renewals are not known to reach it: twice what it takes it to choose a new
/// leader, and less than most leases last.
const OUT_OF_TOUCH: Duration = Duration::from_secs(4);
/// No lease is so short that less counts: a store that has nothing to say is asked once a second.
const MIN_OUT_OF_TOUCH: Duration = Duration::from_secs(2);

/// How a store names a lease. Two leases have the same tag about as often as two random numbers of 62 bits are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseTag(i64);

/// A renewal that the store is to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The replica.
    pub key: ReplicaKey,
    /// Its lease.
    pub lease: LeaseId,
    /// The lease's time to live.
    pub ttl: Duration,
    /// When its owner was heard of.
    pub heard: Instant,
    /// Whether the store is known to keep the lease no more.
    pub is_dropped: bool,
}

impl Renewal {
    /// Whether the store may still be told: it counts a full time to live from then on, so that a renewal which has waited for long
    /// would keep an owner alive who has fallen silent. The next one comes sooner than this.
    pub fn is_timely(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) < self.ttl / 2
    }
}

/// Where renewals are handed in. Clones lead to the same store.
#[derive(Debug, Clone)]
pub struct Outlet {
    renewals: mpsc::Sender<Renewal>,
    contact: Contact,
}

/// When the store gave a sign of life last. Clones share it.
#[derive(Debug, Clone)]
pub struct Contact {
    born: Instant,
    /// Nanoseconds from `born`.
    touched: Arc<AtomicU64>,
}

impl LeaseTag {
    /// The tag of a lease.
    pub fn of(lease: LeaseId) -> Self {
        Self(lease.tag())
    }

    /// The tag of this number.
    pub fn new(number: i64) -> Self {
        Self(number)
    }

    /// The number, which is positive.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl Outlet {
    /// An outlet, and where its renewals come out: at most `capacity` wait there.
    pub fn new(contact: Contact, capacity: usize) -> (Self, mpsc::Receiver<Renewal>) {
        let (renewals, receiver) = mpsc::channel(capacity);
        (Self { renewals, contact }, receiver)
    }

    /// Hands a renewal in; yields whether there was room.
    pub(super) fn send(&self, renewal: Renewal) -> bool {
        self.renewals.try_send(renewal).is_ok()
    }

    pub(super) fn contact(&self) -> &Contact {
        &self.contact
    }
}

impl Contact {
    /// A store that gave a sign of life at `now`.
    pub fn new(now: Instant) -> Self {
        Self { born: now, touched: Arc::default() }
    }

    /// Notes a sign of life.
    pub fn touch(&self, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.born).as_nanos()).unwrap_or(u64::MAX);
        self.touched.fetch_max(since, Ordering::Relaxed);
    }

    /// Whether the last sign of life is recent enough.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.silent_for(now) < OUT_OF_TOUCH
    }

    /// Whether it is recent enough for a lease of this time to live to be renewed in good faith: half of it at most may be gone
    /// without the store, so that its owner has the other half to be heard of elsewhere.
    pub fn is_fresh_for(&self, ttl: Duration, now: Instant) -> bool {
        self.silent_for(now) < (ttl / 2).clamp(MIN_OUT_OF_TOUCH, OUT_OF_TOUCH)
    }

    /// How long there was none, once that is too long to be by chance; zero until then.
    pub fn silence(&self, now: Instant) -> Duration {
        if self.is_fresh(now) { Duration::ZERO } else { self.silent_for(now) }
    }

    /// How long there was none.
    pub fn silent_for(&self, now: Instant) -> Duration {
        let touched = Duration::from_nanos(self.touched.load(Ordering::Relaxed));
        now.saturating_duration_since(self.born).saturating_sub(touched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_a_lease_the_sooner_a_silent_store_is_no_store_to_it() {
        let born = Instant::now();
        let contact = Contact::new(born);
        let lasts = |ttl: u64| {
            let at = |millis: u64| born + Duration::from_millis(millis);
            (0..10_000).find(|millis| !contact.is_fresh_for(Duration::from_secs(ttl), at(*millis)))
        };
        assert_eq!([1, 3, 4, 5, 8, 15].map(lasts), [2000, 2000, 2000, 2500, 4000, 4000].map(Some));
        contact.touch(born + Duration::from_secs(10));
        assert!(contact.is_fresh_for(Duration::from_secs(3), born + Duration::from_millis(11_999)));
        let silence = |millis: u64| contact.silence(born + Duration::from_millis(millis)).as_millis();
        assert_eq!([10_000, 13_999, 14_000, 20_000].map(silence), [0, 0, 4000, 10_000]);
    }
}
