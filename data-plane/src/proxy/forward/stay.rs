//! A request's stay at its service, from when that is known to the end of the answer, which metrics count.

use std::{cell::Cell, ops::Deref, rc::Rc, thread};

use http::StatusCode;

use crate::{
    proxy::worker::Worker,
    routing::Tick,
    table::{HeldService, RequestOutcome},
};

/// As which status a request counts whose client was gone before there was an answer. Nobody is sent it.
const CLIENT_GONE: u16 = 499;

/// Counts a request at its service as in flight for as long as this lives, and how long that was.
///
/// Of one that is dropped without having been answered, the client has gone away, or it has met a defect.
#[derive(Debug)]
pub(in crate::proxy) struct Stay {
    worker: Rc<Worker>,
    service: HeldService,
    began: Tick,
    is_answered: Cell<bool>,
}

impl Stay {
    pub(in crate::proxy) fn begin(worker: &Rc<Worker>, service: HeldService) -> Self {
        service.request_began(worker.index());
        Self { worker: Rc::clone(worker), service, began: worker.now(), is_answered: Cell::new(false) }
    }

    /// When it began.
    pub(in crate::proxy) fn began(&self) -> Tick {
        self.began
    }

    /// Counts the answer, whose body may still be on its way.
    pub(in crate::proxy) fn answered(&self, status: StatusCode, outcome: RequestOutcome) {
        self.is_answered.set(true);
        self.service.counters().answered(self.worker.index(), status, outcome);
    }
}

impl Deref for Stay {
    type Target = HeldService;

    fn deref(&self) -> &HeldService {
        &self.service
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if !self.is_answered.get() {
            let gone = StatusCode::from_u16(CLIENT_GONE).expect("three digits make a status");
            match thread::panicking() {
                true => self.answered(StatusCode::INTERNAL_SERVER_ERROR, RequestOutcome::GatewayError),
                false => self.answered(gone, RequestOutcome::ClientAbort),
            }
        }
        self.service.request_ended(self.worker.index(), self.worker.now().since(self.began));
    }
}
