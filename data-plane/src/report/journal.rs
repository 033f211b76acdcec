//! Every breaker transition passes here: into the log, into the counts for metrics, and into the queue for reports.
//!
//! The queue is bounded. While no control plane takes them, the oldest transitions give way and are counted.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gateway_proto::ServiceName;
use gateway_runtime::Shutdown;
use tokio::sync::{Notify, mpsc};

use super::{checks, rows};
use crate::{
    health::check::Verdict,
    routing::{Reason, State},
    table::{CheckChange, FailOpenChange, Table, Transition},
};

/// Transitions that wait for a control plane: about a megabyte.
pub(super) const CAPACITY: usize = 8192;
/// Counts of services that are gone are kept up to this many, so that short absences do not reset them.
const GONE_SERVICES: usize = 1000;

/// From, to and by what: the labels of the transition counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) trigger: &'static str,
}

const fn usual(from: &'static str, to: &'static str, trigger: &'static str) -> Kind {
    Kind { from, to, trigger }
}

/// Counts and queue of transitions, shared by the task that records them, reports and metrics.
#[derive(Debug)]
pub(crate) struct Journal {
    table: Arc<Table>,
    inner: Mutex<Inner>,
    recorded: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Transition>,
    /// Of as many at most.
    checks: VecDeque<CheckChange>,
    /// Those that were told and not confirmed, oldest first; they go before all others.
    again: VecDeque<Batch>,
    last_batch: i64,
    /// Given way in this queue; beside it, the table drops what this task does not take in time.
    dropped: u64,
    dropped_by_table: u64,
    counts: BTreeMap<ServiceName, BTreeMap<Kind, u64>>,
}

/// Transitions for one report.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Grows from one to the next; 0: it is empty.
    pub(super) number: i64,
    /// Oldest first.
    pub(super) transitions: Vec<Transition>,
    /// Likewise, of verdicts on replicas.
    pub(super) checks: Vec<CheckChange>,
    /// Likewise, of services.
    pub(super) fail_opens: Vec<FailOpenChange>,
    /// Transitions lost since the last batch.
    pub(super) dropped: u64,
}

impl Journal {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self { table, inner: Mutex::default(), recorded: Notify::new() }
    }

    /// Records transitions until `stop` begins, and those that have come by then.
    pub(crate) async fn record_all(&self, transitions: &mut mpsc::Receiver<Transition>, stop: Shutdown) {
        loop {
            let transition = tokio::select! {
                // What is there goes first, so that nothing of before the stop is left out.
                biased;
                transition = transitions.recv() => transition,
                () = stop.begun() => return,
            };
            let Some(transition) = transition else { return };
            log(&transition);
            self.record(transition);
        }
    }

    pub(super) fn record(&self, transition: Transition) {
        let mut inner = self.inner();
        let kinds = inner.counts.entry(transition.key.service.clone()).or_default();
        *kinds.entry(Kind::of(&transition)).or_default() += 1;
        let services = self.table.services();
        if inner.counts.len() > services.len() + GONE_SERVICES {
            inner.counts.retain(|service, _| services.contains_key(service));
        }
        if inner.queue.len() == CAPACITY {
            inner.queue.pop_front();
            inner.dropped += 1;
        }
        inner.queue.push_back(transition);
        drop(inner);
        self.recorded.notify_one();
    }

    /// Records that a replica fails its checks, or passes them again.
    pub(crate) fn record_check(&self, change: CheckChange) {
        if change.turn.to != Verdict::Failing && change.turn.from != Verdict::Failing {
            // It was not in doubt.
            return;
        }
        log_check(&change);
        let mut inner = self.inner();
        if inner.checks.len() == CAPACITY {
            inner.checks.pop_front();
            inner.dropped += 1;
        }
        inner.checks.push_back(change);
        drop(inner);
        self.recorded.notify_one();
    }

    /// Completes when something was recorded since the last [`Journal::take`]. One caller at a time; cancel safe.
    pub(super) async fn recorded(&self) {
        let is_empty = || {
            let inner = self.inner();
            inner.queue.is_empty() && inner.checks.is_empty() && inner.again.is_empty()
        };
        while is_empty() {
            self.recorded.notified().await;
        }
    }

    /// Has batches told again, before all others: nobody knows whether they were taken. At most [`CAPACITY`] transitions of
    /// such are kept; the oldest give way and are counted.
    pub(super) fn give_back(&self, batches: impl IntoIterator<Item = Batch, IntoIter: DoubleEndedIterator>) {
        let mut inner = self.inner();
        for batch in batches.into_iter().rev() {
            inner.again.push_front(batch);
        }
        while inner.again.iter().map(Batch::len).sum::<usize>() > CAPACITY {
            let Some(oldest) = inner.again.pop_front() else { break };
            inner.dropped += oldest.dropped + oldest.len() as u64;
        }
        drop(inner);
        self.recorded.notify_one();
    }

    /// Takes up to `max` waiting transitions, or a batch that is to be told again.
    pub(super) fn take(&self, max: usize) -> Batch {
        let mut inner = self.inner();
        if let Some(batch) = inner.again.pop_front() {
            return batch;
        }
        let dropped_by_table = self.table.dropped_transitions();
        let dropped = std::mem::take(&mut inner.dropped) + (dropped_by_table - inner.dropped_by_table);
        inner.dropped_by_table = dropped_by_table;
        let fail_opens = self.table.take_fail_open_changes(max);
        fail_opens.iter().for_each(log_fail_open);
        let count = inner.queue.len().min(max - fail_opens.len());
        let transitions: Vec<_> = inner.queue.drain(..count).collect();
        let count = inner.checks.len().min(max - fail_opens.len() - count);
        let checks = inner.checks.drain(..count).collect();
        let mut batch = Batch { number: 0, transitions, checks, fail_opens, dropped };
        if !batch.is_empty() {
            inner.last_batch += 1;
            batch.number = inner.last_batch;
        }
        batch
    }

    /// Transitions of each service by kind since the start.
    pub(crate) fn counts(&self) -> BTreeMap<ServiceName, BTreeMap<Kind, u64>> {
        self.inner().counts.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Counts and a queue of whole values: a panic elsewhere leaves nothing half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.transitions.len() + self.checks.len() + self.fail_opens.len()
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.dropped == 0
    }
}

impl Kind {
    /// Those that every service has in metrics from its first moment, so that the first one of them is seen as an increase.
    pub(crate) const USUAL: [Self; 8] = [
        usual("closed", "open", "consecutive_failures"),
        usual("closed", "open", "failure_ratio"),
        usual("closed", "open", "slow_ratio"),
        usual("closed", "open", "peer_latency"),
        usual("open", "half_open", "probe_due"),
        usual("half_open", "open", "probe_failed"),
        usual("half_open", "open", "probe_lost"),
        usual("half_open", "closed", "probes_succeeded"),
    ];

    fn of(transition: &Transition) -> Self {
        let change = &transition.change;
        let trigger = match (change.rule(), change.reason) {
            (Some(rule), _) => rows::rule_name(rule),
            (None, Reason::ProbeDue) => "probe_due",
            (None, Reason::ProbeLost) => "probe_lost",
            (None, Reason::Forced) => "forced",
            (None, Reason::Released) => "released",
            (None, Reason::Reset) => "reset",
            (None, Reason::ChecksPassed { .. }) => "checks_passed",
            (None, _) => "probes_succeeded",
        };
        Self { from: rows::state_name(change.from), to: rows::state_name(change.to), trigger }
    }
}

fn log(transition: &Transition) {
    let (service, replica) = (&transition.key.service, &transition.key.replica);
    let (address, message) = (&transition.address, rows::message(transition));
    match transition.change.to {
        _ if transition.change.withheld.is_some() => {
            tracing::warn!(%service, %replica, %address, "{message}");
        }
        State::Open | State::ForcedOpen => tracing::warn!(%service, %replica, %address, "{message}"),
        State::HalfOpen | State::Closed | State::ForcedClosed => {
            tracing::info!(%service, %replica, %address, "{message}");
        }
    }
}

fn log_check(change: &CheckChange) {
    let (service, replica, address) = (&change.key.service, &change.key.replica, &change.address);
    let message = checks::message(change);
    match change.turn.to {
        Verdict::Failing => tracing::warn!(%service, %replica, %address, "{message}"),
        Verdict::Passing | Verdict::Pending => tracing::info!(%service, %replica, %address, "{message}"),
    }
}

fn log_fail_open(change: &FailOpenChange) {
    let (service, message) = (&change.service, rows::fail_open_message(change));
    match change.began {
        Some(_) => tracing::warn!(%service, "{message}"),
        None => tracing::info!(%service, "{message}"),
    }
}
