//! What becomes of the writer while somebody moves the registry to another store, and once it is there.
//!
//! The fence of a store that is nobody else's is here: as long as the mover holds his [`Closing`], changes are refused. The store hears of it once all
//! has moved, and its word outlives the process; of a mover that has gone before nothing is left.

use std::collections::VecDeque;

use gateway_runtime::Failure;
use tokio::sync::{mpsc, oneshot};

use super::{Commands, Doubt, WriteError, Writer};
use crate::{
    observe::of_registry,
    store::{Fence, Store, StoreError},
};

/// What movers ask of the writer, with who asks.
#[derive(Debug)]
pub(super) enum Ask {
    Close { to: String, by: String, reply: oneshot::Sender<Result<Closing, WriteError>> },
    Reopen { by: String, reply: oneshot::Sender<Result<Reopening, WriteError>> },
}

/// That all has moved, and to whom it is to be said that this is durable.
type End = oneshot::Sender<Result<(), WriteError>>;

/// That changes are refused: they are for as long as this is there.
#[derive(Debug)]
pub(crate) struct Closing(mpsc::Sender<End>);

/// The writer's end of a [`Closing`].
#[derive(Debug)]
pub(super) struct Closed {
    to: String,
    by: String,
    mover: mpsc::Receiver<End>,
}

/// What came of the wish that changes be taken again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reopening {
    Done,
    /// They were.
    Needless,
    /// Somebody moves the registry there, and has to end first.
    UnderWay {
        to: String,
    },
}

impl Closing {
    /// Has the store say that all has moved, so that changes are refused from then on, also by the next process.
    ///
    /// # Errors
    /// [`WriteError`]: unless the store says so all the same, changes are taken again.
    pub(crate) async fn end(self) -> Result<(), WriteError> {
        let (reply, outcome) = oneshot::channel();
        // The writer has let go of it if it panicked.
        let _ = self.0.send(reply).await;
        outcome.await.unwrap_or(Err(WriteError::Interrupted))
    }
}

impl Commands {
    /// Has changes refused from now on. All that was acknowledged is published by then.
    ///
    /// # Errors
    /// [`WriteError`]: they are taken, or refused for another reason.
    pub(crate) async fn close(&self, to: String, by: String) -> Result<Closing, WriteError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.moves.send(Ask::Close { to, by, reply }).await;
        sent.map_err(|_| WriteError::ShuttingDown)?;
        outcome.await.unwrap_or(Err(WriteError::Interrupted))
    }

    /// Has changes taken again although all has moved.
    ///
    /// # Errors
    /// [`WriteError`]: they are refused still.
    pub(crate) async fn reopen(&self, by: String) -> Result<Reopening, WriteError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.moves.send(Ask::Reopen { by, reply }).await;
        sent.map_err(|_| WriteError::ShuttingDown)?;
        outcome.await.unwrap_or(Err(WriteError::Interrupted))
    }
}

/// What the mover wants who has had changes refused: `None`, when he has gone. Waits for ever where there is none.
pub(super) async fn heard_of(closed: &mut Option<Closed>) -> Option<End> {
    match closed {
        Some(Closed { mover, .. }) => mover.recv().await,
        None => std::future::pending().await,
    }
}

impl<S: Store> Writer<S> {
    pub(super) async fn answer_mover(&mut self, ask: Ask) -> Result<(), Failure> {
        // Whoever has asked and gone has nothing to be told; what was done is undone by that.
        match ask {
            Ask::Close { to, by, reply } => {
                let _ = reply.send(self.close(to, by));
            }
            Ask::Reopen { by, reply } => {
                let _ = reply.send(self.reopen(by).await?);
            }
        }
        Ok(())
    }

    fn close(&mut self, to: String, by: String) -> Result<Closing, WriteError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let (sender, mover) = mpsc::channel(1);
        self.note("STORE_CLOSED", &by, &to, format!("changes are refused while all moves to {to}"));
        self.closed = Some(Closed { to, by, mover });
        self.tell_refusal();
        Ok(Closing(sender))
    }

    /// Goes on as the mover says, and takes changes again when he has gone without a word.
    pub(super) async fn follow_mover(&mut self, end: Option<End>) {
        let Some(Closed { to, by, .. }) = self.closed.take() else { return };
        let Some(end) = end.filter(|end| !end.is_closed()) else {
            let message = format!("changes are taken again: the move to {to} did not come to its end");
            self.note("STORE_REOPENED", &by, &to, message);
            self.tell_refusal();
            return;
        };
        let fence = Fence::Moved { to: to.clone() };
        let outcome = match self.store.fence(Some(fence.clone()), Some(self.revision())).await {
            Ok(true) => {
                self.note(
                    "STORE_MOVED",
                    &by,
                    &to,
                    format!("all has moved to {to}, and changes are refused here"),
                );
                self.begin_doubt(&StoreError::Fenced(fence), Vec::new());
                Ok(())
            }
            Ok(false) => {
                let why = "it was changed past the fence".to_owned();
                self.begin_doubt(&StoreError::Unavailable(why), Vec::new());
                Err(WriteError::StoreUnavailable)
            }
            // What it says shows when it is read again.
            Err(error) => {
                self.begin_doubt(&error, Vec::new());
                Err(WriteError::StoreUnavailable)
            }
        };
        let _ = end.send(outcome);
    }

    async fn reopen(&mut self, by: String) -> Result<Result<Reopening, WriteError>, Failure> {
        if let Some(Closed { to, .. }) = &self.closed {
            return Ok(Ok(Reopening::UnderWay { to: to.clone() }));
        }
        if self.doubt.is_some() {
            // Perhaps it was opened by other means, or the store was away.
            self.recover(&mut VecDeque::new()).await?;
        }
        let Some(Doubt { refusal, .. }) = &self.doubt else { return Ok(Ok(Reopening::Needless)) };
        if !matches!(refusal, WriteError::StoreMoves | WriteError::StoreMoved(_)) {
            return Ok(Err(refusal.clone()));
        }
        if let Err(error) = self.store.fence(None, None).await {
            self.begin_doubt(&error, Vec::new());
            return Ok(Err(WriteError::StoreUnavailable));
        }
        self.note("STORE_REOPENED", &by, "", "changes are taken here again, although all has moved".into());
        self.recover(&mut VecDeque::new()).await?;
        Ok(self.refusal().map_or(Ok(Reopening::Done), Err))
    }

    fn note(&self, event_type: &str, by: &str, to: &str, message: String) {
        tracing::warn!(target: "audit", who = by, event = event_type, "{message}");
        let mut event = of_registry(event_type, message, [("to", to.to_owned())]);
        event.actor = by.to_owned();
        self.effects.observation.note(event);
    }
}
