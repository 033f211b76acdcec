//! The guard against mass removal: it goes on routing to replicas that the registry has dropped without a word of why.
//!
//! A registry that came up with an empty or older store, or that has a bug, tells of replicas what is not so. Of each
//! service it is believed as long as it drops few; when it drops many at once, they are held: requests go on being
//! routed to them, as healthy as they were last, and breakers find out which of them are there.
//!
//! ```text
//!   removed because      held when
//!   DEREGISTERED         never
//!   EXPIRED              more than two, and more than the share, go in one update; those that were LOST never,
//!                        because the registry's own guard has held them before
//!   nothing was said     these, and those held already, are more than the share of what there was
//! ```
//!
//! Replicas that drain may always go, and so may one whose address another replica of the service has taken over.
//! Everything held is let go again: see [`LetGo`]. Pure: what is held changes only by updates and by time, as callers
//! tell it.

mod case;
mod held;
mod judgement;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use gateway_proto::{Address, NodeId, ReplicaKey, ServiceName};

use self::case::Case;
pub(super) use self::held::{HeldEntry, HeldService};
pub use self::{
    held::HeldReplica,
    judgement::{Judgement, LetGo},
};
use super::{
    draft::Entry,
    snapshot::{Snapshot, Update},
};
use crate::{clock::Moment, routing::Tick};

/// Two signs of life that lie further apart than this have silence between them, which confirms nothing: a control plane
/// that says nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(15);
/// Replicas that came in the place of others must have been there for so long: a registry with an older store shows
/// replicas that are gone, until their leases lapse.
const SETTLE: Duration = Duration::from_secs(60);

/// What is held of each service. `Default` holds nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Guard {
    services: BTreeMap<ServiceName, HeldService>,
    /// How long control planes have confirmed what they say, in sum. Hold times are read off this clock alone: a data
    /// plane that is cut off learns nothing, so time passes for it in vain.
    confirmed: Duration,
    /// When one was heard last.
    heard: Option<Tick>,
}

/// What the guard goes by beside the update itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    /// What the registry has now.
    pub(super) snapshot: &'a Snapshot,
    /// On which data plane.
    pub(super) node: &'a NodeId,
    /// When.
    pub(super) now: Moment,
}

impl Guard {
    /// Goes on with what was held before a restart.
    pub(super) fn restored(entries: impl IntoIterator<Item = HeldEntry>) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let confirmed = entries.iter().map(HeldEntry::longest).max().unwrap_or_default();
        let services = entries.into_iter().map(|entry| HeldService::restored(entry, confirmed));
        Self { services: services.collect(), confirmed, heard: None }
    }

    /// What a restart has to know.
    pub(super) fn entries(&self) -> impl Iterator<Item = HeldEntry> {
        self.services.iter().map(|(name, held)| held.entry(name, self.confirmed))
    }

    /// How many replicas are held.
    pub fn len(&self) -> usize {
        self.services.values().map(|held| held.replicas.len()).sum()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Every replica that is held, in the order of services and ids.
    pub fn replicas(&self) -> impl Iterator<Item = (&ServiceName, &HeldReplica)> {
        self.services
            .iter()
            .flat_map(|(name, held)| held.replicas.values().map(move |replica| (name, replica)))
    }

    /// The services of which something is held.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// What is held of one service.
    pub(super) fn service(&self, name: &ServiceName) -> Option<&HeldService> {
        self.services.get(name)
    }

    /// Holds nothing of services that are not kept any more, and yields which.
    pub(super) fn keep_only(&mut self, is_kept: impl Fn(&ServiceName) -> bool) -> BTreeSet<ServiceName> {
        let gone = self.services.keys().filter(|name| !is_kept(name)).cloned().collect();
        self.services.retain(|name, _| is_kept(name));
        gone
    }

    /// Judges an update, which has led to the scene's snapshot.
    pub(super) fn update(&mut self, update: &Update, scene: Scene<'_>) -> Judgement {
        self.pass_time(scene.now.tick);
        let mut judgement = Judgement::default();
        if update.default_changed {
            self.follow_default(scene.snapshot, &mut judgement);
        }
        let held_before = self.services.clone();
        let named = update.causes.keys().map(|key| &key.service);
        let names: BTreeSet<_> = update.before.keys().chain(named).collect();
        for name in names {
            let after = scene.snapshot.entry(name);
            let case = Case {
                name,
                // What the update did not change is as it was.
                before: update.before.get(name).map_or(after, Option::as_ref),
                after,
                causes: &update.causes,
                is_released: is_released(scene, name),
                wall: scene.now.wall,
                confirmed: self.confirmed,
            };
            let mut held = self.services.remove(name).unwrap_or_else(|| HeldService::new(&case));
            case.judge(&mut held, &mut judgement);
            self.put_back(name, held);
        }
        if !self.is_empty() {
            let newcomers = newcomers(update, scene.snapshot, &held_before);
            self.let_go(&mut judgement, |name, replica| {
                let by_another =
                    newcomers.get(&replica.spec.endpoint.address).is_some_and(|owner| *owner != name);
                by_another.then_some(LetGo::AddressTaken)
            });
        }
        self.settle(scene, &mut judgement);
        judgement
    }

    /// Judges what it changes that a control plane says: nothing has changed.
    pub(super) fn confirm(&mut self, scene: Scene<'_>) -> Judgement {
        self.pass_time(scene.now.tick);
        let mut judgement = Judgement::default();
        self.settle(scene, &mut judgement);
        judgement
    }

    fn pass_time(&mut self, now: Tick) {
        let since = self.heard.map(|heard| now.since(heard));
        self.confirmed += since.filter(|since| *since <= SILENCE).unwrap_or_default();
        self.heard = Some(now);
    }

    /// What was gone whole before, and followed the default policy, follows the one that has come.
    fn follow_default(&mut self, snapshot: &Snapshot, judgement: &mut Judgement) {
        for (name, held) in &mut self.services {
            if held.follows_default && snapshot.service(name).is_none() {
                held.policy = snapshot.default_policy();
                judgement.touched.insert(name.clone());
            }
        }
    }

    /// Lets go of what need not be held any more.
    fn settle(&mut self, scene: Scene<'_>, judgement: &mut Judgement) {
        let confirmed = self.confirmed;
        for (name, held) in &mut self.services {
            let spec = scene.snapshot.service(name);
            let guard = held.policy.guard;
            let is_replaced = held.is_replaced(spec.map(|spec| &**spec), confirmed);
            let released = is_released(scene, name);
            held.let_go(name, judgement, |replica| match () {
                () if released => Some(LetGo::Released),
                () if !guard.enabled => Some(LetGo::Disabled),
                () if is_replaced => Some(LetGo::Outnumbered),
                () if replica.held_for(confirmed) >= guard.hold_time => Some(LetGo::Overdue),
                () => None,
            });
        }
        self.services.retain(|_, held| !held.replicas.is_empty());
        let excess = (self.len() + scene.snapshot.entry_count()).saturating_sub(Snapshot::MAX_ENTRIES);
        if excess > 0 {
            self.let_go_oldest(excess, judgement);
        }
    }

    /// Memory stays bounded whatever is sent.
    fn let_go_oldest(&mut self, count: usize, judgement: &mut Judgement) {
        let key = |name: &ServiceName, replica: &HeldReplica| ReplicaKey {
            service: name.clone(),
            replica: replica.spec.id.clone(),
        };
        let all = self.replicas().map(|(name, replica)| (replica.held_at, key(name, replica)));
        let mut all: Vec<_> = all.collect();
        all.sort();
        let oldest: BTreeSet<_> = all.into_iter().take(count).map(|(_, key)| key).collect();
        self.let_go(judgement, |name, replica| {
            oldest.contains(&key(name, replica)).then_some(LetGo::TooMany)
        });
    }

    fn let_go(
        &mut self,
        judgement: &mut Judgement,
        why: impl Fn(&ServiceName, &HeldReplica) -> Option<LetGo>,
    ) {
        for (name, held) in &mut self.services {
            held.let_go(name, judgement, |replica| why(name, replica));
        }
        self.services.retain(|_, held| !held.replicas.is_empty());
    }

    fn put_back(&mut self, name: &ServiceName, held: HeldService) {
        if !held.replicas.is_empty() {
            self.services.insert(name.clone(), held);
        }
    }
}

fn is_released(scene: Scene<'_>, service: &ServiceName) -> bool {
    scene.snapshot.decided().releases_guard(service, scene.node, scene.now.wall)
}

/// Addresses at which a service has a replica and had none before, not even one that was held, and whose they are.
///
/// Another service's replica that was held there is gone: requests for it would reach a stranger.
fn newcomers<'a>(
    update: &'a Update,
    snapshot: &'a Snapshot,
    held: &BTreeMap<ServiceName, HeldService>,
) -> BTreeMap<&'a Address, &'a ServiceName> {
    let mut newcomers = BTreeMap::new();
    for (name, before) in &update.before {
        let had = before
            .iter()
            .flat_map(|entry: &Entry| &entry.spec.replicas)
            .map(|replica| &replica.endpoint.address);
        let held = held.get(name).into_iter().flat_map(|held| held.replicas.values());
        let known: BTreeSet<_> = had.chain(held.map(|replica| &replica.spec.endpoint.address)).collect();
        let has = snapshot.service(name).into_iter().flat_map(|spec| &spec.replicas);
        let new = has.map(|replica| &replica.endpoint.address).filter(|address| !known.contains(address));
        newcomers.extend(new.map(|address| (address, name)));
    }
    newcomers
}

#[cfg(test)]
mod tests;
