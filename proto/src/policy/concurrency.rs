//! How many requests a data plane has under way at once, and what becomes of those that come while it has as many.

use std::time::Duration;

use super::SECOND;
use crate::v1;

/// How many requests one data plane has under way at once, over all of its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Requests in flight to one replica. Default 0: no limit; 0..=1 000 000.
    pub max_per_replica: u32,
    /// Requests in flight to all replicas of the service. Default 0: no limit; 0..=1 000 000.
    pub max_per_service: u32,
    /// Requests that wait for a place while all are taken. Default 1024, 0..=100 000.
    pub max_pending: u32,
    /// How long each of them waits at most. Default 1 s, 0 s..=1 h.
    pub max_queue_time: Duration,
    /// Whether a limit of each replica is found by its latency. Default [`AdaptiveLimit::Off`].
    pub adaptive: AdaptiveLimit,
    /// That limit is never below this. Default 4, 1..=1 000 000.
    pub adaptive_min: u32,
    /// Nor above this. Default 1000, 1..=1 000 000, at least `adaptive_min`.
    pub adaptive_max: u32,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            max_per_replica: 0,
            max_per_service: 0,
            max_pending: 1024,
            max_queue_time: SECOND,
            adaptive: AdaptiveLimit::Off,
            adaptive_min: 4,
            adaptive_max: 1000,
        }
    }
}

impl Concurrency {
    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        self.max_per_replica > 0 || self.max_per_service > 0 || self.adaptive != AdaptiveLimit::Off
    }

    /// How many requests may be in flight to one replica, of which `adaptive` is the limit found by its latency, zero before
    /// there is one; [`u64::MAX`] without a limit.
    pub fn of_replica(&self, adaptive: u32) -> u64 {
        let fixed = if self.max_per_replica == 0 { u64::MAX } else { self.max_per_replica.into() };
        match self.adaptive {
            AdaptiveLimit::Off => fixed,
            AdaptiveLimit::Gradient => {
                fixed.min(adaptive.max(self.adaptive_min).min(self.adaptive_max).into())
            }
        }
    }

    /// How many requests may be in flight to the service; [`u64::MAX`] without a limit.
    pub fn of_service(&self) -> u64 {
        if self.max_per_service == 0 { u64::MAX } else { self.max_per_service.into() }
    }
}

/// How a replica's limit is found by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdaptiveLimit {
    /// It is not.
    #[default]
    Off,
    /// By how its latency compares with the least there was.
    Gradient,
}

impl AdaptiveLimit {
    /// Both, in the order of the contract.
    pub const ALL: [Self; 2] = [Self::Off, Self::Gradient];

    /// Their names, in the same order.
    pub const NAMES: [&'static str; 2] = ["off", "gradient"];

    /// As settings name it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// The one of that number; `None` when this version knows none.
    pub(super) fn numbered(number: i32) -> Option<Self> {
        Some(match v1::AdaptiveLimit::try_from(number).ok()? {
            v1::AdaptiveLimit::Unspecified => return None,
            v1::AdaptiveLimit::Off => Self::Off,
            v1::AdaptiveLimit::Gradient => Self::Gradient,
        })
    }

    /// Its number on the wire.
    pub fn number(self) -> i32 {
        let wire = match self {
            Self::Off => v1::AdaptiveLimit::Off,
            Self::Gradient => v1::AdaptiveLimit::Gradient,
        };
        wire.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_find_a_limit_has_a_name_and_a_number_of_its_own() {
        for one in AdaptiveLimit::ALL {
            assert_eq!(AdaptiveLimit::named(one.name()), Some(one));
            assert_eq!(AdaptiveLimit::numbered(one.number()), Some(one));
            let wire = format!("ADAPTIVE_LIMIT_{}", one.name().to_uppercase());
            assert_eq!(v1::AdaptiveLimit::try_from(one.number()).unwrap().as_str_name(), wire);
        }
        assert_eq!(AdaptiveLimit::named("vegas"), None);
        assert_eq!((AdaptiveLimit::numbered(0), AdaptiveLimit::numbered(77)), (None, None));
    }

    #[test]
    fn nothing_is_limited_until_somebody_says_so() {
        let none = Concurrency::default();
        assert!(!none.is_limited());
        assert_eq!((none.of_replica(3), none.of_service()), (u64::MAX, u64::MAX));
        for one in [
            Concurrency { max_per_replica: 1, ..none },
            Concurrency { max_per_service: 1, ..none },
            Concurrency { adaptive: AdaptiveLimit::Gradient, ..none },
        ] {
            assert!(one.is_limited(), "{one:?}");
        }
    }

    #[test]
    fn of_two_limits_of_a_replica_the_lower_one_counts() {
        let fixed = Concurrency { max_per_replica: 10, ..Concurrency::default() };
        let both = Concurrency { adaptive: AdaptiveLimit::Gradient, ..fixed };
        let adaptive = Concurrency { max_per_replica: 0, ..both };
        assert_eq!([fixed.of_replica(3), both.of_replica(0), both.of_replica(30)], [10, 4, 10]);
        assert_eq!(
            [adaptive.of_replica(30), adaptive.of_replica(0), adaptive.of_replica(9999)],
            [30, 4, 1000]
        );
    }
}
