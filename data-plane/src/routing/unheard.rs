//! For how long requests have waited in vain for a replica of which nothing is heard.
//!
//! An attempt that had all of its time tells by itself that its replica does not answer. One whose caller leaves earlier, or has
//! less time, tells nothing: it might have been answered. But when such attempts have waited for as long as one of them may take,
//! one after the other, and nothing was heard meanwhile, then one with all of that time would have waited in vain as well.
//!
//! Whether that is the replica's fault is not known here: there are calls that wait on purpose.

use std::time::Duration;

use super::Tick;

/// Of one replica. Whatever is heard of it has it begin anew.
#[derive(Debug, Clone, Copy)]
pub struct Unheard {
    /// When it was heard last, as far as this has been told.
    heard: Tick,
    /// For how long it has been waited for since. Each moment counts once, however many waited in it: a pause that meets many is
    /// no longer than one that meets few.
    waited: Duration,
    /// Since the first of those moments.
    silent_since: Tick,
    /// Up to when that is known. What lies before it and was not counted by then never is.
    until: Tick,
}

/// What waits in vain come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Since when nothing was heard although somebody waited.
    pub since: Tick,
    /// For how long somebody has since then.
    pub waited: Duration,
}

impl Unheard {
    /// Of one that begins `now`: whoever has waited before has not waited for it.
    pub fn since(now: Tick) -> Self {
        Self { heard: now, waited: Duration::ZERO, silent_since: now, until: now }
    }

    /// A request has waited from `since` to `now` in vain, for a replica that was `heard` last then. Yields the silence since.
    pub fn wait(&mut self, since: Tick, heard: Tick, now: Tick) -> Silence {
        if heard > self.heard {
            self.heard = heard;
            self.waited = Duration::ZERO;
        }
        let from = since.max(self.heard).max(self.until);
        if self.waited.is_zero() {
            self.silent_since = from;
        }
        self.waited += now.since(from);
        self.until = self.until.max(now);
        Silence { since: self.silent_since, waited: self.waited }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Tick {
        Tick::ORIGIN.plus(seconds * SECOND)
    }

    #[test]
    fn those_who_wait_one_after_the_other_add_up_and_those_who_wait_at_once_do_not() {
        let mut unheard = Unheard::since(at(0));
        let mut wait = |since, now| unheard.wait(at(since), at(0), at(now)).waited;
        assert_eq!(wait(1, 2), SECOND);
        assert_eq!(wait(1, 2), SECOND, "in the same second");
        assert_eq!(wait(1, 4), 3 * SECOND);
        assert_eq!(wait(7, 8), 4 * SECOND, "nobody waited in between");
    }

    #[test]
    fn what_was_waited_before_something_was_heard_is_forgotten() {
        let mut unheard = Unheard::since(at(0));
        assert_eq!(unheard.wait(at(0), at(0), at(9)).waited, 9 * SECOND);
        assert_eq!(unheard.wait(at(9), at(10), at(11)).waited, SECOND, "since then");
        assert_eq!(unheard.wait(at(0), at(10), at(12)).waited, 2 * SECOND);
    }

    #[test]
    fn who_has_waited_for_another_process_has_not_waited_for_this_one() {
        let mut unheard = Unheard::since(at(5));
        assert_eq!(unheard.wait(at(0), at(0), at(4)).waited, Duration::ZERO);
        assert_eq!(unheard.wait(at(0), at(0), at(6)).waited, SECOND);
    }

    #[test]
    fn a_silence_begins_when_somebody_waits_first_and_not_when_something_was_heard_last() {
        let mut unheard = Unheard::since(at(0));
        let mut since = |since, heard, now| unheard.wait(at(since), at(heard), at(now)).since;
        assert_eq!(since(100, 3, 101), at(100));
        assert_eq!(since(90, 3, 105), at(100), "what was not counted by then never is");
        assert_eq!(since(104, 107, 109), at(107));
    }

    /// What befalls a replica, and how many milliseconds later than what came before.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Heard,
        /// A request that has waited for so many milliseconds is given up.
        GivenUp(u64),
    }

    fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
        let event = prop_oneof![Just(Event::Heard), (1..3_000_u64).prop_map(Event::GivenUp)];
        prop::collection::vec((0..500_u64, event), 1..200)
    }

    fn millis(millis: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_millis(millis))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However many are impatient, and however much so: a replica that answers somebody once in so long is never blamed.
        #[test]
        fn never_longer_than_nothing_was_heard_and_somebody_waited(events in events()) {
            let mut unheard = Unheard::since(Tick::ORIGIN);
            let (mut now, mut heard) = (0, 0);
            // The milliseconds in which somebody waited in vain.
            let mut in_vain = std::collections::BTreeSet::new();
            for (pause, event) in events {
                now += pause;
                match event {
                    Event::Heard => {
                        heard = now;
                        in_vain.clear();
                    }
                    Event::GivenUp(waited) => {
                        in_vain.extend(now.saturating_sub(waited).max(heard)..now);
                        let since = millis(now.saturating_sub(waited));
                        let Silence { waited, .. } = unheard.wait(since, millis(heard), millis(now));
                        prop_assert!(waited <= Duration::from_millis(in_vain.len() as u64), "{:?}", waited);
                        prop_assert!(waited <= Duration::from_millis(now - heard), "{:?}", waited);
                    }
                }
            }
        }

        /// However impatient they are: one of which nothing is heard while somebody waits all the time is found out in time.
        #[test]
        fn all_of_the_time_for_which_somebody_waits_without_a_gap_counts(
            waits in prop::collection::vec((1..3_000_u64, 0..1_000_u64), 1..100),
        ) {
            let mut unheard = Unheard::since(Tick::ORIGIN);
            let mut covered = 0_u64;
            for (longer, overlap) in waits {
                let since = covered.saturating_sub(overlap);
                covered += longer;
                let silence = unheard.wait(millis(since), Tick::ORIGIN, millis(covered));
                prop_assert_eq!(silence, Silence { since: Tick::ORIGIN, waited: Duration::from_millis(covered) });
            }
        }
    }
}
