//! The data plane's only clock: everything else is told the time.

use std::time::{Duration, Instant, SystemTime};

use crate::routing::Tick;

/// One moment, as the monotonic clock and the wall clock show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For what lasts.
    pub tick: Tick,
    /// For what has a date.
    pub wall: SystemTime,
}

/// Reads monotonic time as [`Tick`]s since its own creation, and dates ticks on the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[expect(clippy::new_without_default, reason = "a default that reads the time would hide that it does")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// The present tick.
    pub fn now(&self) -> Tick {
        Tick::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The present moment.
    pub fn moment(&self) -> Moment {
        Moment { tick: self.now(), wall: SystemTime::now() }
    }

    /// Where `tick` lies on the wall clock, judged by the wall clock's present reading: for people, never for decisions.
    pub fn date(&self, tick: Tick) -> SystemTime {
        let (now, wall) = (self.now(), SystemTime::now());
        if tick >= now { wall + tick.since(now) } else { wall - now.since(tick) }
    }

    /// The instant of `tick`, for timers.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.origin + Duration::from_nanos(tick.as_nanos())
    }
}
