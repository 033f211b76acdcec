//! The turns that the replicas of one service get while nothing changes.

use std::collections::{BTreeMap, VecDeque};

use gateway_proto::{ReplicaId, Weight};

use super::{Checked, claim};

/// The last turns since the last change.
#[derive(Debug, Default)]
pub(crate) struct Turns(VecDeque<ReplicaId>);

impl Turns {
    /// Something has changed: a rotation that is under way ends.
    pub(crate) fn begin_anew(&mut self) {
        self.0.clear();
    }

    /// A first attempt went to `replica`, while these replicas share the traffic.
    pub(crate) fn took(&mut self, replica: &ReplicaId, sharing: &BTreeMap<ReplicaId, Weight>) -> Checked {
        let divisor = sharing.values().fold(0, |divisor, weight| gcd(divisor, weight.get()));
        let share = |weight: &Weight| usize::from(weight.get() / divisor.max(1));
        let length: usize = sharing.values().map(share).sum();
        self.0.push_back(replica.clone());
        if self.0.len() > length {
            self.0.pop_front();
        }
        if self.0.len() < length {
            return Ok(());
        }
        let expected: BTreeMap<_, _> = sharing.iter().map(|(id, weight)| (id, share(weight))).collect();
        self.shares_are_exact(&expected)
    }

    /// While nothing changes, any round of turns gives every replica exactly its share.
    fn shares_are_exact(&self, expected: &BTreeMap<&ReplicaId, usize>) -> Checked {
        let mut counts: BTreeMap<&ReplicaId, usize> = BTreeMap::new();
        for id in &self.0 {
            *counts.entry(id).or_default() += 1;
        }
        claim("shares_are_exact", counts == *expected, || format!("{counts:?} instead of {expected:?}"))
    }
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}
