//! The last changes, from which any data plane that is not too far behind is brought up to date.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use gateway_proto::{ReplicaKey, RouteName, ServiceName, v1};

use crate::registry::{
    Change, Override, OverrideId, Record, ReplicaChange, Revision, Scope, ServiceStep, View,
};

/// Jumps that are remembered.
const MAX_JUMPS: usize = 16;

/// A bounded ring of changes in the order of their revisions.
#[derive(Debug)]
pub struct DeltaLog {
    /// The revision before the oldest change kept: deltas reach back to here.
    floor: Revision,
    head: Revision,
    changes: VecDeque<Change>,
    capacity: usize,
    /// Revisions that were passed over, by those at both ends: what came and went between them is not known here, and others
    /// may have told data planes of it.
    jumps: VecDeque<(Revision, Revision)>,
}

impl DeltaLog {
    /// A log that begins at `revision` and keeps at most `capacity` changes.
    pub fn new(revision: Revision, capacity: usize) -> Self {
        let (changes, jumps) = (VecDeque::new(), VecDeque::new());
        Self { floor: revision, head: revision, changes, capacity, jumps }
    }

    /// The revision of the last change.
    pub fn head(&self) -> Revision {
        self.head
    }

    /// Takes in changes whose revisions are not before any that the log has seen.
    pub fn extend(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.head = change.revision();
            self.changes.push_back(change);
        }
        // Several changes may share a revision; a base between them must not exist.
        while self.changes.len() > self.capacity
            || self.changes.front().is_some_and(|c| c.revision() == self.floor)
        {
            match self.changes.pop_front() {
                Some(change) => self.floor = change.revision(),
                None => break,
            }
        }
        while self.jumps.front().is_some_and(|(_, to)| *to <= self.floor) {
            self.jumps.pop_front();
        }
    }

    /// Takes in what differs at `head`, which others have come to: no delta leads there from between it and the head so far. A head
    /// that does not come after that one begins the log anew.
    pub fn jump(&mut self, changes: impl IntoIterator<Item = Change>, head: Revision) {
        if head <= self.head || self.jumps.len() == MAX_JUMPS {
            *self = Self::new(head, self.capacity);
            return;
        }
        self.jumps.push_back((self.head, head));
        self.extend(changes);
        self.head = head;
    }

    /// Whether a delta leads from `base` to the head.
    pub fn reaches(&self, base: Revision) -> bool {
        let is_passed_over = |(from, to): &(Revision, Revision)| (*from + 1..*to).contains(&base);
        (self.floor..=self.head).contains(&base) && !self.jumps.iter().any(is_passed_over)
    }

    /// How many changes lead from `base` to the head, if they are all there.
    pub fn count_since(&self, base: Revision) -> Option<usize> {
        self.reaches(base).then(|| self.changes.len() - self.start(base))
    }

    /// All changes after `base` as one delta, the last state of each key only, given the view at the head.
    ///
    /// What came and went in between is not mentioned. `None` when the log does not reach back to `base`, or `base` is
    /// ahead of it.
    pub fn since(&self, base: Revision, view: &View) -> Option<v1::Delta> {
        Some(v1::Delta { base_revision: base, ..self.spans(base)?.into_delta(view) })
    }

    /// What became of each replica that has changed since `base`; `None` as for [`DeltaLog::since`].
    ///
    /// What came and went in between is not mentioned.
    pub fn replicas_since(&self, base: Revision) -> Option<Vec<ReplicaStep>> {
        let steps = self.spans(base)?.replicas.into_iter().filter_map(|(key, (existed, change))| {
            let record = change.record.clone();
            (existed || record.is_some()).then(|| ReplicaStep { key: key.clone(), existed, record })
        });
        Some(steps.collect())
    }

    /// All that was touched after `base`; `None` as for [`DeltaLog::since`].
    fn spans(&self, base: Revision) -> Option<Spans<'_>> {
        let mut spans = Spans::default();
        self.reaches(base)
            .then(|| self.changes.range(self.start(base)..).for_each(|change| spans.take(change)))?;
        Some(spans)
    }

    /// Where the changes after `base` begin.
    fn start(&self, base: Revision) -> usize {
        self.changes.partition_point(|change| change.revision() <= base)
    }
}

/// One replica at two revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStep {
    /// Which one.
    pub key: ReplicaKey,
    /// Whether it was there at the first.
    pub existed: bool,
    /// What it is at the second; `None`: gone.
    pub record: Option<Arc<Record>>,
}

/// What was touched between two revisions, and what each was at the first.
#[derive(Default)]
struct Spans<'a> {
    /// Whether each was there at the base, and whether it is at the head.
    services: BTreeMap<&'a ServiceName, (bool, bool)>,
    /// Whether each was there at the base, and its last change.
    replicas: BTreeMap<&'a ReplicaKey, (bool, &'a ReplicaChange)>,
    policies: BTreeSet<&'a Scope>,
    /// Whether each was there at the base.
    overrides: BTreeMap<&'a OverrideId, bool>,
    /// Whether each was there at the base.
    routes: BTreeMap<&'a RouteName, bool>,
}

impl<'a> Spans<'a> {
    fn take(&mut self, change: &'a Change) {
        match change {
            Change::Replica(change) => self.take_replica(change),
            Change::Policy { scope, .. } => {
                self.policies.insert(scope);
            }
            Change::Override { id, existed, .. } => {
                self.overrides.entry(id).or_insert(*existed);
            }
            Change::Route { name, existed, .. } => {
                self.routes.entry(name).or_insert(*existed);
            }
        }
    }

    fn take_replica(&mut self, change: &'a ReplicaChange) {
        let existed = change.service != ServiceStep::Appeared;
        let service = self.services.entry(&change.key.service).or_insert((existed, existed));
        service.1 = change.service != ServiceStep::Vanished;
        self.replicas.entry(&change.key).or_insert((change.existed, change)).1 = change;
    }

    fn into_delta(self, view: &View) -> v1::Delta {
        let mut delta = v1::Delta::default();
        let star_changed = self.policies.contains(&Scope::All);
        if star_changed {
            delta.default_policy = Some(view.policies().default_to_wire());
        }
        // Services whose policy is another one now, but for those that are gone.
        let own = view.policies().services().filter(|_| star_changed);
        let touched = own.chain(self.policies.iter().filter_map(|scope| scope.service()));
        let mut upserts: BTreeSet<&ServiceName> =
            touched.filter(|name| view.service(name).is_some()).collect();
        for (name, (existed, exists)) in &self.services {
            match (existed, exists) {
                (false, true) => {
                    upserts.insert(name);
                }
                (true, false) => delta.remove_services.push(name.to_string()),
                _ => {}
            }
        }
        delta.upsert_services = upserts.into_iter().map(|name| service_entry(view, name)).collect();
        for (key, (existed, change)) in &self.replicas {
            match &change.record {
                Some(record) => delta.upsert_replicas.push(record.to_snapshot()),
                None if *existed => delta.remove_replicas.push(v1::ReplicaRemoval {
                    service: key.service.to_string(),
                    replica_id: key.replica.to_string(),
                    cause: change.removal.into(),
                }),
                None => {}
            }
        }
        for (name, existed) in self.routes {
            match view.route(name) {
                Some(stored) => delta.upsert_routes.push(stored.to_snapshot()),
                None if existed => delta.remove_routes.push(name.to_string()),
                None => {}
            }
        }
        for (id, existed) in self.overrides {
            match view.override_of(id) {
                Some(entry) if entry.is_published() => delta.upsert_overrides.push(entry.to_wire()),
                Some(_) => {}
                None if existed && Override::is_id_published(id) => {
                    delta.remove_overrides.push(id.to_string())
                }
                None => {}
            }
        }
        delta
    }
}

/// A service without its replicas, and its policy if it has one of its own.
pub(super) fn service_entry(view: &View, name: &ServiceName) -> v1::ServiceSnapshot {
    let policy = view.policies().own_to_wire(name);
    v1::ServiceSnapshot { service: name.to_string(), policy, replicas: Vec::new() }
}

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;
