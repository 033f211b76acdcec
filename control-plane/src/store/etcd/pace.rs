//! Which member answers how soon.
//!
//! A member whose disk is slow has each change wait for it, although the others have long made it durable: whoever asks that member is as
//! slow as its disk. It answers, so nothing that looks for failures finds it.

use std::time::{Duration, Instant};

/// An answer that takes longer is slow: a healthy cluster in several places answers within a tenth of a second.
const SLOW: Duration = Duration::from_millis(250);
/// After so many slow answers in a row, another member is tried.
const IN_A_ROW: u32 = 5;
/// Between two moves, for a new connection and what follows on it cost more than a slow answer.
const REST: Duration = Duration::from_secs(5);
/// For how long a member is taken for what it was.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What is known of the members.
#[derive(Debug)]
pub(super) struct Pace {
    /// Of each that was slow: when, and how long an answer took in the mean.
    slow: Vec<Option<(Instant, Duration)>>,
    /// The slow answers in a row of the one in use, and how long they took together.
    run: (u32, Duration),
    moved: Option<Instant>,
}

impl Pace {
    /// Of so many members nothing is known.
    pub(super) fn new(members: usize) -> Self {
        Self { slow: vec![None; members], run: (0, Duration::ZERO), moved: None }
    }

    /// Notes how long an answer of the member in use took. Yields the one that is to be used from now on, if that is another one: not
    /// known to be slow, or by less than two thirds of this one's time.
    pub(super) fn answered(&mut self, member: usize, took: Duration, now: Instant) -> Option<usize> {
        if took < SLOW {
            self.run = (0, Duration::ZERO);
            self.slow[member] = None;
            return None;
        }
        self.run = (self.run.0 + 1, self.run.1 + took);
        if self.run.0 < IN_A_ROW || self.moved.is_some_and(|at| now.saturating_duration_since(at) < REST) {
            return None;
        }
        let mean = self.run.1 / self.run.0;
        self.slow[member] = Some((now, mean));
        self.run = (0, Duration::ZERO);
        let known = |other: &usize| {
            let lasting = self.slow[*other].filter(|(at, _)| now.saturating_duration_since(*at) < REMEMBERED);
            lasting.map_or(Duration::ZERO, |(_, took)| took)
        };
        let others = (1..self.slow.len()).map(|offset| (member + offset) % self.slow.len());
        let next = others.min_by_key(known).filter(|next| known(next) < mean * 2 / 3)?;
        self.moved = Some(now);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(5);
    const MEMBERS: usize = 3;

    /// Asks for so long, each member taking so long for an answer, and yields the members that were asked, in turn.
    fn asked(pace: &mut Pace, began: Instant, lasts: Duration, takes: [Duration; MEMBERS]) -> Vec<usize> {
        let (mut now, mut path) = (began, vec![0]);
        while now < began + lasts {
            let member = *path.last().unwrap();
            now += takes[member];
            path.extend(pace.answered(member, takes[member], now));
        }
        path
    }

    #[test]
    fn a_member_that_is_slow_is_left_for_one_that_is_not() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        assert_eq!(asked(&mut pace, now, 60 * SLOW, [3 * SLOW, QUICK, QUICK]), [0, 1]);
    }

    #[test]
    fn slow_answers_now_and_then_move_nobody() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        for number in 0..1000 {
            let took = if number % IN_A_ROW == 0 { QUICK } else { 4 * SLOW };
            assert_eq!(pace.answered(0, took, now + number * SLOW), None);
        }
    }

    #[test]
    fn where_all_are_slow_the_least_slow_is_found_and_kept() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        let path = asked(&mut pace, now, REMEMBERED, [4 * SLOW, 8 * SLOW, 2 * SLOW]);
        assert_eq!(path, [0, 1, 2]);
    }

    #[test]
    fn where_all_are_as_slow_each_is_tried_once_in_a_while() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        let path = asked(&mut pace, now, 3 * REMEMBERED, [2 * SLOW; MEMBERS]);
        assert!((3..=9).contains(&path.len()), "{path:?}");
    }

    #[test]
    fn the_only_member_is_kept() {
        let (mut pace, now) = (Pace::new(1), Instant::now());
        assert!((0..100).all(|number| pace.answered(0, 9 * SLOW, now + number * SLOW).is_none()));
    }
}
