//! The task that carries checks out, beside the workers.
//!
//! It looks at what has changed in the table whenever something has, begins what is due, as many at once and in a second as
//! [`super::schedule`] allows, and tells the table how each ended. All that is to outlive it is in the table: after a panic it begins anew.

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use gateway_proto::{ReplicaId, ReplicaKey, policy::HealthCheck};
use gateway_runtime::{Shutdown, tls::ClientTls};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    check,
    counts::{CheckCounts, Ended},
    probe::{Failure, Lookups, Probe},
    schedule::{Mark, Schedule},
};
use crate::{
    clock::Clock,
    report::journal::Journal,
    routing::{Rate, Tick},
    table::{Replica, Seen, Service, Table},
};

/// Between two looks at the table, at least this long.
const PAUSE: Duration = Duration::from_millis(10);
/// Of the time, looking at the table takes no more than one part in this many.
const SHARE: u32 = 20;

/// Carries out the checks of one data plane.
#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) table: Arc<Table>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) clock: Clock,
    pub(crate) counts: Arc<CheckCounts>,
    /// How many checks may begin, of all services together.
    pub(crate) rate: Rate,
    /// Which replicas are believed over TLS, and what they are shown.
    pub(crate) tls: Arc<ClientTls>,
}

/// A check that has ended.
struct Done {
    key: ReplicaKey,
    incarnation: i64,
    probe: Probe,
    began: Tick,
    ended: Result<(), Failure>,
}

impl Checker {
    /// Checks until `stop` begins; checks under way are given up.
    pub(crate) async fn run(&self, stop: &Shutdown) {
        let (mut schedule, mut seen) = (Schedule::new(self.rate), Seen::default());
        let mut running = JoinSet::new();
        let lookups = Lookups::default();
        let mut look_at = Instant::now();
        let mut has_changed = true;
        loop {
            if has_changed && Instant::now() >= look_at {
                let began = Instant::now();
                self.look(&mut schedule, &mut seen);
                look_at = began + PAUSE.max(began.elapsed() * SHARE);
                has_changed = false;
            }
            self.begin_all(&mut schedule, &mut running, &lookups);
            let next = schedule.next(self.clock.now()).map(|next| self.clock.instant(next).into());
            let next = next.into_iter().chain(has_changed.then_some(look_at)).min();
            tokio::select! {
                () = stop.begun() => return,
                Some(done) = running.join_next() => {
                    self.take_all(&mut schedule, done);
                    while let Some(done) = running.try_join_next() {
                        self.take_all(&mut schedule, done);
                    }
                }
                () = self.table.applied(), if !has_changed => has_changed = true,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Takes over what has changed since it was last looked at.
    fn look(&self, schedule: &mut Schedule, seen: &mut Seen) {
        let (changed, now) = self.table.changed_since(*seen, schedule.services());
        *seen = now;
        let now = self.clock.now();
        for name in changed {
            let service = self.table.service(name.as_str());
            let wanted = service.as_deref().map(wanted).unwrap_or_default();
            schedule.set(&name, wanted, now);
        }
    }

    fn begin_all(&self, schedule: &mut Schedule, running: &mut JoinSet<Done>, lookups: &Lookups) {
        let now = self.clock.now();
        while let Some(key) = schedule.begin(now) {
            let Some((_, replica, probe)) = self.find(&key) else {
                // The look at the table that is due will drop it.
                schedule.ended(&key, now, now.plus(PAUSE));
                continue;
            };
            replica.schedule_check(None);
            let incarnation = replica.incarnation();
            let (lookups, tls) = (lookups.clone(), Arc::clone(&self.tls));
            running.spawn(async move {
                let ended = probe.run(&lookups, &tls).await;
                Done { key, incarnation, probe, began: now, ended }
            });
        }
        let (checked, under_way) = schedule.counts();
        self.counts.scheduled(checked, under_way, schedule.lateness(now));
    }

    fn find(&self, key: &ReplicaKey) -> Option<(Arc<Service>, Arc<Replica>, Probe)> {
        let service = self.table.service(key.service.as_str())?;
        let replica = service.replica(&key.replica)?;
        let probe = probe(&replica, &service.policy().health_check)?;
        Some((service, replica, probe))
    }

    fn take_all(&self, schedule: &mut Schedule, done: Result<Done, JoinError>) {
        match done.map_err(JoinError::try_into_panic) {
            Ok(done) => self.take(schedule, done),
            // It is this task's defect: whoever supervises it hears of it.
            Err(Ok(panic)) => resume_unwind(panic),
            Err(Err(_)) => {}
        }
    }

    fn take(&self, schedule: &mut Schedule, done: Done) {
        let Done { key, incarnation, probe, began, ended } = done;
        let now = self.clock.now();
        let kind = match &ended {
            Ok(()) => Ended::Passed,
            Err(Failure::Failed(_)) => Ended::Failed,
            Err(Failure::Void(why)) => {
                tracing::warn!(service = %key.service, replica = %key.replica, %why, "a health check is void");
                Ended::Void
            }
        };
        self.counts.ended(probe.method, kind, now.since(began));
        let Some((service, replica, wanted)) = self.find(&key) else {
            schedule.ended(&key, now, now.plus(PAUSE));
            return;
        };
        // What answers another question than is asked by now says nothing.
        if kind != Ended::Void && probe.mark() == wanted.mark() {
            let failure = match ended {
                Err(Failure::Failed(why)) => Some(why.into()),
                _ => None,
            };
            let result = check::Result { method: probe.method, began, ended: now, failure };
            if let Some(change) = service.checked(&key.replica, incarnation, result, now) {
                self.journal.record_check(change);
            }
        }
        let policy = service.policy().health_check;
        let pause = replica.check().pause(now, &policy, rand::random());
        let due = schedule.ended(&key, now, now.plus(pause));
        replica.schedule_check(due);
    }
}

/// Everybody of a service who is to be checked.
fn wanted(service: &Service) -> Vec<(ReplicaId, i64, Mark)> {
    let policy = service.policy().health_check;
    let replicas = policy.checks_any().then(|| service.replicas());
    let wanted = |replica: &Arc<Replica>| {
        let probe = probe(replica, &policy)?;
        Some((replica.key().replica.clone(), replica.incarnation(), probe.mark()))
    };
    replicas.iter().flat_map(|replicas| replicas.iter()).filter_map(wanted).collect()
}

/// The check of a replica, if it is to be checked.
fn probe(replica: &Replica, policy: &HealthCheck) -> Option<Probe> {
    let method = replica.check_method(policy)?;
    Some(Probe::new(replica.endpoint().clone(), method, policy))
}

#[cfg(test)]
mod tests;
