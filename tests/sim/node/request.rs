//! One request on its way through a data plane.

use std::{sync::Arc, time::Duration};

use data_plane::{
    routing::{Permit, Tick},
    table::{AttemptPolicy, Replica, Service},
};

use crate::{
    checks::{Checked, Ticket, claim},
    event::OwnerId,
};

/// A request that has not ended.
pub(super) struct Request {
    pub(super) service: Arc<Service>,
    pub(super) is_idempotent: bool,
    pub(super) is_replayable: bool,
    pub(super) deadline: Tick,
    pub(super) tried: Vec<Arc<Replica>>,
    pub(super) attempts: u32,
    pub(super) retries: u8,
    pub(super) flight: Option<Flight>,
    /// Of the response that the client gets.
    pub(super) status: Option<u16>,
    /// Whoever may have acted on it.
    seen: Vec<OwnerId>,
}

/// An attempt under way.
pub(super) struct Flight {
    pub(super) replica: Arc<Replica>,
    /// Until its outcome is known.
    pub(super) permit: Option<Permit>,
    pub(super) ticket: Ticket,
    pub(super) policy: AttemptPolicy,
    pub(super) began: Tick,
    /// Whether it has a response head, or failed without one.
    pub(super) is_heard: bool,
    /// How long it took to the response head, or to the end of its time.
    pub(super) latency: Option<Duration>,
    /// Who works on it, in which life.
    pub(super) server: Option<(OwnerId, u32)>,
}

impl Request {
    pub(super) fn new(
        service: Arc<Service>,
        is_idempotent: bool,
        is_replayable: bool,
        deadline: Tick,
    ) -> Self {
        Self {
            service,
            is_idempotent,
            is_replayable,
            deadline,
            tried: Vec::new(),
            attempts: 0,
            retries: 0,
            flight: None,
            status: None,
            seen: Vec::new(),
        }
    }

    /// Whether its attempt decides over a breaker.
    pub(super) fn is_probe(&self) -> bool {
        let permit = self.flight.as_ref().and_then(|flight| flight.permit.as_ref());
        permit.is_some_and(Permit::is_probe)
    }

    /// A replica has got all of it.
    pub(super) fn seen_by(&mut self, owner: OwnerId) -> Checked {
        self.seen.push(owner);
        self.what_must_not_be_repeated_is_seen_once()
    }

    /// A request that must not be done twice is never seen by two replicas.
    fn what_must_not_be_repeated_is_seen_once(&self) -> Checked {
        claim("what_must_not_be_repeated_is_seen_once", self.is_idempotent || self.seen.len() <= 1, || {
            format!("seen by {:?}", self.seen)
        })
    }
}
