//! Time as the routing core sees it: a number that the caller read from a monotonic clock.

use std::time::Duration;

/// Nanoseconds since an origin that the caller chose once; 584 years fit.
///
/// All ticks given to one object must come from one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(u64);

impl Tick {
    /// The origin, which no other tick precedes.
    pub const ORIGIN: Self = Self(0);

    /// The last tick there is, 584 years on.
    pub const NEVER: Self = Self(u64::MAX);

    /// The tick that lies `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The tick that is `duration` later, or the last one there is.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(whole_nanos(duration)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The duration in nanoseconds; the largest number from 584 years on.
pub(super) fn whole_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_tick_tells_how_much_later_it_is() {
        let start = Tick::from_nanos(5);
        let end = start.plus(Duration::from_nanos(7));
        assert_eq!(end.as_nanos(), 12);
        assert_eq!(end.since(start), Duration::from_nanos(7));
        assert!(Tick::ORIGIN < start && start < end);
    }

    #[test]
    fn arithmetic_stops_at_the_ends_of_time() {
        let last = Tick::from_nanos(u64::MAX);
        assert_eq!(last.plus(Duration::from_secs(1)), last);
        assert_eq!(Tick::ORIGIN.plus(Duration::MAX), last);
        assert_eq!(Tick::ORIGIN.since(last), Duration::ZERO);
    }
}
