//! Whose check is due when, and how many may be under way. Pure.

use std::collections::{BTreeSet, HashMap};

use gateway_proto::{ReplicaKey, ServiceName};

use crate::routing::Tick;

/// Checks under way at once.
pub(super) const MAX_UNDER_WAY: usize = 128;
/// Of one service, so that one whose checks all take their whole timeout does not hold up the others.
pub(super) const MAX_OF_A_SERVICE: usize = 32;

/// Who is checked, and when next. However many wait, each step takes logarithmic time: a service of which thousands are
/// overdue takes none from the others.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: HashMap<ReplicaKey, Entry>,
    lanes: HashMap<ServiceName, Lane>,
    /// When the first of each service is due that has any, and room for a check, by how many it has under way: who has the
    /// fewest goes first, so that services whose checks all hang leave the next place to those whose do not.
    turns: [BTreeSet<(Tick, ServiceName)>; MAX_OF_A_SERVICE],
    total: usize,
}

/// The checks of one service.
#[derive(Debug, Default)]
struct Lane {
    /// Those that wait.
    queue: BTreeSet<(Tick, ReplicaKey)>,
    under_way: usize,
}

impl Lane {
    /// How many are under way, and when the next one is due; `None` if there may be no other.
    fn turn(&self) -> Option<(usize, Tick)> {
        let first = self.queue.first().filter(|_| self.under_way < MAX_OF_A_SERVICE);
        first.map(|(due, _)| (self.under_way, *due))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// The registration that is checked.
    incarnation: i64,
    /// What it was checked for last.
    mark: Mark,
    state: State,
}

/// What a check depends on: when it is another one, there is no point in waiting for the next turn.
pub(super) type Mark = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Tick),
    /// Its check has not ended. `again`: and what it would say does not matter any more.
    UnderWay {
        again: bool,
    },
    /// Its check has not ended, and nobody wants it checked any more.
    Unwanted,
}

impl Schedule {
    /// From now on these are checked, and no others. Whoever is new, or is checked for something else, is due at `now`.
    pub(super) fn set(&mut self, wanted: impl IntoIterator<Item = (ReplicaKey, i64, Mark)>, now: Tick) {
        let mut gone: BTreeSet<ReplicaKey> = self.entries.keys().cloned().collect();
        for (key, incarnation, mark) in wanted {
            gone.remove(&key);
            self.want(key, incarnation, mark, now);
        }
        for key in gone {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            match entry.state {
                State::Waiting(due) => {
                    self.entries.remove(&key);
                    self.change(&key.service, |lane| lane.queue.remove(&(due, key.clone())));
                }
                State::UnderWay { .. } | State::Unwanted => entry.state = State::Unwanted,
            }
        }
    }

    fn want(&mut self, key: ReplicaKey, incarnation: i64, mark: Mark, now: Tick) {
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(key.clone(), Entry { incarnation, mark, state: State::Waiting(now) });
            self.change(&key.service, |lane| lane.queue.insert((now, key.clone())));
            return;
        };
        let is_other = (entry.incarnation, entry.mark) != (incarnation, mark);
        (entry.incarnation, entry.mark) = (incarnation, mark);
        match entry.state {
            State::Waiting(due) if is_other && due > now => {
                entry.state = State::Waiting(now);
                self.change(&key.service, |lane| {
                    lane.queue.remove(&(due, key.clone()));
                    lane.queue.insert((now, key.clone()))
                });
            }
            State::Waiting(_) => {}
            State::UnderWay { again } => entry.state = State::UnderWay { again: again || is_other },
            State::Unwanted => entry.state = State::UnderWay { again: true },
        }
    }

    /// Takes out one whose check is due at `now` and may begin: of the services with the fewest under way, who has waited longest.
    /// To be followed by [`Schedule::ended`].
    pub(super) fn begin(&mut self, now: Tick) -> Option<ReplicaKey> {
        if self.total >= MAX_UNDER_WAY {
            return None;
        }
        let is_due =
            |turns: &BTreeSet<(Tick, ServiceName)>| turns.first().filter(|(due, _)| *due <= now).cloned();
        let (_, service) = self.turns.iter().find_map(is_due)?;
        let key = self.change(&service, |lane| {
            lane.under_way += 1;
            lane.queue.pop_first()
        });
        let (_, key) = key?;
        self.entries.get_mut(&key)?.state = State::UnderWay { again: false };
        self.total += 1;
        Some(key)
    }

    /// A check has ended; the next one is due at `next`. Yields when it will really be, `None`: nobody wants it.
    pub(super) fn ended(&mut self, key: &ReplicaKey, now: Tick, next: Tick) -> Option<Tick> {
        let entry = self.entries.get_mut(key)?;
        let due = match entry.state {
            State::Waiting(due) => return Some(due),
            State::UnderWay { again } => Some(if again { now } else { next }),
            State::Unwanted => None,
        };
        match due {
            Some(due) => entry.state = State::Waiting(due),
            None => _ = self.entries.remove(key),
        }
        self.total -= 1;
        self.change(&key.service, |lane| {
            lane.under_way -= 1;
            lane.queue.extend(due.map(|due| (due, key.clone())));
        });
        due
    }

    /// Changes what waits, or is under way, of a service.
    fn change<T>(&mut self, service: &ServiceName, change: impl FnOnce(&mut Lane) -> T) -> T {
        let lane = self.lanes.entry(service.clone()).or_default();
        let before = lane.turn();
        let changed = change(lane);
        let after = lane.turn();
        if lane.queue.is_empty() && lane.under_way == 0 {
            self.lanes.remove(service);
        }
        if before != after {
            if let Some((under_way, due)) = before {
                self.turns[under_way].remove(&(due, service.clone()));
            }
            if let Some((under_way, due)) = after {
                self.turns[under_way].insert((due, service.clone()));
            }
        }
        changed
    }

    /// When to look again: `None` while there is no room, or nobody to check.
    pub(super) fn next(&self) -> Option<Tick> {
        let first = self.turns.iter().filter_map(BTreeSet::first).map(|(due, _)| *due).min();
        first.filter(|_| self.total < MAX_UNDER_WAY)
    }

    /// How many are checked, and how many checks are under way.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.entries.len(), self.total)
    }

    /// How late the most overdue check is at `now`.
    pub(super) fn lateness(&self, now: Tick) -> std::time::Duration {
        let due = self.lanes.values().filter_map(|lane| lane.queue.first());
        due.map(|(due, _)| now.since(*due)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(service: usize, replica: usize) -> ReplicaKey {
        ReplicaKey::parse(&format!("s-{service}"), &format!("r-{replica}")).unwrap()
    }

    fn at(millis: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_new_replica_is_due_at_once_and_then_when_its_last_check_said() {
        let mut schedule = Schedule::default();
        let wanted = || [(key(1, 1), 1, 0), (key(1, 2), 1, 0)];
        schedule.set(wanted(), at(5));
        assert_eq!(schedule.next(), Some(at(5)));
        let first = schedule.begin(at(5)).unwrap();
        assert_eq!(schedule.begin(at(5)), Some(key(1, 2)));
        assert_eq!((schedule.begin(at(5)), schedule.next(), schedule.counts()), (None, None, (2, 2)));
        assert_eq!(schedule.ended(&first, at(6), at(50)), Some(at(50)));
        schedule.set(wanted(), at(7));
        assert_eq!((schedule.next(), schedule.begin(at(49))), (Some(at(50)), None));
        assert_eq!(schedule.lateness(at(60)), Duration::from_millis(10));
        assert_eq!(schedule.begin(at(50)), Some(first));
    }

    #[test]
    fn who_is_gone_is_not_checked_and_a_check_under_way_ends_for_nothing() {
        let mut schedule = Schedule::default();
        schedule.set([(key(1, 1), 1, 0), (key(1, 2), 1, 0)], at(0));
        let under_way = schedule.begin(at(0)).unwrap();
        schedule.set([], at(1));
        assert_eq!((schedule.begin(at(9)), schedule.counts()), (None, (1, 1)));
        assert_eq!(schedule.ended(&under_way, at(2), at(9)), None);
        assert_eq!(schedule.counts(), (0, 0));
    }

    #[test]
    fn a_new_registration_or_another_kind_of_check_does_not_wait_for_its_turn() {
        let mut schedule = Schedule::default();
        let want = |schedule: &mut Schedule, incarnation, mark, now| {
            schedule.set([(key(1, 1), incarnation, mark)], at(now));
        };
        want(&mut schedule, 1, 0, 0);
        schedule.begin(at(0));
        want(&mut schedule, 2, 0, 1);
        assert_eq!(schedule.ended(&key(1, 1), at(2), at(99)), Some(at(2)));
        schedule.begin(at(2));
        schedule.ended(&key(1, 1), at(3), at(99));
        want(&mut schedule, 2, 7, 4);
        assert_eq!(schedule.next(), Some(at(4)));
        want(&mut schedule, 2, 7, 5);
        assert_eq!(schedule.next(), Some(at(4)));
        // One that went and came back while its check was under way.
        schedule.begin(at(6));
        schedule.set([], at(7));
        want(&mut schedule, 2, 7, 8);
        assert_eq!(schedule.ended(&key(1, 1), at(9), at(99)), Some(at(9)));
    }

    #[test]
    fn a_service_whose_checks_all_hang_holds_up_no_other() {
        let mut schedule = Schedule::default();
        let hanging = (0..500).map(|replica| (key(1, replica), 1, 0));
        schedule.set(hanging.clone(), at(0));
        while schedule.begin(at(0)).is_some() {}
        assert_eq!((schedule.counts(), schedule.next()), ((500, MAX_OF_A_SERVICE), None));
        schedule.set(hanging.chain([(key(2, 1), 1, 0)]), at(1));
        assert_eq!((schedule.next(), schedule.begin(at(1))), (Some(at(1)), Some(key(2, 1))));
    }

    #[test]
    fn the_next_place_is_for_a_service_that_has_none_however_many_of_others_have_waited_longer() {
        let mut schedule = Schedule::default();
        let hanging =
            || (1..=4).flat_map(|service| (0..500).map(move |replica| (key(service, replica), 1, 0)));
        schedule.set(hanging(), at(0));
        let mut under_way = Vec::new();
        while let Some(key) = schedule.begin(at(0)) {
            under_way.push(key);
        }
        assert_eq!(under_way.len(), MAX_UNDER_WAY);
        schedule.set(hanging().chain([(key(5, 1), 1, 0), (key(6, 1), 1, 0)]), at(1));
        for (ended, next) in under_way.iter().zip([key(5, 1), key(6, 1)]) {
            schedule.ended(ended, at(2), at(9));
            assert_eq!(schedule.begin(at(2)), Some(next));
        }
        schedule.ended(&under_way[2], at(2), at(9));
        assert_eq!(schedule.begin(at(2)).unwrap().service, under_way[0].service);
    }

    #[test]
    fn those_who_wait_in_vain_take_no_time_from_the_others() {
        let mut schedule = Schedule::default();
        let hanging = (0..50_000).map(|replica| (key(1, replica), 1, 0));
        schedule.set(hanging.chain([(key(2, 1), 1, 0)]), at(0));
        while schedule.begin(at(0)).is_some() {}
        let began = std::time::Instant::now();
        for millis in 1..2_000 {
            assert_eq!(schedule.ended(&key(2, 1), at(millis), at(millis)), Some(at(millis)));
            assert_eq!((schedule.next(), schedule.begin(at(millis))), (Some(at(millis)), Some(key(2, 1))));
        }
        // Some milliseconds. Looking at all who wait each time, it would be minutes.
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }

    proptest! {
        #[test]
        fn no_more_are_under_way_than_may_be_nobody_twice_and_everybody_wanted_in_the_end(
            steps in proptest::collection::vec((0..4_u8, 0..6_usize, 0..40_usize, 0..30_u64), 1..300),
        ) {
            let mut schedule = Schedule::default();
            let (mut wanted, mut under_way) = (BTreeSet::new(), Vec::new());
            let mut now = 0;
            for (step, service, replica, later) in steps {
                now += later;
                match step {
                    0 => {
                        wanted.extend((0..replica).map(|replica| key(service, replica)));
                        schedule.set(wanted.iter().map(|key| (key.clone(), 1, 0)), at(now));
                    }
                    1 => {
                        wanted.remove(&key(service, replica));
                        schedule.set(wanted.iter().map(|key| (key.clone(), 1, 0)), at(now));
                    }
                    2 => while let Some(key) = schedule.begin(at(now)) {
                        prop_assert!(!under_way.contains(&key));
                        prop_assert!(wanted.contains(&key));
                        under_way.push(key);
                    },
                    _ => if let Some(key) = under_way.pop() {
                        let next = schedule.ended(&key, at(now), at(now + 10));
                        prop_assert_eq!(next.is_some(), wanted.contains(&key));
                    },
                }
                prop_assert!(under_way.len() <= MAX_UNDER_WAY);
                let of_a_service = |service| under_way.iter().filter(|key| key.service == service).count();
                prop_assert!((0..6).all(|number| of_a_service(key(number, 0).service) <= MAX_OF_A_SERVICE));
                prop_assert_eq!(schedule.counts().1, under_way.len());
            }
            // Everybody who is wanted gets a turn, and nobody else.
            let mut seen = BTreeSet::new();
            let late = now + 1_000_000;
            for key in under_way.drain(..) {
                schedule.ended(&key, at(late), at(late));
            }
            loop {
                let mut round = Vec::new();
                while let Some(key) = schedule.begin(at(late)) {
                    round.push(key);
                }
                if round.is_empty() {
                    break;
                }
                for key in round {
                    schedule.ended(&key, at(late), at(late + 1));
                    seen.insert(key);
                }
            }
            prop_assert_eq!(seen, wanted);
        }
    }
}
