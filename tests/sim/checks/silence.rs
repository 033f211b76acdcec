//! For how long a replica has been waited for in vain, by all that was told of it.

use std::time::Duration;

use data_plane::routing::Tick;

/// Of one replica, since its breaker opened or closed last, or it came.
#[derive(Debug)]
pub(super) struct Silence {
    /// When something was heard of it last.
    heard: Tick,
    /// Who has waited in vain since then, from when to when, in the order in which they left.
    waits: Vec<(Tick, Tick)>,
}

impl Silence {
    pub(super) fn since(now: Tick) -> Self {
        Self { heard: now, waits: Vec::new() }
    }

    /// It gave a sign of life.
    pub(super) fn is_broken(&mut self, now: Tick) {
        *self = Self::since(now);
    }

    /// Somebody has left who had waited since then. Yields for how long somebody has, and since when: a moment counts if the
    /// first who left after it had waited in it.
    pub(super) fn waited(&mut self, since: Tick, now: Tick) -> (Duration, Tick) {
        self.waits.push((since, now));
        let (mut sum, mut began, mut known) = (Duration::ZERO, now, self.heard);
        for (since, until) in &self.waits {
            let from = known.max(*since);
            if sum.is_zero() && *until > from {
                began = from;
            }
            sum += until.since(from);
            known = *until;
        }
        (sum, began)
    }
}
