//! How much of its share a replica has while it starts slowly.

use std::time::Duration;

use crate::routing::Tick;

/// A whole share, in the unit of [`ramp`].
pub const FULL_SHARE: u64 = 100;
/// Steps from a tenth of the share to all of it.
const STEPS: u32 = 9;

/// The share of its weight, 10..=100 in steps of 10, that a replica has which began at `since` and starts slowly for
/// `slow_start`; all of it when that is zero.
pub fn ramp(since: Tick, now: Tick, slow_start: Duration) -> u64 {
    if slow_start.is_zero() {
        // Whatever the clock says.
        return FULL_SHARE;
    }
    let step = (1..=STEPS).rev().find(|step| now >= begin(*step, since, slow_start)).unwrap_or(0);
    10 * (1 + u64::from(step))
}

/// When that share grows next; `None` once it is whole.
pub fn next_step(since: Tick, now: Tick, slow_start: Duration) -> Option<Tick> {
    let mut steps = (1..=STEPS).map(|step| begin(step, since, slow_start));
    steps.find(|begin| now < *begin && !slow_start.is_zero())
}

fn begin(step: u32, since: Tick, slow_start: Duration) -> Tick {
    since.plus(slow_start * step / STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(9);

    fn at(secs: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_secs(secs))
    }

    #[test]
    fn a_share_grows_from_a_tenth_to_all_of_it_in_even_steps() {
        let shares: Vec<_> = (5..=15).map(|now| ramp(at(5), at(now), SLOW)).collect();
        assert_eq!(shares, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100]);
        assert_eq!(ramp(at(5), at(4), SLOW), 10, "a clock that is read early");
    }

    #[test]
    fn each_step_is_announced_and_the_last_one_is_the_last() {
        let mut now = at(5);
        let mut share = ramp(at(5), now, SLOW);
        while let Some(next) = next_step(at(5), now, SLOW) {
            assert!(next > now && ramp(at(5), Tick::from_nanos(next.as_nanos() - 1), SLOW) == share);
            (now, share) = (next, share + 10);
            assert_eq!(ramp(at(5), now, SLOW), share);
        }
        assert_eq!((now, share), (at(14), FULL_SHARE));
    }

    #[test]
    fn without_a_slow_start_the_share_is_whole_at_once() {
        for now in [at(4), at(5)] {
            assert_eq!(ramp(at(5), now, Duration::ZERO), FULL_SHARE);
            assert_eq!(next_step(at(5), now, Duration::ZERO), None);
        }
    }
}
