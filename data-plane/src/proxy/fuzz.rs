//! Fuzzing: what comes from the network is made from a seed and spoilt, and something has to hold whatever it is. Here is the
//! whole way of a request, in each protocol; what parses has its `fuzz` beside it. docs/fuzzing.md says how to run them for long.

mod beginnings;
mod http1;
mod http2;
mod proxy_headers;
mod stage;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::head::fields::Fields;

/// How long to go on behind the first round.
fn seconds() -> Duration {
    Duration::from_secs(number("GW_FUZZ_SECONDS").unwrap_or(0))
}

/// Of the first round: always the same, unless one is to be seen again.
fn first_seed() -> u64 {
    number("GW_FUZZ_SEED").unwrap_or(1)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().expect("GW_FUZZ_SECONDS and GW_FUZZ_SEED are numbers"))
}

/// Runs a round by a fixed seed, and then others by fresh ones for as long as the environment says.
pub(super) fn rounds(mut round: impl FnMut(&mut SmallRng)) {
    let end = Instant::now() + seconds();
    let mut seed = first_seed();
    loop {
        let mut random = SmallRng::seed_from_u64(seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| round(&mut random)));
        assert!(outcome.is_ok(), "what failed is above; GW_FUZZ_SEED={seed} shows it again");
        if Instant::now() >= end {
            return;
        }
        seed = rand::random();
    }
}

/// Runs rounds of so many cases.
pub(super) fn cases(count: usize, mut case: impl FnMut(&mut SmallRng)) {
    rounds(|random| (0..count).for_each(|_| case(random)));
}

/// Up to `most` of these pieces, one behind the other.
pub(super) fn noise(random: &mut SmallRng, pieces: &[&str], most: usize) -> String {
    let count = random.random_range(0..=most);
    (0..count).map(|_| *pieces.choose(random).expect("there are some")).collect()
}

/// A head's fields with these in it.
pub(super) fn fields<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in lines {
        fields.append_other(name.as_bytes(), value.as_bytes());
    }
    fields
}
