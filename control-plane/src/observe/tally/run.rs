//! A run of failures, and who saw how many of them.

use std::collections::BTreeMap;

use gateway_proto::NodeId;

/// Failures since anything else happened. At most one entry for each data plane that has a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Run {
    by_node: BTreeMap<NodeId, u64>,
}

impl Run {
    /// Data plane `node` has seen so many more failures; with `or_else` anything else, too, which ends the run.
    pub(super) fn hear(&mut self, node: &NodeId, failures: u64, or_else: bool) {
        if or_else {
            self.by_node.clear();
        } else if failures > 0 {
            match self.by_node.get_mut(node) {
                Some(seen) => *seen = seen.saturating_add(failures),
                None => drop(self.by_node.insert(node.clone(), failures)),
            }
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        // Nobody stands here without failures.
        self.by_node.is_empty()
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.by_node.values().copied().fold(0, u64::saturating_add)
    }

    /// As many as count when no data plane's word weighs more than that of all others together: one that lies, or has
    /// lost its network, comes to nothing alone.
    pub(super) fn borne_out(&self) -> u64 {
        let most = self.by_node.values().copied().max().unwrap_or(0);
        let others = self.total().saturating_sub(most);
        self.total().min(others.saturating_mul(2))
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        self.by_node.remove(node);
    }
}
