//! Whatever comes, in whatever order, through cuts and restarts: requests are routed as a naive model of the guard and of
//! overrides says.

mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::time::duration;
use proptest::prelude::*;

use self::model::{Fact, Key, Model, Said};
use super::*;
use crate::{
    clock::Moment,
    discovery::{Guard, Mirror, cache::format, feed::route},
    routing::Tick,
    table::{ForcedState, Table},
};

const SERVICES: u8 = 3;
/// Shorter than by default, so that it is over within a test. In seconds.
const HOLD_TIME: u64 = 120;

#[derive(Debug, Clone)]
enum Step {
    /// A replica registers, or changes.
    Put(Key, Fact),
    /// A replica goes.
    Remove(Key, v1::RemovalCause),
    /// The registry comes up with what it had after that many steps, in another epoch.
    GoBackTo(usize),
    /// An operator releases the guard of a service for so many seconds.
    Release(u8, u64),
    /// An operator forces a service's breakers open for so many seconds.
    Force(u8, u64),
    Delta,
    Full,
    /// The stream breaks after the first part of a full snapshot.
    Cut,
    /// The control plane says for so many seconds that nothing has changed.
    Confirm(u64),
    /// Nobody says anything for so many seconds.
    Silence(u64),
    Restart,
}

fn keys() -> impl Strategy<Value = Key> {
    (0..SERVICES, 0u8..8)
}

fn facts() -> impl Strategy<Value = Fact> {
    use v1::HealthStatus::{Healthy, Lost, Starting};
    let healths = prop_oneof![6 => Just(Healthy), 1 => Just(Starting), 1 => Just(Lost)];
    (1u16..14, healths, prop::bool::weighted(0.1)).prop_map(|(port, health, draining)| Fact {
        port,
        health,
        draining,
    })
}

fn steps() -> impl Strategy<Value = Step> {
    use v1::RemovalCause::{Deregistered, Evicted, Expired, Unspecified};
    let lapsed = prop_oneof![2 => Just(Expired), 1 => Just(Evicted)];
    let causes = prop_oneof![1 => Just(Deregistered), 1 => lapsed, 2 => Just(Unspecified)];
    prop_oneof![
        12 => (keys(), facts()).prop_map(|(key, fact)| Step::Put(key, fact)),
        5 => (keys(), causes).prop_map(|(key, cause)| Step::Remove(key, cause)),
        1 => (0usize..40).prop_map(Step::GoBackTo),
        1 => (0..SERVICES, 1u64..200).prop_map(|(service, secs)| Step::Release(service, secs)),
        1 => (0..SERVICES, 1u64..200).prop_map(|(service, secs)| Step::Force(service, secs)),
        4 => Just(Step::Delta),
        2 => Just(Step::Full),
        1 => Just(Step::Cut),
        3 => (1u64..20).prop_map(|words| Step::Confirm(5 * words)),
        1 => (1u64..100).prop_map(Step::Silence),
        1 => Just(Step::Restart),
    ]
}

fn named(service: u8) -> String {
    format!("s-{service}")
}

fn wire((service, id): Key, fact: &Fact) -> v1::Replica {
    let mode = if fact.draining { v1::ReplicaMode::Draining } else { v1::ReplicaMode::Serving };
    v1::Replica {
        health: fact.health.into(),
        mode: mode.into(),
        ..replica(&named(service), &format!("r-{id}"), fact.port)
    }
}

/// The data plane under test, and the control plane that talks to it.
struct World {
    mirror: Mirror,
    assembly: Assembly,
    table: Arc<Table>,
    seconds: u64,
    said: Said,
    /// What the data plane was told last.
    told: Said,
    /// Why replicas are gone that it was told of.
    causes: BTreeMap<Key, v1::RemovalCause>,
    epoch: u32,
    told_epoch: u32,
    revision: i64,
    past: Vec<Said>,
}

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

impl World {
    fn new() -> Self {
        Self {
            mirror: Mirror::new("dp-1".parse().unwrap(), Snapshot::default(), Guard::default(), wall(0)),
            assembly: Assembly::default(),
            table: Table::new(1).0,
            seconds: 0,
            said: Said::default(),
            told: Said::default(),
            causes: BTreeMap::new(),
            epoch: 1,
            told_epoch: 0,
            revision: 0,
            past: Vec::new(),
        }
    }

    fn now(&self) -> Moment {
        Moment { tick: Tick::ORIGIN.plus(Duration::from_secs(self.seconds)), wall: wall(self.seconds) }
    }

    fn receive(&mut self, update: Update) -> Received {
        let message = message(&format!("e-{}", self.epoch), self.revision, update);
        let now = self.now();
        let outcome = self.mirror.receive(&mut self.assembly, message, now);
        route(&self.mirror, &outcome.touched, &self.table, now);
        outcome.received
    }

    /// Time passes, and what ends overrides by it runs as it does in a data plane.
    fn pass(&mut self, seconds: u64) {
        self.seconds += seconds;
        let now = self.now();
        let touched = self.mirror.pass_time(now.wall);
        route(&self.mirror, &touched, &self.table, now);
    }

    fn restart(&mut self) {
        let now = self.now();
        if !self.mirror.snapshot().is_held() {
            return;
        }
        let bytes = format::encode(self.mirror.snapshot(), self.mirror.guard(), now.wall);
        let cached = format::decode(&bytes, now.wall, Duration::MAX).unwrap();
        self.mirror = Mirror::new("dp-1".parse().unwrap(), cached.snapshot, cached.guard, now.wall);
        self.assembly = Assembly::default();
        self.table = Table::new(1).0;
        route(&self.mirror, &self.mirror.names(), &self.table, now);
    }

    /// Overrides whose time is over are taken back.
    fn forget_the_past(&mut self) {
        let now = self.seconds;
        self.said.forced.retain(|_, end| *end > now);
        self.said.released.retain(|_, end| *end > now);
    }

    fn full(&self) -> v1::FullSnapshot {
        let mut services: BTreeMap<u8, v1::ServiceSnapshot> = BTreeMap::new();
        for (key, fact) in &self.said.replicas {
            let entry = services.entry(key.0).or_insert_with(|| service(&named(key.0), vec![]));
            entry.replicas.push(wire(*key, fact));
        }
        let hold_time = Some(duration(Duration::from_secs(HOLD_TIME)));
        let guard = Some(v1::GuardPolicy { hold_time, ..Default::default() });
        v1::FullSnapshot {
            services: services.into_values().collect(),
            overrides: overrides(&self.said).into_values().collect(),
            default_policy: Some(v1::Policy { guard, ..Default::default() }),
            last_part: true,
            ..Default::default()
        }
    }

    fn delta(&self) -> v1::Delta {
        let (old, new) = (&self.told, &self.said);
        let services = |said: &Said| said.replicas.keys().map(|key| key.0).collect::<BTreeSet<_>>();
        let (old_services, new_services) = (services(old), services(new));
        let (old_overrides, new_overrides) = (overrides(old), overrides(new));
        let appeared = new_services.difference(&old_services).map(|name| service(&named(*name), vec![]));
        let upserts = new.replicas.iter().filter(|(key, fact)| old.replicas.get(*key) != Some(*fact));
        // Those, too, that came and went since: they may be held from before.
        let gone =
            self.causes.iter().map(|(key, cause)| removal(&named(key.0), &format!("r-{}", key.1), *cause));
        let begun = new_overrides.iter().filter(|(id, entry)| old_overrides.get(*id) != Some(*entry));
        let ended = old_overrides.keys().filter(|id| !new_overrides.contains_key(*id));
        v1::Delta {
            base_revision: self.mirror.snapshot().revision(),
            upsert_services: appeared.collect(),
            remove_services: old_services.difference(&new_services).map(|name| named(*name)).collect(),
            upsert_replicas: upserts.map(|(key, fact)| wire(*key, fact)).collect(),
            remove_replicas: gone.collect(),
            upsert_overrides: begun.map(|(_, entry)| entry.clone()).collect(),
            remove_overrides: ended.cloned().collect(),
            ..Default::default()
        }
    }

    /// Whom requests are routed to: id, port, and whether an operator holds the breaker open.
    fn routed(&self) -> BTreeMap<Key, (u16, bool)> {
        let mut routed = BTreeMap::new();
        for (name, service) in self.table.services().iter() {
            let number = name.as_str().trim_start_matches("s-").parse().unwrap();
            for replica in service.replicas().iter() {
                let id = replica.key().replica.as_str().trim_start_matches("r-").parse().unwrap();
                let forced =
                    replica.spec().forced.as_ref().is_some_and(|forced| forced.state == ForcedState::Open);
                routed.insert((number, id), (replica.address().port(), forced));
            }
        }
        routed
    }
}

fn overrides(said: &Said) -> BTreeMap<String, v1::OverrideEntry> {
    let entry = |kind: v1::OverrideKind, service: u8, end: u64| {
        let id = format!("{}/{service}", kind.as_str_name());
        let entry = v1::OverrideEntry {
            kind: kind.into(),
            expire_time: Some(wall(end).into()),
            ..override_of(&id, &named(service), "-")
        };
        (id, entry)
    };
    let forced =
        said.forced.iter().map(|(service, end)| entry(v1::OverrideKind::BreakerOpen, *service, *end));
    let released =
        said.released.iter().map(|(service, end)| entry(v1::OverrideKind::GuardReleased, *service, *end));
    forced.chain(released).collect()
}

/// Takes one step in the world and in the model.
fn take(step: Step, world: &mut World, model: &mut Model) -> Result<(), TestCaseError> {
    world.forget_the_past();
    match step {
        Step::Put(key, fact) => {
            // The registry gives an address to one replica of a service only.
            let others = world.said.replicas.iter().filter(|(other, _)| other.0 == key.0 && **other != key);
            if !others.into_iter().any(|(_, other)| other.port == fact.port) {
                world.said.replicas.insert(key, fact);
                world.causes.remove(&key);
            }
        }
        Step::Remove(key, cause) => {
            if world.said.replicas.remove(&key).is_some() {
                world.causes.insert(key, cause);
            }
        }
        Step::GoBackTo(index) => {
            world.said.replicas = world.past.get(index).cloned().unwrap_or_default().replicas;
            world.causes.clear();
            world.epoch += 1;
            world.revision = 0;
        }
        Step::Release(service, seconds) => {
            world.said.released.insert(service, world.seconds + seconds);
        }
        Step::Force(service, seconds) => {
            world.said.forced.insert(service, world.seconds + seconds);
        }
        Step::Delta | Step::Full => {
            world.revision += 1;
            let is_delta = matches!(step, Step::Delta) && world.told_epoch == world.epoch;
            let (update, causes) = match is_delta {
                true => (Update::Delta(world.delta()), std::mem::take(&mut world.causes)),
                false => (Update::Full(world.full()), BTreeMap::new()),
            };
            let received = world.receive(update);
            prop_assert!(matches!(received, Received::Applied { .. }), "{received:?}");
            model.update(&world.said, &causes, world.seconds);
            (world.told, world.told_epoch) = (world.said.clone(), world.epoch);
            world.causes.clear();
        }
        Step::Cut => {
            world.revision += 1;
            let part = v1::FullSnapshot { last_part: false, ..world.full() };
            prop_assert_eq!(world.receive(Update::Full(part)), Received::Partial);
            world.revision -= 1;
            world.assembly = Assembly::default();
        }
        Step::Confirm(seconds) => {
            for _ in 0..seconds / 5 {
                world.pass(5);
                model.pass(world.seconds);
                if world.told_epoch == world.epoch {
                    let content_hash = world.mirror.snapshot().content_hash().to_string();
                    let received = world.receive(Update::Bookmark(v1::Bookmark { content_hash }));
                    prop_assert_eq!(received, Received::Unchanged);
                    model.confirm(world.seconds);
                }
            }
        }
        Step::Silence(seconds) => {
            world.pass(seconds);
            model.pass(world.seconds);
        }
        Step::Restart => {
            world.restart();
            model.restart();
        }
    }
    world.past.push(world.said.clone());
    Ok(())
}

proptest! {
    #[test]
    fn requests_are_routed_as_the_model_of_guard_and_overrides_says(
        steps in prop::collection::vec(steps(), 1..120)
    ) {
        let (mut world, mut model) = (World::new(), Model::default());
        for (number, step) in steps.into_iter().enumerate() {
            let described = format!("step {number}: {step:?}");
            take(step, &mut world, &mut model)?;
            prop_assert_eq!(world.routed(), model.routed(), "{}", described);
            prop_assert_eq!(world.mirror.guard().len(), model.held_count(), "{}", described);
        }
        // Left alone, it routes by the registry and by nothing else.
        take(Step::Full, &mut world, &mut model)?;
        take(Step::Confirm(HOLD_TIME + 10), &mut world, &mut model)?;
        let registered: BTreeSet<_> = world.said.replicas.keys().copied().collect();
        prop_assert_eq!(world.routed().into_keys().collect::<BTreeSet<_>>(), registered);
        prop_assert!(world.mirror.guard().is_empty());
    }
}
