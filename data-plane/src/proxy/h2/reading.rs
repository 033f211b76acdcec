//! Whether a client takes its answer, of which a connection has many at once. Pure: time comes in as an argument.
//!
//! An answer is judged by what passes of it. Where windows have room for all that there is, it only waits for its turn at a socket that others
//! have, too: then it counts what that takes of all of them, in equal shares, as if each had its turn all the time. So nobody is blamed for
//! having asked for much at once, and nobody holds more than it would have to take of each.

use std::time::Duration;

use gateway_http2::Queued;

use crate::{
    proxy::{
        body::pace::{MinRate, Pace},
        errors::refusals::Reason,
    },
    routing::Tick,
};

/// How a client takes an answer.
#[derive(Debug)]
pub(super) struct Reading {
    pace: Pace,
    unread_limit: Duration,
    /// Shares of what passed of others while it was their turn, beyond what passed of itself.
    shares: u64,
    /// While it is the client that is waited for.
    waits: Option<Waits>,
}

#[derive(Debug)]
struct Waits {
    since: Tick,
    /// What had passed by then, of the answer and of all.
    passed: u64,
    written: u64,
}

impl Reading {
    pub(super) fn new(rate: MinRate, unread_limit: Duration) -> Self {
        Self { pace: Pace::new(rate), unread_limit, shares: 0, waits: None }
    }

    /// The client is not waited for.
    pub(super) fn goes_on(&mut self, now: impl FnOnce() -> Tick) {
        self.waits = None;
        self.pace.goes_on(now);
    }

    /// The client is waited for, when so many bytes of the answer have passed. Yields from when on it is at fault if nothing more
    /// does, and at which.
    pub(super) fn waits(&mut self, passed: u64, queued: &Queued, now: impl Fn() -> Tick) -> (Tick, Reason) {
        let Queued { is_in_line, written, streams, .. } = *queued;
        let waits = self.waits.get_or_insert_with(|| Waits { since: now(), passed, written });
        let own = passed - waits.passed;
        let share = if is_in_line { (written - waits.written) / streams.max(1) as u64 } else { 0 };
        self.shares += share.saturating_sub(own);
        if own > 0 || share > 0 {
            *waits = Waits { since: now(), passed, written };
        } else if !is_in_line {
            waits.written = written;
        }
        let unread_at = waits.since.plus(self.unread_limit);
        let too_slow_at = self.pace.waits(passed + self.shares, now);
        if unread_at <= too_slow_at { (unread_at, Reason::Unread) } else { (too_slow_at, Reason::SlowReader) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: MinRate = MinRate { bytes_per_second: 100, grace: Duration::from_secs(10) };
    const UNREAD: Duration = Duration::from_secs(20);

    fn at(secs: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_secs(secs))
    }

    fn queued(is_in_line: bool, written: u64) -> Queued {
        Queued { unsent: 1, is_in_line, written, streams: 10 }
    }

    #[test]
    fn who_takes_nothing_is_found_out_by_that_and_who_takes_little_by_how_little() {
        let mut reading = Reading::new(MinRate { grace: Duration::from_secs(30), ..RATE }, UNREAD);
        assert_eq!(reading.waits(0, &queued(false, 0), || at(1)), (at(21), Reason::Unread));
        // It takes a little, and what others take is theirs.
        assert_eq!(reading.waits(100, &queued(false, 90_000), || at(20)), (at(32), Reason::SlowReader));
        assert_eq!(reading.waits(100, &queued(false, 99_000), || at(32)), (at(32), Reason::SlowReader));
    }

    #[test]
    fn time_in_which_the_client_is_not_waited_for_does_not_count_and_nothing_that_passed_then_does() {
        let mut reading = Reading::new(RATE, UNREAD);
        assert_eq!(reading.waits(0, &queued(true, 0), || at(0)), (at(10), Reason::SlowReader));
        reading.goes_on(|| at(4));
        let told = reading.waits(0, &queued(true, 1_000_000), || at(1000));
        assert_eq!(told, (at(1006), Reason::SlowReader));
    }

    #[test]
    fn an_answer_that_waits_for_its_turn_has_its_share_of_what_the_socket_takes() {
        let mut reading = Reading::new(RATE, UNREAD);
        reading.waits(0, &queued(true, 0), || at(0));
        // Ten share a kilobyte a second: each as much as it has to take, whoever's turn it is.
        for secs in 1..500 {
            let (due, _) = reading.waits(0, &queued(true, 1000 * secs), || at(secs));
            assert!(due >= at(secs + 9), "after {secs} s");
        }
        // Half of that is too little.
        let mut reading = Reading::new(RATE, UNREAD);
        reading.waits(0, &queued(true, 0), || at(0));
        let mut slow = |secs| reading.waits(0, &queued(true, 500 * secs), || at(secs)).0 <= at(secs);
        assert_eq!((1..500).find(|secs| slow(*secs)), Some(20));
    }

    #[test]
    fn what_is_less_than_a_byte_for_each_adds_up() {
        let mut reading = Reading::new(MinRate { bytes_per_second: 0, ..RATE }, UNREAD);
        for secs in 0..100 {
            let (due, reason) = reading.waits(0, &queued(true, secs), || at(secs));
            assert!(due > at(secs), "after {secs} s");
            assert_eq!(reason, Reason::Unread);
        }
        assert!(reading.waits(0, &queued(true, 99), || at(111)).0 <= at(111));
    }
}
