//! The task that carries checks out, beside the workers.
//!
//! It looks at what has changed in the table whenever something has, begins what is due, as many at once and in a second as
//! [`super::schedule`] allows, and tells the table how each ended. All that is to outlive it is in the table: after a panic it begins anew.

use std::{net::SocketAddr, panic::resume_unwind, sync::Arc, time::Duration};

use gateway_proto::{ReplicaId, ReplicaKey, ServiceName, policy::HealthCheck};
use gateway_runtime::{Shutdown, tls::ClientTls};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    check,
    counts::{CheckCounts, Ended},
    probe::{Failure, Kind, Lookups, Probe},
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
/// Between two looks at a port, a fifth more or less.
const PORT_PAUSE: Duration = Duration::from_secs(1);
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
    /// The admin side of this process, which no replica's address may lead to.
    pub(crate) admin: Option<SocketAddr>,
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
                () = self.table.checks_changed(), if !has_changed => has_changed = true,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Takes over what has changed since it was last looked at.
    fn look(&self, schedule: &mut Schedule, seen: &mut Seen) {
        let (changed, now) = self.table.changed_since(*seen, schedule.services());
        *seen = now;
        changed.iter().for_each(|name| self.look_at(name, schedule));
    }

    fn look_at(&self, name: &ServiceName, schedule: &mut Schedule) {
        let service = self.table.service(name.as_str());
        let wanted = service.as_deref().map(wanted).unwrap_or_default();
        schedule.set(name, wanted, self.clock.now());
    }

    /// Begins what is due and may begin.
    fn begin_all(&self, schedule: &mut Schedule, running: &mut JoinSet<Done>, lookups: &Lookups) {
        let now = self.clock.now();
        while let Some(key) = schedule.begin(now) {
            let Some((service, replica, probe)) = self.find(&key) else {
                // It is not to be checked any more: its breaker has closed, or a change is to be looked at yet.
                schedule.ended(&key, now, now.plus(PAUSE));
                self.look_at(&key.service, schedule);
                continue;
            };
            if probe.kind == Kind::Port && !service.waits_for_port(&replica, now) {
                schedule.ended(&key, now, now.plus(pause(&probe, &service, &replica, now)));
                continue;
            }
            replica.schedule_check(None);
            let incarnation = replica.incarnation();
            let (lookups, tls, admin) = (lookups.clone(), Arc::clone(&self.tls), self.admin);
            running.spawn(async move {
                let ended = probe.run(&lookups, &tls, admin).await;
                Done { key, incarnation, probe, began: now, ended }
            });
        }
        let (checked, under_way) = schedule.counts();
        self.counts.scheduled(checked, under_way, schedule.lateness(now));
    }

    fn find(&self, key: &ReplicaKey) -> Option<(Arc<Service>, Arc<Replica>, Probe)> {
        let service = self.table.service(key.service.as_str())?;
        let replica = service.replica(&key.replica)?;
        let policy = service.policy().health_check;
        let port = || service.is_port_checked(&replica);
        let probe = check_of(&replica, &policy)
            .or_else(|| port().then(|| Probe::of_port(replica.endpoint().clone(), &policy)))?;
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
        self.counts.ended(probe.kind, kind, now.since(began));
        let Some((service, replica, wanted)) = self.find(&key) else {
            schedule.ended(&key, now, now.plus(PAUSE));
            return;
        };
        // What answers another question than is asked by now says nothing.
        if kind != Ended::Void && probe.mark() == wanted.mark() {
            match probe.kind {
                Kind::Port => {
                    if kind == Ended::Passed && service.port_accepts(&replica, incarnation, now) {
                        tracing::info!(service = %key.service, replica = %key.replica, "its port accepts again: the next request is a probe");
                    }
                }
                Kind::Check(method) => {
                    let failure = match ended {
                        Err(Failure::Failed(why)) => Some(why.into()),
                        _ => None,
                    };
                    let result = check::Result { method, began, ended: now, failure };
                    if let Some(change) = service.checked(&key.replica, incarnation, result, now) {
                        self.journal.record_check(change);
                    }
                }
            }
        }
        let due = schedule.ended(&key, now, now.plus(pause(&wanted, &service, &replica, now)));
        replica.schedule_check(due);
    }
}

/// Everybody of a service who is to be checked.
fn wanted(service: &Service) -> Vec<(ReplicaId, i64, Mark)> {
    let policy = service.policy().health_check;
    if !policy.checks_any() {
        return Vec::new();
    }
    let want = |replica: &Replica, probe: Probe| {
        (replica.key().replica.clone(), replica.incarnation(), probe.mark())
    };
    let replicas = service.replicas();
    let checked = replicas.iter().filter_map(|replica| Some(want(replica, check_of(replica, &policy)?)));
    let ports = service.port_checked().into_iter();
    let ports = ports.map(|replica| want(&replica, Probe::of_port(replica.endpoint().clone(), &policy)));
    checked.chain(ports).collect()
}

/// How long to wait before the next one.
fn pause(probe: &Probe, service: &Service, replica: &Replica, now: Tick) -> Duration {
    let chance: f64 = rand::random();
    match probe.kind {
        Kind::Port => PORT_PAUSE.mul_f64(0.8 + 0.4 * chance),
        Kind::Check(_) => replica.check().pause(now, &service.policy().health_check, chance),
    }
}

/// The check of a replica, if its policy has one.
fn check_of(replica: &Replica, policy: &HealthCheck) -> Option<Probe> {
    let method = replica.check_method(policy)?;
    Some(Probe::new(replica.endpoint().clone(), method, policy))
}

#[cfg(test)]
mod tests;
