//! What the registry has, as this data plane was told: a pure value.
//!
//! It changes as a whole or not at all, and within one epoch its revision never goes back. It does no IO and knows
//! neither the stream it came by nor the table it goes to. What requests are routed by is more: see [`super::Mirror`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gateway_proto::{Policy, ReplicaKey, Route, RouteName, ServiceName, content::ContentHash, v1};

use super::{
    Refusal,
    delta::Changes,
    draft::{Draft, Entry, RevisedPolicy},
    overrides::Overrides,
    routes::{self, RevisedRoute, RouteSet},
};
use crate::table::ServiceSpec;

/// Services, replicas, policies, overrides and explicit routes of one epoch and revision. `Default` holds nothing. Clones share them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    epoch: String,
    revision: i64,
    services: BTreeMap<ServiceName, Entry>,
    replica_count: usize,
    /// `None`: nobody said, so the documented defaults hold.
    default_policy: Option<RevisedPolicy>,
    overrides: Overrides,
    routes: RouteSet,
    hash: ContentHash,
}

/// What an update changed: for the guard to judge, and for routing to follow.
#[derive(Debug, Clone, Default)]
pub(super) struct Update {
    /// The services that differ, as they were before.
    pub(super) before: BTreeMap<ServiceName, Option<Entry>>,
    /// Why replicas are gone, where that was said.
    pub(super) causes: BTreeMap<ReplicaKey, v1::RemovalCause>,
    /// Services of which overrides say something else than before.
    pub(super) overridden: BTreeSet<ServiceName>,
    /// Whether the default policy is another one now.
    pub(super) default_changed: bool,
    /// Whether explicit routes are others now.
    pub(super) routes_changed: bool,
}

/// A complete snapshot whose parts are all there.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) epoch: String,
    pub(super) revision: i64,
    pub(super) services: BTreeMap<ServiceName, Draft>,
    pub(super) default_policy: Option<RevisedPolicy>,
    pub(super) overrides: Overrides,
    pub(super) routes: RouteSet,
}

impl Snapshot {
    /// Services, replicas, overrides and routes together that one snapshot may have: memory stays bounded whatever is sent.
    pub const MAX_ENTRIES: usize = 1_000_000;

    /// A snapshot of the given services, each with a policy of its own; of two with one name the later counts.
    pub fn new(epoch: impl Into<String>, revision: i64, services: Vec<ServiceSpec>) -> Self {
        let drafts = services.into_iter().map(|spec| {
            let mut draft = Draft::new(spec.name.clone());
            draft.set_policy(Some(RevisedPolicy { policy: spec.policy, revision }));
            for replica in spec.replicas {
                draft.put(replica);
            }
            (spec.name, draft)
        });
        let mut snapshot = Self::default();
        snapshot.fill(Content {
            epoch: epoch.into(),
            revision,
            services: drafts.collect(),
            default_policy: None,
            overrides: Overrides::default(),
            routes: RouteSet::new(),
        });
        snapshot
    }

    /// The same with these explicit routes, and no others; of two with one name the later counts.
    #[must_use]
    pub fn with_routes(mut self, routes: Vec<Route>) -> Self {
        self.hash.unmerge(routes::hash(&self.routes));
        let revision = self.revision;
        let entry = |route: Route| (route.name.clone(), Arc::new(RevisedRoute { route, revision }));
        self.routes = routes.into_iter().map(entry).collect();
        self.hash.merge(routes::hash(&self.routes));
        self
    }

    /// The incarnation of the store it came from; empty when nothing is held.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The registry's revision it shows; 0 when nothing is held.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether anything was ever received. A registry without services is something.
    pub fn is_held(&self) -> bool {
        !self.epoch.is_empty()
    }

    /// One service, as the registry has it: without overrides, and without what the guard holds.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceSpec>> {
        self.services.get(name).map(|entry| &entry.spec)
    }

    pub(super) fn entry(&self, name: &ServiceName) -> Option<&Entry> {
        self.services.get(name)
    }

    /// All services in the order of their names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceSpec>> {
        self.services.values().map(|entry| &entry.spec)
    }

    /// The policy of the services that bring none of their own.
    pub fn default_policy(&self) -> Policy {
        self.default_policy.map(|default| default.policy).unwrap_or_default()
    }

    /// The explicit routes, in the order of their names.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.routes.values().map(|entry| &entry.route)
    }

    /// All overrides, also those whose time is over, in the order of their ids.
    pub fn overrides(&self) -> impl ExactSizeIterator<Item = &Arc<v1::OverrideEntry>> {
        self.overrides.entries()
    }

    /// The hash of all of it, as `Bookmark.content_hash` describes it.
    pub fn content_hash(&self) -> ContentHash {
        self.hash
    }

    /// The same content as one message of the stream.
    pub fn to_wire(&self) -> v1::FullSnapshot {
        v1::FullSnapshot {
            services: self.services.values().map(Entry::to_wire).collect(),
            ..self.base_to_wire()
        }
    }

    /// The same message in pieces of a service each, which are that message when they are merged.
    pub(super) fn to_wire_in_pieces(&self) -> impl Iterator<Item = v1::FullSnapshot> {
        let services = self
            .services
            .values()
            .map(|entry| v1::FullSnapshot { services: vec![entry.to_wire()], ..v1::FullSnapshot::default() });
        std::iter::once(self.base_to_wire()).chain(services)
    }

    /// All but the services.
    fn base_to_wire(&self) -> v1::FullSnapshot {
        v1::FullSnapshot {
            services: Vec::new(),
            overrides: self.overrides.entries().map(|entry| (**entry).clone()).collect(),
            part_index: 0,
            last_part: true,
            default_policy: self.default_policy.map(RevisedPolicy::to_wire),
            routes: self.routes.values().map(|entry| entry.to_wire()).collect(),
        }
    }

    pub(super) fn decided(&self) -> &Overrides {
        &self.overrides
    }

    /// Services, replicas, overrides and routes.
    pub(super) fn entry_count(&self) -> usize {
        self.services.len() + self.replica_count + self.overrides.len() + self.routes.len()
    }

    /// Takes over a complete snapshot. One of the revision that is held is taken, too: it may be sent because what is
    /// held is not what the registry had then.
    ///
    /// # Errors
    /// [`Refusal::Behind`] when it is older than what is held of the same epoch.
    pub(super) fn replace(&mut self, content: Content) -> Result<Update, Refusal> {
        self.check_progress(&content.epoch, content.revision)?;
        let old = std::mem::take(self);
        self.fill(content);
        let mut before = BTreeMap::new();
        for (name, entry) in &mut self.services {
            match old.services.get(name) {
                // An unchanged service keeps its allocation.
                Some(known) if known.spec == entry.spec => entry.spec = Arc::clone(&known.spec),
                known => {
                    before.insert(name.clone(), known.cloned());
                }
            }
        }
        let default_changed = old.default_policy() != self.default_policy();
        let overridden = old.overrides.differences(&self.overrides);
        let routes_changed = old.routes != self.routes;
        let gone = old.services.into_iter().filter(|(name, _)| !self.services.contains_key(name));
        before.extend(gone.map(|(name, entry)| (name, Some(entry))));
        Ok(Update { before, causes: BTreeMap::new(), overridden, default_changed, routes_changed })
    }

    /// Drops all services but those that are kept, with the overrides on others, and yields which.
    pub(super) fn keep_only(&mut self, is_kept: impl Fn(&ServiceName) -> bool) -> BTreeSet<ServiceName> {
        let gone: BTreeSet<_> = self.services.keys().filter(|name| !is_kept(name)).cloned().collect();
        for name in &gone {
            self.put(name, None);
        }
        let is_of_another = |entry: &Arc<v1::OverrideEntry>| {
            ServiceName::parse(&entry.service).is_ok_and(|name| !is_kept(&name))
        };
        let entries = self.overrides.entries().filter(|entry| is_of_another(entry));
        for id in entries.map(|entry| entry.override_id.clone()).collect::<Vec<_>>() {
            self.remove_override(&id, &mut Update::default());
        }
        gone
    }

    /// Applies what changed since `delta.base_revision`.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed.
    pub(super) fn apply(&mut self, epoch: &str, revision: i64, delta: v1::Delta) -> Result<Update, Refusal> {
        if epoch != self.epoch || delta.base_revision != self.revision || revision <= self.revision {
            return Err(Refusal::BaseMismatch(format!(
                "a delta of epoch {epoch:?} from revision {} to {revision} does not continue epoch {:?} revision {}",
                delta.base_revision, self.epoch, self.revision
            )));
        }
        let changes = Changes::read(self, delta)?;
        check_entries(self.entry_count_after(&changes))?;
        let Changes {
            services,
            causes,
            upsert_overrides,
            remove_overrides,
            upsert_routes,
            remove_routes,
            default_policy,
        } = changes;
        let mut update = Update { causes, ..Update::default() };
        for id in &remove_overrides {
            self.remove_override(id, &mut update);
        }
        for entry in upsert_overrides {
            self.remove_override(entry.id(), &mut update);
            self.hash.add_override(entry.id(), entry.revision());
            update.overridden.extend(entry.service().cloned());
            self.overrides.insert(entry);
        }
        for name in &remove_routes {
            self.remove_route(name, &mut update);
        }
        for entry in upsert_routes {
            self.remove_route(&entry.route.name, &mut update);
            self.hash.add_route(&entry.route.name, entry.revision);
            update.routes_changed = true;
            self.routes.insert(entry.route.name.clone(), entry);
        }
        if let Some(default) = default_policy {
            self.set_default(default, &mut update);
        }
        let default = self.default_policy();
        for (name, draft) in services {
            let entry = draft.map(|draft| draft.finish(&default));
            let before = self.put(&name, entry);
            // What the new default policy has already changed is known as it was before that.
            update.before.entry(name).or_insert(before);
        }
        self.revision = revision;
        Ok(update)
    }

    /// Moves on to a revision up to which nothing changed.
    ///
    /// # Errors
    /// [`Refusal::BaseMismatch`] when it is of another epoch, [`Refusal::Behind`] when it goes back,
    /// [`Refusal::ContentMismatch`] when
    /// `content_hash` is neither empty nor that of what is held.
    pub(super) fn confirm(&mut self, epoch: &str, revision: i64, content_hash: &str) -> Result<(), Refusal> {
        if epoch != self.epoch {
            return Err(Refusal::BaseMismatch(format!(
                "a bookmark of epoch {epoch:?} does not continue epoch {:?}",
                self.epoch
            )));
        }
        self.check_progress(epoch, revision)?;
        let held = self.hash.to_string();
        if !content_hash.is_empty() && !content_hash.eq_ignore_ascii_case(&held) {
            return Err(Refusal::ContentMismatch(format!(
                "the registry's content at revision {revision} hashes to {content_hash:?}, what is held to {held:?}"
            )));
        }
        self.revision = revision;
        Ok(())
    }

    fn check_progress(&self, epoch: &str, revision: i64) -> Result<(), Refusal> {
        if epoch == self.epoch && revision < self.revision {
            let held = self.revision;
            return Err(Refusal::Behind(format!("revision {revision} is behind {held} of the same epoch")));
        }
        Ok(())
    }

    fn fill(&mut self, content: Content) {
        let Content { epoch, revision, services, default_policy, overrides, routes } = content;
        let default = default_policy.map(|default| default.policy).unwrap_or_default();
        let mut hash = overrides.hash();
        hash.merge(routes::hash(&routes));
        if let Some(default) = default_policy {
            hash.add_policy(None, default.revision);
        }
        *self = Self { epoch, revision, default_policy, overrides, routes, hash, ..Self::default() };
        for (name, draft) in services {
            self.put(&name, Some(draft.finish(&default)));
        }
    }

    /// Takes the service over as it is from now on, and yields it as it was.
    fn put(&mut self, name: &ServiceName, entry: Option<Entry>) -> Option<Entry> {
        let before = match entry {
            Some(entry) => {
                self.hash.merge(entry.hash);
                self.replica_count += entry.spec.replicas.len();
                self.services.insert(name.clone(), entry)
            }
            None => self.services.remove(name),
        };
        if let Some(before) = &before {
            self.hash.unmerge(before.hash);
            self.replica_count -= before.spec.replicas.len();
        }
        before
    }

    fn remove_override(&mut self, id: &str, update: &mut Update) {
        if let Some(entry) = self.overrides.remove(id) {
            self.hash.remove_override(id, entry.revision());
            update.overridden.extend(entry.service().cloned());
        }
    }

    fn remove_route(&mut self, name: &RouteName, update: &mut Update) {
        if let Some(entry) = self.routes.remove(name) {
            self.hash.remove_route(name, entry.revision);
            update.routes_changed = true;
        }
    }

    fn set_default(&mut self, default: RevisedPolicy, update: &mut Update) {
        update.default_changed = default.policy != self.default_policy();
        if let Some(before) = self.default_policy {
            self.hash.remove_policy(None, before.revision);
        }
        self.hash.add_policy(None, default.revision);
        self.default_policy = Some(default);
        for (name, entry) in &mut self.services {
            if let Some(changed) = entry.under(&default.policy) {
                let before = std::mem::replace(entry, changed);
                update.before.insert(name.clone(), Some(before));
            }
        }
    }

    /// One service that is to be changed.
    pub(super) fn draft(&self, name: &ServiceName) -> Option<Draft> {
        self.services.get(name).map(Draft::of)
    }

    /// How many entries there will be once these services are as they will be, and overrides have come and gone.
    pub(super) fn entry_count_after(&self, changes: &Changes) -> usize {
        let then = changes.services.values().flatten().map(|draft| 1 + draft.replica_count()).sum::<usize>();
        let now = changes.services.keys().filter_map(|name| self.services.get(name));
        let now = now.map(|entry| 1 + entry.spec.replicas.len()).sum::<usize>();
        let is_held = |id: &str| self.overrides.get(id).is_some();
        let new = changes.upsert_overrides.iter().filter(|entry| !is_held(entry.id())).count();
        let ended = changes.remove_overrides.iter().filter(|id| is_held(id)).count();
        let is_known = |name: &RouteName| self.routes.contains_key(name);
        let new_routes = changes.upsert_routes.iter().filter(|entry| !is_known(&entry.route.name)).count();
        let gone_routes = changes.remove_routes.iter().filter(|name| is_known(name)).count();
        self.entry_count() + then + new + new_routes - now - ended - gone_routes
    }
}

/// Refuses what would not fit into [`Snapshot::MAX_ENTRIES`].
pub(super) fn check_entries(count: usize) -> Result<(), Refusal> {
    let max = Snapshot::MAX_ENTRIES;
    if count > max {
        let why = format!(
            "{count} services, replicas, overrides and routes are more than the {max} this data plane takes"
        );
        return Err(Refusal::InvalidResource(why));
    }
    Ok(())
}
