//! The task that comes back to what time decides: lapsed leases, drains, overrides.
//!
//! It asks the guard what to make of leases that have lapsed, and has the writer do it. It also tidies what is observed.
//!
//! Where control planes share a store, each of them does so, and the first to have a change made durable has made it: the
//! others find it done. While one of the others is not heard, nobody knows what its data planes see: drains end at their
//! deadline then, and nothing is evicted.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    time::{Duration, Instant},
};

use gateway_proto::{ServiceName, v1};
use gateway_runtime::Shutdown;
use tokio::{
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock,
    effects::Effects,
    leases::{SWEEP_INTERVAL, Sweep},
    observe::of_registry,
    registry::{Answer, Command, Evictions, Guard, Judgement, Override, Sentence, Suspect, View},
    writer::Commands,
};

/// Changes under way at once; the others wait for the next sweep.
const MAX_CHANGES: usize = 1024;
const TIDY_INTERVAL: Duration = Duration::from_secs(10);
/// How often evictions are judged.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until the shutdown begins: from then on owners cannot renew, so nothing may expire either.
pub(crate) async fn run(effects: Effects, commands: Commands, shutdown: Shutdown) {
    let mut sweeps = interval(SWEEP_INTERVAL);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidying = interval(TIDY_INTERVAL);
    tidying.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut evicting = interval(EVICTION_INTERVAL);
    evicting.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = JoinSet::new();
    let mut watch = Watch {
        effects,
        guard: Guard::default(),
        holding: BTreeSet::new(),
        evictions: Evictions::default(),
        keeping: BTreeSet::new(),
    };
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = sweeps.tick() => {
                let now = clock::now();
                let sweep = watch.effects.leases.sweep(now);
                if let Some(gap) = sweep.stalled_for {
                    tracing::warn!(?gap, "this process stood still: leases get one full time to live instead of lapsing");
                }
                // A store that is slow or away must not hold up the sweeps, or they would look like a stall.
                if changes.is_empty() {
                    let due = watch.due(&sweep, now);
                    if !due.is_empty() {
                        changes.spawn(submit(watch.effects.clone(), commands.clone(), due));
                    }
                }
            }
            Some(ended) = changes.join_next() => {
                if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
                    // It is this task's defect: whoever supervises it hears of it.
                    resume_unwind(panic);
                }
            }
            _ = evicting.tick() => {
                // Judged whether or not it can be carried out now, for what it remembers.
                let due = watch.evictions_due(clock::now());
                if changes.is_empty() && !due.is_empty() {
                    watch.evicted(&due, clock::now());
                    changes.spawn(submit(watch.effects.clone(), commands.clone(), due));
                }
            }
            _ = tidying.tick() => {
                let Effects { observation, publisher, .. } = &watch.effects;
                observation.tidy(|key| publisher.read(|view| view.get(key).is_some()));
            }
        }
    }
}

/// What the sweeps remember from one to the next.
struct Watch {
    effects: Effects,
    guard: Guard,
    /// Services of which the guard holds replicas.
    holding: BTreeSet<ServiceName>,
    evictions: Evictions,
    /// Services of which replicas stay that were to be evicted.
    keeping: BTreeSet<ServiceName>,
}

impl Watch {
    /// Whether what all data planes report is known here.
    fn sees_all(&self) -> bool {
        self.effects.observation.silent_control_planes().is_empty()
    }

    /// What is to be changed now, at most [`MAX_CHANGES`] of it.
    fn due(&mut self, sweep: &Sweep, now: Instant) -> Vec<Command> {
        let wall = clock::wall();
        let Effects { leases, publisher, .. } = &self.effects;
        let suspects = if sweep.suspects > 0 { leases.suspects(now) } else { Vec::new() };
        let judged = publisher.read(|view| self.guard.judge(view, suspects, now, wall));
        // Judged outside of the registry's lock: what data planes say of each takes a look at all of them.
        let drains = publisher.read(|view| {
            let drains = view.drains().filter_map(|record| {
                let drain = record.drain.as_deref().filter(|drain| !drain.is_over)?;
                Some((record.key.clone(), drain.begun, drain.deadline, drain.revision))
            });
            drains.collect::<Vec<_>>()
        });
        let drained = drains.into_iter().filter_map(|(key, begun, deadline, revision)| {
            let is_idle = self.effects.observation.is_idle(&key, revision);
            let is_over = is_idle || deadline <= wall;
            is_over.then_some(Command::FinishDrain { key, begun, is_idle })
        });
        let mut due: Vec<_> = drained.take(MAX_CHANGES).collect();
        due.extend(publisher.read(|view| {
            let ended = view.overrides().filter(|entry| entry.expires_at <= wall).map(|entry| end(entry));
            let found = view.lost().filter_map(|record| {
                let lease = record.lease?.id;
                leases.get(lease).map(|_| Command::Recover { key: record.key.clone(), lease })
            });
            let injected = view.policies().stored().filter(|policy| policy.has_ended_fault(wall));
            let injected = injected
                .map(|policy| Command::EndFault { scope: policy.scope.clone(), revision: policy.revision });
            found.chain(injected).chain(ended).take(MAX_CHANGES - due.len()).collect::<Vec<_>>()
        }));
        self.tell(&judged);
        for judgement in judged {
            let room = MAX_CHANGES.saturating_sub(due.len());
            due.extend(self.carry_out(judgement).into_iter().take(room));
        }
        due
    }

    /// Replicas to be removed because data planes cannot reach them, at most [`MAX_CHANGES`].
    fn evictions_due(&mut self, now: Instant) -> Vec<Command> {
        let sights = self.effects.observation.sights();
        let wall = clock::wall();
        let sees_all = self.sees_all();
        let (sentences, prospects) = self.effects.publisher.read(|view| {
            // Nobody is told to expect what would not be done.
            let sentences =
                if sees_all { self.evictions.judge(view, &sights, now, wall) } else { Vec::new() };
            let prospects = self.evictions.prospects(view, &sentences);
            (sentences, prospects)
        });
        self.effects.observation.expect_evictions(prospects, now, wall);
        self.tell_of_evictions(&sentences);
        let due = sentences.into_iter().flat_map(|sentence| sentence.evict).take(MAX_CHANGES);
        due.map(Command::Evict).collect()
    }

    /// Counts what is about to be removed.
    fn evicted(&mut self, due: &[Command], now: Instant) {
        for command in due {
            if let Command::Evict(eviction) = command {
                self.evictions.evicted(eviction, now);
            }
        }
    }

    /// Says when replicas begin to stay that were to be evicted.
    fn tell_of_evictions(&mut self, sentences: &[Sentence]) {
        let mut keeping = BTreeSet::new();
        for sentence in sentences {
            let Some((count, why)) = sentence.held else { continue };
            let service = &sentence.service;
            keeping.insert(service.clone());
            if !self.keeping.contains(service) {
                let message = format!("{count} replicas were to be evicted and stay: {why}");
                tracing::warn!(%service, "{message}");
                let event = of_registry("EVICTION_HELD", message, [("count", count.to_string())]);
                self.effects.observation.note(v1::Event { service: service.to_string(), ..event });
            }
        }
        self.keeping = keeping;
        self.effects.metrics.evictions_held(self.keeping.len());
    }

    /// Commands for one service's suspects. Those that were renewed meanwhile are left alone.
    fn carry_out(&self, judgement: Judgement) -> Vec<Command> {
        let leases = &self.effects.leases;
        let is_lost = |suspect: &Suspect| {
            let is_lost = |view: &View| view.get(&suspect.key).is_some_and(|record| record.lost.is_some());
            self.effects.publisher.read(is_lost)
        };
        let mut due = Vec::new();
        for Suspect { key, lease, silent_for, .. } in judgement.expire {
            if leases.get(lease).is_none() {
                due.push(Command::Expire { key, lease, silent_for });
            }
        }
        for suspect in judgement.hold {
            if leases.hold(suspect.lease) && !is_lost(&suspect) {
                let Suspect { key, lease, silent_for, .. } = suspect;
                due.push(Command::Hold { key, lease, silent_for });
            }
        }
        due
    }

    /// Says when holding begins and ends.
    fn tell(&mut self, judged: &[Judgement]) {
        let holding = judged.iter().filter(|judgement| !judgement.hold.is_empty());
        let holding: BTreeMap<_, _> =
            holding.map(|judgement| (judgement.service.clone(), judgement)).collect();
        for (service, judgement) in &holding {
            if !self.holding.contains(service) {
                let message = format!(
                    "the leases of {} of {} replicas lapsed together: holding them as LOST, still routable",
                    judgement.hold.len(),
                    judgement.expected
                );
                tracing::warn!(%service, "{message}");
                self.note("GUARD_HOLDING", service, message);
            }
        }
        for service in self.holding.iter().filter(|service| !holding.contains_key(*service)) {
            let message = "no replica is held as LOST any more".to_owned();
            tracing::info!(%service, "{message}");
            self.note("GUARD_CLEARED", service, message);
        }
        self.holding = holding.into_keys().collect();
        self.effects.metrics.guard_holds(self.holding.len());
    }

    fn note(&self, event_type: &str, service: &ServiceName, message: String) {
        let event = of_registry(event_type, message, []);
        self.effects.observation.note(v1::Event { service: service.to_string(), ..event });
    }
}

fn end(entry: &Override) -> Command {
    Command::EndOverride { id: entry.id(), by: Err(entry.revision) }
}

/// Has the writer make the changes. What fails is due again at a later sweep.
async fn submit(effects: Effects, commands: Commands, due: Vec<Command>) {
    let outcomes = commands.submit_all(due.clone()).await;
    for (command, outcome) in due.iter().zip(outcomes) {
        let (Command::Expire { lease, .. } | Command::Hold { lease, .. }) = command else { continue };
        // A lease that guards nothing any more has nothing to be judged.
        if matches!(outcome, Ok(Answer::Expired { .. } | Answer::Moot)) {
            effects.leases.forget(*lease);
        }
    }
}

#[cfg(test)]
mod time_tests;

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use gateway_proto::{Address, ServiceName};
    use gateway_runtime::supervise::{Beyond, Supervisor};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        leases::Leases,
        metrics::Metrics,
        observe::Observation,
        publish::Publisher,
        registry::{Answer, Limits, Record, Registration, View},
        store::{Memory, Store},
        writer::Writer,
    };

    const TTL: Duration = Duration::from_secs(1);

    /// A registry that one replica is registered in, with a lease of one second.
    async fn registry() -> (Effects, Commands, Arc<Record>) {
        let mut store = Memory::new();
        let loaded = store.load().await.unwrap();
        let effects = Effects {
            publisher: Arc::new(Publisher::new(loaded.epoch, View::default())),
            leases: Arc::new(Leases::new(clock::now())),
            observation: Arc::new(Observation::new(1)),
            metrics: Arc::new(Metrics::new()),
        };
        let limits = Limits { replicas: 9, replicas_per_service: 9 };
        let (mut writer, commands, _) = Writer::new(store, effects.clone(), limits, 9);
        tokio::spawn(async move { writer.run(&CancellationToken::new()).await });
        let (service, address) =
            (ServiceName::parse("orders").unwrap(), Address::parse("10.0.0.1:1").unwrap());
        let wish = Registration { ttl: Some(TTL), ..Registration::permanent(service, address) };
        match commands.submit(Command::Register(wish)).await {
            Ok(Answer::Registered { record, .. }) => (effects, commands, record),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn sweeps_that_stop_for_longer_than_a_lease_expire_nobody_and_go_on() {
        let (effects, commands, record) = registry().await;
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new(shutdown.clone(), |_| {});
        let runs = Arc::new(AtomicU32::new(0));
        let (counted, shared, stop) = (Arc::clone(&runs), effects.clone(), shutdown.clone());
        let began = clock::now();
        supervisor.spawn("expiry", Beyond::End, move || {
            let run = counted.fetch_add(1, SeqCst);
            let running = super::run(shared.clone(), commands.clone(), stop.clone());
            async move {
                // Pauses of 100, 200, 400 and 800 ms.
                assert!(run >= 4, "a defect that passes");
                running.await;
                Ok(())
            }
        });
        let supervised = tokio::spawn(supervisor.run(Duration::from_secs(9)));
        let count = || effects.publisher.read(View::replica_count);
        while runs.load(SeqCst) < 5 {
            assert_eq!(count(), 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(clock::now() - began > TTL);
        let lease = record.lease.unwrap().id;
        // From now on it is silent, and everything is as ever.
        let silent = clock::now();
        let renewed = effects.leases.renew(lease, &record.key, silent);
        assert!(renewed.is_some(), "its owner could not know that nobody swept");
        while count() == 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(clock::now() - silent >= TTL);
        shutdown.begin();
        supervised.await.unwrap().unwrap();
    }
}
