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

/// As slow counts who does not answer,
const NEVER: Duration = Duration::from_secs(60);
/// for so long: while a leader is chosen, nobody does.
const FAILURE_REMEMBERED: Duration = Duration::from_secs(20);

/// What is known of the members.
#[derive(Debug)]
pub(super) struct Pace {
    /// Of each that was slow, or did not answer: when, and how long an answer took in the mean.
    slow: Vec<Option<(Instant, Duration)>>,
    run: Run,
    moved: Option<Instant>,
}

/// Slow answers of one member in a row, each asked for after the one before it.
#[derive(Debug)]
struct Run {
    member: usize,
    count: u32,
    took: Duration,
    /// When the last of them came.
    last: Option<Instant>,
}

impl Run {
    fn of(member: usize) -> Self {
        Self { member, count: 0, took: Duration::ZERO, last: None }
    }
}

impl Pace {
    /// Of so many members nothing is known.
    pub(super) fn new(members: usize) -> Self {
        Self { slow: vec![None; members], run: Run::of(0), moved: None }
    }

    /// Notes that a member did not answer, or could not be reached.
    pub(super) fn failed(&mut self, member: usize, now: Instant) {
        self.slow[member] = Some((now, NEVER));
    }

    /// Notes an answer of the member in use. Yields the one that is to be used from now on, if that is another one: not known to be slow,
    /// or by less than two thirds of this one's time.
    pub(super) fn answered(&mut self, member: usize, asked: Instant, now: Instant) -> Option<usize> {
        let took = now.saturating_duration_since(asked);
        if took < SLOW {
            self.run = Run::of(member);
            self.slow[member] = None;
            return None;
        }
        if self.run.member != member {
            self.run = Run::of(member);
        }
        if self.run.last.is_some_and(|last| asked < last) {
            // What was under way at the same time was slow by the same.
            return None;
        }
        self.run = Run { member, count: self.run.count + 1, took: self.run.took + took, last: Some(now) };
        if self.run.count < IN_A_ROW || self.moved.is_some_and(|at| now.saturating_duration_since(at) < REST)
        {
            return None;
        }
        let mean = self.run.took / self.run.count;
        self.run = Run::of(member);
        self.slow[member] = Some((now, mean));
        let known = |other: &usize| {
            let lasting = self.slow[*other].filter(|(at, took)| {
                let remembered = if *took == NEVER { FAILURE_REMEMBERED } else { REMEMBERED };
                now.saturating_duration_since(*at) < remembered
            });
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

    /// Asks for so long, one after the other, each member taking so long for an answer, `None` for one that gives none; yields the members that
    /// were asked, in turn.
    fn asked(
        pace: &mut Pace,
        began: Instant,
        lasts: Duration,
        takes: [Option<Duration>; MEMBERS],
    ) -> Vec<usize> {
        let (mut now, mut path) = (began, vec![0]);
        while now < began + lasts {
            let (member, asked) = (*path.last().unwrap(), now);
            if let Some(takes) = takes[member] {
                now += takes;
                path.extend(pace.answered(member, asked, now));
            } else {
                now += Duration::from_secs(2);
                pace.failed(member, now);
                path.push((member + 1) % MEMBERS);
            }
        }
        path
    }

    #[test]
    fn a_member_that_is_slow_is_left_for_one_that_is_not() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        let takes = [Some(3 * SLOW), Some(QUICK), Some(QUICK)];
        assert_eq!(asked(&mut pace, now, 60 * SLOW, takes), [0, 1]);
    }

    #[test]
    fn slow_answers_now_and_then_move_nobody() {
        let (mut pace, mut now) = (Pace::new(MEMBERS), Instant::now());
        for number in 0..1000 {
            let asked = now;
            now += if number % IN_A_ROW == 0 { QUICK } else { 4 * SLOW };
            assert_eq!(pace.answered(0, asked, now), None);
        }
    }

    #[test]
    fn many_answers_that_were_slow_at_the_same_time_are_one() {
        let (mut pace, mut now) = (Pace::new(MEMBERS), Instant::now());
        for _ in 1..IN_A_ROW {
            let asked = now;
            now += 2 * SLOW;
            assert!((0..64).all(|_| pace.answered(0, asked, now).is_none()));
        }
        assert_eq!(pace.answered(0, now, now + 2 * SLOW), Some(1));
    }

    #[test]
    fn what_one_member_took_is_not_held_against_another() {
        let (mut pace, mut now) = (Pace::new(MEMBERS), Instant::now());
        for _ in 1..IN_A_ROW {
            let asked = now;
            now += 2 * SLOW;
            assert_eq!(pace.answered(0, asked, now), None);
        }
        pace.failed(0, now);
        assert_eq!(pace.answered(1, now, now + 2 * SLOW), None);
    }

    #[test]
    fn a_failure_of_all_keeps_nobody_at_a_slow_one() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        (0..MEMBERS).for_each(|member| pace.failed(member, now));
        let takes = [Some(3 * SLOW), Some(QUICK), Some(QUICK)];
        assert_eq!(asked(&mut pace, now, 2 * FAILURE_REMEMBERED, takes), [0, 1]);
    }

    #[test]
    fn who_does_not_answer_is_not_gone_to_again_because_others_are_slow() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        let path = asked(&mut pace, now, REMEMBERED, [None, Some(2 * SLOW), Some(2 * SLOW)]);
        let tried = path.iter().filter(|member| **member == 0).count() as u32;
        assert!(tried <= 1 + REMEMBERED.as_secs() as u32 / FAILURE_REMEMBERED.as_secs() as u32, "{path:?}");
    }

    #[test]
    fn where_all_are_slow_the_least_slow_is_found_and_kept() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        let takes = [4, 8, 2].map(|times| Some(times * SLOW));
        assert_eq!(asked(&mut pace, now, REMEMBERED, takes), [0, 1, 2]);
    }

    #[test]
    fn where_all_are_as_slow_each_is_tried_once_in_a_while() {
        let (mut pace, now) = (Pace::new(MEMBERS), Instant::now());
        let path = asked(&mut pace, now, 3 * REMEMBERED, [Some(2 * SLOW); MEMBERS]);
        assert!((3..=9).contains(&path.len()), "{path:?}");
    }

    #[test]
    fn the_only_member_is_kept() {
        let (mut pace, mut now) = (Pace::new(1), Instant::now());
        for _ in 0..100 {
            let asked = now;
            now += 9 * SLOW;
            assert_eq!(pace.answered(0, asked, now), None);
        }
    }
}
