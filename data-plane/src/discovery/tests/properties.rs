//! However a sequence of changes is delivered, the data plane ends up with what the registry has.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The registry as the simplest thing it could be: service → replica id → port and incarnation.
type Registry = BTreeMap<String, BTreeMap<String, (u16, i64)>>;

/// One change: the replica with this id of this service gets a port, or goes.
type Change = (u8, u8, Option<u16>);

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

fn deliveries() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        3 => Just(Delivery::Later),
        4 => Just(Delivery::Delta),
        2 => (1usize..4).prop_map(Delivery::Full),
        1 => (0usize..3).prop_map(Delivery::CutAfter),
        1 => Just(Delivery::Bookmark),
        2 => (0u8..4).prop_map(Delivery::Wrong),
    ]
}

fn change(registry: &mut Registry, revision: i64, (service, id, port): Change) {
    let name = format!("s-{}", service % 4);
    let id = format!("r-{}", id % 5);
    match port {
        Some(port) => {
            registry.entry(name).or_default().insert(id, (port.max(1), revision));
        }
        None => {
            if let Some(replicas) = registry.get_mut(&name) {
                replicas.remove(&id);
                if replicas.is_empty() {
                    registry.remove(&name);
                }
            }
        }
    }
}

fn wire(service: &str, id: &str, (port, incarnation): (u16, i64)) -> v1::Replica {
    v1::Replica { incarnation, ..replica(service, id, port) }
}

/// The registry in parts of `size` replicas, splitting services where it falls.
fn parts(registry: &Registry, revision: i64, size: usize) -> Vec<v1::StreamSnapshotsResponse> {
    let mut chunks: Vec<Vec<v1::ServiceSnapshot>> = Vec::new();
    for (name, replicas) in registry {
        let replicas: Vec<_> = replicas.iter().map(|(id, at)| wire(name, id, *at)).collect();
        chunks.extend(replicas.chunks(size).map(|chunk| vec![service(name, chunk.to_vec())]));
    }
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let last = chunks.len() - 1;
    let numbered = chunks.into_iter().enumerate();
    numbered
        .map(|(index, chunk)| part(revision, i32::try_from(index).unwrap(), index == last, chunk))
        .collect()
}

fn merged_delta(old: &Registry, new: &Registry) -> v1::Delta {
    let mut merged = v1::Delta::default();
    for (name, replicas) in new {
        if !old.contains_key(name) {
            merged.upsert_services.push(service(name, vec![]));
        }
        for (id, at) in replicas {
            if old.get(name).and_then(|replicas| replicas.get(id)) != Some(at) {
                merged.upsert_replicas.push(wire(name, id, *at));
            }
        }
    }
    for (name, replicas) in old {
        match new.get(name) {
            None => merged.remove_services.push(name.clone()),
            Some(now) => {
                let gone = replicas.keys().filter(|id| !now.contains_key(*id));
                merged.remove_replicas.extend(gone.map(|id| v1::ReplicaRemoval {
                    service: name.clone(),
                    replica_id: id.clone(),
                    ..Default::default()
                }));
            }
        }
    }
    merged
}

fn wrong(kind: u8, held: &Snapshot) -> v1::StreamSnapshotsResponse {
    let revision = held.revision();
    let broken = v1::Delta { remove_services: vec!["s-0".into(), "s-0".into()], ..Default::default() };
    match kind {
        0 => delta(revision + 1, revision + 2, v1::Delta::default()),
        1 => delta(revision, revision + 1, broken),
        2 => part(revision, 7, true, vec![]),
        _ => full(revision, vec![service("S", vec![])]),
    }
}

fn registry_of(held: &Snapshot) -> Registry {
    let replicas = |spec: &crate::table::ServiceSpec| {
        let each = spec.replicas.iter();
        each.map(|r| (r.id.to_string(), (r.address.port(), r.incarnation))).collect()
    };
    held.services().map(|spec| (spec.name.to_string(), replicas(spec))).collect()
}

proptest! {
    #[test]
    fn every_way_of_delivery_ends_at_the_registry(
        steps in prop::collection::vec(((0u8..4, 0u8..5, prop::option::weighted(0.7, 1u16..9)), deliveries()), 1..60)
    ) {
        let mut registry = Registry::new();
        // What the data plane was last brought to, as the registry remembers it.
        let mut known = Registry::new();
        let (mut held, mut assembly) = (Snapshot::default(), Assembly::default());
        assembly.receive(&mut held, full(0, vec![]));
        let mut revision = 0;
        for (step, delivery) in steps {
            revision += 1;
            change(&mut registry, revision, step);
            let before = held.clone();
            match delivery {
                Delivery::Later => continue,
                Delivery::Delta => {
                    let message = delta(held.revision(), revision, merged_delta(&known, &registry));
                    let received = assembly.receive(&mut held, message);
                    prop_assert!(matches!(received, Received::Applied { .. }), "{received:?}");
                }
                Delivery::Full(size) => {
                    for message in parts(&registry, revision, size) {
                        let received = assembly.receive(&mut held, message);
                        prop_assert!(!matches!(received, Received::Refused(_)), "{received:?}");
                    }
                }
                Delivery::CutAfter(count) => {
                    let mut parts = parts(&registry, revision, 1);
                    parts.pop();
                    for message in parts.into_iter().take(count) {
                        prop_assert_eq!(assembly.receive(&mut held, message), Received::Partial);
                    }
                    assembly = Assembly::default();
                    prop_assert_eq!(&held, &before);
                    continue;
                }
                Delivery::Bookmark => {
                    let current = held.revision();
                    prop_assert_eq!(assembly.receive(&mut held, bookmark(current)), Received::Unchanged);
                    prop_assert_eq!(&held, &before);
                    continue;
                }
                Delivery::Wrong(kind) => {
                    let received = assembly.receive(&mut held, wrong(kind, &before));
                    prop_assert!(matches!(received, Received::Refused(_)), "{received:?}");
                    prop_assert_eq!(&held, &before);
                    continue;
                }
            }
            known = registry.clone();
            prop_assert_eq!(registry_of(&held), registry.clone());
            prop_assert_eq!(held.revision(), revision);
        }
        // Whatever was left out, resuming brings the rest.
        let rest = delta(held.revision(), revision + 1, merged_delta(&known, &registry));
        Assembly::default().receive(&mut held, rest);
        prop_assert_eq!(registry_of(&held), registry);
    }
}
