//! Reading a delta: what it asks for, or a [`Refusal`] that names what is wrong with it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::Arc,
};

use gateway_proto::{ReplicaKey, RouteName, ServiceName, v1};

use super::{
    Refusal, Snapshot,
    draft::{Draft, RevisedPolicy},
    overrides::Override,
    parse,
    routes::{self, RevisedRoute},
};

/// What a delta asks for, every field of it read.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Every service it names as it will be; `None` is removed.
    pub(super) services: BTreeMap<ServiceName, Option<Draft>>,
    /// Why replicas are removed.
    pub(super) causes: BTreeMap<ReplicaKey, v1::RemovalCause>,
    pub(super) upsert_overrides: Vec<Arc<Override>>,
    pub(super) remove_overrides: Vec<String>,
    pub(super) upsert_routes: Vec<Arc<RevisedRoute>>,
    pub(super) remove_routes: Vec<RouteName>,
    /// The default policy, when it is another one.
    pub(super) default_policy: Option<RevisedPolicy>,
}

impl Changes {
    /// Reads a delta onto `held`, which it leaves as it is.
    ///
    /// # Errors
    /// [`Refusal::DuplicateKey`] or [`Refusal::InvalidResource`].
    pub(super) fn read(held: &Snapshot, delta: v1::Delta) -> Result<Self, Refusal> {
        let mut changes = Self::default();
        changes.read_services(held, &delta)?;
        changes.read_removals(held, &delta.remove_replicas)?;
        changes.read_replicas(held, &delta.upsert_replicas)?;
        changes.default_policy = parse::policy("the default policy", delta.default_policy.as_ref())?;
        changes.read_routes(&delta.upsert_routes, &delta.remove_routes)?;
        changes.read_overrides(delta.upsert_overrides, delta.remove_overrides)?;
        Ok(changes)
    }

    fn read_services(&mut self, held: &Snapshot, delta: &v1::Delta) -> Result<(), Refusal> {
        for wire in &delta.upsert_services {
            let name = parse::service_name(&wire.service)?;
            if !wire.replicas.is_empty() {
                let why = format!("service {name}: a delta brings replicas apart from their service");
                return Err(Refusal::InvalidResource(why));
            }
            let mut draft = held.draft(&name).unwrap_or_else(|| Draft::new(name.clone()));
            draft.set_policy(parse::policy(&format!("service {name}"), wire.policy.as_ref())?);
            if self.services.insert(name, Some(draft)).is_some() {
                return Err(Refusal::DuplicateKey(format!("service {}", wire.service)));
            }
        }
        for name in &delta.remove_services {
            if self.services.insert(parse::service_name(name)?, None).is_some() {
                return Err(Refusal::DuplicateKey(format!("service {name}")));
            }
        }
        Ok(())
    }

    fn read_removals(&mut self, held: &Snapshot, removals: &[v1::ReplicaRemoval]) -> Result<(), Refusal> {
        for wire in removals {
            let key = parse::key(wire)?;
            // Unknown here, if there is no draft: it came and went between two deltas.
            if let Some(draft) = self.draft(held, &key.service) {
                draft.take(&key.replica);
            }
            match self.causes.entry(key) {
                btree_map::Entry::Vacant(entry) => entry.insert(wire.cause()),
                btree_map::Entry::Occupied(entry) => {
                    return Err(Refusal::DuplicateKey(format!("replica {}", entry.key())));
                }
            };
        }
        Ok(())
    }

    fn read_replicas(&mut self, held: &Snapshot, replicas: &[v1::Replica]) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        for wire in replicas {
            let service = parse::service_name(&wire.service)?;
            let replica = parse::replica(wire)?;
            let key = ReplicaKey { service, replica: replica.id.clone() };
            if self.causes.contains_key(&key) || !seen.insert(key.clone()) {
                return Err(Refusal::DuplicateKey(format!("replica {key}")));
            }
            let Some(draft) = self.draft(held, &key.service) else {
                let why = format!("replica {key}: its service does not exist");
                return Err(Refusal::InvalidResource(why));
            };
            draft.put(replica);
        }
        Ok(())
    }

    fn read_overrides(
        &mut self,
        upserts: Vec<v1::OverrideEntry>,
        removals: Vec<String>,
    ) -> Result<(), Refusal> {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let ids = upserts.iter().map(|wire| &wire.override_id).chain(&removals);
        for id in ids {
            if !seen.insert(id) {
                return Err(Refusal::DuplicateKey(format!("override {id:?}")));
            }
        }
        let parsed = upserts.into_iter().map(|wire| Override::parse(wire).map(Arc::new));
        self.upsert_overrides = parsed.collect::<Result<_, _>>()?;
        self.remove_overrides = removals;
        Ok(())
    }

    fn read_routes(&mut self, upserts: &[v1::Route], removals: &[String]) -> Result<(), Refusal> {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for name in upserts.iter().map(|wire| &wire.name).chain(removals) {
            if !seen.insert(name) {
                return Err(Refusal::DuplicateKey(format!("route {name:?}")));
            }
        }
        let parsed = upserts.iter().map(|wire| RevisedRoute::parse(wire).map(Arc::new));
        self.upsert_routes = parsed.collect::<Result<_, _>>()?;
        self.remove_routes = removals.iter().map(|name| routes::name(name)).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The draft of a service that will exist, begun now unless it was before.
    fn draft(&mut self, held: &Snapshot, name: &ServiceName) -> Option<&mut Draft> {
        match self.services.entry(name.clone()) {
            btree_map::Entry::Occupied(entry) => entry.into_mut().as_mut(),
            btree_map::Entry::Vacant(entry) => {
                let draft = held.draft(name)?;
                entry.insert(Some(draft)).as_mut()
            }
        }
    }
}
