//! What each identity has registered.

use std::collections::HashMap;

use crate::registry::{Holding, Record, SparseText};

/// By the names of identities; those who have nothing are not in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings(HashMap<SparseText, Holding>);

impl Holdings {
    pub(super) fn get(&self, name: &str) -> Option<&Holding> {
        self.0.get(name)
    }

    /// The registry's own copy of a name, so that all replicas of an identity share one.
    pub(super) fn shared_name(&self, name: &SparseText) -> SparseText {
        self.0.get_key_value(&**name).map_or(name, |(known, _)| known).clone()
    }

    /// Counts a record in the place of another one.
    pub(super) fn change(&mut self, before: Option<&Record>, after: Option<&Record>) {
        let named = |record: &&Record| !record.registered_by.is_empty();
        if let Some(record) = after.filter(named) {
            let holding = self.0.entry(record.registered_by.clone()).or_default();
            holding.add(&record.key.service, record.lost.is_some());
        }
        if let Some(record) = before.filter(named)
            && let Some(holding) = self.0.get_mut(&*record.registered_by)
        {
            holding.remove(&record.key.service, record.lost.is_some());
            if holding.services() == 0 {
                self.0.remove(&*record.registered_by);
            }
        }
    }
}
