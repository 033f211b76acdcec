//! Which bands of replicas are in use, and how much of the traffic each has.

use std::{collections::BTreeMap, sync::Arc};

use gateway_proto::{Priority, policy::Balancing};

use super::Replica;
use crate::routing::{
    Claims, Rotation, Tick,
    balancing::{Capacity, Distance, bear_all, parts, share_of_part},
};

/// Where replicas stand in the order of preference: by tier, and within a tier by distance, if the policy goes by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::table) struct Band {
    priority: Priority,
    distance: Distance,
}

impl Band {
    pub(in crate::table) fn of(replica: &Replica, balancing: &Balancing) -> Self {
        let distance = if balancing.prefer_local { replica.distance() } else { Distance::default() };
        Self { priority: replica.priority(), distance }
    }
}

/// How the traffic is split among bands.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// Those in use, best first, with their parts of the traffic, which are one in all.
    in_use: Vec<(Band, f64)>,
    /// Whether all bands together bear all traffic, as far as the policy says what one bears.
    pub(super) bears_all: bool,
}

impl Split {
    /// By what there is: those that let traffic through, and those that would if nothing were wrong with them.
    pub(super) fn new<'a>(
        balancing: &Balancing,
        letting_through: &[Arc<Replica>],
        out: impl IntoIterator<Item = &'a Arc<Replica>>,
    ) -> Self {
        let mut bands = BTreeMap::<Band, Capacity>::new();
        for replica in letting_through {
            let capacity = bands.entry(Band::of(replica, balancing)).or_default();
            capacity.letting_through += u64::from(replica.weight().get());
            capacity.total += u64::from(replica.weight().get());
        }
        for replica in out {
            let capacity = bands.entry(Band::of(replica, balancing)).or_default();
            capacity.total += u64::from(replica.weight().get());
        }
        let capacities: Vec<_> = bands.values().copied().collect();
        let factor = balancing.overprovisioning_factor;
        let in_use = bands.into_keys().zip(parts(&capacities, factor)).filter(|(_, part)| *part > 0.0);
        Self { in_use: in_use.collect(), bears_all: factor > 0.0 && bear_all(&capacities, factor) }
    }

    /// The bands in use, best first.
    pub(super) fn bands(&self) -> impl Iterator<Item = Band> {
        self.in_use.iter().map(|(band, _)| *band)
    }

    /// The place of a band among those in use.
    pub(super) fn place(&self, band: Band) -> Option<usize> {
        self.in_use.iter().position(|(used, _)| *used == band)
    }

    /// Whether a band is in use.
    pub(super) fn uses(&self, band: Band) -> bool {
        self.place(band).is_some()
    }

    /// Whether what is in this band is as good as what is in use, or better.
    pub(super) fn reaches(&self, band: Band) -> bool {
        self.in_use.last().is_none_or(|(worst, _)| band <= *worst)
    }

    /// Who has which turns among those in use, at `now`.
    pub(super) fn plan(&self, eligible: &[Arc<Replica>], balancing: &Balancing, now: Tick) -> Plan {
        let share = |replica: &Arc<Replica>| replica.share(now, balancing.slow_start);
        let shares = eligible.iter().map(share).collect();
        if self.in_use.len() <= 1 {
            return Plan { shares, ..Plan::default() };
        }
        let band_of = |replica: &Arc<Replica>| {
            let place = self.place(Band::of(replica, balancing));
            place.expect("those are eligible whose band is in use")
        };
        Plan {
            shares,
            bands: eligible.iter().map(band_of).collect(),
            parts: self.in_use.iter().map(|(_, part)| *part).collect(),
        }
    }
}

/// What a rotation is made of.
#[derive(Debug, PartialEq, Default)]
pub(super) struct Plan {
    /// By position, relative to others of the band.
    shares: Box<[u64]>,
    /// The band of each position; empty when there is one only.
    bands: Box<[usize]>,
    /// What each band has of the traffic.
    parts: Box<[f64]>,
}

impl Plan {
    /// Whose turn it is, from those on that are owed most.
    pub(super) fn rotation(&self, claims: &Claims) -> Rotation {
        if self.bands.is_empty() {
            return Rotation::of_shares(&self.shares, claims);
        }
        Rotation::of_bands(&self.parts, &self.bands, &self.shares, claims)
    }

    /// What each position has of the traffic relative to all others.
    pub(super) fn shares(&self) -> Box<[u64]> {
        let sums = self.sums();
        let of_all = |(band, share): (&usize, &u64)| share_of_part(*share, sums[*band], self.parts[*band]);
        let of_bands = || self.bands.iter().zip(&self.shares).map(of_all).collect();
        if self.bands.is_empty() { self.shares.clone() } else { of_bands() }
    }

    /// The largest share that any of these would have, who take turns or would if nothing were wrong with them: by the places of
    /// their bands, and what they would have of these. It stays the same while somebody is out or starts slowly.
    pub(super) fn largest(&self, members: impl Iterator<Item = (Option<usize>, u64)>) -> u64 {
        let sums = self.sums();
        let of_all = |(band, share): (Option<usize>, u64)| match band.filter(|_| !self.bands.is_empty()) {
            Some(band) => share_of_part(share, sums[band], self.parts[band]),
            None => share,
        };
        members.map(of_all).max().unwrap_or(1)
    }

    /// What those of each band have together.
    fn sums(&self) -> Vec<u64> {
        let mut sums = vec![0; self.parts.len()];
        self.bands.iter().zip(&self.shares).for_each(|(band, share)| sums[*band] += share);
        sums
    }
}
