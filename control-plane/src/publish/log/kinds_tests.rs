//! What data planes are told, whatever happens in the registry: replicas, policies, overrides and routes.

use std::collections::BTreeMap;

use gateway_proto::{ReplicaKey, RouteName, content::ContentHash};
use proptest::prelude::*;

use super::*;
use crate::{
    publish::{Content, Filter, parts},
    registry::{
        Change, ReplicaChange,
        arbitrary::{carried_out, choices},
    },
};

/// What a data plane holds that does what it is told, strictly.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    services: BTreeMap<String, Option<v1::Policy>>,
    replicas: BTreeMap<(String, String), v1::Replica>,
    overrides: BTreeMap<String, v1::OverrideEntry>,
    routes: BTreeMap<String, v1::Route>,
    default_policy: v1::Policy,
}

impl Held {
    /// By full snapshots in small parts.
    fn all_of(view: &View, filter: &Filter) -> Self {
        let mut held = Self::default();
        for (index, part) in parts(&Content::of(view, filter), 300).enumerate() {
            assert_eq!(part.default_policy.is_some(), index == 0);
            held.default_policy = part.default_policy.unwrap_or(held.default_policy);
            held.overrides.extend(part.overrides.into_iter().map(|entry| (entry.override_id.clone(), entry)));
            held.routes.extend(part.routes.into_iter().map(|route| (route.name.clone(), route)));
            for service in part.services {
                let known = held.services.insert(service.service.clone(), service.policy.clone());
                assert!(
                    known.is_none_or(|policy| policy == service.policy),
                    "a part agrees with the one before"
                );
                held.put(service.replicas);
            }
        }
        held
    }

    fn put(&mut self, replicas: Vec<v1::Replica>) {
        for replica in replicas {
            assert!(self.services.contains_key(&replica.service), "{} has a service", replica.replica_id);
            self.replicas.insert((replica.service.clone(), replica.replica_id.clone()), replica);
        }
    }

    fn apply(&mut self, delta: v1::Delta) {
        for service in delta.upsert_services {
            assert!(service.replicas.is_empty());
            self.services.insert(service.service, service.policy);
        }
        for gone in delta.remove_replicas {
            let key = (gone.service, gone.replica_id);
            assert!(self.replicas.remove(&key).is_some(), "{key:?} is known");
        }
        self.put(delta.upsert_replicas);
        for name in delta.remove_services {
            assert!(self.services.remove(&name).is_some(), "{name} is known");
            assert!(self.replicas.keys().all(|(service, _)| *service != name), "{name} is empty");
        }
        for id in delta.remove_overrides {
            assert!(self.overrides.remove(&id).is_some(), "{id} is known");
        }
        for name in delta.remove_routes {
            assert!(self.routes.remove(&name).is_some(), "{name} is known");
        }
        self.routes.extend(delta.upsert_routes.into_iter().map(|route| (route.name.clone(), route)));
        for entry in delta.upsert_overrides {
            self.overrides.insert(entry.override_id.clone(), entry);
        }
        self.default_policy = delta.default_policy.unwrap_or(std::mem::take(&mut self.default_policy));
    }

    /// As the contract describes it, from what came over the wire.
    fn hash(&self) -> ContentHash {
        let mut hash = ContentHash::default();
        hash.add_policy(None, self.default_policy.revision);
        for (name, policy) in &self.services {
            if let Some(policy) = policy {
                hash.add_policy(Some(&ServiceName::parse(name).unwrap()), policy.revision);
            }
        }
        for ((service, id), replica) in &self.replicas {
            hash.add_replica(&ReplicaKey::parse(service, id).unwrap(), replica.revision);
        }
        self.overrides.iter().for_each(|(id, entry)| hash.add_override(id, entry.revision));
        for (name, route) in &self.routes {
            hash.add_route(&RouteName::parse(name).unwrap(), route.revision);
        }
        hash
    }
}

fn filters() -> [Filter; 3] {
    [Filter::All, Filter::parse(&["s0".into()]).unwrap(), Filter::parse(&["s1".into(), "x".into()]).unwrap()]
}

/// What two views alone do not tell.
fn without_cause(change: Change) -> Change {
    match change {
        Change::Replica(change) => {
            Change::Replica(ReplicaChange { removal: v1::RemovalCause::Unspecified, ..change })
        }
        other => other,
    }
}

proptest! {
    #[test]
    fn a_delta_of_every_kind_from_any_base_in_reach_leads_to_the_head(
        choices in choices(50),
        capacity in 1..30_usize,
    ) {
        let steps = carried_out(&choices);
        let mut log = DeltaLog::new(0, capacity);
        let mut views = vec![View::default()];
        for (_, applied, view) in steps {
            log.extend(applied.changes);
            views.push(view);
        }
        let head = views.last().unwrap();
        for filter in filters() {
            let expected = Held::all_of(head, &filter);
            prop_assert_eq!(filter.hash(head), expected.hash());
            for before in &views {
                let Some(delta) = log.since(before.revision(), head) else {
                    prop_assert!(!log.reaches(before.revision()));
                    continue;
                };
                let mut now = Held::all_of(before, &filter);
                let narrowed = filter.narrow(&delta).map(std::borrow::Cow::into_owned);
                narrowed.into_iter().for_each(|delta| now.apply(delta));
                prop_assert_eq!(&now, &expected);
            }
        }
    }

    #[test]
    fn every_step_is_told_and_the_hash_kept_up_is_the_one_computed_anew(choices in choices(50)) {
        let mut before = View::default();
        for (committed, applied, view) in carried_out(&choices) {
            prop_assert!(applied.changes.iter().all(|change| change.revision() == committed.revision));
            // The changes alone lead from the one view to the other.
            let mut told: Vec<_> = applied.changes.into_iter().map(without_cause).collect();
            let mut found = before.changes_to(&view);
            for changes in [&mut told, &mut found] {
                changes.sort_by_key(|change| format!("{change:?}"));
            }
            prop_assert_eq!(told, found);
            let anew = View::new(view.revision(), view.items());
            for filter in filters() {
                prop_assert_eq!(filter.hash(&view), Held::all_of(&view, &filter).hash());
                prop_assert_eq!(filter.hash(&view), filter.hash(&anew));
            }
            prop_assert_eq!(anew.replica_count(), view.replica_count());
            prop_assert!(anew.drains().eq(view.drains()) && anew.lost().eq(view.lost()));
            prop_assert!(view.changes_to(&anew).is_empty());
            before = view;
        }
    }
}
