//! Schedules as they are told, and by chance.

use proptest::prelude::*;

use super::*;

fn key(service: usize, replica: usize) -> ReplicaKey {
    ReplicaKey::parse(&format!("s-{service}"), &format!("r-{replica}")).unwrap()
}

fn at(millis: u64) -> Tick {
    Tick::ORIGIN.plus(Duration::from_millis(millis))
}

/// As if there were no rate.
fn unpaced() -> Schedule {
    Schedule::new(Rate::new(1e9, u32::MAX))
}

/// These are wanted, and no others of any service.
fn set(schedule: &mut Schedule, wanted: impl IntoIterator<Item = (ReplicaKey, i64, Mark)>, now: Tick) {
    let known = schedule.services().map(|service| (service.clone(), Vec::new()));
    let mut by_service: BTreeMap<ServiceName, Vec<_>> = known.collect();
    for (key, incarnation, mark) in wanted {
        by_service.entry(key.service).or_default().push((key.replica, incarnation, mark));
    }
    by_service.into_iter().for_each(|(service, wanted)| schedule.set(&service, wanted, now));
}

fn replicas(service: usize, count: usize) -> impl Iterator<Item = (ReplicaKey, i64, Mark)> + Clone {
    (0..count).map(move |replica| (key(service, replica), 1, 0))
}

/// Checks that end as they begin and are due again after `pause`, until `end`: who was checked when. Time goes on to when the
/// schedule says.
fn run(schedule: &mut Schedule, mut now: Tick, end: Tick, pause: Duration) -> Vec<(Tick, ReplicaKey)> {
    let mut begun = Vec::new();
    while let Some(next) = schedule.next(now).filter(|next| *next < end) {
        now = now.max(next);
        let key = schedule.begin(now).expect("it said that there is one");
        schedule.ended(&key, now, now.plus(pause));
        begun.push((now, key));
    }
    begun
}

#[test]
fn a_new_replica_is_due_at_once_and_then_when_its_last_check_said() {
    let mut schedule = unpaced();
    let wanted = || [(key(1, 1), 1, 0), (key(1, 2), 1, 0)];
    set(&mut schedule, wanted(), at(5));
    assert_eq!(schedule.next(at(5)), Some(at(5)));
    let first = schedule.begin(at(5)).unwrap();
    assert_eq!(schedule.begin(at(5)), Some(key(1, 2)));
    assert_eq!((schedule.begin(at(5)), schedule.next(at(5)), schedule.counts()), (None, None, (2, 2)));
    assert_eq!(schedule.ended(&first, at(6), at(50)), Some(at(50)));
    set(&mut schedule, wanted(), at(7));
    assert_eq!((schedule.next(at(7)), schedule.begin(at(49))), (Some(at(50)), None));
    assert_eq!(schedule.lateness(at(60)), Duration::from_millis(10));
    assert_eq!(schedule.begin(at(50)), Some(first));
}

#[test]
fn who_is_gone_is_not_checked_and_a_check_under_way_ends_for_nothing() {
    let mut schedule = unpaced();
    set(&mut schedule, [(key(1, 1), 1, 0), (key(1, 2), 1, 0)], at(0));
    let under_way = schedule.begin(at(0)).unwrap();
    set(&mut schedule, [], at(1));
    assert_eq!((schedule.begin(at(9)), schedule.counts()), (None, (1, 1)));
    assert_eq!(schedule.ended(&under_way, at(2), at(9)), None);
    assert_eq!(schedule.counts(), (0, 0));
}

#[test]
fn a_new_registration_or_another_kind_of_check_does_not_wait_for_its_turn() {
    let mut schedule = unpaced();
    let want = |schedule: &mut Schedule, incarnation, mark, now| {
        set(schedule, [(key(1, 1), incarnation, mark)], at(now));
    };
    want(&mut schedule, 1, 0, 0);
    schedule.begin(at(0));
    want(&mut schedule, 2, 0, 1);
    assert_eq!(schedule.ended(&key(1, 1), at(2), at(99)), Some(at(2)));
    schedule.begin(at(2));
    schedule.ended(&key(1, 1), at(3), at(99));
    want(&mut schedule, 2, 7, 4);
    assert_eq!(schedule.next(at(4)), Some(at(4)));
    want(&mut schedule, 2, 7, 5);
    assert_eq!(schedule.next(at(4)), Some(at(4)), "it is due since then");
    // One that went and came back while its check was under way.
    schedule.begin(at(6));
    set(&mut schedule, [], at(7));
    want(&mut schedule, 2, 7, 8);
    assert_eq!(schedule.ended(&key(1, 1), at(9), at(99)), Some(at(9)));
}

#[test]
fn a_service_whose_checks_all_hang_holds_up_no_other() {
    let mut schedule = unpaced();
    let hanging = replicas(1, 500);
    set(&mut schedule, hanging.clone(), at(0));
    while schedule.begin(at(0)).is_some() {}
    assert_eq!((schedule.counts(), schedule.next(at(0))), ((500, MAX_OF_A_SERVICE), None));
    set(&mut schedule, hanging.chain([(key(2, 1), 1, 0)]), at(1));
    assert_eq!((schedule.next(at(1)), schedule.begin(at(1))), (Some(at(1)), Some(key(2, 1))));
}

#[test]
fn services_whose_checks_all_hang_leave_places_to_those_that_have_none() {
    let mut schedule = unpaced();
    let hanging = || (1..=4).flat_map(|service| replicas(service, 500));
    set(&mut schedule, hanging(), at(0));
    while schedule.begin(at(0)).is_some() {}
    let (_, under_way) = schedule.counts();
    assert!(under_way > MAX_UNDER_WAY / 2 && under_way < MAX_UNDER_WAY, "{under_way}");
    set(&mut schedule, hanging().chain(replicas(5, 1)).chain(replicas(6, 1)), at(1));
    assert_eq!([schedule.begin(at(1)), schedule.begin(at(1))], [Some(key(5, 0)), Some(key(6, 0))]);
    assert_eq!(schedule.begin(at(1)), None);
}

#[test]
fn the_last_places_are_for_services_that_have_none_however_many_of_others_have_waited_longer() {
    let mut schedule = unpaced();
    let hanging = || (0..MAX_UNDER_WAY).flat_map(|service| replicas(service, 5));
    set(&mut schedule, hanging(), at(0));
    let under_way: Vec<_> = std::iter::from_fn(|| schedule.begin(at(0))).collect();
    let mut services: Vec<_> = under_way.iter().map(|key| &key.service).collect();
    services.sort();
    services.dedup();
    let (_, total) = schedule.counts();
    assert_eq!((services.len(), total), (MAX_UNDER_WAY, MAX_UNDER_WAY), "one of each");
    set(&mut schedule, hanging().chain(replicas(500, 1)), at(1));
    schedule.ended(&under_way[0], at(2), at(9));
    let next = schedule.begin(at(2)).unwrap();
    assert_eq!((&next.service, schedule.begin(at(2))), (&under_way[0].service, None));
    schedule.ended(&next, at(3), at(9));
    assert_eq!(
        schedule.begin(at(3)),
        Some(key(500, 0)),
        "it has waited longer than who has just had its turn"
    );
}

#[test]
fn with_more_replicas_than_the_rate_allows_all_intervals_of_a_service_stretch_evenly() {
    let mut schedule = Schedule::new(Rate::new(100.0, 1));
    set(&mut schedule, replicas(1, 1000), at(0));
    let begun = run(&mut schedule, at(0), at(30_000), Duration::from_secs(1));
    let mut checks = HashMap::new();
    for (_, key) in &begun {
        *checks.entry(key.clone()).or_insert(0) += 1;
    }
    assert_eq!((begun.len(), checks.len()), (3000, 1000));
    assert!(checks.values().all(|count| *count == 3), "{checks:?}");
    assert!(schedule.lateness(at(30_000)) >= Duration::from_millis(8_900), "it shows");
}

#[test]
fn a_service_of_few_dead_replicas_has_them_checked_on_time_beside_one_of_thousands() {
    let mut schedule = Schedule::new(Rate::new(100.0, 10));
    set(&mut schedule, replicas(1, 5000).chain(replicas(2, 3)), at(0));
    let begun = run(&mut schedule, at(0), at(100_000), Duration::from_secs(1));
    // The first ones take up to 50 s, and those of the small service are among the first.
    let small = |replica| {
        let of = begun.iter().filter(move |(_, one)| *one == key(2, replica)).map(|(at, _)| *at);
        of.collect::<Vec<_>>()
    };
    for checks in (0..3).map(small) {
        assert!(checks[0] < at(100), "{checks:?}");
        let later: Vec<_> = checks.into_iter().filter(|begun| *begun > at(51_000)).collect();
        assert!(later.len() >= 45, "{}", later.len());
        let late = later.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap();
        assert!(late <= Duration::from_millis(1_100), "{late:?}");
    }
}

#[test]
fn checks_that_hang_leave_their_service_its_turns_beside_one_whose_checks_end_at_once() {
    let mut schedule = Schedule::new(Rate::new(1000.0, 1));
    set(&mut schedule, replicas(1, 5000).chain(replicas(2, 10)), at(0));
    for millis in 0..30 {
        let begun = schedule.begin(at(millis)).unwrap();
        if begun.service == key(1, 0).service {
            schedule.ended(&begun, at(millis), at(millis));
        }
    }
    assert_eq!(schedule.counts(), (5010, 10), "all of the small service hang by now");
}

#[test]
fn the_first_check_of_a_new_registration_is_the_next_however_many_repeats_are_overdue() {
    let mut schedule = Schedule::new(Rate::new(100.0, 10));
    let known = || replicas(1, 1000);
    set(&mut schedule, known(), at(0));
    run(&mut schedule, at(0), at(15_000), Duration::from_secs(1));
    set(&mut schedule, known().filter(|(one, ..)| *one != key(1, 7)).chain([(key(1, 7), 2, 0)]), at(15_000));
    let next = schedule.next(at(15_000)).unwrap();
    assert!(next.since(at(15_000)) <= Duration::from_millis(10), "{next:?}");
    assert_eq!(schedule.begin(next), Some(key(1, 7)));
    schedule.ended(&key(1, 7), next, next.plus(Duration::from_secs(1)));
    assert_ne!(schedule.begin(next.plus(Duration::from_secs(1))), Some(key(1, 7)), "it is one of them now");
}

#[test]
fn who_waits_for_the_rate_is_told_when_it_lets_the_next_one_begin() {
    let mut schedule = Schedule::new(Rate::new(10.0, 2));
    set(&mut schedule, replicas(1, 3), at(1000));
    assert!(schedule.begin(at(1000)).is_some() && schedule.begin(at(1000)).is_some());
    assert_eq!((schedule.begin(at(1000)), schedule.next(at(1000))), (None, Some(at(1100))));
    assert_eq!((schedule.begin(at(1099)), schedule.next(at(1099))), (None, Some(at(1100))));
    assert!(schedule.begin(at(1100)).is_some());
    assert_eq!(schedule.lateness(at(1100)), Duration::ZERO);
}

#[test]
fn those_who_wait_in_vain_take_no_time_from_the_others() {
    let mut schedule = unpaced();
    let hanging = replicas(1, 50_000);
    set(&mut schedule, hanging.chain([(key(2, 1), 1, 0)]), at(0));
    while schedule.begin(at(0)).is_some() {}
    let began = std::time::Instant::now();
    for millis in 1..2_000 {
        assert_eq!(schedule.ended(&key(2, 1), at(millis), at(millis)), Some(at(millis)));
        assert_eq!(
            (schedule.next(at(millis)), schedule.begin(at(millis))),
            (Some(at(millis)), Some(key(2, 1)))
        );
    }
    // Some milliseconds. Looking at all who wait each time, it would be minutes.
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

proptest! {
    #[test]
    fn no_more_are_under_way_than_may_be_nobody_twice_and_everybody_wanted_in_the_end(
        steps in proptest::collection::vec((0..4_u8, 0..6_usize, 0..40_usize, 0..30_u64), 1..300),
    ) {
        let mut schedule = unpaced();
        let (mut wanted, mut under_way) = (BTreeSet::new(), Vec::new());
        let mut now = 0;
        for (step, service, replica, later) in steps {
            now += later;
            match step {
                0 => {
                    wanted.extend((0..replica).map(|replica| key(service, replica)));
                    set(&mut schedule, wanted.iter().map(|key| (key.clone(), 1, 0)), at(now));
                }
                1 => {
                    wanted.remove(&key(service, replica));
                    set(&mut schedule, wanted.iter().map(|key| (key.clone(), 1, 0)), at(now));
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

    #[test]
    fn never_more_than_the_rate_and_the_burst_first_checks_first_and_nobody_starves(
        per_second in 1..300_u32,
        burst in 1..20_u32,
        sizes in proptest::collection::vec(1..40_usize, 1..8),
        joins in proptest::collection::vec((0..8_usize, 0..2000_u64), 0..8),
        pause in 1..2000_u64,
    ) {
        let rate = Rate::new(per_second.into(), burst);
        let interval = Duration::from_nanos(rate.interval());
        let mut schedule = Schedule::new(rate);
        let mut wanted: Vec<_> =
            (0..).zip(&sizes).flat_map(|(service, count)| replicas(service, *count)).collect();
        let (mut begun, mut seen) = (Vec::new(), BTreeSet::new());
        let (mut now, mut pending) = (at(1), wanted.len());
        set(&mut schedule, wanted.iter().cloned(), now);
        for (service, later) in joins.into_iter().chain([(0, 3000)]) {
            let end = now.plus(Duration::from_millis(later));
            for (at, key) in run(&mut schedule, now, end, Duration::from_millis(pause)) {
                let is_first = !seen.contains(&key);
                prop_assert!(is_first || pending == 0, "{key} again, and {pending} never were");
                pending -= usize::from(is_first);
                seen.insert(key);
                begun.push(at);
            }
            now = end;
            // All of a service go once before one of them goes again, and all services in turns.
            let turns = wanted.len() + 8 * 50 + burst as usize;
            prop_assert!(schedule.lateness(now) <= interval * u32::try_from(turns).unwrap());
            wanted.push((key(service, 100 + wanted.len()), 1, 0));
            pending += 1;
            set(&mut schedule, wanted.iter().cloned(), now);
        }
        // The model: a bucket that leaks one in each interval, and holds the burst.
        let (mut held, mut last) = (0.0, Tick::ORIGIN);
        for begun in begun {
            let leaked = begun.since(last).as_secs_f64() / interval.as_secs_f64();
            (held, last) = (f64::max(0.0, held - leaked) + 1.0, begun);
            prop_assert!(held <= f64::from(burst) + 1e-6, "{held} at {begun:?}");
        }
    }
}
