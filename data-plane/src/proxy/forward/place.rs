//! Beginning an attempt: at once, or once there is a place for it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use super::{Ended, Journey, attempt::Attempt};
use crate::{
    proxy::errors::refusals::Reason,
    routing::{Draw, retry::Stop},
    table::{Refused, Unavailable},
};

/// Why there is no attempt.
pub(super) enum NoAttempt {
    /// There is nobody (else) to ask.
    Nobody(Unavailable),
    /// All that may be asked are full, and it had better not wait.
    Refused(Refused),
    /// It has waited for so long, and still all were full.
    Waited(Duration),
}

impl NoAttempt {
    /// As logs name it.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Nobody(Unavailable::AllOpen { .. }) => Reason::BreakerOpen.as_str(),
            Self::Nobody(Unavailable::AllForcedOpen { .. }) => Reason::BreakerForcedOpen.as_str(),
            Self::Nobody(Unavailable::NoneReady) => Reason::NoReadyReplica.as_str(),
            Self::Nobody(Unavailable::AllTried) => Stop::NoOtherReplica.as_str(),
            Self::Nobody(Unavailable::AllFull) | Self::Refused(_) => Reason::Overloaded.as_str(),
            Self::Waited(_) => Reason::QueueTimeout.as_str(),
        }
    }
}

impl Journey<'_> {
    /// The next attempt. Where all that may be asked are full it waits for its turn, unless a replica has answered it
    /// already: a failure now is better than one later.
    pub(super) async fn begin(&self) -> Result<Attempt, NoAttempt> {
        match Attempt::begin(&self.worker, &self.service, &self.tried, self.draw(), self.request_id) {
            Err(Unavailable::AllFull) if self.waits_for_place() => {
                // Boxed, so that requests which do not wait hold no room for it.
                Box::pin(self.begin_in_turn()).await
            }
            begun => begun.map_err(NoAttempt::Nobody),
        }
    }

    /// Whether it waits where all that may be asked are full.
    pub(super) fn waits_for_place(&self) -> bool {
        !matches!(self.last, Some(Ended::Answered(_)))
    }

    /// What its next pick goes by.
    pub(super) fn draw(&self) -> Draw {
        let is_unrepeatable = !self.is_idempotent || self.hints.retries == Some(0);
        Draw { random: self.worker.random(), key: self.key, is_unrepeatable, is_beside: false }
    }

    async fn begin_in_turn(&self) -> Result<Attempt, NoAttempt> {
        let now = self.worker.now();
        let waiting = self.service.wait(now, self.deadline(now), &self.tried);
        let mut waiting = waiting.map_err(NoAttempt::Refused)?;
        let mut timer = pin!(tokio::time::sleep_until(self.worker.instant(waiting.until()).into()));
        loop {
            let is_called = poll_fn(|cx| match waiting.poll_called(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => timer.as_mut().poll(cx).map(|()| false),
            })
            .await;
            let (worker, service) = (&self.worker, &self.service);
            let (tried, id) = (&self.tried, self.request_id);
            match Attempt::begin_in_turn(worker, service, tried, self.draw(), &mut waiting, id) {
                Err(Unavailable::AllFull) if is_called => {}
                Err(Unavailable::AllFull) => {
                    return Err(NoAttempt::Waited(waiting.give_up(worker.index(), worker.now())));
                }
                begun => return begun.map_err(NoAttempt::Nobody),
            }
        }
    }
}
