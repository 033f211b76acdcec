//! How long a retry waits: exponential back-off with full jitter.

use std::time::Duration;

/// The pause before the retry with this index, counted from zero: `random` (0.0..1.0) of `base` × 2^`retry_index`,
/// and of `max` at most.
///
/// Full jitter, from "Exponential Backoff And Jitter" (Marc Brooker, AWS Architecture Blog, 2015): of the variants
/// compared there it spreads the retries of many clients best, at the price of some that come at once.
pub fn delay(base: Duration, max: Duration, retry_index: u32, random: f64) -> Duration {
    let ceiling = base.saturating_mul(2_u32.saturating_pow(retry_index)).min(max);
    ceiling.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_ceiling_doubles_with_each_retry_up_to_the_maximum() {
        let ceilings = [0, 1, 2, 3, 4, 31, 32, u32::MAX].map(|index| delay(25 * MS, 250 * MS, index, 1.0));
        assert_eq!(ceilings, [25, 50, 100, 200, 250, 250, 250, 250].map(|millis| millis * MS));
    }

    #[test]
    fn the_delay_is_anything_from_zero_to_the_ceiling() {
        let delays = [0.0, 0.25, 0.5].map(|random| delay(100 * MS, 250 * MS, 0, random));
        assert_eq!(delays, [0, 25, 50].map(|millis| millis * MS));
    }
}
