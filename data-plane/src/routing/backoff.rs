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
