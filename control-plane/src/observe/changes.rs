//! Which rows of the matrix changed, in the order in which they did, so that nobody need compare all of them.
//!
//! Each row has one place, that of its last change. So a reader that comes late finds each changed row once, whatever
//! happened meanwhile, and nothing is kept for it. Of rows that are gone a bounded number is remembered.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use gateway_proto::{NodeId, ReplicaKey};

/// Counts changes of rows, from 1.
pub type Change = u64;

/// Rows that are gone and remembered: some 2 MB. A reader that is further behind begins anew.
const MAX_REMOVALS: usize = 20_000;

/// The places of changed rows, and the rows that are gone.
#[derive(Debug, Default)]
pub(super) struct Changes {
    last: Change,
    rows: BTreeMap<Change, (ReplicaKey, NodeId)>,
    removals: VecDeque<Removal>,
    /// The last removal that is no longer remembered.
    forgotten: Change,
}

/// A row that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) at: Change,
    pub(super) key: ReplicaKey,
    pub(super) node: NodeId,
    /// When the row came.
    pub(super) added: Change,
    /// If it was the replica's last one: when its first one had come.
    pub(super) replica_added: Option<Change>,
}

impl Changes {
    /// The last change.
    pub(super) fn last(&self) -> Change {
        self.last
    }

    /// Notes that a row came, or changed; `before` is its place until now.
    pub(super) fn changed(&mut self, before: Option<Change>, key: &ReplicaKey, node: &NodeId) -> Change {
        self.last += 1;
        let row = before.and_then(|before| self.rows.remove(&before));
        self.rows.insert(self.last, row.unwrap_or_else(|| (key.clone(), node.clone())));
        self.last
    }

    /// Notes that a row is gone, whose last change is `before`.
    pub(super) fn removed(
        &mut self,
        before: Change,
        key: &ReplicaKey,
        node: &NodeId,
        added: Change,
        replica_added: Option<Change>,
    ) {
        self.last += 1;
        self.rows.remove(&before);
        if self.removals.len() == MAX_REMOVALS
            && let Some(oldest) = self.removals.pop_front()
        {
            self.forgotten = oldest.at;
        }
        let (key, node) = (key.clone(), node.clone());
        self.removals.push_back(Removal { at: self.last, key, node, added, replica_added });
    }

    /// Whether every removal after `since` is remembered.
    pub(super) fn reaches(&self, since: Change) -> bool {
        self.forgotten <= since
    }

    /// Rows that are there and changed after `since`.
    pub(super) fn rows_since(&self, since: Change) -> impl Iterator<Item = &(ReplicaKey, NodeId)> {
        self.rows.range((Bound::Excluded(since), Bound::Unbounded)).map(|(_, row)| row)
    }

    /// The same with their changes, oldest first.
    pub(super) fn numbered_since(
        &self,
        since: Change,
    ) -> impl Iterator<Item = (Change, &(ReplicaKey, NodeId))> {
        let rows = self.rows.range((Bound::Excluded(since), Bound::Unbounded));
        rows.map(|(change, row)| (*change, row))
    }

    /// Rows that went after `since`.
    pub(super) fn removals_since(&self, since: Change) -> impl Iterator<Item = &Removal> {
        let start = self.removals.partition_point(|removal| removal.at <= since);
        self.removals.range(start..)
    }
}
