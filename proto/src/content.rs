//! The hash by which a data plane finds that it holds something else than the registry.
//!
//! It is a sum of one number for each thing held, so that it is kept up to date by adding what comes and subtracting what
//! goes, and is the same whatever the order. The contract describes it: see `Bookmark.content_hash`.

use std::fmt;

use crate::{ReplicaKey, RouteName, ServiceName};

/// Sum of the numbers of all that is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContentHash(u64);

impl ContentHash {
    /// Takes a replica in, as of the revision of its last change.
    pub fn add_replica(&mut self, key: &ReplicaKey, revision: i64) {
        self.add(replica(key, revision));
    }

    /// Takes a replica out again.
    pub fn remove_replica(&mut self, key: &ReplicaKey, revision: i64) {
        self.subtract(replica(key, revision));
    }

    /// Takes a service's own policy in; that of all services under `None`.
    pub fn add_policy(&mut self, service: Option<&ServiceName>, revision: i64) {
        self.add(policy(service, revision));
    }

    /// Takes a policy out again.
    pub fn remove_policy(&mut self, service: Option<&ServiceName>, revision: i64) {
        self.subtract(policy(service, revision));
    }

    /// Takes an override in.
    pub fn add_override(&mut self, id: &str, revision: i64) {
        self.add(number(&["o/", id], revision));
    }

    /// Takes an override out again.
    pub fn remove_override(&mut self, id: &str, revision: i64) {
        self.subtract(number(&["o/", id], revision));
    }

    /// Takes an explicit route in.
    pub fn add_route(&mut self, name: &RouteName, revision: i64) {
        self.add(number(&["t/", name.as_str()], revision));
    }

    /// Takes an explicit route out again.
    pub fn remove_route(&mut self, name: &RouteName, revision: i64) {
        self.subtract(number(&["t/", name.as_str()], revision));
    }

    /// Takes in all that another hash holds.
    pub fn merge(&mut self, other: Self) {
        self.add(other.0);
    }

    /// Takes out all that another hash holds.
    pub fn unmerge(&mut self, other: Self) {
        self.subtract(other.0);
    }

    fn add(&mut self, number: u64) {
        self.0 = self.0.wrapping_add(number);
    }

    fn subtract(&mut self, number: u64) {
        self.0 = self.0.wrapping_sub(number);
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn replica(key: &ReplicaKey, revision: i64) -> u64 {
    number(&["r/", key.service.as_str(), "/", key.replica.as_str()], revision)
}

fn policy(service: Option<&ServiceName>, revision: i64) -> u64 {
    number(&["p/", service.map_or("*", ServiceName::as_str)], revision)
}

/// FNV-1a (Fowler, Noll, Vo) over `TEXT@REVISION`, finished by the mixer of SplitMix64 (Steele, Lea, Flood 2014), so that
/// sums of numbers that differ in few bits do not cancel out.
fn number(texts: &[&str], revision: i64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    texts.iter().for_each(|text| take(text.as_bytes()));
    take(b"@");
    take(revision.to_string().as_bytes());
    let mut mixed: u64 = hash;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> ReplicaKey {
        ReplicaKey::parse("orders", id).unwrap()
    }

    #[test]
    fn what_is_taken_out_again_leaves_no_trace_and_order_does_not_matter() {
        let (mut one, mut two) = (ContentHash::default(), ContentHash::default());
        one.add_replica(&key("a"), 1);
        one.add_replica(&key("b"), 2);
        one.add_override("x", 3);
        one.remove_override("x", 3);
        two.add_replica(&key("b"), 2);
        two.add_replica(&key("a"), 1);
        assert_eq!(one, two);
        two.remove_replica(&key("b"), 2);
        two.remove_replica(&key("a"), 1);
        assert_eq!(two, ContentHash::default());
    }

    #[test]
    fn another_revision_name_or_kind_is_another_hash() {
        let hash = |add: &dyn Fn(&mut ContentHash)| {
            let mut hash = ContentHash::default();
            add(&mut hash);
            hash.to_string()
        };
        let service = ServiceName::parse("orders").unwrap();
        let hashes = [
            hash(&|hash| hash.add_replica(&key("a"), 1)),
            hash(&|hash| hash.add_replica(&key("a"), 2)),
            hash(&|hash| hash.add_replica(&key("b"), 1)),
            hash(&|hash| hash.add_policy(Some(&service), 1)),
            hash(&|hash| hash.add_policy(None, 1)),
            hash(&|hash| hash.add_override("orders", 1)),
            hash(&|hash| hash.add_route(&RouteName::parse("orders").unwrap(), 1)),
        ];
        let distinct: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }

    #[test]
    fn the_number_of_a_text_is_what_the_contract_says() {
        // Computed apart, from the description in the contract.
        let mut hash = ContentHash::default();
        hash.add_replica(&key("r-1"), 7);
        assert_eq!(hash.to_string(), "7dc425c4056df8c7");
    }
}
