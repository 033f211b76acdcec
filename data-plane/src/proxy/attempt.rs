//! One attempt at one replica: reports exactly one outcome, whatever becomes of it.

use std::{rc::Rc, sync::Arc, task::Context};

use super::{upstream::Link, worker::Worker};
use crate::{
    routing::{Fault, Outcome, Permit},
    table::{Picked, Replica, Service, Unavailable},
};

/// Holds a picked replica's permit from the pick to the verdict.
///
/// Dropped without one (the client went away, a panic, a shutdown), it gives the permit back without blame.
#[derive(Debug)]
pub(super) struct Attempt {
    worker: Rc<Worker>,
    service: Arc<Service>,
    replica: Arc<Replica>,
    /// Until the outcome is known.
    permit: Option<Permit>,
}

impl Attempt {
    /// Picks a replica for the next attempt of a request that has `tried` some, and the policy for it.
    ///
    /// # Errors
    /// [`Unavailable`] when there is nobody (else) to ask.
    pub(super) fn begin(
        worker: &Rc<Worker>,
        service: &Arc<Service>,
        tried: &[Arc<Replica>],
    ) -> Result<(Self, gateway_proto::Policy), Unavailable> {
        let Picked { replica, permit, policy } = service.pick(worker.index(), worker.now(), tried)?;
        let attempt =
            Self { worker: Rc::clone(worker), service: Arc::clone(service), replica, permit: Some(permit) };
        Ok((attempt, policy))
    }

    /// Whom it asks.
    pub(super) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The response head has come and stands for `outcome`.
    ///
    /// What is no success is settled at once. So is a probe, because a stream that lasts for hours must not keep the
    /// breaker half-open. Any other success waits for the end of the body, which may yet break off.
    pub(super) fn answered(&mut self, outcome: Outcome) {
        let is_probe = self.permit.as_ref().is_some_and(Permit::is_probe);
        if is_probe || outcome != Outcome::Success {
            self.settle(outcome);
        }
    }

    /// The response came to its end: a success unless settled before. The connection is kept if it can be used again.
    pub(super) fn finished(mut self, mut link: Box<Link>, cx: &mut Context<'_>) {
        self.settle(Outcome::Success);
        if link.is_idle(cx) {
            self.worker.pool().keep(self.replica.address(), link, self.worker.now());
        }
    }

    /// The replica failed it.
    pub(super) fn failed(mut self, fault: Fault) {
        self.settle(Outcome::Failure(fault));
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            let (now, jitter) = (self.worker.now(), self.worker.random());
            self.service.settle(self.worker.index(), &self.replica, permit, outcome, now, jitter);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.settle(Outcome::Neutral);
    }
}
