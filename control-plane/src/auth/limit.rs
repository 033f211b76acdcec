//! How often somebody may ask: a bucket for each, refilled with time. Pure: the time is an argument.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Buckets kept at once. More callers than that share one.
const MAX_BUCKETS: usize = 10_000;

/// Buckets by name.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// Refilled by so much in a second, up to twice that.
    rate: f64,
    buckets: HashMap<Arc<str>, Bucket>,
    /// For those who find no bucket of their own.
    shared: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl Buckets {
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate);
        Self { rate, buckets: HashMap::new(), shared: Bucket { level: 2.0 * rate, at: now } }
    }

    /// Takes `cost` out of somebody's bucket.
    ///
    /// # Errors
    /// How long to wait until it would be there; nothing is taken then.
    pub(crate) fn take(&mut self, name: &Arc<str>, cost: u32, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        let bucket = self.bucket(name, now);
        bucket.refill(rate, now);
        let missing = f64::from(cost) - bucket.level;
        if missing > 0.0 {
            return Err(Duration::from_secs_f64(missing / rate));
        }
        bucket.level -= f64::from(cost);
        Ok(())
    }

    /// Takes it as soon as nothing is owed for what was taken before, however much it is.
    ///
    /// # Errors
    /// How long it is until then; nothing is taken.
    pub(crate) fn owe(&mut self, name: &Arc<str>, cost: u32, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        let bucket = self.bucket(name, now);
        bucket.refill(rate, now);
        if bucket.level < 0.0 {
            return Err(Duration::from_secs_f64(-bucket.level / rate));
        }
        bucket.level -= f64::from(cost);
        Ok(())
    }

    fn bucket(&mut self, name: &Arc<str>, now: Instant) -> &mut Bucket {
        if !self.buckets.contains_key(name) {
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
            self.buckets.insert(Arc::clone(name), Bucket { level: full, at: now });
        }
        self.buckets.get_mut(name).expect("it was just looked for, or put there")
    }
}

impl Bucket {
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
        let ci: Arc<str> = "ci".into();
        assert_eq!((0..30).filter(|_| buckets.take(&ci, 1, now).is_ok()).count(), 20);
        assert_eq!(buckets.take(&ci, 1, now), Err(Duration::from_millis(100)));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..30).filter(|_| buckets.take(&ci, 1, later).is_ok()).count(), 10);
    }

    #[test]
    fn one_who_asks_too_often_takes_nothing_from_others() {
        let now = Instant::now();
        let mut buckets = Buckets::new(1, now);
        while buckets.take(&"greedy".into(), 1, now).is_ok() {}
        assert_eq!(buckets.take(&"modest".into(), 1, now), Ok(()));
    }

    #[test]
    fn what_is_owed_is_paid_by_resting_and_nothing_more_is_lent_until_then() {
        let now = Instant::now();
        let mut buckets = Buckets::new(100, now);
        let ci: Arc<str> = "ci".into();
        assert_eq!(buckets.owe(&ci, 250, now), Ok(()));
        for _ in 0..9 {
            assert_eq!(buckets.owe(&ci, 1, now), Err(Duration::from_millis(500)));
        }
        assert_eq!(buckets.owe(&ci, 250, now + Duration::from_millis(500)), Ok(()));
        assert_eq!(buckets.owe(&ci, 1, now + Duration::from_secs(1)), Err(Duration::from_secs(2)));
    }

    #[test]
    fn a_million_names_take_no_more_room_than_ten_thousand() {
        let now = Instant::now();
        let mut buckets = Buckets::new(1, now);
        for number in 0..MAX_BUCKETS + 5000 {
            let _ = buckets.take(&format!("n-{number}").into(), 1, now);
        }
        assert_eq!(buckets.buckets.len(), MAX_BUCKETS);
        // Once they are full again, they make room.
        let later = now + Duration::from_secs(2);
        assert_eq!(buckets.take(&"new".into(), 2, later), Ok(()));
        assert_eq!(buckets.buckets.len(), 1);
    }
}
