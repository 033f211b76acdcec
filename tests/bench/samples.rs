//! Order statistics.

use std::time::Duration;

/// The value below which the share `rank` (0..=1) of the values lies; the nearest one that was measured.
///
/// # Panics
/// When there is none.
pub(crate) fn percentile(values: &[f64], rank: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1).expect("something was measured");
    sorted[(rank * last as f64).round() as usize]
}

/// The same of times, in milliseconds.
pub(crate) fn percentile_ms(times: &[Duration], rank: f64) -> f64 {
    let values: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
    percentile(&values, rank)
}
