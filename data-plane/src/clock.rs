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
    /// What the wall clock showed then.
    wall: SystemTime,
}

/// The wall clock has to be set by half of this before dates of ticks move with it, and then they move by all of it.
const STEP: Duration = Duration::from_millis(10);

impl Clock {
    /// A clock whose origin is now.
    #[expect(clippy::new_without_default, reason = "a default that reads the time would hide that it does")]
    pub fn new() -> Self {
        Self { origin: Instant::now(), wall: SystemTime::now() }
    }

    /// The present tick.
    pub fn now(&self) -> Tick {
        Tick::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The present moment.
    pub fn moment(&self) -> Moment {
        Moment { tick: self.now(), wall: SystemTime::now() }
    }

    /// Where `tick` lies on the wall clock, judged by the wall clock's present reading, to 5 ms: for people, never for decisions.
    ///
    /// As long as nobody sets the wall clock, a tick has one date: it is told again and again, and what is told is
    /// compared.
    pub fn date(&self, tick: Tick) -> SystemTime {
        let Moment { tick: now, wall } = self.moment();
        date(self.wall, tick, now, wall)
    }

    /// The instant of `tick`, for timers.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.origin + Duration::from_nanos(tick.as_nanos())
    }
}

/// As [`Clock::date`], with a clock that showed `origin` at its beginning and shows `wall` now.
fn date(origin: SystemTime, tick: Tick, now: Tick, wall: SystemTime) -> SystemTime {
    let unset = |tick: Tick| origin + Duration::from_nanos(tick.as_nanos());
    let whole_steps = |by: Duration| {
        let rest = (by + STEP / 2).as_nanos() % STEP.as_nanos();
        by + STEP / 2 - Duration::from_nanos(rest as u64)
    };
    match wall.duration_since(unset(now)) {
        Ok(ahead) => unset(tick) + whole_steps(ahead),
        Err(behind) => unset(tick) - whole_steps(behind.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_has_one_date_until_somebody_sets_the_wall_clock() {
        let origin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |millis: u64| Tick::ORIGIN.plus(Duration::from_millis(millis));
        let shown = |millis: u64| origin + Duration::from_millis(millis);
        let nanos = Duration::from_nanos(400);
        for wall in [shown(5_000), shown(5_000) + nanos, shown(5_000) - nanos] {
            assert_eq!(date(origin, at(9_000), at(5_000), wall), shown(9_000));
            assert_eq!(date(origin, at(1_000), at(5_000), wall), shown(1_000));
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(date(origin, at(9_000), at(5_000), shown(5_000) + hour + nanos), shown(9_000) + hour);
        assert_eq!(date(origin, at(9_000), at(5_000), shown(5_000) - hour - nanos), shown(9_000) - hour);
        let years = Duration::from_secs(56 * 365 * 86_400);
        assert_eq!(date(origin, at(9_000), at(5_000), shown(5_000) + years), shown(9_000) + years);
        let slewed = Duration::from_millis(26);
        assert_eq!(date(origin, at(9_000), at(5_000), shown(5_000) + slewed), shown(9_030));
    }
}
