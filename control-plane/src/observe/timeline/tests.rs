use proptest::prelude::*;
use prost_types::Timestamp;

use super::*;

const LIMITS: TimelineLimits = TimelineLimits { events: 4, events_per_replica: 2, replicas: 2 };

fn event(replica: &str, message: &str, seconds: i64) -> v1::Event {
    v1::Event {
        event_type: "BREAKER_OPENED".into(),
        service: "a".into(),
        replica_id: replica.into(),
        message: message.into(),
        event_time: Some(Timestamp { seconds, nanos: 0 }),
        ..Default::default()
    }
}

/// A timeline of events that are so far apart that none folds.
fn timeline(replicas: &[&str]) -> Timeline {
    let mut timeline = Timeline::new(7, LIMITS);
    for (number, id) in (0..).zip(replicas) {
        timeline.push(event(id, "x", number * 1000));
    }
    timeline
}

fn scope(service: &str, replica: &str) -> Scope {
    Scope::parse(service, replica).unwrap()
}

fn positions(timeline: &Timeline, scope: &Scope, before: Option<Position>, limit: usize) -> Vec<Position> {
    timeline.before(scope, before, limit).events.iter().map(|(position, _)| *position).collect()
}

#[test]
fn events_are_listed_newest_first_and_page_by_page() {
    let timeline = timeline(&["x", "x", "y", "x"]);
    let all = Scope::default();
    assert_eq!(positions(&timeline, &all, None, 3), [4, 3, 2]);
    assert_eq!(positions(&timeline, &all, Some(2), 3), [1]);
    let beyond = timeline.before(&all, Some(1), 3);
    assert_eq!((beyond.events.len(), beyond.reached), (0, None));
    // Not in scope, but looked at: there may be more behind.
    let other = timeline.before(&scope("b", ""), None, 3);
    assert_eq!((other.events.len(), other.reached), (0, Some(2)));
}

#[test]
fn a_quiet_replica_keeps_its_events_while_a_busy_one_fills_the_ring() {
    let timeline = timeline(&["quiet", "x", "x", "x", "x", "x"]);
    assert_eq!(positions(&timeline, &scope("a", "quiet"), None, 9), [1]);
    assert_eq!(positions(&timeline, &Scope::default(), None, 9), [6, 5, 4, 3]);
    assert_eq!(positions(&timeline, &scope("a", "x"), None, 9), [6, 5]);
}

#[test]
fn the_replica_that_was_quiet_longest_makes_room() {
    let timeline = timeline(&["one", "two", "one", "three"]);
    assert_eq!(positions(&timeline, &scope("a", "two"), None, 9).len(), 0);
    assert_eq!(positions(&timeline, &scope("a", "one"), None, 9).len(), 2);
    assert_eq!(timeline.quietest.len(), timeline.replicas.len());
}

#[test]
fn ids_are_ordered_and_lead_back_to_their_place() {
    let timeline = timeline(&["x", "x"]);
    let listed = timeline.before(&Scope::default(), None, 9).events;
    assert!(listed[0].1.event_id > listed[1].1.event_id);
    assert_eq!(timeline.cursor(&listed[1].1.event_id), Ok(Cursor::After(1)));
    assert_eq!(timeline.cursor("000000000006-000000000001"), Ok(Cursor::Foreign));
    assert!(timeline.cursor("yesterday").is_err());
}

#[test]
fn a_cursor_that_is_too_old_or_foreign_yields_what_is_left_and_a_gap() {
    let timeline = timeline(&["x"; 6]);
    let since = |cursor| {
        let since = timeline.since(cursor, 9);
        (since.events.len(), since.reached, since.gap)
    };
    assert_eq!(since(Cursor::After(1)), (4, 6, true));
    assert_eq!(since(Cursor::Foreign), (4, 6, true));
    assert_eq!(since(Cursor::After(2)), (4, 6, false));
    assert_eq!(since(Cursor::After(6)), (0, 6, false));
    assert_eq!(since(Cursor::After(Position::MAX)), (0, Position::MAX, false));
}

#[test]
fn events_after_a_cursor_come_in_bounded_batches_without_loss() {
    let timeline = timeline(&["x", "y", "x", "y"]);
    let mut cursor = Cursor::After(0);
    let mut sizes = Vec::new();
    loop {
        let since = timeline.since(cursor, 3);
        sizes.push((since.events.len(), since.reached));
        cursor = Cursor::After(since.reached);
        if since.events.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [(3, 3), (1, 4), (0, 4)]);
}

#[test]
fn like_events_are_one_that_counts_them_and_moves_to_the_newest_place() {
    let mut timeline = Timeline::new(7, LIMITS);
    timeline.push(event("x", "failures 5 >= 5", 100));
    timeline.push(event("y", "failures 5 >= 5", 101));
    timeline.push(v1::Event { event_type: "BREAKER_HALF_OPENED".into(), ..event("x", "probe", 102) });
    let seen = timeline.last();
    timeline.push(event("x", "failures 6 >= 5", 103));
    timeline.push(event("x", "failures 7 >= 5", 200));
    let listed = timeline.before(&Scope::default(), None, 9).events;
    let shown: Vec<_> = listed
        .iter()
        .map(|(position, event)| {
            (*position, event.replica_id.as_str(), event.message.as_str(), event.repeat_count)
        })
        .collect();
    assert_eq!(shown, [(5, "x", "failures 7 >= 5", 2), (3, "x", "probe", 0), (2, "y", "failures 5 >= 5", 0)]);
    let folded = &listed[0].1;
    assert_eq!((folded.first_time.unwrap().seconds, folded.event_time.unwrap().seconds), (100, 200));
    assert_eq!(positions(&timeline, &scope("a", "x"), None, 9), [5, 3]);
    // Whoever watches is told of the repetition, once for all that came meanwhile, and misses nothing.
    let since = timeline.since(Cursor::After(seen), 9);
    assert_eq!((since.events.len(), since.events[0].repeat_count, since.gap), (1, 2, false));
}

#[test]
fn an_event_that_is_told_anew_after_a_long_time_begins_a_new_story() {
    let mut timeline = Timeline::new(7, LIMITS);
    timeline.push(event("x", "failures 5", 100));
    timeline.push(event("x", "failures 5", 401));
    timeline.push(event("x", "failures 5", 500));
    let listed = timeline.before(&Scope::default(), None, 9).events;
    let counts: Vec<_> = listed.iter().map(|(_, event)| event.repeat_count).collect();
    assert_eq!(counts, [1, 0]);
}

#[test]
fn an_event_that_has_made_room_is_not_folded_into() {
    let mut timeline = Timeline::new(7, LIMITS);
    timeline.push(event("x", "failures 5", 100));
    for id in ["p", "q", "r", "s"] {
        timeline.push(event(id, "failures 5", 100));
    }
    timeline.push(event("x", "failures 5", 101));
    assert_eq!(timeline.before(&Scope::default(), None, 1).events[0].1.repeat_count, 0);
    assert_eq!(timeline.newest.len(), timeline.events.len());
}

proptest! {
    /// Whatever comes, a watcher that reads now and then has in the end been told of every event that is kept, and every
    /// part stays within its bounds.
    #[test]
    fn a_watcher_without_a_gap_knows_the_last_word_of_everything(
        pushes in prop::collection::vec((0..4_usize, 0..3_usize, 0..200_i64, any::<bool>()), 0..80)
    ) {
        let mut timeline = Timeline::new(7, TimelineLimits { events: 6, ..LIMITS });
        let (mut cursor, mut at, mut gap) = (Cursor::After(0), 0, false);
        let mut told: BTreeMap<String, Arc<v1::Event>> = BTreeMap::new();
        let mut pushed = 0;
        for (replica, message, pause, reads) in pushes {
            at += pause;
            timeline.push(event(["w", "x", "y", ""][replica], ["a", "b 1", "b 2"][message], at));
            pushed += 1;
            if reads {
                let since = timeline.since(cursor, 9);
                gap |= since.gap;
                cursor = Cursor::After(since.reached);
                told.extend(since.events.into_iter().map(|event| (event.event_id.clone(), event)));
            }
            prop_assert!(timeline.events.len() <= 6 && timeline.newest.len() <= timeline.events.len());
            prop_assert!(timeline.replicas.len() <= 2);
            prop_assert_eq!(timeline.quietest.len(), timeline.replicas.len());
            prop_assert!(timeline.replicas.values().all(|ring| (1..=2).contains(&ring.len())));
        }
        told.extend(timeline.since(cursor, 9).events.into_iter().map(|event| (event.event_id.clone(), event)));
        let kept = timeline.before(&Scope::default(), None, 99).events;
        for (_, event) in &kept {
            prop_assert_eq!(told.get(&event.event_id), Some(event));
        }
        if timeline.lost == 0 {
            prop_assert!(!gap);
            let counted: i32 = kept.iter().map(|(_, event)| event.repeat_count + 1).sum();
            prop_assert_eq!(counted, pushed);
        }
    }
}
