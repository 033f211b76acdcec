//! Which bands of replicas are in use, and how much of the traffic each has.

use std::{collections::BTreeMap, sync::Arc};

use gateway_proto::{Priority, policy::Balancing};

use super::Replica;
use crate::routing::{
    Rotation, Tick,
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
#[derive(Debug)]
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

    /// The best band in use.
    pub(super) fn best(&self) -> Option<Band> {
        self.in_use.first().map(|(band, _)| *band)
    }

    /// Whether a band is in use.
    pub(super) fn uses(&self, band: Band) -> bool {
        self.in_use.iter().any(|(used, _)| *used == band)
    }

    /// Whether what is in this band is as good as what is in use, or better.
    pub(super) fn reaches(&self, band: Band) -> bool {
        self.in_use.last().is_none_or(|(worst, _)| band <= *worst)
    }

    /// Whose turn it is among those in use, and what each has of the traffic relative to the others, at `now`.
    pub(super) fn turns(
        &self,
        eligible: &[Arc<Replica>],
        balancing: &Balancing,
        now: Tick,
    ) -> (Box<[u64]>, Rotation) {
        let share = |replica: &Arc<Replica>| replica.share(now, balancing.slow_start);
        let shares: Box<[u64]> = eligible.iter().map(share).collect();
        if self.in_use.len() <= 1 {
            let rotation = Rotation::of_shares(&shares);
            return (shares, rotation);
        }
        let band_of = |replica: &Arc<Replica>| {
            let band = Band::of(replica, balancing);
            let place = self.in_use.iter().position(|(used, _)| *used == band);
            place.expect("those are eligible whose band is in use")
        };
        let bands: Vec<_> = eligible.iter().map(band_of).collect();
        let parts: Vec<_> = self.in_use.iter().map(|(_, part)| *part).collect();
        let rotation = Rotation::of_bands(&parts, &bands, &shares);
        let mut sums = vec![0; self.in_use.len()];
        bands.iter().zip(&shares).for_each(|(band, share)| sums[*band] += share);
        let of_all = |(band, share): (&usize, &u64)| share_of_part(*share, sums[*band], parts[*band]);
        (bands.iter().zip(&shares).map(of_all).collect(), rotation)
    }
}
