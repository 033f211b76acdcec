//! Latencies by the size of their logarithm: four buckets for each doubling. Data planes count in them, and control planes read them.

use std::time::Duration;

/// How many buckets there are: bucket `i` holds [2^(i/4), 2^((i+1)/4)) µs, the first one what is shorter, too, the
/// last one what is longer.
pub const LATENCY_BUCKETS: usize = 120;

/// The bucket of a latency, without floating point.
pub fn bucket_of(latency: Duration) -> usize {
    /// Bits behind the point of a number of microseconds.
    const POINT: u32 = 20;
    /// 2^(1/4), 2^(2/4) and 2^(3/4), rounded up: an integer is at or above them exactly when it is at or above the root.
    const QUARTERS: [u64; 3] = [1_246_975, 1_482_911, 1_763_488];
    /// Beyond the last bucket, and far from where the shift runs over.
    const LONGEST: u64 = 1 << 41;
    let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST).min(LONGEST);
    let micros = (nanos << POINT) / 1000;
    let Some(octave) = micros.checked_ilog2().and_then(|log| log.checked_sub(POINT)) else { return 0 };
    // Between 1 and 2, with as many bits behind the point.
    let mantissa = micros >> octave;
    let quarter = QUARTERS.iter().filter(|least| mantissa >= **least).count();
    (4 * octave as usize + quarter).min(LATENCY_BUCKETS - 1)
}

/// The middle of a bucket, which is within a tenth of every latency in it.
pub fn middle_of(bucket: usize) -> Duration {
    let quarters = bucket.min(LATENCY_BUCKETS - 1) as f64 + 0.5;
    Duration::from_secs_f64((quarters / 4.0).exp2() / 1e6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_begins_at_a_quarter_power_of_two() {
        let micros = Duration::from_micros;
        let cases = [
            (Duration::ZERO, 0),
            (Duration::from_nanos(999), 0),
            (micros(1), 0),
            (Duration::from_nanos(1189), 0),
            (Duration::from_nanos(1190), 1),
            (micros(2), 4),
            (micros(1024), 40),
            (micros(1 << 29), 116),
            (Duration::from_secs(1000), 119),
            (Duration::from_secs(86_400), 119),
            (Duration::MAX, 119),
        ];
        for (latency, bucket) in cases {
            assert_eq!(bucket_of(latency), bucket, "{latency:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_latency_lies_within_its_bucket(nanos in 1_000..(1000_u64 << 30)) {
            let bucket = bucket_of(Duration::from_nanos(nanos)) as f64;
            let micros = nanos as f64 / 1000.0;
            let (from, to) = (2_f64.powf(bucket / 4.0), 2_f64.powf((bucket + 1.0) / 4.0));
            // Within what the representation rounds.
            prop_assert!(micros >= from * 0.999_998 && micros < to * 1.000_002, "{} in {}..{}", micros, from, to);
        }
    }
}
