//! What operators decided against the rules, and what follows from it for one replica on this data plane.
//!
//! Pure. An override acts while the wall clock, which callers tell, is before its end, whether or not a control plane is
//! there to take it back.
//!
//! Several may concern one replica. The state of its breaker is decided by the one that names the replica, before one for
//! all replicas of the service; among these, by the one that names this data plane, before one for all data planes; among
//! these, by one that opens, before one that closes; then by the newest. Orders to reset a breaker add up: the newest counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{
    Invalid, NodeId, ReplicaId, ServiceName,
    content::ContentHash,
    time::{is_valid, system_time},
    v1,
};

use super::{Refusal, parse::refuse};
use crate::table::{Forced, ForcedState, ReplicaSpec, ServiceSpec};

/// What stands for every replica of a service.
const EVERY: &str = "-";

/// One override, as the registry sent it and as it is read here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Override {
    entry: Arc<v1::OverrideEntry>,
    effect: Option<Effect>,
    ends_at: SystemTime,
}

/// What an override does. Kinds that only newer control planes know, and those that concern the registry, do nothing here.
#[derive(Debug, Clone, PartialEq)]
struct Effect {
    service: ServiceName,
    /// `None`: every replica.
    replica: Option<ReplicaId>,
    /// `None`: every data plane.
    node: Option<NodeId>,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Force(ForcedState),
    Reset,
    ReleaseGuard,
}

/// Overrides by their ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Overrides {
    by_id: BTreeMap<String, Arc<Override>>,
    by_service: BTreeMap<ServiceName, BTreeMap<String, Arc<Override>>>,
}

impl Override {
    /// Reads one.
    ///
    /// # Errors
    /// [`Refusal::InvalidResource`] with the field at fault.
    pub(super) fn parse(wire: v1::OverrideEntry) -> Result<Self, Refusal> {
        let described = format!("override {:?}", wire.override_id);
        Self::read(wire).map_err(|invalid| refuse(&described, &invalid))
    }

    fn read(wire: v1::OverrideEntry) -> Result<Self, Invalid> {
        if wire.override_id.is_empty() {
            return Err(Invalid::new("override_id", "is required"));
        }
        let ends_at = wire.expire_time.filter(is_valid).map(system_time);
        let ends_at =
            ends_at.ok_or_else(|| Invalid::new("expire_time", "is required: every override ends"))?;
        Ok(Self { effect: Effect::read(&wire)?, ends_at, entry: Arc::new(wire) })
    }

    /// Its id.
    pub(super) fn id(&self) -> &str {
        &self.entry.override_id
    }

    /// The registry's revision of its last change.
    pub(super) fn revision(&self) -> i64 {
        self.entry.revision
    }

    /// The service it does something to.
    pub(super) fn service(&self) -> Option<&ServiceName> {
        self.effect.as_ref().map(|effect| &effect.service)
    }

    /// What it does on this data plane at this time, if anything.
    fn acting(&self, node: &NodeId, wall: SystemTime) -> Option<&Effect> {
        let is_here = |effect: &&Effect| effect.node.as_ref().is_none_or(|named| named == node);
        self.effect.as_ref().filter(|_| wall < self.ends_at).filter(is_here)
    }
}

impl Effect {
    fn read(wire: &v1::OverrideEntry) -> Result<Option<Self>, Invalid> {
        use v1::OverrideKind as Kind;
        let verdict = match Kind::try_from(wire.kind) {
            Ok(Kind::BreakerOpen) => Verdict::Force(ForcedState::Open),
            Ok(Kind::BreakerClosed) => Verdict::Force(ForcedState::Closed),
            Ok(Kind::BreakerReset) => Verdict::Reset,
            Ok(Kind::GuardReleased) => Verdict::ReleaseGuard,
            // It must not stop all updates.
            Ok(Kind::Unspecified | Kind::RegistrationBlocked) | Err(_) => return Ok(None),
        };
        let replica = match wire.replica_id.as_str() {
            _ if verdict == Verdict::ReleaseGuard => None,
            EVERY => None,
            id => Some(ReplicaId::parse(id)?),
        };
        let node = Some(wire.node_id.as_str()).filter(|id| !id.is_empty());
        let node = node.map(NodeId::parse).transpose()?;
        Ok(Some(Self { service: ServiceName::parse(&wire.service)?, replica, node, verdict }))
    }
}

impl Overrides {
    /// Takes one in, in the place of the one with its id.
    pub(super) fn insert(&mut self, entry: Arc<Override>) {
        let id = entry.id().to_owned();
        self.remove(&id);
        if let Some(service) = entry.service() {
            self.by_service.entry(service.clone()).or_default().insert(id.clone(), Arc::clone(&entry));
        }
        self.by_id.insert(id, entry);
    }

    /// Takes the one with this id out, if it is there.
    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<Override>> {
        let entry = self.by_id.remove(id)?;
        if let Some(service) = entry.service()
            && let Some(of_service) = self.by_service.get_mut(service)
        {
            of_service.remove(id);
            if of_service.is_empty() {
                self.by_service.remove(service);
            }
        }
        Some(entry)
    }

    /// The one with this id.
    pub(super) fn get(&self, id: &str) -> Option<&Arc<Override>> {
        self.by_id.get(id)
    }

    /// How many there are, whether they act or not.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All of them as the registry sent them, in the order of their ids.
    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Arc<v1::OverrideEntry>> {
        self.by_id.values().map(|entry| &entry.entry)
    }

    /// Their share of the content hash.
    pub(super) fn hash(&self) -> ContentHash {
        let mut hash = ContentHash::default();
        self.by_id.values().for_each(|entry| hash.add_override(entry.id(), entry.revision()));
        hash
    }

    /// The services of those that differ between the two.
    pub(super) fn differences(&self, other: &Self) -> BTreeSet<ServiceName> {
        let absent = |one: &Self, two: &Self| {
            let differs = |entry: &&Arc<Override>| two.get(entry.id()) != Some(entry);
            one.by_id
                .values()
                .filter(differs)
                .filter_map(|entry| entry.service().cloned())
                .collect::<Vec<_>>()
        };
        absent(self, other).into_iter().chain(absent(other, self)).collect()
    }

    /// The first end after `wall`.
    pub(super) fn next_end(&self, wall: SystemTime) -> Option<SystemTime> {
        self.by_id.values().map(|entry| entry.ends_at).filter(|end| *end > wall).min()
    }

    /// The services of those that act at one of the two times and not at the other.
    pub(super) fn turned_between(&self, one: SystemTime, other: SystemTime) -> BTreeSet<ServiceName> {
        let turns = |entry: &&Arc<Override>| (one < entry.ends_at) != (other < entry.ends_at);
        self.by_id.values().filter(turns).filter_map(|entry| entry.service().cloned()).collect()
    }

    /// Whether the guard against mass removal holds nothing of the service.
    pub(super) fn releases_guard(&self, service: &ServiceName, node: &NodeId, wall: SystemTime) -> bool {
        self.acting(service, node, wall).any(|(_, effect)| effect.verdict == Verdict::ReleaseGuard)
    }

    /// Writes into the service's replicas what overrides say of them.
    pub(super) fn resolve(&self, spec: &mut ServiceSpec, node: &NodeId, wall: SystemTime) {
        let ServiceSpec { name, replicas, .. } = spec;
        let acting: Vec<_> = self.acting(name, node, wall).collect();
        if !acting.is_empty() {
            replicas.iter_mut().for_each(|replica| resolve_one(replica, &acting));
        }
    }

    fn acting<'a>(
        &'a self,
        service: &ServiceName,
        node: &NodeId,
        wall: SystemTime,
    ) -> impl Iterator<Item = (&'a Arc<v1::OverrideEntry>, &'a Effect)> {
        let of_service = self.by_service.get(service).into_iter().flat_map(BTreeMap::values);
        of_service.filter_map(move |entry| Some((&entry.entry, entry.acting(node, wall)?)))
    }
}

fn resolve_one(replica: &mut ReplicaSpec, acting: &[(&Arc<v1::OverrideEntry>, &Effect)]) {
    let concerns = |effect: &Effect| effect.replica.as_ref().is_none_or(|id| *id == replica.id);
    let mine = || acting.iter().filter(|(_, effect)| concerns(effect));
    let forced = mine().filter_map(|(entry, effect)| match effect.verdict {
        Verdict::Force(state) => Some((entry, effect, state)),
        Verdict::Reset | Verdict::ReleaseGuard => None,
    });
    let forced = forced.max_by_key(|(entry, effect, state)| {
        let opens = *state == ForcedState::Open;
        (effect.replica.is_some(), effect.node.is_some(), opens, entry.revision)
    });
    let resets = mine().filter(|(_, effect)| effect.verdict == Verdict::Reset);
    let reset = resets.max_by_key(|(entry, _)| entry.revision).map(|(entry, _)| Arc::clone(entry));
    let forced = forced.map(|(entry, _, state)| Forced { state, entry: Arc::clone(entry) });
    (replica.forced, replica.reset) = (forced, reset);
}
