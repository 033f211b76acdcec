//! What can be asked of the registry.

use std::time::Duration;

use gateway_proto::{Address, Health, LeaseId, ReplicaId, ReplicaKey, ServiceName};

use super::Registration;

/// One change that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Add a replica, or put a new registration in the place of an earlier one.
    Register(Registration),
    /// Remove a replica; an absent one is success.
    Deregister {
        /// Which one.
        target: Target,
        /// By what right.
        proof: Proof,
        /// For people, in the event.
        reason: String,
    },
    /// Set the health that the replica reports of itself.
    ReportHealth {
        /// Which replica.
        key: ReplicaKey,
        /// Its lease; may be absent for a permanent replica only.
        lease: Option<LeaseId>,
        /// The new health.
        health: Health,
        /// For people.
        reason: String,
    },
    /// Remove a replica whose lease lapsed, unless it has got another lease meanwhile.
    Expire {
        /// Which replica.
        key: ReplicaKey,
        /// The lease that lapsed.
        lease: LeaseId,
        /// How long nothing was heard of its owner.
        silent_for: Duration,
    },
}

/// Names a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By its id.
    Key(ReplicaKey),
    /// By where it is reached, for callers that never learnt an id.
    Address(ServiceName, Address),
}

/// The right to remove a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// None: enough for a permanent replica.
    None,
    /// The owner's lease.
    Lease(LeaseId),
    /// An operator's word.
    Force,
}

/// Random ids that a registration takes when it needs them: drawn outside, so that deciding is repeatable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// For a replica without an id.
    pub replica: ReplicaId,
    /// For its lease.
    pub lease: LeaseId,
}

impl Candidates {
    /// Makes ids of random bits: `r-` and eight characters of base 32, and a lease id of 128 bits.
    pub fn from_random(replica: u64, lease: u128) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let digit = |place: u32| char::from(ALPHABET[(replica >> (5 * place)) as usize % 32]);
        let id: String = ['r', '-'].into_iter().chain((0..8).map(digit)).collect();
        let replica = ReplicaId::parse(&id).expect("letters, digits and one '-' inside make a label");
        Self { replica, lease: LeaseId::from_random(lease) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_a_short_label_that_depends_on_the_bits() {
        let id = |bits| Candidates::from_random(bits, 0).replica.to_string();
        assert_eq!(id(0), "r-aaaaaaaa");
        assert_eq!(id(31), "r-7aaaaaaa");
        assert_eq!(id(u64::MAX), "r-77777777");
    }
}
