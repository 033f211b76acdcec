//! What is owed of the turns when another view takes the place of one, see [`Claims`].
//!
//! Each view begins with it, so that changes take no turns from anybody, however many there are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use gateway_proto::ReplicaId;

use super::{Replica, View, bands::Band};
use crate::routing::Claims;

/// Of so many replicas that take no turns it is remembered: those that left last.
const MOST_AWAY: usize = 1000;

/// What is owed beside what a view's rotation knows.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// To bands when the view began, those included that are not in use.
    bands: BTreeMap<Band, f64>,
    /// To replicas that take no turns, who left last at the end. By id, for many of them register anew.
    away: Vec<(ReplicaId, f64)>,
}

impl Owed {
    /// What the view after `previous` begins with, in which these are eligible, and the bands of theirs in use. Turns that
    /// somebody takes of `previous` afterwards are not known any more.
    pub(super) fn after(
        previous: &View,
        eligible: &[Arc<Replica>],
        in_use: impl Iterator<Item = Band>,
    ) -> (Self, Claims) {
        let known = previous.rotation.claims(previous.cursor.0.load(Relaxed));
        let mut bands = previous.owed.bands.clone();
        bands.extend(previous.split.bands().zip(known.bands));
        let id = |replica: &Arc<Replica>| replica.key().replica.clone();
        let mut back: HashMap<_, _> = previous.owed.away.iter().cloned().collect();
        let mut left = Vec::new();
        // Both are in the order of their ids.
        let mut before = previous.eligible.iter().zip(known.positions).peekable();
        let mut claim = |replica: &Arc<Replica>| {
            while let Some((gone, claim)) = before.next_if(|(other, _)| other.key() < replica.key()) {
                left.push((id(gone), claim));
            }
            let stays = before.next_if(|(other, _)| other.key() == replica.key());
            let claim = stays.map(|(_, claim)| claim);
            claim.or_else(|| back.remove(&replica.key().replica)).unwrap_or(0.0)
        };
        let positions = eligible.iter().map(&mut claim).collect();
        left.extend(before.map(|(gone, claim)| (id(gone), claim)));
        left.retain(|(_, claim)| *claim != 0.0);
        let away = previous.owed.away.iter().filter(|(id, _)| back.contains_key(id));
        let mut away: Vec<_> = away.cloned().chain(left).collect();
        away.drain(..away.len().saturating_sub(MOST_AWAY));
        let claims = Claims {
            positions,
            bands: in_use.map(|band| bands.get(&band).copied().unwrap_or(0.0)).collect(),
        };
        (Self { bands, away }, claims)
    }
}
