//! Whose turn it is where strict rotation does not decide: chance, load, latency, or a request's key.
//!
//! Pure: loads, weights, time and randomness are arguments. Who may be asked at all is the caller's to know.

mod backlog;
mod distance;
mod latency_estimate;
mod ramp;
mod ring;
mod spill_over;
mod two_choices;

pub use backlog::{MOST_PEERS, has_backlog};
pub use distance::Distance;
pub use latency_estimate::LatencyEstimate;
pub use ramp::{FULL_SHARE, next_step, ramp};
pub use ring::{Point, Ring, load_bound};
pub use spill_over::{Capacity, bear_all, parts, share_of_part};
pub use two_choices::{Load, two_of};

/// What one pick brings along beside the time: of its request, and of chance.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Draw {
    /// Drawn from 0.0..1.0 for this pick.
    pub random: f64,
    /// The hash of the request's key, if it has one; see [`hash`].
    pub key: Option<u64>,
    /// Whether its client sees the failure of whoever is asked, because nobody else may be asked then: it keeps away from what
    /// may fail it, see [`Breaker::spares_until`](crate::routing::Breaker::spares_until) and [`has_backlog`].
    pub is_unrepeatable: bool,
    /// Whether another attempt of its request is under way: then it is nobody's probe, which has to come to a verdict.
    pub is_beside: bool,
}

impl Draw {
    /// A draw of chance alone, from 0.0..1.0.
    pub fn of(random: f64) -> Self {
        Self { random, ..Self::default() }
    }

    /// The same chance as a number of 53 bits.
    pub fn bits(&self) -> u64 {
        (self.random.clamp(0.0, 1.0) * (1_u64 << 53) as f64) as u64
    }
}

/// A hash that is the same in every process, of every version: FNV-1a with the finish of SplitMix64, which spreads what
/// short and similar keys leave close together.
///
/// It does not resist whoever chooses keys to collide. What that could overload is bounded by
/// [`load_bound`].
pub fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    });
    mix(folded)
}

/// The finish of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit given.
pub(crate) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_same_hash_in_every_process_and_version() {
        // Known from when this was written: another value would send every key elsewhere.
        assert_eq!([hash(b""), hash(b"alice")], [0xC381_7C01_6BA4_FF30, 0x1A04_6F57_3E1E_5475]);
    }

    #[test]
    fn chance_covers_its_whole_range() {
        assert_eq!(Draw::of(0.0).bits(), 0);
        assert_eq!(Draw::of(0.5).bits(), 1 << 52);
        assert!(Draw::of(0.999_999_999_999).bits() > (1 << 53) - (1 << 15));
    }
}
