//! One attempt at one replica: reports exactly one outcome, whatever becomes of it.

use std::{cell::RefCell, rc::Rc, sync::Arc, task::Waker, time::Duration};

use crate::{
    proxy::{body::response_body::UpstreamBody, head::request_id::RequestId, upstream::Link, worker::Worker},
    routing::{Admitted, Draw, Fault, Heard, Origin, Outcome, PROBE_BODY, Permit, Tick},
    table::{HeldService, Picked, Replica, TunnelCounts, Unavailable, Waiting},
};

/// Holds a picked replica's permit from the pick to the verdict.
///
/// Dropped without one (a drain that was over, a panic, a client that broke off its request), it gives the permit back without
/// blame. So it does when it is [given up](Self::given_up), unless its replica [hangs](crate::table::Service::waited_in_vain). In any case the
/// replica has nothing more to do with the request once it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Attempt {
    worker: Rc<Worker>,
    service: HeldService,
    replica: Arc<Replica>,
    /// Until the outcome is known.
    permit: Option<Permit>,
    began: Tick,
    /// Since when it has a connection, or a place on one.
    linked: Tick,
    /// Until a response head has come.
    awaits_head: bool,
    /// How long the replica took to it, by which it is judged.
    latency: Option<Duration>,
    /// When a probe whose answer goes on passes, whatever is still to come of it.
    passes_at: Tick,
    /// Its place among the worker's attempts.
    place: usize,
}

impl Attempt {
    /// Picks a replica for the next attempt of a request that has `tried` some.
    ///
    /// # Errors
    /// [`Unavailable`] when there is nobody (else) to ask.
    pub(in crate::proxy) fn begin(
        worker: &Rc<Worker>,
        service: &HeldService,
        tried: &[Arc<Replica>],
        draw: Draw,
        request_id: &RequestId,
    ) -> Result<Self, Unavailable> {
        let began = worker.now();
        let picked = service.pick(worker.index(), began, tried, draw)?;
        Ok(Self::of(worker, service, picked, began, request_id))
    }

    /// As [`Attempt::begin`], for a request that waits for a place.
    pub(in crate::proxy) fn begin_in_turn(
        worker: &Rc<Worker>,
        service: &HeldService,
        tried: &[Arc<Replica>],
        draw: Draw,
        waiting: &mut Waiting,
        request_id: &RequestId,
    ) -> Result<Self, Unavailable> {
        let began = worker.now();
        let picked = waiting.pick(worker.index(), began, tried, draw)?;
        Ok(Self::of(worker, service, picked, began, request_id))
    }

    fn of(
        worker: &Rc<Worker>,
        service: &HeldService,
        picked: Picked,
        began: Tick,
        request_id: &RequestId,
    ) -> Self {
        let Picked { replica, permit } = picked;
        Self {
            worker: Rc::clone(worker),
            service: Arc::clone(service),
            replica,
            permit: Some(permit),
            began,
            linked: began,
            awaits_head: true,
            latency: None,
            passes_at: Tick::NEVER,
            place: worker.flights().begin(request_id),
        }
    }

    /// A tick on the clock of timers.
    pub(in crate::proxy) fn instant(&self, tick: Tick) -> std::time::Instant {
        self.worker.instant(tick)
    }

    /// When it began.
    pub(in crate::proxy) fn began(&self) -> Tick {
        self.began
    }

    /// It has a connection, or a place on one that others use, too.
    pub(in crate::proxy) fn is_linked(&mut self) {
        self.linked = self.worker.now();
    }

    /// Since when it waits for its replica alone: what it waited for room before says nothing of that.
    pub(in crate::proxy) fn linked(&self) -> Tick {
        self.linked
    }

    /// Something more has come of its replica than a response's head.
    pub(in crate::proxy) fn shows_life(&self) {
        self.replica.shows_life(self.worker.index(), self.worker.now());
    }

    /// Its place among the worker's attempts.
    pub(in crate::proxy) fn place(&self) -> usize {
        self.place
    }

    /// The response's body goes on from here, and is cut when the replica's drain is over.
    pub(in crate::proxy) fn streams(&self, body: &Rc<RefCell<UpstreamBody>>) {
        self.worker.flights().streams(self.place, body);
    }

    /// The task that moves the response is about to wait.
    pub(in crate::proxy) fn waits(&self, by: &Waker) {
        self.worker.flights().waits(self.place, self.passes_at, by);
    }

    /// Whether a breaker lets it through to find out how the replica is.
    pub(in crate::proxy) fn is_probe(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_probe)
    }

    /// How its breaker came to let it through; of one that has ended nobody knows.
    pub(in crate::proxy) fn admitted(&self) -> Admitted {
        self.permit.as_ref().map_or(Admitted::LikeAll, Permit::admitted)
    }

    /// Whom it asks.
    pub(in crate::proxy) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The time of its worker.
    pub(in crate::proxy) fn now(&self) -> Tick {
        self.worker.now()
    }

    /// The response head has come and stands for `outcome`; the replica could have the whole request at `since`.
    /// `says_all` unless the head of a success says nothing of how a call goes.
    ///
    /// What is no success is settled at once. A success waits for the end of the body, which may yet break off; but a probe
    /// not for long, because a stream that lasts for hours must not keep the breaker half-open. Where the head does not say all,
    /// it has as long as for a head, unless it would lose its place before.
    pub(in crate::proxy) fn answered(&mut self, outcome: Outcome, since: Tick, says_all: bool) {
        self.hear(outcome, since);
        if outcome != Outcome::Success {
            self.settle(outcome);
        } else if says_all {
            self.passes_after(PROBE_BODY);
        } else if self.is_probe() {
            let timeout = self.service.policy().timeout;
            let lost_at = self.began.plus(timeout.connect + timeout.per_try + PROBE_BODY);
            let left = lost_at.since(self.worker.now());
            self.passes_after(timeout.per_try.min(left).max(PROBE_BODY));
        }
    }

    /// A probe whose answer looks good so far has so long left to break off, or less if that was said before.
    fn passes_after(&mut self, left: Duration) {
        let at = self.worker.now().plus(left);
        if self.is_probe() && at < self.passes_at {
            self.passes_at = at;
            self.worker.flights().is_due(self.place, at);
        }
    }

    /// When it passes as a probe, if it does so by time alone and has not yet: to be asked again then.
    pub(in crate::proxy) fn pass(&mut self) -> Option<Tick> {
        if self.passes_at <= self.worker.now() {
            self.passes_at = Tick::NEVER;
            self.settle(Outcome::Success);
        }
        (self.passes_at < Tick::NEVER).then_some(self.passes_at)
    }

    /// Nobody waits for its response head any longer, which the replica could have sent from `since` on: the caller has left, or
    /// its time is over, or another replica was quicker, by which this one `is_outrun`. Nobody is to blame for that, unless the
    /// replica hangs: whoever is always given up would never be found out otherwise.
    pub(in crate::proxy) fn given_up(mut self, since: Tick, is_outrun: bool) {
        // Only then it tells how slow the replica is: a caller may leave at any time, for any reason.
        self.latency = is_outrun.then(|| self.worker.now().since(since));
        let outcome = self.in_vain(since, is_outrun);
        self.settle(outcome);
    }

    /// What it says of the replica that it was waited for since then in vain.
    pub(in crate::proxy) fn in_vain(&self, since: Tick, is_outrun: bool) -> Outcome {
        let waited = self.service.waited_in_vain(&self.replica, since, is_outrun, self.worker.now());
        waited.map_or(Outcome::Neutral, |waited| Outcome::Failure(Fault::Unanswered(waited)))
    }

    /// The replica has switched protocols: a success, whatever becomes of the tunnel. It could have the whole request at
    /// `since`.
    pub(in crate::proxy) fn switched(&mut self, since: Tick) {
        self.hear(Outcome::Success, since);
        self.settle(Outcome::Success);
    }

    /// Where the tunnels of its service are counted.
    pub(in crate::proxy) fn counts(&self) -> &TunnelCounts {
        self.service.tunnels()
    }

    /// The worker that it is one of.
    pub(in crate::proxy) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Something of the answer to a call has come: as good as a head that says all.
    pub(in crate::proxy) fn got_message(&mut self) {
        self.passes_after(PROBE_BODY);
    }

    /// What stands behind the response's body is known.
    pub(in crate::proxy) fn judged(&mut self, outcome: Outcome) {
        self.settle(outcome);
    }

    /// The response came to its end: a success unless settled before. The connection is kept if it can be used again, and
    /// will be.
    pub(in crate::proxy) fn finished(mut self, link: Link) {
        self.settle(Outcome::Success);
        // A place on a shared connection is given back as the link is dropped.
        if let Link::Http1(mut link) = link
            && !self.replica.is_draining()
            && link.is_finished()
        {
            self.worker.pool().keep(self.replica.endpoint(), link, self.worker.now());
        }
    }

    /// The replica failed it.
    pub(in crate::proxy) fn failed(mut self, fault: Fault) {
        self.hear(Outcome::Failure(fault), self.began);
        self.settle(Outcome::Failure(fault));
    }

    /// The replica did not process it, and said so. Of one that is about to go, nothing else was heard.
    pub(in crate::proxy) fn declined(mut self, outcome: Outcome) {
        if outcome != Outcome::Neutral {
            self.hear(outcome, self.began);
            self.settle(outcome);
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            self.service.counters().attempted(self.worker.index(), outcome.into());
            let (now, jitter) = (self.worker.now(), self.worker.random());
            if let Outcome::Failure(fault) = outcome {
                let request_id = self.worker.flights().request_id(self.place);
                self.service.failed(self.worker.index(), &self.replica, fault, request_id.as_str(), now);
            }
            let heard = Heard { outcome, latency: self.latency };
            self.service.judge(&self.replica, permit, heard, self.began, now, jitter);
        }
    }

    /// Tells, once, how long it took to the head, or to the failure without one.
    fn hear(&mut self, outcome: Outcome, since: Tick) {
        if std::mem::take(&mut self.awaits_head) {
            let now = self.worker.now();
            let latency = now.since(since);
            // Of failures without a head, only one that used up its time tells how slow the replica is.
            let has_head = !matches!(outcome, Outcome::Failure(fault) if fault.origin() == Origin::Local);
            if has_head || outcome == Outcome::Failure(Fault::ResponseTimeout) {
                self.latency = Some(latency);
            }
            self.service.heard(self.worker.index(), &self.replica, outcome, latency, now);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Of an answer that nobody has waited for.
        self.latency = None;
        self.settle(Outcome::Neutral);
        self.service.end(self.worker.index(), &self.replica, !self.awaits_head);
        self.worker.flights().end(self.place);
    }
}
