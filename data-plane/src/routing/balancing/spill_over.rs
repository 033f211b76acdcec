//! How much of the traffic each band of replicas takes, best band first: all that it can bear, and the next one the rest.
//!
//! As Envoy's priority levels with an overprovisioning factor: a band bears as much of all traffic as its part that lets
//! traffic through, times that factor. With 1.4, a band keeps everything until more than two sevenths of it are out.

/// What there is of one band, in weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Of replicas that let traffic through.
    pub letting_through: u64,
    /// Of all that it should have.
    pub total: u64,
}

/// The parts of the traffic that these bands take, best band first: each from 0.0 to 1.0, and 1.0 in all, unless nobody
/// lets anything through.
///
/// With a `factor` of zero, the first band that lets anything through takes everything. When all bands together bear less
/// than everything, each takes more by the same ratio.
pub fn parts(bands: &[Capacity], factor: f64) -> Vec<f64> {
    let mut rest: f64 = 1.0;
    let mut parts: Vec<f64> = bands
        .iter()
        .map(|band| {
            let part = borne(*band, factor).min(rest);
            rest -= part;
            // What is left of rounding is no part: it would put a band into use.
            rest = if rest < LEAST { 0.0 } else { rest };
            part
        })
        .collect();
    let sum: f64 = parts.iter().sum();
    if sum > 0.0 && sum < 1.0 {
        parts.iter_mut().for_each(|part| *part /= sum);
    }
    parts
}

/// Whether these bands bear all of the traffic together, so that none of them has to take more than it bears.
pub fn bear_all(bands: &[Capacity], factor: f64) -> bool {
    bands.iter().map(|band| borne(*band, factor)).sum::<f64>() > 1.0 - LEAST
}

/// Smaller parts are none.
const LEAST: f64 = 1e-9;

/// The most that a band takes.
fn borne(Capacity { letting_through, total }: Capacity, factor: f64) -> f64 {
    match letting_through {
        0 => 0.0,
        _ if factor == 0.0 => 1.0,
        _ => (letting_through as f64 / total.max(letting_through) as f64 * factor).min(1.0),
    }
}

/// Shares in lowest terms come out exact up to this many to one band.
const UNIT: f64 = 1_000_000.0;

/// What a replica that has `share` of its band, which has `sum`, gets of a band's `part`. At least one.
pub fn share_of_part(share: u64, sum: u64, part: f64) -> u64 {
    ((share as f64 / sum.max(1) as f64 * part * UNIT).round() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of bands of ten, of which so many let traffic through.
    fn of(letting_through: &[u64], factor: f64) -> Vec<f64> {
        let bands: Vec<_> = letting_through
            .iter()
            .map(|letting_through| Capacity { letting_through: *letting_through, total: 10 })
            .collect();
        parts(&bands, factor).into_iter().map(|part| (part * 1000.0).round() / 1000.0).collect()
    }

    #[test]
    fn a_band_keeps_everything_until_it_cannot_bear_it() {
        assert_eq!(of(&[10, 10], 1.4), [1.0, 0.0]);
        assert_eq!(of(&[8, 10], 1.4), [1.0, 0.0]);
        assert_eq!(of(&[7, 10], 1.4), [0.98, 0.02]);
        assert_eq!(of(&[5, 10], 1.4), [0.7, 0.3]);
        assert_eq!(of(&[0, 10], 1.4), [0.0, 1.0]);
    }

    #[test]
    fn what_is_left_of_rounding_puts_no_band_into_use() {
        let full = Capacity { letting_through: 10, total: 10 };
        for (letting_through, total, factor) in [(20, 23, 1.15), (10, 19, 1.9), (20, 41, 2.05), (10, 23, 2.3)]
        {
            let parts = parts(&[Capacity { letting_through, total }, full], factor);
            assert!(parts[0] > 0.999_999 && parts[1] == 0.0, "{parts:?}");
        }
    }

    #[test]
    fn what_the_next_band_cannot_bear_goes_on_to_the_one_behind() {
        assert_eq!(of(&[5, 1, 10], 1.4), [0.7, 0.14, 0.16]);
        assert_eq!(of(&[5, 0, 10], 1.4), [0.7, 0.0, 0.3]);
    }

    #[test]
    fn when_all_bear_less_than_everything_each_takes_more() {
        assert_eq!(of(&[2, 1], 1.4), [0.667, 0.333]);
        assert_eq!(of(&[1], 1.0), [1.0]);
    }

    #[test]
    fn bands_bear_all_together_or_not() {
        let of = |letting_through: &[u64]| {
            let capacity = |letting_through: &u64| Capacity { letting_through: *letting_through, total: 10 };
            bear_all(&letting_through.iter().map(capacity).collect::<Vec<_>>(), 1.4)
        };
        assert!(of(&[8]) && of(&[4, 4]) && of(&[0, 8, 0]));
        assert!(!of(&[7]) && !of(&[4, 3]) && !of(&[0, 0]) && !of(&[]));
    }

    #[test]
    fn without_a_factor_the_best_band_that_lets_anything_through_takes_all() {
        assert_eq!(of(&[1, 10], 0.0), [1.0, 0.0]);
        assert_eq!(of(&[0, 1, 10], 0.0), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn nobody_takes_anything_where_nobody_lets_it_through() {
        assert_eq!(of(&[0, 0], 1.4), [0.0, 0.0]);
        assert!(of(&[], 1.4).is_empty());
    }

    #[test]
    fn a_share_of_a_part_is_exact_for_small_numbers_and_never_nothing() {
        assert_eq!([share_of_part(100, 100, 0.7), share_of_part(100, 200, 0.3)], [700_000, 150_000]);
        assert_eq!(share_of_part(1, 100_000_000, 0.1), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parts_are_all_of_the_traffic_and_more_capacity_of_a_band_never_takes_from_it(
            bands in prop::collection::vec((0..20_u64, 0..20_u64), 1..6),
            factor in 1.0..5.0,
            index in any::<prop::sample::Index>(),
        ) {
            let bands: Vec<_> = bands
                .into_iter()
                .map(|(letting_through, out)| Capacity { letting_through, total: letting_through + out })
                .collect();
            let before = parts(&bands, factor);
            let sum: f64 = before.iter().sum();
            let is_any = bands.iter().any(|band| band.letting_through > 0);
            prop_assert!((sum - f64::from(u8::from(is_any))).abs() < 1e-9);
            for (band, part) in bands.iter().zip(&before) {
                prop_assert!((0.0..=1.0 + 1e-9).contains(part) && (*part == 0.0 || band.letting_through > 0));
            }
            let index = index.index(bands.len());
            let mut more = bands.clone();
            more[index].letting_through += 1;
            more[index].total += 1;
            prop_assert!(parts(&more, factor)[index] >= before[index] - 1e-9);
        }
    }
}
