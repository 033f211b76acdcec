//! Stored policies, and the policies that data planes are told in consequence.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use gateway_proto::{Policy, ServiceName, policy, v1};

use crate::registry::{Revision, Scope, StoredPolicy};

/// The stored policies at one revision.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    stored: BTreeMap<Scope, Arc<StoredPolicy>>,
}

impl Policies {
    /// All of them; that of all services comes first, then services by name.
    pub fn stored(&self) -> impl ExactSizeIterator<Item = &Arc<StoredPolicy>> {
        self.stored.values()
    }

    /// Those that come after `scope`.
    pub fn stored_after(&self, scope: &Scope) -> impl Iterator<Item = &Arc<StoredPolicy>> {
        self.stored.range((Bound::Excluded(scope), Bound::Unbounded)).map(|(_, policy)| policy)
    }

    /// What is stored for just this scope.
    pub fn get(&self, scope: &Scope) -> Option<&Arc<StoredPolicy>> {
        self.stored.get(scope)
    }

    /// What holds for a service, whether it is registered or not; `None`: for one without a policy of its own.
    pub fn resolve(&self, service: Option<&ServiceName>) -> Policy {
        let own = service.and_then(|name| self.own(name)).map(|stored| &stored.partial);
        policy::resolve(self.star(), own)
    }

    /// The policy of every service that has none of its own, as data planes are told it.
    pub fn default_to_wire(&self) -> v1::Policy {
        v1::Policy { revision: self.default_revision(), ..self.resolve(None).to_wire() }
    }

    /// The policy of a service that has one of its own, as data planes are told it.
    pub fn own_to_wire(&self, service: &ServiceName) -> Option<v1::Policy> {
        let revision = self.own_revision(service)?;
        Some(v1::Policy { revision, ..self.resolve(Some(service)).to_wire() })
    }

    /// The revision at which the policy of a service with one of its own, or that of all services, changed last.
    pub fn own_revision(&self, service: &ServiceName) -> Option<Revision> {
        self.own(service).map(|own| own.revision.max(self.default_revision()))
    }

    /// The revision at which the policy of all services changed last; 0 where none is stored.
    pub fn default_revision(&self) -> Revision {
        self.get(&Scope::All).map_or(0, |star| star.revision)
    }

    /// The services that have a policy of their own.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.stored.keys().filter_map(Scope::service)
    }

    fn own(&self, service: &ServiceName) -> Option<&Arc<StoredPolicy>> {
        self.stored.get(&Scope::Service(service.clone()))
    }

    /// What is stored for all services.
    pub(in crate::registry) fn star(&self) -> Option<&policy::Partial> {
        self.stored.get(&Scope::All).map(|stored| &stored.partial)
    }

    pub(super) fn put(&mut self, policy: StoredPolicy) {
        self.stored.insert(policy.scope.clone(), Arc::new(policy));
    }

    pub(super) fn remove(&mut self, scope: &Scope) {
        self.stored.remove(scope);
    }
}
