//! The task that looks for lapsed leases and has the writer remove their replicas.
//!
//! It also does what has to be done now and then: it tidies what is observed.

use std::{sync::Arc, time::Duration};

use gateway_runtime::Shutdown;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock,
    effects::Effects,
    leases::{Lapsed, Leases, SWEEP_INTERVAL},
    registry::Command,
    writer::Commands,
};

/// Removals under way at once; the others wait for the next sweep.
const MAX_REMOVALS: usize = 1024;
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until the shutdown begins: from then on owners cannot renew, so nothing may expire either.
pub(crate) async fn run(effects: Effects, commands: Commands, shutdown: Shutdown) {
    let mut sweeps = interval(SWEEP_INTERVAL);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidying = interval(TIDY_INTERVAL);
    tidying.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut removals = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = sweeps.tick() => {
                let now = clock::now();
                if let Some(gap) = effects.leases.sweep(now).stalled_for {
                    tracing::warn!(?gap, "this process stood still: leases get one full time to live instead of lapsing");
                }
                // A store that is slow or away must not hold up the sweeps, or they would look like a stall.
                if removals.is_empty() {
                    let lapsed = effects.leases.lapsed(MAX_REMOVALS, now);
                    if !lapsed.is_empty() {
                        removals.spawn(remove(Arc::clone(&effects.leases), commands.clone(), lapsed));
                    }
                }
            }
            Some(_) = removals.join_next() => {}
            _ = tidying.tick() => {
                effects.observation.tidy(|key| effects.publisher.read(|view| view.get(key).is_some()));
            }
        }
    }
}

/// Removes what lapsed. What fails stays marked, and comes again with a later sweep.
async fn remove(leases: Arc<Leases>, commands: Commands, lapsed: Vec<Lapsed>) {
    let expire = |lapsed: &Lapsed| Command::Expire {
        key: lapsed.key.clone(),
        lease: lapsed.lease,
        silent_for: lapsed.silent_for,
    };
    let outcomes = commands.submit_all(lapsed.iter().map(expire).collect()).await;
    for (lapsed, outcome) in lapsed.iter().zip(outcomes) {
        if outcome.is_ok() {
            leases.forget(lapsed.lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use gateway_proto::{Address, ServiceName};
    use gateway_runtime::supervise::{Beyond, Supervisor};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
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
