use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use gateway_proto::Address;
use proptest::prelude::*;

use super::*;
use crate::registry::{
    Answer, Candidates, Command, Committed, Decision, Limits, Proof, Registration, Said, Target, View, decide,
};

const LIMITS: Limits = Limits { replicas: 1000, replicas_per_service: 1000 };

/// Registers or removes one replica; the change, if there was one.
fn step(view: &mut View, service: &str, id: &str, present: bool) -> Option<Change> {
    let key = ReplicaKey::parse(service, id).unwrap();
    let command = if present {
        let address = Address::parse(&format!("{id}.example:80")).unwrap();
        let mut wish = Registration::permanent(key.service.clone(), address);
        wish.replica = Some(key.replica.clone());
        wish.ttl = Some(Duration::from_secs(15));
        Command::Register(wish)
    } else {
        Command::Deregister {
            target: Target::Key(key),
            proof: Proof::Force,
            said: Said::default(),
            block: None,
        }
    };
    match decide(view, &LIMITS, &command, &Candidates::from_random(1, 1), UNIX_EPOCH).unwrap() {
        Decision::Nothing(Answer::Deregistered { removed: false, .. }) => None,
        Decision::Nothing(other) => panic!("{other:?}"),
        Decision::Commit(mutation) => {
            let revision = view.revision() + 1;
            view.apply(Committed { revision, mutation }).changes.pop()
        }
    }
}

/// What a data plane holds: service and replica, with the replica's revision; a service without one has an entry too.
type Held = BTreeSet<(String, String, i64)>;

fn held(view: &View) -> Held {
    let replica = |r: &std::sync::Arc<crate::registry::Record>| {
        (r.key.service.to_string(), r.key.replica.to_string(), r.revision)
    };
    let names = view.services().map(|(name, _)| (name.to_string(), String::new(), 0));
    view.replicas().map(replica).chain(names).collect()
}

/// Applies a delta strictly: nothing new may be known, nothing unknown may be removed.
fn apply(held: &mut Held, delta: &v1::Delta) {
    for entry in &delta.upsert_services {
        assert!(held.insert((entry.service.clone(), String::new(), 0)), "{} is new", entry.service);
        assert_eq!(entry.policy, None, "it has none of its own");
    }
    for key in &delta.remove_replicas {
        let before = held.len();
        held.retain(|(service, id, _)| (service, id) != (&key.service, &key.replica_id));
        assert_eq!(held.len() + 1, before, "{key:?} is known");
    }
    for name in &delta.remove_services {
        assert!(held.remove(&(name.clone(), String::new(), 0)), "{name} is known");
        assert!(held.iter().all(|(service, _, _)| service != name), "{name} is empty");
    }
    for replica in &delta.upsert_replicas {
        held.retain(|(service, id, _)| (service, id) != (&replica.service, &replica.replica_id));
        held.insert((replica.service.clone(), replica.replica_id.clone(), replica.revision));
    }
}

#[test]
fn what_came_and_went_is_not_mentioned() {
    let mut view = View::default();
    let mut log = DeltaLog::new(0, 100);
    for present in [true, false] {
        log.extend(step(&mut view, "a", "r-1", present));
    }
    assert_eq!(log.since(0, &view), Some(v1::Delta { base_revision: 0, ..Default::default() }));
}

#[test]
fn a_service_that_is_gone_is_named_with_its_replicas_and_why_they_went() {
    let mut view = View::default();
    let mut log = DeltaLog::new(0, 100);
    for (id, present) in [("r-1", true), ("r-2", true), ("r-1", false), ("r-2", false)] {
        log.extend(step(&mut view, "a", id, present));
    }
    let delta = log.since(2, &view).unwrap();
    let removal = |id: &str| v1::ReplicaRemoval {
        service: "a".into(),
        replica_id: id.into(),
        cause: v1::RemovalCause::Deregistered.into(),
    };
    assert_eq!(delta.remove_services, ["a"]);
    assert_eq!(delta.remove_replicas, [removal("r-1"), removal("r-2")]);
}

#[test]
fn a_base_out_of_reach_has_no_delta() {
    let mut view = View::default();
    let mut log = DeltaLog::new(0, 2);
    for id in ["r-1", "r-2", "r-3"] {
        log.extend(step(&mut view, "a", id, true));
    }
    assert_eq!(log.since(0, &view), None);
    assert_eq!(log.since(1, &view).map(|delta| delta.upsert_replicas.len()), Some(2));
    assert_eq!(log.since(3, &view).map(|delta| delta.upsert_replicas.len()), Some(0));
    assert_eq!(log.since(4, &view), None);
}

#[test]
fn a_snapshot_never_carries_a_lease_id_or_a_deadline() {
    let mut view = View::default();
    let mut log = DeltaLog::new(0, 2);
    log.extend(step(&mut view, "a", "r-1", true));
    let replica = &log.since(0, &view).unwrap().upsert_replicas[0];
    assert_eq!((replica.replica_id.as_str(), &replica.lease), ("r-1", &None));
    // Nor does what the store keeps beside the id.
    let lease = view.replicas().next().unwrap().to_wire().lease.unwrap();
    assert_eq!(lease.ttl.unwrap().seconds, 15);
    assert_eq!((lease.expire_time, lease.last_renew_time), (None, None));
}

#[test]
fn a_snapshot_says_of_a_lease_that_there_is_none() {
    let (key, address) = (ReplicaKey::parse("a", "r-1").unwrap(), Address::parse("10.0.0.1:80").unwrap());
    let permanent = Record::plain(key, address, UNIX_EPOCH).to_snapshot();
    assert_eq!(permanent.lease, Some(v1::Lease { permanent: true, ..Default::default() }));
}

proptest! {
    #[test]
    fn where_others_are_heard_of_now_and_then_a_delta_from_what_they_told_leads_to_the_head_or_is_none(
        steps in proptest::collection::vec((0..2_u8, 0..2_u8, any::<bool>(), any::<bool>()), 1..40),
        capacity in 1..12_usize,
    ) {
        let (mut view, mut known) = (View::default(), View::default());
        let mut log = DeltaLog::new(0, capacity);
        let mut history = vec![held(&view)];
        for (service, id, present, is_heard_of) in steps {
            let Some(change) = step(&mut view, &format!("s{service}"), &format!("r{id}"), present) else { continue };
            history.push(held(&view));
            let is_next = known.revision() + 1 == view.revision();
            match is_heard_of {
                true if is_next => log.extend([change]),
                true => log.jump(known.changes_to(&view), view.revision()),
                false => continue,
            }
            known = view.clone();
        }
        let head = usize::try_from(log.head()).unwrap();
        for (base, before) in history.iter().enumerate() {
            let Some(delta) = log.since(base as i64, &known) else { continue };
            let mut now = before.clone();
            apply(&mut now, &delta);
            prop_assert_eq!(&now, &history[head], "from {}", base);
        }
        prop_assert!(log.since(log.head(), &known).is_some());
    }

    #[test]
    fn a_delta_from_any_base_in_reach_leads_to_the_head(
        steps in proptest::collection::vec((0..2_u8, 0..3_u8, any::<bool>()), 1..40),
        capacity in 1..12_usize,
    ) {
        let mut view = View::default();
        let mut log = DeltaLog::new(0, capacity);
        let mut history = vec![held(&view)];
        for (service, id, present) in steps {
            let change = step(&mut view, &format!("s{service}"), &format!("r{id}"), present);
            if change.is_some() {
                history.push(held(&view));
            }
            log.extend(change);
        }
        for (base, before) in history.iter().enumerate() {
            let Some(delta) = log.since(base as i64, &view) else {
                prop_assert!(history.len() - 1 - base > capacity);
                continue;
            };
            let mut now = before.clone();
            apply(&mut now, &delta);
            prop_assert_eq!(&now, history.last().unwrap());
        }
    }
}
