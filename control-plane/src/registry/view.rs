//! What is known: every durable record, and the only way to change it.

mod change;
mod holdings;
mod policies;
mod removed;
mod service;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{
    Address, ReplicaId, ReplicaKey, RouteName, ServiceName, content::ContentHash, v1::RemovalCause,
};

use self::holdings::Holdings;
pub use self::{
    change::{Applied, Change, Committed, ReplicaChange, ServiceStep},
    policies::Policies,
    removed::{Removals, Removed},
    service::ServiceEntry,
};
use super::{
    Holding, Item, Key, Override, OverrideId, OverrideTarget, Population, Record, RequestMark, Revision,
    Scope, SharedItem, StoredPolicy, StoredRoute, Write, mutation::RecordWrite,
};

/// Everything in the registry at one revision.
///
/// A service exists while it has a replica.
#[derive(Debug, Clone, Default)]
pub struct View {
    revision: Revision,
    /// The largest incarnation that was met here. More than the revision where records came from another store.
    incarnation: i64,
    services: BTreeMap<ServiceName, ServiceEntry>,
    replica_count: usize,
    policies: Policies,
    overrides: BTreeMap<OverrideId, Arc<Override>>,
    routes: BTreeMap<RouteName, Arc<StoredRoute>>,
    routes_hash: ContentHash,
    removals: Removals,
    /// Replicas by the request that registered them, if that named itself.
    requests: HashMap<u128, ReplicaKey>,
    replicas_hash: ContentHash,
    holdings: Holdings,
    /// Replicas that get no new requests or are lost: the few that somebody has to come back to.
    drains: BTreeSet<ReplicaKey>,
    lost: BTreeSet<ReplicaKey>,
}

impl View {
    /// The view of what a store holds at `revision`.
    pub fn new(revision: Revision, items: impl IntoIterator<Item = impl Into<Item>>) -> Self {
        let mut view = Self { revision, ..Self::default() };
        for item in items {
            view.put(item.into());
        }
        view
    }

    /// The same, still knowing of the replicas that went before, which no store holds.
    #[must_use]
    pub fn remembering(mut self, before: &Self) -> Self {
        self.removals.clone_from(&before.removals);
        self.incarnation = self.incarnation.max(before.incarnation);
        self
    }

    /// The revision of the last change applied.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// No replica that is known, nor any that was removed here, has a greater incarnation: who comes next gets one that has.
    ///
    /// The revision outgrows every incarnation that is drawn from it. Those of records that were moved here were drawn from
    /// the revisions of another store, of which ours know nothing.
    pub fn latest_incarnation(&self) -> i64 {
        self.incarnation.max(self.revision)
    }

    /// How many replicas there are in all services.
    pub fn replica_count(&self) -> usize {
        self.replica_count
    }

    /// The services in the order of their names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &ServiceEntry)> {
        self.services.iter()
    }

    /// The services whose names come after `name`, in order.
    pub fn services_after(&self, name: &str) -> impl Iterator<Item = (&ServiceName, &ServiceEntry)> {
        self.services.range::<str, _>((Bound::Excluded(name), Bound::Unbounded))
    }

    /// One service.
    pub fn service(&self, name: &ServiceName) -> Option<&ServiceEntry> {
        self.services.get(name)
    }

    /// How many replicas a service has.
    pub(super) fn population(&self, name: &ServiceName) -> Population {
        self.service(name).map(ServiceEntry::population).unwrap_or_default()
    }

    /// The registry's own copy of a service's name, so that all replicas of a service share one.
    pub(super) fn shared_name(&self, name: &ServiceName) -> ServiceName {
        self.services.get_key_value(name).map_or(name, |(known, _)| known).clone()
    }

    /// One replica.
    pub fn get(&self, key: &ReplicaKey) -> Option<&Arc<Record>> {
        self.services.get(&key.service)?.get(&key.replica)
    }

    /// Which replica of the service is reached at the address.
    pub fn owner(&self, service: &ServiceName, address: &Address) -> Option<&ReplicaId> {
        self.services.get(service)?.owner(address)
    }

    /// All replicas, by service and then id.
    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.services.values().flat_map(ServiceEntry::replicas)
    }

    /// The replicas that come after `key`, by service and then id.
    pub fn replicas_after(&self, key: &ReplicaKey) -> impl Iterator<Item = &Arc<Record>> {
        let within = self.services.get(&key.service).into_iter();
        let within = within.flat_map(|entry| entry.replicas_after(key.replica.as_str()));
        let later = self.services_after(key.service.as_str()).flat_map(|(_, entry)| entry.replicas());
        within.chain(later)
    }

    /// The stored policies, and what follows from them.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// All overrides in the order of their ids.
    pub fn overrides(&self) -> impl ExactSizeIterator<Item = &Arc<Override>> {
        self.overrides.values()
    }

    /// The overrides whose ids come after `id`, in order.
    pub fn overrides_after(&self, id: &str) -> impl Iterator<Item = &Arc<Override>> {
        self.overrides.range::<str, _>((Bound::Excluded(id), Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// One override.
    pub fn override_of(&self, id: &OverrideId) -> Option<&Arc<Override>> {
        self.overrides.get(id)
    }

    /// All explicit routes in the order of their names.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<StoredRoute>> {
        self.routes.values()
    }

    /// The explicit routes whose names come after `name`, in order.
    pub fn routes_after(&self, name: &str) -> impl Iterator<Item = &Arc<StoredRoute>> {
        self.routes.range::<str, _>((Bound::Excluded(name), Bound::Unbounded)).map(|(_, stored)| stored)
    }

    /// One explicit route.
    pub fn route(&self, name: &RouteName) -> Option<&Arc<StoredRoute>> {
        self.routes.get(name)
    }

    /// The hash of all explicit routes.
    pub fn routes_hash(&self) -> ContentHash {
        self.routes_hash
    }

    /// The overrides that keep replicas of a service, or their addresses, from registering.
    pub(super) fn blocks(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Override>> {
        let prefix = OverrideTarget::block_prefix(service);
        let blocks = self.overrides.range::<str, _>((Bound::Excluded(&*prefix), Bound::Unbounded));
        blocks.map(|(_, entry)| entry).take_while(move |entry| entry.id().as_str().starts_with(&prefix))
    }

    /// What became of a replica that was removed a short while ago.
    pub fn removed(&self, key: &ReplicaKey) -> Option<&Removed> {
        self.removals.get(key)
    }

    /// The replica that this request registered, and nothing since.
    pub(super) fn requested(&self, id: u128) -> Option<&Arc<Record>> {
        let record = self.get(self.requests.get(&id)?)?;
        record.request.as_deref().is_some_and(|mark| mark.id == id).then_some(record)
    }

    /// What became of the replica that this request had registered, if it was removed a short while ago.
    pub(super) fn ended_request(&self, id: u128) -> Option<&removed::Ended> {
        self.removals.of_request(id)
    }

    /// Replicas that are draining or drained.
    pub fn drains(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.drains.iter().filter_map(|key| self.get(key))
    }

    /// Replicas whose lease lapsed and which the guard holds.
    pub fn lost(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.lost.iter().filter_map(|key| self.get(key))
    }

    /// What an identity has registered; `None`: nothing.
    pub fn held_by(&self, name: &str) -> Option<&Holding> {
        self.holdings.get(name)
    }

    /// The hash of all replicas, without policies and overrides.
    pub fn replicas_hash(&self) -> ContentHash {
        self.replicas_hash
    }

    /// Everything that a store would hold.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        self.shared_items().map(|item| item.to_item())
    }

    /// The same, shared with the view: to keep it takes a pointer for each.
    pub fn shared_items(&self) -> impl Iterator<Item = SharedItem> {
        let replicas = self.replicas().cloned().map(SharedItem::Replica);
        let policies = self.policies.stored().cloned().map(SharedItem::Policy);
        let overrides = self.overrides.values().cloned().map(SharedItem::Override);
        let routes = self.routes.values().cloned().map(SharedItem::Route);
        replicas.chain(policies).chain(overrides).chain(routes)
    }

    /// Takes in what the store made durable, in the store's order.
    ///
    /// # Panics
    /// When the revision goes back: the store would have broken its word. Mutations that became durable together may share one.
    pub fn apply(&mut self, committed: Committed) -> Applied {
        let Committed { revision, mutation } = committed;
        assert!(revision >= self.revision, "the store numbers mutations in their order");
        self.revision = revision;
        let events = mutation.events(revision);
        let at = mutation.at;
        // What is removed goes first, so that what takes its place finds its address free.
        let mut writes: Vec<RecordWrite> = std::iter::once(mutation.main).chain(mutation.also).collect();
        writes.sort_by_key(|write| matches!(write.write, Write::Put(_)));
        let changes = writes.into_iter().map(|write| self.apply_write(write, revision, at)).collect();
        Applied { changes, events }
    }

    fn apply_write(&mut self, write: RecordWrite, revision: Revision, at: SystemTime) -> Change {
        let cause = write.cause.removal();
        match write.write {
            Write::Put(item) => {
                if let Some(record) = write.key.as_replica().and_then(|key| self.get(key)).cloned() {
                    self.removals.replaced(&record, item.as_replica(), at);
                }
                self.put(item.at(revision))
            }
            Write::Remove => {
                if let Some(record) = write.key.as_replica().and_then(|key| self.get(key)).cloned() {
                    self.removals.add(&record, &write.cause, at);
                }
                self.remove(&write.key, revision, cause)
            }
        }
    }

    /// What leads from `self` to `next`, one change for each key that differs, all at the revision of `next`.
    pub fn changes_to(&self, next: &Self) -> Vec<Change> {
        let mut scratch = self.clone();
        let unknown = RemovalCause::Unspecified;
        let mut changes = Vec::new();
        let gone_replicas = self.replicas().filter(|record| next.get(&record.key).is_none());
        let gone_replicas = gone_replicas.map(|record| Key::Replica(record.key.clone()));
        let gone_policies =
            self.policies.stored().filter(|policy| next.policies.get(&policy.scope).is_none());
        let gone_policies = gone_policies.map(|policy| Key::Policy(policy.scope.clone()));
        let gone_overrides = self.overrides.keys().filter(|id| !next.overrides.contains_key(*id));
        let gone_overrides = gone_overrides.map(|id| Key::Override(id.clone()));
        let gone_routes = self.routes.keys().filter(|name| !next.routes.contains_key(*name));
        let gone_routes = gone_routes.map(|name| Key::Route(name.clone()));
        for key in gone_replicas.chain(gone_policies).chain(gone_overrides).chain(gone_routes) {
            changes.push(scratch.remove(&key, next.revision, unknown));
        }
        for record in next.replicas().filter(|record| self.get(&record.key) != Some(record)) {
            changes.push(scratch.put(Record::clone(record).into()));
        }
        for policy in next.policies.stored().filter(|policy| self.policies.get(&policy.scope) != Some(policy))
        {
            changes.push(scratch.put(StoredPolicy::clone(policy).into()));
        }
        for (id, entry) in &next.overrides {
            if self.overrides.get(id) != Some(entry) {
                changes.push(scratch.put(Override::clone(entry).into()));
            }
        }
        for (name, stored) in &next.routes {
            if self.routes.get(name) != Some(stored) {
                changes.push(scratch.put(StoredRoute::clone(stored).into()));
            }
        }
        changes.iter_mut().for_each(|change| change.set_revision(next.revision));
        changes
    }

    fn put(&mut self, item: Item) -> Change {
        match item {
            Item::Replica(mut record) => {
                record.registered_by = self.holdings.shared_name(&record.registered_by);
                self.put_replica(Arc::new(*record))
            }
            Item::Policy(policy) => {
                let (scope, revision) = (policy.scope.clone(), policy.revision);
                self.policies.put(*policy);
                Change::Policy { revision, scope }
            }
            Item::Override(entry) => {
                let (id, revision) = (entry.id(), entry.revision);
                let existed = self.overrides.insert(id.clone(), Arc::new(*entry)).is_some();
                Change::Override { revision, id, existed }
            }
            Item::Route(stored) => {
                let (name, revision) = (stored.route.name.clone(), stored.revision);
                let before = self.routes.insert(name.clone(), Arc::new(*stored));
                if let Some(before) = &before {
                    self.routes_hash.remove_route(&name, before.revision);
                }
                self.routes_hash.add_route(&name, revision);
                Change::Route { revision, name, existed: before.is_some() }
            }
        }
    }

    fn put_replica(&mut self, record: Arc<Record>) -> Change {
        let lost_at = record.lost.as_deref().map_or(0, |lost| lost.incarnation);
        self.incarnation = self.incarnation.max(record.incarnation).max(lost_at);
        let is_new = !self.services.contains_key(&record.key.service);
        let service = if is_new { ServiceStep::Appeared } else { ServiceStep::Stayed };
        let entry = self.services.entry(record.key.service.clone()).or_default();
        let before = entry.put(Arc::clone(&record));
        if let Some(mark) = record.request.as_deref() {
            self.requests.insert(mark.id, record.key.clone());
        }
        if let Some(old) = before.as_deref() {
            self.forget_request(old, record.request.as_deref());
        }
        note(&mut self.drains, &record.key, record.drain.is_some());
        note(&mut self.lost, &record.key, record.lost.is_some());
        self.replicas_hash.add_replica(&record.key, record.revision);
        self.holdings.change(before.as_deref(), Some(&record));
        match &before {
            Some(old) => self.replicas_hash.remove_replica(&old.key, old.revision),
            None => self.replica_count += 1,
        }
        Change::Replica(ReplicaChange {
            revision: record.revision,
            key: record.key.clone(),
            existed: before.is_some(),
            record: Some(record),
            removal: RemovalCause::Unspecified,
            service,
        })
    }

    fn remove(&mut self, key: &Key, revision: Revision, removal: RemovalCause) -> Change {
        match key {
            Key::Replica(key) => self.remove_replica(key, revision, removal),
            Key::Policy(scope) => {
                self.policies.remove(scope);
                Change::Policy { revision, scope: Scope::clone(scope) }
            }
            Key::Override(id) => {
                let existed = self.overrides.remove(id).is_some();
                Change::Override { revision, id: id.clone(), existed }
            }
            Key::Route(name) => {
                let before = self.routes.remove(name);
                if let Some(before) = &before {
                    self.routes_hash.remove_route(name, before.revision);
                }
                Change::Route { revision, name: name.clone(), existed: before.is_some() }
            }
        }
    }

    fn remove_replica(&mut self, key: &ReplicaKey, revision: Revision, removal: RemovalCause) -> Change {
        let mut service = ServiceStep::Stayed;
        let mut existed = false;
        let mut gone = None;
        if let Some(entry) = self.services.get_mut(&key.service) {
            if let Some(old) = entry.remove(&key.replica, revision) {
                existed = true;
                self.replica_count -= 1;
                gone = Some(old);
                note(&mut self.drains, key, false);
                note(&mut self.lost, key, false);
            }
            if entry.is_empty() {
                self.services.remove(&key.service);
                service = ServiceStep::Vanished;
            }
        }
        if let Some(old) = gone {
            self.replicas_hash.remove_replica(key, old.revision);
            self.holdings.change(Some(&old), None);
            self.forget_request(&old, None);
        }
        Change::Replica(ReplicaChange { revision, key: key.clone(), record: None, existed, removal, service })
    }
}

impl View {
    /// Drops the way from a record's request to it, unless the next record, or another replica's, has the same request.
    fn forget_request(&mut self, old: &Record, next: Option<&RequestMark>) {
        let Some(mark) = old.request.as_deref().filter(|mark| next.is_none_or(|next| next.id != mark.id))
        else {
            return;
        };
        if self.requests.get(&mark.id) == Some(&old.key) {
            self.requests.remove(&mark.id);
        }
    }
}

/// Brings a set up to date with whether a key belongs to it.
fn note(set: &mut BTreeSet<ReplicaKey>, key: &ReplicaKey, belongs: bool) {
    if belongs {
        set.insert(key.clone());
    } else if !set.is_empty() {
        set.remove(key);
    }
}
