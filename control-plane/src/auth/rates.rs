//! How often callers may ask. Pure: the time is an argument.
//!
//! Each has a rate wherever he is, so that of many who have the same token none pays for what another one does; and a larger one at all of
//! these places together, or a token that was stolen would have as many rates as there are addresses to come from.

use std::time::{Duration, Instant};

use super::{
    limit::Buckets,
    share::{PLACES, Share},
};

/// The rates of all callers.
#[derive(Debug)]
pub(super) struct Rates {
    at_one_place: Buckets<Share>,
    everywhere: Buckets<Share>,
}

impl Rates {
    /// So many in a second at one place.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let everywhere = Buckets::new(rate.saturating_mul(PLACES), now);
        Self { at_one_place: Buckets::new(rate, now), everywhere }
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long to wait until it would be there; nothing is taken then.
    pub(super) fn take(&mut self, whose: &Share, now: Instant) -> Result<(), Duration> {
        let of_all = whose.everywhere();
        self.everywhere.look(&of_all, 1, now)?;
        self.at_one_place.take(whose, 1, now)?;
        self.everywhere.take(&of_all, 1, now)
    }

    /// Takes so many as soon as nothing is owed for what was taken before, however many they are.
    ///
    /// # Errors
    /// How long it is until then; nothing is taken.
    pub(super) fn owe(&mut self, whose: &Share, count: u32, now: Instant) -> Result<(), Duration> {
        let of_all = whose.everywhere();
        self.everywhere.look(&of_all, 0, now)?;
        self.at_one_place.owe(whose, count, now)?;
        self.everywhere.owe(&of_all, count, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::Whence;

    fn at(name: &str, last: u8) -> Share {
        Share::of(&name.into(), Some(Whence::Address(([192, 0, 2, last], 4000).into())))
    }

    #[test]
    fn one_identity_asks_no_more_often_from_any_number_of_addresses_than_from_four() {
        let now = Instant::now();
        let mut rates = Rates::new(10, now);
        let mut taken =
            |name: &str, last, now| (0..30).filter(|_| rates.take(&at(name, last), now).is_ok()).count();
        assert_eq!([1, 2, 3, 4, 5, 6].map(|last| taken("stolen", last, now)), [20, 20, 20, 20, 0, 0]);
        assert_eq!(taken("other", 5, now), 20, "whoever else is there");
        let later = now + Duration::from_secs(1);
        assert_eq!([1, 2, 3, 4, 5, 6].map(|last| taken("stolen", last, later)), [10, 10, 10, 10, 0, 0]);
    }

    #[test]
    fn what_one_address_owes_another_does_not_until_it_is_more_than_all_may_have() {
        let now = Instant::now();
        let mut rates = Rates::new(10, now);
        assert_eq!(rates.owe(&at("ci", 1), 40, now), Ok(()));
        assert_eq!(rates.owe(&at("ci", 1), 1, now), Err(Duration::from_secs(2)));
        assert_eq!(rates.owe(&at("ci", 2), 80, now), Ok(()));
        assert_eq!(rates.owe(&at("ci", 3), 1, now), Err(Duration::from_secs(1)), "40 of all are owed");
        assert_eq!(rates.take(&at("ci", 3), now), Err(Duration::from_millis(1025)));
        assert_eq!(rates.owe(&at("ci", 3), 1, now + Duration::from_secs(1)), Ok(()));
        assert_eq!(rates.owe(&at("other", 3), 1, now), Ok(()));
    }
}
