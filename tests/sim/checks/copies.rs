//! What data planes hold, beside what the registry had.

use std::collections::BTreeSet;

use control_plane::registry::{Item, Key, Scope};
use data_plane::discovery::Snapshot;
use gateway_proto::{ServiceName, content::ContentHash, policy, time::system_time, v1};

use super::{
    Checked, Ledger, claim,
    ledger::{Registry, overrides, partial, replicas, revision_of, routes},
};

const NAME: &str = "a_data_plane_shows_the_registry_as_it_was";

impl Ledger {
    /// What a data plane holds at a revision is what the registry held at that revision: replicas, policies, overrides,
    /// explicit routes, and the hash of it all.
    pub(crate) fn a_data_plane_shows_the_registry_as_it_was(
        &self,
        held: &Snapshot,
        follows: impl Fn(&str) -> bool,
    ) -> Checked {
        if !held.is_held() {
            return Ok(());
        }
        let then = self.at(held.epoch(), held.revision());
        claim(NAME, then.is_some(), || format!("there was no revision {}", held.revision()))?;
        let Some(then) = then else { return Ok(()) };
        let follows = |name: &ServiceName| follows(name.as_str());
        same_replicas(held, then, &follows)?;
        same_policies(held, then)?;
        same_overrides(held, then, &follows)?;
        same_routes(held, then)?;
        let expected = hash(then, &follows).to_string();
        claim("content_hashes_are_equal", held.content_hash().to_string() == expected, || {
            format!("at revision {} {} instead of {expected}", held.revision(), held.content_hash())
        })
    }

    /// With the link up, every data plane ends at the last revision.
    pub(crate) fn every_data_plane_converges(&self, node: usize, held: &Snapshot) -> Checked {
        let current = held.epoch() == self.epoch && held.revision() == self.revision;
        claim("every_data_plane_converges", current, || {
            format!("node {node} is at revision {}, the registry at {}", held.revision(), self.revision)
        })
    }
}

fn same_replicas(held: &Snapshot, then: &Registry, follows: &impl Fn(&ServiceName) -> bool) -> Checked {
    let expected = replicas(then).filter(|record| follows(&record.key.service)).map(|record| {
        let key = (record.key.service.clone(), record.key.replica.clone());
        let deadline = record.drain.as_deref().map(|drain| drain.deadline);
        let state = (record.shown_health(), record.mode(), deadline);
        (key, record.endpoint.clone(), record.weight, state, record.incarnation, record.revision)
    });
    let expected: Vec<_> = expected.collect();
    let of_service = |service: &std::sync::Arc<data_plane::table::ServiceSpec>| {
        let service = std::sync::Arc::clone(service);
        let name = service.name.clone();
        let specs = service.replicas.iter().map(|spec| {
            let key = (name.clone(), spec.id.clone());
            let state = (spec.health, spec.mode, spec.drain_deadline);
            (key, spec.endpoint.clone(), spec.weight, state, spec.incarnation, spec.revision)
        });
        specs.collect::<Vec<_>>()
    };
    let shown: Vec<_> = held.services().flat_map(of_service).collect();
    let is_empty = held.services().any(|service| service.replicas.is_empty());
    claim(NAME, shown == expected && !is_empty, || {
        format!("at revision {} it shows {shown:?}, the registry had {expected:?}", held.revision())
    })
}

fn same_policies(held: &Snapshot, then: &Registry) -> Checked {
    let star = partial(then, None);
    let default = policy::resolve(star, None);
    claim(NAME, held.default_policy() == default, || {
        format!("at revision {} {:?} instead of {default:?}", held.revision(), held.default_policy())
    })?;
    for service in held.services() {
        let expected = policy::resolve(star, partial(then, Some(&service.name)));
        claim(NAME, service.policy == expected, || {
            format!(
                "at revision {} {} has {:?}, not {expected:?}",
                held.revision(),
                service.name,
                service.policy
            )
        })?;
    }
    Ok(())
}

fn same_overrides(held: &Snapshot, then: &Registry, follows: &impl Fn(&ServiceName) -> bool) -> Checked {
    let facts = |entry: &v1::OverrideEntry| {
        (entry.override_id.clone(), entry.kind, entry.revision, entry.expire_time.map(system_time))
    };
    let expected = overrides(then).filter(|entry| entry.is_published() && follows(&entry.target.service));
    let expected: Vec<_> = expected.map(|entry| facts(&entry.to_wire())).collect();
    let shown: Vec<_> = held.overrides().map(|entry| facts(entry)).collect();
    claim(NAME, shown == expected, || {
        format!("at revision {} it shows {shown:?}, the registry had {expected:?}", held.revision())
    })
}

/// All of them, whichever services it follows.
fn same_routes(held: &Snapshot, then: &Registry) -> Checked {
    let expected: Vec<_> = routes(then).map(|stored| &stored.route).collect();
    let shown: Vec<_> = held.routes().collect();
    claim(NAME, shown == expected, || {
        format!("at revision {} it shows {shown:?}, the registry had {expected:?}", held.revision())
    })
}

/// The hash as the contract describes it, from the beginning.
fn hash(then: &Registry, follows: &impl Fn(&ServiceName) -> bool) -> ContentHash {
    let mut hash = ContentHash::default();
    let mut services = BTreeSet::new();
    for record in replicas(then).filter(|record| follows(&record.key.service)) {
        hash.add_replica(&record.key, record.revision);
        services.insert(&record.key.service);
    }
    let default_revision = then.get(&Key::Policy(Scope::All)).map_or(0, revision_of);
    hash.add_policy(None, default_revision);
    for item in then.values() {
        match item {
            Item::Policy(stored) => {
                if let Some(service) = stored.scope.service().filter(|service| services.contains(service)) {
                    hash.add_policy(Some(service), revision_of(item).max(default_revision));
                }
            }
            Item::Override(entry) if entry.is_published() && follows(&entry.target.service) => {
                hash.add_override(entry.id().as_str(), entry.revision);
            }
            Item::Route(stored) => hash.add_route(&stored.route.name, stored.revision),
            Item::Replica(_) | Item::Override(_) => {}
        }
    }
    hash
}
