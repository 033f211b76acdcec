//! A service whose policy limits how many requests are let through: one rate for all of them, or one for each key.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use gateway_proto::policy::{RateKey, RateLimit};

use super::service::Service;
use crate::routing::{Pacer, Rate, Tick};

/// Keys of one set are looked through one after the other.
const KEYS_PER_SET: usize = 8;
const SETS: usize = 8192;

/// A limit in force.
#[derive(Debug)]
struct RateLimiter {
    limit: RateLimit,
    rate: Rate,
    /// Tells its keys from those of others, and of what was in force before.
    id: u64,
    /// Of all requests, where they are counted together.
    pacer: Pacer,
}

/// What becomes of requests beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeding {
    /// They are refused.
    Refused,
    /// They are let through all the same.
    Observed,
}

impl Exceeding {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Refused, Self::Observed];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["refused", "observed"][self as usize]
    }
}

/// What a service does about it.
#[derive(Debug, Default)]
pub(super) struct RateLimits {
    limiter: ArcSwapOption<RateLimiter>,
    exceeding: [AtomicU64; Exceeding::ALL.len()],
}

/// With whom a request is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted<'a> {
    /// With all of its service.
    Service,
    /// With those from there.
    Address(IpAddr),
    /// With those of this value.
    Value(&'a [u8]),
}

/// A request comes too early.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimited {
    /// For which limit.
    pub limit: RateLimit,
    /// Until it would not, if no other comes before.
    pub wait: Duration,
}

impl RateLimits {
    /// Takes over what the policy says. What is other than before begins anew.
    pub(super) fn follow(&self, limit: &RateLimit, id: impl FnOnce() -> u64) {
        let limit = limit.is_set().then_some(*limit);
        if self.limiter.load().as_ref().map(|present| present.limit) != limit {
            self.limiter.store(limit.map(|limit| {
                let rate = Rate::new(limit.requests_per_second, limit.at_once());
                Arc::new(RateLimiter { limit, rate, id: id(), pacer: Pacer::default() })
            }));
        }
    }
}

impl Service {
    /// Takes over what the policy says.
    pub(super) fn limit_rate(&self, limit: &RateLimit) {
        if limit.is_set() && limit.key != RateKey::Service {
            // Before a request needs them.
            self.outlets.rate_keys();
        }
        self.rates.follow(limit, || self.outlets.next_id());
    }

    /// Counts a request, which comes `now`, with those that the limit's key has it counted with. Lock-free where that is the
    /// service's; each other key shares a lock with few.
    ///
    /// # Errors
    /// It comes too early, by a limit that does not only observe.
    pub fn meter<'a>(
        &self,
        with: impl FnOnce(&RateKey) -> Counted<'a>,
        now: Tick,
    ) -> Result<(), RateLimited> {
        let limiter = self.rates.limiter.load();
        let Some(RateLimiter { limit, rate, id, pacer }) = limiter.as_deref() else { return Ok(()) };
        let taken = match with(&limit.key) {
            Counted::Service => pacer.take(*rate, now),
            key => self.outlets.rate_keys().take((*id, key), *rate, now),
        };
        let Err(wait) = taken else { return Ok(()) };
        let exceeding = if limit.observe_only { Exceeding::Observed } else { Exceeding::Refused };
        self.rates.exceeding[exceeding as usize].fetch_add(1, Relaxed);
        match exceeding {
            Exceeding::Observed => Ok(()),
            Exceeding::Refused => Err(RateLimited { limit: *limit, wait }),
        }
    }

    /// How many requests beyond its limit there were since the start of which that became.
    pub fn exceeding(&self, exceeding: Exceeding) -> u64 {
        self.rates.exceeding[exceeding as usize].load(Relaxed)
    }
}

/// When the next request of each key is due, of so many keys at once.
///
/// A key whose next request is not due later than now is as good as one that was never seen. So what is forgotten for a new key is
/// of its set the one that owes the least, counted in requests at its own rate: mostly nothing. Whoever is refused owes at least
/// as many as the burst less one, and so outlasts any number of others that come once, if that is one or more. With a burst of one
/// nobody owes more than who has come just now: then it is forgotten when its set is full of newer ones.
#[derive(Debug)]
pub(super) struct RateKeys {
    /// Nobody outside can tell which keys share a set.
    hashing: RandomState,
    sets: Box<[Mutex<[RateSlot; KEYS_PER_SET]>]>,
    forgotten: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct RateSlot {
    key: u64,
    due: Tick,
    /// Between two requests of it, in nanoseconds.
    interval: u64,
}

impl RateSlot {
    /// How many requests too many have come of it.
    fn owed(&self, now: Tick) -> f64 {
        self.due.since(now).as_nanos() as f64 / self.interval.max(1) as f64
    }
}

impl RateKeys {
    pub(super) fn new() -> Self {
        Self::of(SETS)
    }

    fn of(sets: usize) -> Self {
        let sets = (0..sets).map(|_| Mutex::default()).collect();
        Self { hashing: RandomState::new(), sets, forgotten: AtomicU64::new(0) }
    }

    fn take(&self, key: impl Hash, rate: Rate, now: Tick) -> Result<(), Duration> {
        let key = self.hashing.hash_one(key);
        let set = &self.sets[(key % self.sets.len() as u64) as usize];
        // Every write is whole by itself.
        let mut slots = set.lock().unwrap_or_else(PoisonError::into_inner);
        let place = slots.iter().position(|slot| slot.key == key).unwrap_or_else(|| {
            let owed = |place: &usize| slots[*place].owed(now);
            let least = (0..KEYS_PER_SET).min_by(|one, other| owed(one).total_cmp(&owed(other)));
            let least = least.unwrap_or_default();
            if slots[least].due > now {
                self.forgotten.fetch_add(1, Relaxed);
            }
            slots[least] = RateSlot { key, due: Tick::ORIGIN, interval: rate.interval() };
            least
        });
        slots[place].due = rate.take(slots[place].due, now)?;
        Ok(())
    }

    /// How many keys were forgotten although they owed something.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick::from_nanos(1_000_000_000);

    fn limit(requests_per_second: f64, burst: u32) -> RateLimit {
        RateLimit { requests_per_second, burst, ..RateLimit::default() }
    }

    #[test]
    fn each_key_has_a_rate_of_its_own() {
        let (keys, rate) = (RateKeys::of(1), Rate::new(1.0, 2));
        for key in 0..8 {
            let taken = [(); 3].map(|()| keys.take(key, rate, NOW).is_ok());
            assert_eq!(taken, [true, true, false], "{key}");
        }
        assert_eq!(keys.forgotten(), 0);
        assert!(keys.take(0, rate, NOW.plus(Duration::from_secs(1))).is_ok());
    }

    #[test]
    fn who_owes_the_least_is_forgotten_first_and_who_owes_the_most_stays() {
        let (keys, rate) = (RateKeys::of(1), Rate::new(1.0, 10));
        let greedy = [(); 11].map(|()| keys.take("greedy", rate, NOW).is_ok());
        assert_eq!(greedy, [true, true, true, true, true, true, true, true, true, true, false]);
        for newcomer in 0..10_000 {
            assert!(keys.take(newcomer, rate, NOW).is_ok(), "a new key is never refused");
        }
        assert!(keys.take("greedy", rate, NOW).is_err());
        assert_eq!(keys.forgotten(), 10_000 - 7);
        // When nobody owes anything any more, nothing is lost by forgetting.
        let later = NOW.plus(Duration::from_secs(60));
        assert!((0..8).all(|key| keys.take(("later", key), rate, later).is_ok()));
        assert_eq!(keys.forgotten(), 10_000 - 7);
    }

    #[test]
    fn keys_of_a_slow_limit_do_not_push_out_who_goes_beyond_a_fast_one() {
        let (keys, slow, fast) = (RateKeys::of(1), Rate::new(0.001, 10), Rate::new(100.0, 10));
        let greedy =
            || (0..11).map(|_| keys.take("greedy", fast, NOW).is_ok()).filter(|taken| *taken).count();
        assert_eq!(greedy(), 10);
        for newcomer in 0..100 {
            assert!(keys.take(newcomer, slow, NOW).is_ok(), "{newcomer}");
        }
        assert_eq!(greedy(), 0, "it owes ten requests, and each of the others one");
    }

    #[test]
    fn with_a_burst_of_one_who_came_first_is_forgotten_for_the_ninth_that_owes_as_much() {
        let (keys, rate) = (RateKeys::of(1), Rate::new(1.0, 1));
        let take = |key, millis| keys.take(key, rate, NOW.plus(Duration::from_millis(millis))).is_ok();
        assert_eq!([take(0, 0), take(0, 1)], [true, false]);
        assert!((1..8).all(|key| take(key, 2)));
        assert!(!take(0, 3), "eight have room");
        assert!(take(8, 4));
        assert_eq!((take(0, 5), keys.forgotten()), (true, 2));
    }

    #[test]
    fn threads_that_share_a_key_take_as_many_as_there_are() {
        let (keys, rate) = (RateKeys::of(1), Rate::new(0.001, 1000));
        let taken: usize = std::thread::scope(|scope| {
            let counting = || (0..1000).filter(|_| keys.take("shared", rate, NOW).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(counting)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn a_limit_goes_on_while_nothing_of_it_changes_and_begins_anew_when_something_does() {
        let limits = RateLimits::default();
        let take = || {
            let limiter = limits.limiter.load();
            limiter.as_ref().map(|limiter| limiter.pacer.take(limiter.rate, NOW).is_ok())
        };
        limits.follow(&RateLimit::default(), || 0);
        assert_eq!(take(), None);
        limits.follow(&limit(0.001, 1), || 1);
        assert_eq!([take(), take()], [Some(true), Some(false)]);
        limits.follow(&limit(0.001, 1), || 2);
        assert_eq!(take(), Some(false));
        limits.follow(&limit(100.0, 1), || 3);
        assert_eq!(take(), Some(true), "it owes nothing of the slower one");
        limits.follow(&RateLimit::default(), || 4);
        assert_eq!(take(), None);
    }
}
