//! Which events are like each other, so that a replica which fails all night is one line and not a thousand.
//!
//! Like ones are of one type, of the same service, replica, data plane and actor, and say the same, for most types apart from
//! numbers. They need not follow each other: a breaker that opens and probes in turn is two lines. See `docs/events.md`.

use std::time::Duration;

use gateway_proto::{time::system_time, v1};
use prost_types::Timestamp;

use super::catalog::{EventType, Folding};

/// Like events fold as long as no more than this is between one and the next: longer than a breaker stays open at most
/// by default, so that all its attempts to close again are one story.
pub(super) const WINDOW: Duration = Duration::from_secs(300);

/// A number that like events share; `None` for types that never fold.
///
/// The writer waits for it with every event, so it is FNV-1a (Fowler, Noll, Vo) and not a hash that withstands attacks:
/// whoever makes two events collide keeps one of them from folding, for likes are compared before they fold.
pub(super) fn likeness(event: &v1::Event) -> Option<u64> {
    let folding = folding(event);
    (folding != Folding::Never).then(|| {
        let names = names(event, folding).into_iter().flat_map(|name| name.bytes().chain([0]));
        let bytes = names.chain(said(event, folding));
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    })
}

/// Whether an event is like an earlier one and folds with it.
pub(super) fn repeats(earlier: &v1::Event, event: &v1::Event) -> bool {
    let instants = earlier.event_time.zip(event.event_time);
    // Clocks of two machines differ, so the later one may seem to come first.
    let is_near = instants.is_some_and(|(one, other)| apart(one, other) <= WINDOW);
    let folding = folding(event);
    is_near
        && names(earlier, folding) == names(event, folding)
        && said(earlier, folding).eq(said(event, folding))
}

/// The event that stands for both: what is said now, and since when.
pub(super) fn fold(earlier: &v1::Event, event: v1::Event) -> v1::Event {
    let latest = |one: Timestamp, other: Timestamp| if is_before(one, other) { other } else { one };
    v1::Event {
        repeat_count: earlier.repeat_count.saturating_add(1),
        first_time: earlier.first_time.or(earlier.event_time),
        event_time: earlier.event_time.zip(event.event_time).map(|(one, other)| latest(one, other)),
        ..event
    }
}

/// Of types that are not known, none.
fn folding(event: &v1::Event) -> Folding {
    EventType::find(&event.event_type).map_or(Folding::Never, |known| known.folding)
}

/// What must be the same.
fn names(event: &v1::Event, folding: Folding) -> [&str; 6] {
    let from = event.metadata.get("from").filter(|_| folding == Folding::Same);
    let from = from.map(String::as_str).unwrap_or_default();
    [&event.event_type, &event.service, &event.replica_id, &event.node_id, &event.actor, from]
}

/// The message, with `#` for every run of digits where numbers do not matter: "consecutive_failures # >= #".
fn said(event: &v1::Event, folding: Folding) -> impl Iterator<Item = u8> {
    let is_shape = folding == Folding::Alike;
    let mut in_number = false;
    event.message.bytes().filter_map(move |byte| {
        let was_in_number = std::mem::replace(&mut in_number, is_shape && byte.is_ascii_digit());
        match (was_in_number, in_number) {
            (true, true) => None,
            (false, true) => Some(b'#'),
            (_, false) => Some(byte),
        }
    })
}

fn apart(one: Timestamp, other: Timestamp) -> Duration {
    let (one, other) = (system_time(one), system_time(other));
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

fn is_before(one: Timestamp, other: Timestamp) -> bool {
    (one.seconds, one.nanos) < (other.seconds, other.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str, seconds: i64) -> v1::Event {
        v1::Event {
            event_type: "BREAKER_OPENED".into(),
            service: "orders".into(),
            replica_id: "r-1".into(),
            node_id: "n1".into(),
            actor: "n1".into(),
            message: message.into(),
            event_time: Some(Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn events_that_differ_in_numbers_only_are_alike() {
        let earlier = event("consecutive_failures 5 >= 5: connect refused; next probe in 1.1s", 100);
        let later = event("consecutive_failures 12 >= 5: connect refused; next probe in 32.0s", 160);
        assert_eq!(likeness(&earlier), likeness(&later));
        assert!(repeats(&earlier, &later) && repeats(&later, &earlier));
        let others = [
            event("consecutive_failures 5 >= 5: timeout; next probe in 1.1s", 100),
            v1::Event { event_type: "BREAKER_CLOSED".into(), ..earlier.clone() },
            v1::Event { service: "billing".into(), ..earlier.clone() },
            v1::Event { replica_id: "r-2".into(), ..earlier.clone() },
            v1::Event { node_id: "n2".into(), ..earlier.clone() },
            v1::Event { actor: "ann".into(), ..earlier.clone() },
        ];
        for other in others {
            assert_ne!(likeness(&earlier), likeness(&other), "{other:?}");
            assert!(!repeats(&earlier, &other), "{other:?}");
        }
    }

    #[test]
    fn what_is_too_far_apart_or_a_persons_decision_does_not_fold() {
        assert!(repeats(&event("x", 100), &event("x", 400)));
        assert!(!repeats(&event("x", 100), &event("x", 401)));
        assert!(!repeats(&v1::Event { event_time: None, ..event("x", 0) }, &event("x", 0)));
        for (event_type, folds) in
            [("OVERRIDE_SET", false), ("POLICY_UPDATED", false), ("REPLICA_REGISTERED", true), ("?", false)]
        {
            let event = v1::Event { event_type: event_type.into(), ..event("x", 0) };
            assert_eq!(likeness(&event).is_some(), folds, "{event_type}");
        }
    }

    #[test]
    fn what_callers_asked_for_folds_only_when_they_asked_for_the_very_same_from_the_same_place() {
        let asked = |message: &str, from: &str| v1::Event {
            event_type: "CHANGE_ASKED".into(),
            metadata: [("from".into(), from.into())].into(),
            ..event(message, 100)
        };
        let one = asked("Deregister orders/r-1: done", "10.0.0.7");
        assert!(repeats(&one, &one.clone()) && likeness(&one) == likeness(&one.clone()));
        for other in [
            asked("Deregister orders/r-2: done", "10.0.0.7"),
            asked("Deregister orders/r-1: done", "10.0.0.8"),
        ] {
            assert!(!repeats(&one, &other) && likeness(&one) != likeness(&other), "{other:?}");
        }
    }

    #[test]
    fn the_fold_says_what_the_last_one_said_and_since_when() {
        let first = fold(&event("1", 100), event("2", 130));
        let second = fold(&first, event("3", 120));
        assert_eq!((first.repeat_count, second.repeat_count), (1, 2));
        assert_eq!((second.message.as_str(), second.first_time.unwrap().seconds), ("3", 100));
        assert_eq!(second.event_time.unwrap().seconds, 130);
    }
}
