//! How many breakers of a service may be open at once.

use std::sync::{Arc, MutexGuard};

use super::{Roster, Service};
use crate::table::{
    Replica,
    checks::Standing,
    view::{Room, room},
};

/// Says whether a breaker may open by its rules. Where that is bounded, it holds the roster from the count until the breaker
/// has opened, so that no two take the last place.
pub(super) struct Gate<'a> {
    pub(super) service: &'a Service,
    pub(super) room: Room,
    pub(super) roster: Option<MutexGuard<'a, Roster>>,
}

impl Gate<'_> {
    pub(super) fn opens(&mut self) -> bool {
        match self.room {
            Room::Unbounded => true,
            Room::None => false,
            Room::Some => {
                let service = self.service;
                let roster = self.roster.get_or_insert_with(|| service.roster());
                let policy = &roster.policy.health_check;
                let is_asked = |replica: &&Arc<Replica>| {
                    replica.takes_requests() && replica.standing(policy) == Standing::Asked
                };
                let ready = roster.replicas.iter().filter(is_asked);
                room(&roster.policy.breaker, ready) != Room::None
            }
        }
    }
}
