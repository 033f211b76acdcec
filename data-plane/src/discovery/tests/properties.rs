//! However a sequence of changes is delivered, the data plane ends up with what the registry has.

use std::{collections::BTreeMap, time::Duration};

use gateway_proto::{ReplicaKey, content::ContentHash, time::duration};
use proptest::prelude::*;

use super::*;
use crate::discovery::delta::Changes;

/// The registry as the simplest thing it could be.
#[derive(Debug, Clone, Default, PartialEq)]
struct Registry {
    /// Service → replica id → port and the revision of its last change. No service is without replicas.
    replicas: BTreeMap<String, BTreeMap<String, (u16, i64)>>,
    /// Service, registered or not → a value by which a policy is known, and its revision.
    policies: BTreeMap<String, (u8, i64)>,
    default_policy: (u8, i64),
    /// Id → service and revision.
    overrides: BTreeMap<String, (String, i64)>,
}

#[derive(Debug, Clone)]
enum Change {
    /// The replica with this id of this service gets a port, or goes.
    Replica(u8, u8, Option<u16>),
    /// This service gets a policy of its own, or loses it.
    Policy(u8, Option<u8>),
    DefaultPolicy(u8),
    /// The override with this id begins for this service, or ends.
    Override(u8, Option<u8>),
}

/// What happens to the data plane after a change, by chance.
#[derive(Debug, Clone)]
enum Delivery {
    /// Nothing yet: later changes merge into one delta.
    Later,
    Delta,
    /// In parts of so many replicas.
    Full(usize),
    /// So many parts of a full snapshot, then the stream breaks.
    CutAfter(usize),
    Bookmark,
    /// Something that must be refused.
    Wrong(u8),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0u8..4, 0u8..5, prop::option::weighted(0.7, 1u16..9))
            .prop_map(|(service, id, port)| Change::Replica(service, id, port)),
        2 => (0u8..4, prop::option::weighted(0.7, 1u8..9)).prop_map(|(service, to)| Change::Policy(service, to)),
        1 => (1u8..9).prop_map(Change::DefaultPolicy),
        2 => (0u8..3, prop::option::weighted(0.7, 0u8..4)).prop_map(|(id, to)| Change::Override(id, to)),
    ]
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        3 => Just(Delivery::Later),
        4 => Just(Delivery::Delta),
        2 => (1usize..4).prop_map(Delivery::Full),
        1 => (0usize..3).prop_map(Delivery::CutAfter),
        1 => Just(Delivery::Bookmark),
        2 => (0u8..5).prop_map(Delivery::Wrong),
    ]
}

fn named(service: u8) -> String {
    format!("s-{}", service % 4)
}

impl Registry {
    fn change(&mut self, revision: i64, change: &Change) {
        match *change {
            Change::Replica(service, id, Some(port)) => {
                let replicas = self.replicas.entry(named(service)).or_default();
                replicas.insert(format!("r-{id}"), (port, revision));
            }
            Change::Replica(service, id, None) => {
                if let Some(replicas) = self.replicas.get_mut(&named(service)) {
                    replicas.remove(&format!("r-{id}"));
                }
                self.replicas.retain(|_, replicas| !replicas.is_empty());
            }
            Change::Policy(service, Some(value)) => {
                self.policies.insert(named(service), (value, revision));
            }
            Change::Policy(service, None) => {
                self.policies.remove(&named(service));
            }
            Change::DefaultPolicy(value) => self.default_policy = (value, revision),
            Change::Override(id, Some(service)) => {
                self.overrides.insert(format!("o-{id}"), (named(service), revision));
            }
            Change::Override(id, None) => {
                self.overrides.remove(&format!("o-{id}"));
            }
        }
    }

    /// A service without its replicas.
    fn service(&self, name: &str) -> v1::ServiceSnapshot {
        v1::ServiceSnapshot { policy: self.policies.get(name).map(policy), ..service(name, vec![]) }
    }

    fn replica(&self, service: &str, id: &str) -> v1::Replica {
        let (port, revision) = self.replicas[service][id];
        v1::Replica { incarnation: revision, revision, ..replica(service, id, port) }
    }

    fn override_entry(&self, id: &str) -> v1::OverrideEntry {
        let (service, revision) = &self.overrides[id];
        v1::OverrideEntry { revision: *revision, ..override_of(id, service, "-") }
    }

    /// All of it in parts of `size` replicas, splitting services where it falls.
    fn parts(&self, revision: i64, size: usize) -> Vec<v1::StreamSnapshotsResponse> {
        let mut chunks: Vec<v1::FullSnapshot> = Vec::new();
        for (name, replicas) in &self.replicas {
            let replicas: Vec<_> = replicas.keys().map(|id| self.replica(name, id)).collect();
            chunks.extend(replicas.chunks(size).map(|chunk| v1::FullSnapshot {
                services: vec![v1::ServiceSnapshot { replicas: chunk.to_vec(), ..self.service(name) }],
                ..Default::default()
            }));
        }
        if chunks.is_empty() {
            chunks.push(v1::FullSnapshot::default());
        }
        chunks[0].default_policy = Some(policy(&self.default_policy));
        chunks[0].overrides = self.overrides.keys().map(|id| self.override_entry(id)).collect();
        let last = chunks.len() - 1;
        let numbered = chunks.into_iter().enumerate().map(|(index, chunk)| {
            let part_index = i32::try_from(index).unwrap();
            let part = v1::FullSnapshot { part_index, last_part: index == last, ..chunk };
            message("e", revision, Update::Full(part))
        });
        numbered.collect()
    }

    fn delta_from(&self, old: &Self) -> v1::Delta {
        let mut merged = v1::Delta::default();
        for (name, replicas) in &self.replicas {
            let before = old.replicas.get(name);
            if before.is_none() || old.policies.get(name) != self.policies.get(name) {
                merged.upsert_services.push(self.service(name));
            }
            let known = |id: &str| before.and_then(|before| before.get(id));
            let new = replicas.iter().filter(|(id, now)| known(id) != Some(now));
            merged.upsert_replicas.extend(new.map(|(id, _)| self.replica(name, id)));
        }
        for (name, replicas) in &old.replicas {
            let now = self.replicas.get(name);
            if now.is_none() {
                merged.remove_services.push(name.clone());
            }
            let gone = replicas.keys().filter(|id| now.is_none_or(|now| !now.contains_key(*id)));
            merged.remove_replicas.extend(gone.map(|id| removal(name, id, v1::RemovalCause::Deregistered)));
        }
        if old.default_policy != self.default_policy {
            merged.default_policy = Some(policy(&self.default_policy));
        }
        let new = self.overrides.iter().filter(|(id, now)| old.overrides.get(*id) != Some(now));
        merged.upsert_overrides.extend(new.map(|(id, _)| self.override_entry(id)));
        merged
            .remove_overrides
            .extend(old.overrides.keys().filter(|id| !self.overrides.contains_key(*id)).cloned());
        merged
    }

    /// As the contract describes it, from nothing.
    fn content_hash(&self) -> ContentHash {
        let mut hash = ContentHash::default();
        hash.add_policy(None, self.default_policy.1);
        for (name, replicas) in &self.replicas {
            for (id, (_, revision)) in replicas {
                hash.add_replica(&ReplicaKey::parse(name, id).unwrap(), *revision);
            }
            if let Some((_, revision)) = self.policies.get(name) {
                hash.add_policy(Some(&name.parse().unwrap()), *revision);
            }
        }
        self.overrides.iter().for_each(|(id, (_, revision))| hash.add_override(id, *revision));
        hash
    }
}

fn policy((value, revision): &(u8, i64)) -> v1::Policy {
    let per_try = Some(duration(Duration::from_secs((*value).into())));
    let timeout = Some(v1::TimeoutPolicy { per_try, ..Default::default() });
    v1::Policy { timeout, revision: *revision, ..Default::default() }
}

fn wrong(kind: u8, held: &Snapshot) -> v1::StreamSnapshotsResponse {
    let revision = held.revision();
    let broken = v1::Delta { remove_services: vec!["s-0".into(), "s-0".into()], ..Default::default() };
    match kind {
        0 => delta(revision + 1, revision + 2, v1::Delta::default()),
        1 => delta(revision, revision + 1, broken),
        2 => part(revision, 7, true, vec![]),
        3 => message("e", revision + 1, Update::Bookmark(v1::Bookmark { content_hash: "none".into() })),
        _ => full(revision, vec![service("S", vec![])]),
    }
}

/// What is held agrees with the registry in everything that routing goes by.
fn assert_same(held: &Snapshot, registry: &Registry) -> Result<(), TestCaseError> {
    let replicas = held.services().map(|spec| {
        let replicas = spec.replicas.iter();
        let replicas = replicas.map(|r| (r.id.to_string(), (r.endpoint.address.port(), r.revision)));
        (spec.name.to_string(), replicas.collect::<BTreeMap<_, _>>())
    });
    prop_assert_eq!(replicas.collect::<BTreeMap<_, _>>(), registry.replicas.clone());
    for spec in held.services() {
        let (value, _) = registry.policies.get(spec.name.as_str()).unwrap_or(&registry.default_policy);
        prop_assert_eq!(spec.policy.timeout.per_try.as_secs(), u64::from(*value), "{}", spec.name);
    }
    let overrides =
        held.overrides().map(|entry| (entry.override_id.clone(), (entry.service.clone(), entry.revision)));
    prop_assert_eq!(overrides.collect::<BTreeMap<_, _>>(), registry.overrides.clone());
    prop_assert_eq!(held.content_hash(), registry.content_hash());
    let replicas: usize = registry.replicas.values().map(BTreeMap::len).sum();
    prop_assert_eq!(held.entry_count(), registry.replicas.len() + replicas + registry.overrides.len());
    Ok(())
}

proptest! {
    #[test]
    fn every_way_of_delivery_ends_at_the_registry(
        steps in prop::collection::vec((changes(), deliveries()), 1..60)
    ) {
        let mut registry = Registry { default_policy: (1, 0), ..Registry::default() };
        // What the data plane was last brought to, as the registry remembers it.
        let mut known = registry.clone();
        let (mut held, mut assembly) = (Snapshot::default(), Assembly::default());
        for message in registry.parts(0, 1) {
            assembly.receive(&mut held, message);
        }
        let mut revision = 0;
        for (change, delivery) in steps {
            revision += 1;
            registry.change(revision, &change);
            let before = held.clone();
            match delivery {
                Delivery::Later => continue,
                Delivery::Delta => {
                    let merged = registry.delta_from(&known);
                    let expected = held.entry_count_after(&Changes::read(&held, merged.clone()).unwrap());
                    let received = assembly.receive(&mut held, delta(before.revision(), revision, merged));
                    prop_assert!(matches!(received, Received::Applied { .. }), "{received:?}");
                    prop_assert_eq!(held.entry_count(), expected);
                }
                Delivery::Full(size) => {
                    for message in registry.parts(revision, size) {
                        let received = assembly.receive(&mut held, message);
                        prop_assert!(!matches!(received, Received::Refused(_)), "{received:?}");
                    }
                }
                Delivery::CutAfter(count) => {
                    let mut parts = registry.parts(revision, 1);
                    parts.pop();
                    for message in parts.into_iter().take(count) {
                        prop_assert_eq!(assembly.receive(&mut held, message), Received::Partial);
                    }
                    assembly = Assembly::default();
                    prop_assert_eq!(&held, &before);
                    continue;
                }
                Delivery::Bookmark => {
                    let content_hash = known.content_hash().to_string();
                    let right = Update::Bookmark(v1::Bookmark { content_hash });
                    let received = assembly.receive(&mut held, message("e", before.revision(), right));
                    prop_assert_eq!(received, Received::Unchanged);
                    prop_assert_eq!(&held, &before);
                    continue;
                }
                Delivery::Wrong(kind) => {
                    // On a stream of its own: a hash that is wrong time and again is disputed, see `content`.
                    assembly = Assembly::default();
                    let received = assembly.receive(&mut held, wrong(kind, &before));
                    prop_assert!(matches!(received, Received::Refused(_)), "{received:?}");
                    prop_assert_eq!(&held, &before);
                    continue;
                }
            }
            known = registry.clone();
            assert_same(&held, &registry)?;
            prop_assert_eq!(held.revision(), revision);
            let mut copy = Snapshot::default();
            Assembly::default().receive(&mut copy, message("e", revision, Update::Full(held.to_wire())));
            prop_assert_eq!(&copy, &held, "it survives its own wire form");
        }
        // Whatever was left out, resuming brings the rest.
        let rest = delta(held.revision(), revision + 1, registry.delta_from(&known));
        Assembly::default().receive(&mut held, rest);
        assert_same(&held, &registry)?;
    }
}
