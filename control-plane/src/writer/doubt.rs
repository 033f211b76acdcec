//! What to do when nobody knows what the store holds, or it takes nothing: everybody is refused, and told why, until it has been
//! read again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use gateway_runtime::Failure;
use tokio::time::timeout_at;

use super::{Decided, Envelope, WriteError, Writer, answer, others::Found};
use crate::{
    clock,
    registry::{Group, Revision},
    store::{Fence, News, Store, StoreError},
};

/// How often a store that failed is tried again.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Commands wait for so long for the store to be read again when nobody knows what it holds; from then on they are refused.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Nobody knows what the store holds.
#[derive(Debug)]
pub(super) struct Doubt {
    /// It may be asked from then on.
    pub(super) until: Instant,
    /// What everybody is told meanwhile.
    pub(super) refusal: WriteError,
}

/// How much of what has changed was heard of.
enum Heard {
    All,
    /// The rest will be told.
    Some,
    /// Nothing will be: everything has to be read.
    NoMore,
}

impl<S: Store> Writer<S> {
    /// Why no change can be taken now.
    pub(super) fn refusal(&self) -> Option<WriteError> {
        let doubt = self.doubt.as_ref().map(|doubt| doubt.refusal.clone());
        doubt.or_else(|| self.closed.is_some().then_some(WriteError::StoreMoves))
    }

    /// Has everybody know of it.
    pub(super) fn tell_refusal(&self) {
        let refusal = self.refusal();
        self.refusing.send_if_modified(|told| {
            *told != refusal && {
                *told = refusal;
                true
            }
        });
    }

    /// Notes that nobody knows what the store holds, and tells those who wait.
    pub(super) fn begin_doubt(&mut self, error: &StoreError, decided: Vec<Decided>) {
        self.heed(Some(error));
        let changes = decided.len();
        match error {
            StoreError::Fenced(_) => tracing::warn!(%error, changes, "changes are refused from now on"),
            _ => tracing::error!(%error, changes, "the store failed: nothing is changed until it is back"),
        }
        // It may have been a moment's failure. A full disk is not, nor is what can be read again and again and never be written to:
        // without a pause, every sweep that has something to remove would write to it and read everything again.
        let pause = if self.failed_commits > 1 { RETRY_INTERVAL } else { Duration::ZERO };
        let (refusal, pause) = match error {
            StoreError::Full(_) | StoreError::FullUnanswered(_) => (WriteError::StoreFull, RETRY_INTERVAL),
            StoreError::Fenced(fence) => (of_fence(fence), RETRY_INTERVAL),
            StoreError::InUse
            | StoreError::Unusable(_)
            | StoreError::Unavailable(_)
            | StoreError::Unanswered(_) => (WriteError::StoreUnavailable, pause),
        };
        self.doubt = Some(Doubt { until: clock::now() + pause, refusal: refusal.clone() });
        self.tell_refusal();
        for (envelope, outcome) in decided {
            let refusal = match (error, outcome) {
                // What has an outcome was to change nothing.
                (StoreError::Unanswered(_), None) => WriteError::Interrupted,
                (StoreError::FullUnanswered(_), None) => WriteError::StoreFullUnanswered,
                _ => refusal.clone(),
            };
            answer(envelope.reply, Err(refusal));
        }
    }

    /// Reads the store again and puts what it holds in the place of what was believed, unless its news will tell. Those `waiting` do so no
    /// longer than others.
    pub(super) async fn recover(&mut self, waiting: &mut VecDeque<Envelope>) -> Result<(), Failure> {
        // What a panic has left is nothing to go on from.
        let mut known = (!self.is_shaken).then(|| self.revision());
        loop {
            match self.load(known, PATIENCE, waiting).await {
                Ok(Found::All(loaded)) => {
                    self.believe(loaded, true)?;
                    break;
                }
                Ok(Found::News(head)) => {
                    self.in_hand = Group::default();
                    match self.hear_up_to(head).await? {
                        Heard::All => {
                            // What was to go and is still there stays.
                            self.effects.leases.take_back();
                            break;
                        }
                        // The doubt goes on, so that nobody waits for it, and the store is asked anew.
                        Heard::Some => return Ok(()),
                        Heard::NoMore => known = None,
                    }
                }
                Err(error) => {
                    self.heed(Some(&error));
                    tracing::warn!(%error, "the store is still unavailable");
                    let until = clock::now() + RETRY_INTERVAL;
                    let refusal = match &error {
                        StoreError::Fenced(fence) => of_fence(fence),
                        StoreError::Full(_)
                        | StoreError::FullUnanswered(_)
                        | StoreError::InUse
                        | StoreError::Unusable(_)
                        | StoreError::Unavailable(_)
                        | StoreError::Unanswered(_) => WriteError::StoreUnavailable,
                    };
                    self.doubt = Some(Doubt { until, refusal });
                    self.tell_refusal();
                    return Ok(());
                }
            }
        }
        self.heed(None);
        (self.doubt, self.is_shaken) = (None, false);
        self.tell_refusal();
        tracing::info!(revision = self.revision(), "the store is back: changes are taken");
        Ok(())
    }

    /// Takes in what the store tells until this revision is known, or for so long as commands wait.
    async fn hear_up_to(&mut self, head: Revision) -> Result<Heard, Failure> {
        let until = tokio::time::Instant::now() + PATIENCE;
        while self.revision() < head {
            match timeout_at(until, self.store.news()).await {
                Ok(News::ReadAgain(_)) => return Ok(Heard::NoMore),
                Ok(News::Away(_)) | Err(_) => return Ok(Heard::Some),
                Ok(news) => self.hear(news).await?,
            }
        }
        Ok(Heard::All)
    }

    /// Owners and data planes are told no longer that all is well while the registry goes on elsewhere: where it has moved, or still where it
    /// comes from. Nor data planes while others write what cannot be read here: a newer one does, perhaps, and they are better off there.
    fn heed(&self, error: Option<&StoreError>) {
        let leases = &self.effects.leases;
        match error {
            Some(StoreError::Fenced(Fence::Moved { .. } | Fence::Filling { .. })) => {
                leases.leave(clock::now())
            }
            None | Some(StoreError::Fenced(Fence::Moving { .. })) => leases.come_back(),
            Some(StoreError::Unusable(_)) if self.store.is_shared() => leases.lose_sight(clock::now()),
            // What it said before may be so still.
            Some(_) => {}
        }
    }
}

/// Why nothing is changed where this fence is.
fn of_fence(fence: &Fence) -> WriteError {
    match fence {
        Fence::Moved { to } => WriteError::StoreMoved(to.clone()),
        Fence::Filling { .. } | Fence::Moving { .. } => WriteError::StoreMoves,
    }
}
