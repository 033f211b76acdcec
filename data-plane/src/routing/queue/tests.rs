//! The queue's promises, and a world of replicas and waiters in which no free place is ever forgotten.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const LONG: Terms = Terms { max_pending: 100, max_queue_time: Duration::from_secs(60), until: Tick::NEVER };

fn at(millis: u64) -> Tick {
    Tick::ORIGIN.plus(Duration::from_millis(millis))
}

/// A queue of waiters who wake as their number, all of whom have looked in vain.
fn queue_of(count: u64) -> Queue<u64> {
    let mut queue = Queue::default();
    for number in 0..count {
        let ticket = queue.enter(at(number), Box::default(), LONG).unwrap();
        assert_eq!(queue.is_called(ticket, || ticket), ticket == 0, "only the first may look at once");
        assert_eq!(queue.found_none(ticket), None);
        assert!(!queue.is_called(ticket, || ticket));
    }
    queue
}

#[test]
fn a_free_place_calls_one_and_the_first_to_come_first() {
    let mut queue = queue_of(3);
    assert_eq!(queue.call(None), Some(0));
    assert!(queue.is_called(0, || 0) && !queue.is_called(1, || 1));
    assert_eq!(queue.call(None), Some(1), "another place is for another");
    assert_eq!(queue.took(1, at(5), LONG.max_queue_time), None);
    assert_eq!(queue.took(0, at(5), LONG.max_queue_time), None);
    assert_eq!((queue.len(), queue.call(None)), (1, Some(2)));
}

#[test]
fn who_finds_none_keeps_its_turn() {
    let mut queue = queue_of(2);
    assert_eq!(queue.call(None), Some(0));
    assert_eq!(queue.found_none(0), None);
    assert!(!queue.is_called(0, || 0));
    assert_eq!(queue.call(None), Some(0));
}

#[test]
fn a_newcomer_waits_behind_those_who_wait_and_behind_those_who_look() {
    let mut queue: Queue<u64> = queue_of(1);
    assert!(queue.has_precedence());
    assert_eq!(queue.call(None), Some(0));
    assert!(queue.has_precedence());
    assert_eq!(queue.took(0, at(1), LONG.max_queue_time), None);
    assert!(!queue.has_precedence());
}

#[test]
fn who_leaves_while_called_passes_the_call_on() {
    let mut queue = queue_of(3);
    assert_eq!(queue.leave(1), None);
    assert_eq!(queue.call(None), Some(0));
    assert_eq!(queue.leave(0), Some(2));
    assert_eq!((queue.leave(2), queue.leave(2), queue.len()), (None, None, 0));
}

#[test]
fn a_place_is_offered_to_those_who_have_not_tried_who_has_it() {
    let mut queue = queue_of(0);
    for tried in [vec![7], vec![7, 8], vec![]] {
        let ticket = queue.enter(at(0), tried.into(), LONG).unwrap();
        if queue.is_called(ticket, || ticket) {
            let _ = queue.found_none(ticket);
        }
        let _ = queue.is_called(ticket, || ticket);
    }
    assert_eq!(queue.call(Some(7)), Some(2));
    assert_eq!(queue.call(Some(8)), Some(0));
    assert_eq!(queue.call(Some(8)), None, "the other one has no use for it");
}

#[test]
fn a_place_that_its_caller_leaves_for_another_is_offered_to_the_next() {
    // Who was called, and whether it is choosy itself, does not matter.
    for tried in [vec![], vec![0]] {
        let mut queue: Queue<u64> = Queue::default();
        for tried in [tried, vec![1]] {
            let ticket = queue.enter(at(0), tried.into(), LONG).unwrap();
            if queue.is_called(ticket, || ticket) {
                let _ = queue.found_none(ticket);
            }
            let _ = queue.is_called(ticket, || ticket);
        }
        // One at replica 2 is free, and then one at replica 1, which the second one has tried. The first takes that.
        assert_eq!(queue.call(Some(2)), Some(0));
        assert_eq!(queue.call(Some(1)), None);
        assert_eq!(queue.took(0, at(1), LONG.max_queue_time), Some(1), "the other one is still free");
        assert!(queue.is_called(1, || 1));
    }
}

#[test]
fn waiters_who_are_choosy_are_passed_by_newcomers_who_are_not() {
    let mut queue: Queue<u64> = Queue::default();
    let ticket = queue.enter(at(0), [7].into(), LONG).unwrap();
    assert_eq!(queue.found_none(ticket), None);
    assert!(!queue.has_precedence());
    let newcomer = queue.enter(at(1), Box::default(), LONG).unwrap();
    assert!(queue.is_called(newcomer, || newcomer));
}

#[test]
fn nobody_waits_beyond_the_bound() {
    let mut queue: Queue<u64> = Queue::default();
    let terms = Terms { max_pending: 2, ..LONG };
    assert!(
        queue.enter(at(0), Box::default(), terms).is_ok()
            && queue.enter(at(0), Box::default(), terms).is_ok()
    );
    assert_eq!(queue.enter(at(0), Box::default(), terms), Err(Refused::Full { pending: 2 }));
    let none = Terms { max_pending: 0, ..LONG };
    assert_eq!(Queue::<u64>::default().enter(at(0), Box::default(), none), Err(Refused::Full { pending: 0 }));
}

#[test]
fn the_newest_goes_first_once_the_oldest_has_waited_for_half_of_what_it_may() {
    let terms = Terms { max_queue_time: Duration::from_millis(100), ..LONG };
    let mut queue: Queue<u64> = Queue::default();
    for number in 0..4 {
        let ticket = queue.enter(at(number * 10), Box::default(), terms).unwrap();
        let _ = queue.found_none(ticket);
        let _ = queue.is_called(ticket, || ticket);
    }
    assert_eq!(queue.call(None), Some(0));
    assert_eq!(queue.took(0, at(40), terms.max_queue_time), None);
    // The oldest one has come at 10 ms.
    assert_eq!(queue.call(None), Some(1));
    let _ = queue.found_none(1);
    let late = queue.enter(at(61), Box::default(), terms).unwrap();
    let _ = queue.is_called(late, || late);
    assert_eq!(queue.call(None), Some(late));
    assert_eq!(queue.took(late, at(62), terms.max_queue_time), None);
    assert_eq!(queue.call(None), Some(3));
    let _ = queue.took(3, at(63), terms.max_queue_time);
    // Without the oldest, those that are left have waited for less than half.
    let _ = queue.leave(1);
    let newest = queue.enter(at(64), Box::default(), terms).unwrap();
    let _ = queue.is_called(newest, || newest);
    assert_eq!(queue.call(None), Some(2));
}

#[test]
fn who_would_be_served_too_late_by_twice_the_pace_is_refused_at_once() {
    let mut queue = queue_of(30);
    // One place in 10 ms.
    for number in 0..10 {
        assert_eq!(queue.call(None), Some(number));
        assert_eq!(queue.took(number, at(1000 + 10 * number), LONG.max_queue_time), None);
    }
    let now = at(1090);
    let within = |millis| Terms { until: now.plus(Duration::from_millis(millis)), ..LONG };
    // 20 wait, so its turn would come in 210 ms.
    let expected = Duration::from_millis(210);
    let refused = queue.enter(now, Box::default(), within(104));
    assert_eq!(refused, Err(Refused::TooLate { pending: 20, expected }));
    assert!(queue.enter(now, Box::default(), within(106)).is_ok());
}

#[test]
fn a_pace_of_before_tells_nothing_once_nobody_waits() {
    let mut queue = queue_of(12);
    for number in 0..12 {
        let _ = queue.call(None);
        let _ = queue.took(number, at(1000 * number), LONG.max_queue_time);
    }
    let soon = Terms { until: at(12_001), ..LONG };
    assert!(queue.enter(at(12_000), Box::default(), soon).is_ok());
}

/// Twice as many come as can be served, and each client waits for as long as it likes: how many are served while theirs
/// are still there.
fn goodput(max_queue_time: Duration, patience: u64) -> (usize, usize) {
    let mut queue: Queue<u64> = Queue::default();
    let terms = Terms { max_pending: 1000, max_queue_time, until: Tick::NEVER };
    let (mut came, mut served, mut useful) = (BTreeMap::new(), 0, 0);
    for millis in 0..20_000 {
        let now = at(millis);
        let overdue: Vec<_> =
            came.iter().take_while(|(_, at)| now.since(**at) > max_queue_time).map(|(t, _)| *t).collect();
        for ticket in overdue {
            let _ = queue.leave(ticket);
            came.remove(&ticket);
        }
        if let Ok(ticket) = queue.enter(now, Box::default(), terms) {
            if queue.is_called(ticket, || ticket) {
                let _ = queue.found_none(ticket);
            }
            let _ = queue.is_called(ticket, || ticket);
            came.insert(ticket, now);
        }
        if millis % 2 == 0
            && let Some(ticket) = queue.call(None)
        {
            let _ = queue.took(ticket, now, max_queue_time);
            let waited = now.since(came.remove(&ticket).unwrap());
            served += 1;
            useful += usize::from(waited <= Duration::from_millis(patience));
        }
    }
    (served, useful)
}

#[test]
fn at_twice_the_load_nearly_all_that_is_served_is_still_wanted() {
    // Served strictly in order, everybody would wait for a second, and no client of these would be there any more.
    let (served, useful) = goodput(Duration::from_secs(1), 600);
    assert!(served > 9_900, "{served}");
    assert!(useful * 100 > served * 95, "{useful} of {served}");
}

/// Replicas with places, and waiters who have tried some of them.
struct World {
    queue: Queue<u64>,
    free: [u32; 3],
    /// Everybody who waits, with what it has tried.
    waiters: BTreeMap<Ticket, Vec<usize>>,
    /// Who has been woken, or is called without having to be.
    awake: BTreeSet<Ticket>,
    now: u64,
}

impl World {
    fn woken(&mut self, woken: Option<u64>) {
        self.awake.extend(woken);
    }

    fn place_for(&self, tried: &[usize]) -> Option<usize> {
        (0..3).find(|replica| self.free[*replica] > 0 && !tried.contains(replica))
    }

    /// Somebody comes; between its look and its waiting a place may become free.
    fn arrive(&mut self, tried: Vec<usize>, freed_meanwhile: Option<usize>) {
        let may_look = !self.queue.has_precedence();
        if may_look && let Some(replica) = self.place_for(&tried) {
            self.free[replica] -= 1;
            return;
        }
        freed_meanwhile.into_iter().for_each(|replica| self.end(replica));
        let ticket = self.queue.enter(at(self.now), tried.clone().into(), LONG).unwrap();
        self.waiters.insert(ticket, tried);
        self.awake.insert(ticket);
    }

    fn end(&mut self, replica: usize) {
        self.free[replica] += 1;
        if !self.queue.is_empty() {
            let woken = self.queue.call(Some(replica));
            self.woken(woken);
        }
    }

    /// So many places are free at once, as when a limit is raised.
    fn raise(&mut self, places: usize) {
        (0..places).for_each(|place| self.free[place % 3] += 1);
        if !self.queue.is_empty() {
            let woken = self.queue.call_many(places);
            self.awake.extend(woken);
        }
    }

    /// A waiter's task runs.
    fn run(&mut self, ticket: Ticket) {
        self.awake.remove(&ticket);
        if !self.waiters.contains_key(&ticket) || !self.queue.is_called(ticket, || ticket) {
            return;
        }
        let woken = match self.place_for(&self.waiters[&ticket]) {
            Some(replica) => {
                self.free[replica] -= 1;
                self.waiters.remove(&ticket);
                self.queue.took(ticket, at(self.now), LONG.max_queue_time)
            }
            None => {
                let woken = self.queue.found_none(ticket);
                // It polls again before it sleeps.
                if self.queue.is_called(ticket, || ticket) {
                    self.awake.insert(ticket);
                }
                woken
            }
        };
        self.woken(woken);
    }

    fn leave(&mut self, ticket: Ticket) {
        self.waiters.remove(&ticket);
        self.awake.remove(&ticket);
        let woken = self.queue.leave(ticket);
        self.woken(woken);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn once_all_who_were_woken_have_run_no_place_is_free_for_anybody_who_waits(
        steps in prop::collection::vec((0..10_u8, any::<prop::sample::Index>(), 0..8_u8, 0..6_usize), 1..60),
    ) {
        let mut world = World {
            queue: Queue::default(), free: [0; 3], waiters: BTreeMap::new(), awake: BTreeSet::new(), now: 0,
        };
        for (step, index, bits, replica) in steps {
            world.now += 1;
            let one_of = |of: &mut dyn Iterator<Item = Ticket>| {
                let all: Vec<_> = of.collect();
                (!all.is_empty()).then(|| all[index.index(all.len())])
            };
            match step {
                0..=2 => {
                    let tried = if bits == 7 { vec![] } else { (0..3).filter(|r| bits >> r & 1 == 1).collect() };
                    world.arrive(tried, (replica < 3).then_some(replica));
                }
                3 | 4 => world.end(replica % 3),
                5..=7 => {
                    if let Some(ticket) = one_of(&mut world.awake.iter().copied()) {
                        world.run(ticket);
                    }
                }
                8 => world.raise(replica),
                _ => {
                    if let Some(ticket) = one_of(&mut world.waiters.keys().copied()) {
                        world.leave(ticket);
                    }
                }
            }
            prop_assert_eq!(world.queue.len(), world.waiters.len());
        }
        while let Some(ticket) = world.awake.first().copied() {
            world.run(ticket);
        }
        for (ticket, tried) in &world.waiters {
            prop_assert_eq!(world.place_for(tried), None, "{} waits, and has tried {:?}", ticket, tried);
        }
        prop_assert!(world.queue.called.is_empty());
    }
}
