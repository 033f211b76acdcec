//! How often somebody may ask: a bucket for each, refilled with time. Pure: the time is an argument.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Buckets kept at once. More callers than that share one.
const MAX_BUCKETS: usize = 10_000;

/// Buckets by whose they are.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    /// Refilled by so much in a second, up to twice that.
    rate: f64,
    buckets: HashMap<K, Bucket>,
    /// For those who find no bucket of their own.
    shared: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate);
        Self { rate, buckets: HashMap::new(), shared: Bucket { level: 2.0 * rate, at: now } }
    }

    /// Takes `cost` out of somebody's bucket.
    ///
    /// # Errors
    /// How long to wait until it would be there; nothing is taken then.
    pub(crate) fn take(&mut self, whose: &K, cost: u32, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        let bucket = self.bucket(whose, now);
        bucket.refill(rate, now);
        bucket.look(rate, cost)?;
        bucket.level -= f64::from(cost);
        Ok(())
    }

    /// Whether `cost` is in somebody's bucket.
    ///
    /// # Errors
    /// As [`Buckets::take`].
    pub(crate) fn look(&mut self, whose: &K, cost: u32, now: Instant) -> Result<(), Duration> {
        let (rate, has_room) = (self.rate, self.buckets.len() < MAX_BUCKETS);
        let bucket = match self.buckets.get_mut(whose) {
            Some(bucket) => bucket,
            // He would get a full one.
            None if has_room => return Ok(()),
            None => &mut self.shared,
        };
        bucket.refill(rate, now);
        bucket.look(rate, cost)
    }

    /// Takes it as soon as nothing is owed for what was taken before, however much it is.
    ///
    /// # Errors
    /// How long it is until then; nothing is taken.
    pub(crate) fn owe(&mut self, whose: &K, cost: u32, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        let bucket = self.bucket(whose, now);
        bucket.refill(rate, now);
        if bucket.level < 0.0 {
            return Err(Duration::from_secs_f64(-bucket.level / rate));
        }
        bucket.level -= f64::from(cost);
        Ok(())
    }

    /// Takes one, be it of what is not there yet, and yields how long that is until it is. What would be there only after
    /// `longest` is not taken, and that is what is yielded.
    pub(crate) fn reserve(&mut self, whose: &K, longest: Duration, now: Instant) -> Duration {
        let rate = self.rate;
        let bucket = self.bucket(whose, now);
        bucket.refill(rate, now);
        let wait = bucket.look(rate, 1).err().unwrap_or_default();
        if wait >= longest {
            return longest;
        }
        bucket.level -= 1.0;
        wait
    }

    fn bucket(&mut self, whose: &K, now: Instant) -> &mut Bucket {
        if !self.buckets.contains_key(whose) {
            let (rate, full) = (self.rate, 2.0 * self.rate);
            if self.buckets.len() >= MAX_BUCKETS {
                // A full one says no more than none.
                self.buckets.retain(|_, bucket| {
                    bucket.refill(rate, now);
                    bucket.level < full
                });
            }
            if self.buckets.len() >= MAX_BUCKETS {
                return &mut self.shared;
            }
            self.buckets.insert(whose.clone(), Bucket { level: full, at: now });
        }
        self.buckets.get_mut(whose).expect("it was just looked for, or put there")
    }
}

impl Bucket {
    fn look(&self, rate: f64, cost: u32) -> Result<(), Duration> {
        let missing = f64::from(cost) - self.level;
        if missing > 0.0 { Err(Duration::from_secs_f64(missing / rate)) } else { Ok(()) }
    }

    fn refill(&mut self, rate: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * rate).min(2.0 * rate);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seconds_worth_goes_at_once_and_then_so_much_in_a_second() {
        let now = Instant::now();
        let mut buckets = Buckets::new(10, now);
        let ci = "ci";
        assert_eq!(buckets.look(&ci, 1, now), Ok(()));
        assert_eq!((0..30).filter(|_| buckets.take(&ci, 1, now).is_ok()).count(), 20);
        for _ in 0..9 {
            assert_eq!(buckets.look(&ci, 1, now), Err(Duration::from_millis(100)));
        }
        assert_eq!(buckets.take(&ci, 1, now), Err(Duration::from_millis(100)));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..30).filter(|_| buckets.take(&ci, 1, later).is_ok()).count(), 10);
    }

    #[test]
    fn one_who_asks_too_often_takes_nothing_from_others() {
        let now = Instant::now();
        let mut buckets = Buckets::new(1, now);
        while buckets.take(&"greedy", 1, now).is_ok() {}
        assert_eq!(buckets.take(&"modest", 1, now), Ok(()));
    }

    #[test]
    fn what_is_owed_is_paid_by_resting_and_nothing_more_is_lent_until_then() {
        let now = Instant::now();
        let mut buckets = Buckets::new(100, now);
        let ci = "ci";
        assert_eq!(buckets.owe(&ci, 250, now), Ok(()));
        for _ in 0..9 {
            assert_eq!(buckets.owe(&ci, 1, now), Err(Duration::from_millis(500)));
        }
        assert_eq!(buckets.owe(&ci, 250, now + Duration::from_millis(500)), Ok(()));
        assert_eq!(buckets.owe(&ci, 1, now + Duration::from_secs(1)), Err(Duration::from_secs(2)));
    }

    #[test]
    fn what_is_reserved_comes_one_after_the_other_up_to_a_longest_wait() {
        let now = Instant::now();
        let mut buckets = Buckets::new(10, now);
        let mut reserve = |now| buckets.reserve(&"ci", Duration::from_millis(350), now).as_millis();
        assert_eq!((0..20).map(|_| reserve(now)).max(), Some(0));
        assert_eq!([(); 6].map(|()| reserve(now)), [100, 200, 300, 350, 350, 350]);
        assert_eq!(reserve(now + Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_million_names_take_no_more_room_than_ten_thousand() {
        let now = Instant::now();
        let mut buckets = Buckets::new(1, now);
        for number in 0..MAX_BUCKETS + 5000 {
            let _ = buckets.take(&number, 1, now);
        }
        assert_eq!(buckets.buckets.len(), MAX_BUCKETS);
        assert!(buckets.look(&usize::MAX, 1, now).is_err(), "the shared one is empty");
        // Once they are full again, they make room.
        let later = now + Duration::from_secs(2);
        assert_eq!(buckets.take(&usize::MAX, 2, later), Ok(()));
        assert_eq!(buckets.buckets.len(), 1);
    }
}
