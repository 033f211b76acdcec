//! What data planes have said of replicas, and whom the registry may evict for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use control_plane::registry::{Aspect, Eviction, OverrideTarget, Sentence, ServiceEntry, View, Why};
use gateway_proto::{
    ReplicaKey, ServiceName,
    v1::{Breaker, HealthCheckState},
};

use super::{Checked, Ledger, claim};
use crate::{control::SILENT, env::Env, event::NodeId};

/// For so long an eviction counts.
const MEMORY: u64 = 3_600_000_000_000;

/// What the present run of the control plane was told.
#[derive(Default)]
pub(super) struct Reports {
    /// When each data plane was heard last.
    heard: BTreeMap<NodeId, u64>,
    /// When the control plane looked at who is silent last.
    judged_at: Option<u64>,
    said: BTreeMap<ReplicaKey, BTreeMap<NodeId, Said>>,
    /// Registrations that were to be evicted, and when.
    gone: BTreeMap<ServiceName, BTreeMap<(ReplicaKey, i64), u64>>,
    /// Registrations that are over for good, whether the control plane knows it yet or its store's answer was lost.
    over: BTreeSet<(ReplicaKey, i64)>,
}

/// What one data plane says of one registration.
#[derive(Debug, Clone, Copy)]
struct Said {
    incarnation: i64,
    /// Since when it has failed in every report.
    failing_since: Option<u64>,
    /// Whether it has said nothing else of this registration since it was silent last: nobody knows what it saw before.
    always_failing: bool,
    checks: i64,
    failures: i64,
    /// Failures since it was told of anything else, by any data plane.
    run: i64,
}

impl Reports {
    /// It is gone: what was said of it concerns nobody.
    pub(super) fn forget(&mut self, key: &ReplicaKey) {
        for said in self.said.remove(key).unwrap_or_default().into_values() {
            self.over.insert((key.clone(), said.incarnation));
        }
    }
}

impl Ledger {
    /// The control plane has looked at what data planes say, and at who is silent.
    pub(crate) fn judged(&mut self, now: u64) {
        self.reports.judged_at = Some(now);
    }

    /// A report has come.
    pub(crate) fn reported(&mut self, now: u64, node: NodeId, rows: &[Breaker]) {
        let reports = &mut self.reports;
        let last = reports.heard.insert(node, now);
        // A silence that nobody looked into is none: it may be the control plane that stood still.
        let was_silent = last.is_none_or(|last| reports.judged_at.is_some_and(|at| at >= last + SILENT));
        let mut told = BTreeSet::new();
        for row in rows {
            let key = ReplicaKey::parse(&row.service, &row.replica_id).expect("a name");
            let check = row.health_check.clone().unwrap_or_default();
            let of_key = reports.said.entry(key.clone()).or_default();
            told.insert(key);
            if of_key.values().all(|said| said.incarnation < row.incarnation) {
                of_key.values_mut().for_each(|said| said.run = 0);
            }
            let before = of_key.get(&node).copied().filter(|said| said.incarnation == row.incarnation);
            let grown = |now: i64, before: i64| (now - before).max(0);
            let (mut run, mut passed) = (0, 0);
            if let Some(before) = before {
                run = before.run + grown(check.failure_count, before.failures);
                passed = grown(check.check_count - check.failure_count, before.checks - before.failures);
            }
            if passed > 0 {
                run = 0;
                of_key.values_mut().for_each(|said| said.run = 0);
            }
            let since = before.and_then(|before| before.failing_since).unwrap_or(now);
            let is_failing = check.state() == HealthCheckState::Failing;
            let said = Said {
                incarnation: row.incarnation,
                failing_since: is_failing.then_some(since),
                always_failing: is_failing
                    && (was_silent || before.is_none_or(|before| before.always_failing)),
                checks: check.check_count,
                failures: check.failure_count,
                run,
            };
            of_key.insert(node, said);
        }
        for (_, of_key) in reports.said.iter_mut().filter(|(key, _)| !told.contains(*key)) {
            of_key.remove(&node);
        }
    }

    /// It is about to be removed.
    pub(crate) fn evicting(&mut self, now: u64, eviction: &Eviction) {
        let of_service = self.reports.gone.entry(eviction.key.service.clone()).or_default();
        of_service.insert((eviction.key.clone(), eviction.incarnation), now);
    }

    /// Whoever is evicted for its checks has failed for that long in every report of every data plane that is heard, be it one
    /// that came, or came back, later, and those are more than the silent ones. Whoever is evicted for failures in a row has failed on more
    /// than one of several data planes.
    pub(crate) fn only_what_nobody_reaches_is_evicted(&self, now: u64, eviction: &Eviction) -> Checked {
        if self.reports.over.contains(&(eviction.key.clone(), eviction.incarnation)) {
            // It is removed already: what is said of it since begins anew.
            return Ok(());
        }
        let of_key = self.reports.said.get(&eviction.key);
        let said = || of_key.into_iter().flatten();
        let is_heard = |node: &NodeId| self.reports.heard.get(node).is_some_and(|at| now - at < SILENT);
        let may = match &eviction.why {
            Why::ChecksFailed { lasted, .. } => {
                let heard = || said().filter(|(node, _)| is_heard(node));
                let silent = said().count() - heard().count();
                // Of a report, up to a judgement later.
                let enough = |said: &Said| {
                    said.failing_since.is_some_and(|since| Duration::from_nanos(now - since) >= *lasted)
                };
                heard().count() > silent
                    && heard().any(|(_, said)| enough(said))
                    && heard().all(|(_, said)| {
                        said.incarnation == eviction.incarnation && (enough(said) || said.always_failing)
                    })
            }
            Why::FailuresInARow { threshold, .. } => {
                let runs: Vec<i64> = said().map(|(_, said)| said.run).collect();
                let most = runs.iter().copied().max().unwrap_or(0);
                let total: i64 = runs.iter().sum();
                let weight = if runs.len() == 1 { total } else { total.min(2 * (total - most)) };
                weight >= i64::from(*threshold)
            }
        };
        claim("only_what_nobody_reaches_is_evicted", may, || format!("{eviction:?} while {of_key:?}"))
    }

    /// Those that were judged together, service by service.
    pub(crate) fn evictions_are_few(&self, env: &Env, view: &View, sentences: &[Sentence]) -> Checked {
        for Sentence { service, evict, .. } in sentences.iter().filter(|one| !one.evict.is_empty()) {
            let going = evict.iter().map(|eviction| &eviction.key).collect();
            evictions_leave_somebody(view, service, &going)?;
            self.evictions_take_a_share_at_most(env, view, service, &going)?;
        }
        Ok(())
    }

    /// Evictions take no more of a service than the guard lets go, or two, within an hour.
    fn evictions_take_a_share_at_most(
        &self,
        env: &Env,
        view: &View,
        service: &ServiceName,
        going: &BTreeSet<&ReplicaKey>,
    ) -> Checked {
        let gone = self.reports.gone.get(service).into_iter().flatten();
        let gone = gone.filter(|((key, _), at)| env.now - **at < MEMORY && !going.contains(key)).count();
        let peers = view.service(service).into_iter().flat_map(ServiceEntry::replicas);
        let there = peers.filter(|record| record.drain.is_none()).count();
        let (gone, of) = (gone + going.len(), gone + there);
        let guard = view.policies().resolve(Some(service)).guard;
        let target =
            OverrideTarget { aspect: Aspect::Guard, service: service.clone(), replica: None, node: None };
        let is_released = view.override_of(&target.id()).is_some_and(|one| one.expires_at > env.wall());
        let is_share = gone <= 2 || gone as f64 <= guard.max_removal_ratio * of as f64;
        claim("evictions_take_a_share_at_most", is_share || is_released || !guard.enabled, || {
            format!("{gone} of {of} of {service}: {going:?}")
        })
    }
}

/// Evictions leave somebody who is ready.
fn evictions_leave_somebody(view: &View, service: &ServiceName, going: &BTreeSet<&ReplicaKey>) -> Checked {
    let mut peers = view.service(service).into_iter().flat_map(ServiceEntry::replicas);
    let remains = peers.any(|record| record.is_ready() && !going.contains(&record.key));
    claim("evictions_leave_somebody", remains, || format!("all of {service}: {going:?}"))
}
