//! Who has which keys, at one moment.
//!
//! The ring is made of all replicas that take requests, also of those whose breakers let nobody through at the moment, and
//! stays the same while these do. So a replica that is ejected gives its keys to many others and gets the same keys
//! back, and a breaker's transition costs no sorting.

use std::{collections::HashSet, sync::Arc};

use gateway_proto::ReplicaId;

use super::Replica;
use crate::routing::balancing::{Ring, load_bound};

/// The keys' way to eligible replicas.
#[derive(Debug)]
pub(super) struct Affinity {
    ring: Arc<NamedRing>,
    /// By member of the ring.
    seats: Box<[Seat]>,
    /// The sum of all shares.
    sum: u64,
    /// Those that are not eligible and may have something under way, whether they are still there or not.
    aside: Box<[Arc<Replica>]>,
}

/// A ring, and whom it is made of.
#[derive(Debug)]
pub(super) struct NamedRing {
    names: Box<[ReplicaId]>,
    ring: Ring,
}

/// What a member of the ring is at the moment.
#[derive(Debug, Clone, Copy)]
struct Seat {
    /// Its position among the eligible.
    position: u32,
    /// How many of its points it uses; none while it is not eligible.
    points: u16,
    share: u64,
}

impl Affinity {
    /// The ring of all that take requests: the previous one, if it is made of the same, with as many points.
    pub(super) fn ring(ready: &[Arc<Replica>], previous: Option<&Self>) -> Arc<NamedRing> {
        let names = || ready.iter().map(|replica| &replica.key().replica);
        let heaviest = ready.iter().map(|replica| replica.weight().get()).max().unwrap_or(1);
        let points = Ring::points_by(heaviest, ready.len());
        let is_same = |ring: &NamedRing| ring.ring.each() == points && ring.names.iter().eq(names());
        let same = previous.filter(|previous| is_same(&previous.ring));
        same.map_or_else(
            || {
                let ring = Ring::new(names().map(ReplicaId::as_str), points);
                Arc::new(NamedRing { names: names().cloned().collect(), ring })
            },
            |previous| Arc::clone(&previous.ring),
        )
    }

    /// Of the `eligible`, in the order of their ids, with their shares. Each uses as many of its points as its share is of the
    /// `largest` that there would be if all members were: then nobody's points are others because of somebody else.
    pub(super) fn new(
        ring: Arc<NamedRing>,
        eligible: &[Arc<Replica>],
        shares: &[u64],
        largest: u64,
        aside: Box<[Arc<Replica>]>,
    ) -> Self {
        let mut positions = eligible.iter().zip(shares).zip(0..).peekable();
        let seat = |name: &ReplicaId| {
            // Both are in the order of ids.
            let here = positions.next_if(|((replica, _), _)| replica.key().replica == *name);
            here.map_or(Seat { position: 0, points: 0, share: 0 }, |((_, share), position)| Seat {
                position,
                points: ring.ring.points_used(*share, largest),
                share: *share,
            })
        };
        let seats = ring.names.iter().map(seat).collect();
        Self { ring, seats, sum: shares.iter().sum(), aside }
    }

    /// Those of `all` and of `before` that are not eligible now: who is gone, as long as it has something under way.
    pub(super) fn aside<'a>(
        all: impl IntoIterator<Item = &'a Arc<Replica>>,
        eligible: &[Arc<Replica>],
        before: Option<(&'a [Arc<Replica>], &'a Self)>,
    ) -> Box<[Arc<Replica>]> {
        let mut known: HashSet<_> = eligible.iter().map(|replica| replica.number()).collect();
        let before = before.into_iter().flat_map(|(eligible, before)| eligible.iter().chain(&before.aside));
        let before = before.filter(|replica| replica.counts().inflight() > 0);
        all.into_iter().chain(before).filter(|replica| known.insert(replica.number())).cloned().collect()
    }

    /// How many of the `inflight` of a service are at those that are eligible. In O(1) while all are.
    pub(super) fn of_eligible(&self, inflight: u64) -> u64 {
        let aside = self.aside.iter().map(|replica| replica.counts().inflight());
        inflight.saturating_sub(aside.sum())
    }

    /// Positions of eligible replicas in the order in which they have a claim to the key, some more than once, each with
    /// how many requests it may have in flight, the one that comes included.
    pub(super) fn walk(&self, key: u64, factor: f64, inflight: u64) -> impl Iterator<Item = (usize, u64)> {
        self.ring.ring.walk(key).filter_map(move |point| {
            let seat = self.seats[point.member as usize];
            let bound = || load_bound(factor, inflight, seat.share, self.sum);
            (point.order < seat.points).then(|| (seat.position as usize, bound()))
        })
    }
}
