use super::*;
use crate::registry::{Eviction, Why};

fn evict(record: &Record) -> Command {
    let failure = "connect refused".to_owned();
    let why = Why::ChecksFailed { lasted: Duration::from_secs(600), nodes: 2, failure };
    Command::Evict(Eviction { key: record.key.clone(), incarnation: record.incarnation, why })
}

#[test]
fn an_evicted_replica_is_gone_with_its_cause_and_its_owner_is_told_of_it() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&leased(1));
    assert_eq!(registry.run(&evict(&record)), Ok(Answer::Deregistered { removed: true, revision: 2 }));
    let why = "its health checks have failed for 10m on all data planes that check it (2): connect refused";
    assert_eq!(registry.told(), [("REPLICA_EVICTED", "registry", format!("evicted: {why}").as_str())]);
    assert_eq!(registry.events[0].removed(), Some(record.key.clone()));
    let late = why_lease_is_void(&registry.view, &record.key, lease_of(&record), registry.next_at());
    let why = format!("evicted: {why}");
    assert_eq!(late, RegistryError::ReplicaRemoved { key: record.key.clone(), why });
    let (again, created) = registry.register(&leased(1));
    assert!(created && again.incarnation > record.incarnation, "who lives comes back");
}

#[test]
fn what_has_changed_since_it_was_judged_stays() {
    let mut registry = Registry::default();
    let (record, _) = registry.register(&permanent(1));
    let stale = Record { incarnation: record.incarnation - 1, ..Record::clone(&record) };
    assert_eq!(registry.run(&evict(&stale)), Ok(Answer::Moot));
    let drain = Command::Drain(Box::new(DrainWish {
        key: record.key.clone(),
        proof: Proof::Force,
        timeout: None,
        etag: String::new(),
        allow_last: true,
        said: Said::default(),
    }));
    registry.replica(&drain);
    assert_eq!(registry.run(&evict(&record)), Ok(Answer::Moot));
    assert!(registry.view.get(&record.key).is_some());
    registry.run(&deregister(&record.key, Proof::Force)).unwrap();
    assert_eq!(registry.run(&evict(&record)), Ok(Answer::Moot));
}
