//! What the writer makes of a store that others write to, too.

use std::{collections::VecDeque, pin::pin, time::Duration};

use gateway_runtime::Failure;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Envelope, MAX_GROUP, WriteError, Writer, answer};
use crate::{
    clock,
    effects::By,
    observe::of_registry,
    registry::{Committed, Revision, View},
    store::{Loaded, News, Store, StoreError},
};

/// Commands that were overtaken so often in a row are refused: others write faster than this process can follow.
pub(super) const MAX_OVERTAKEN: u32 = 30;
/// Somebody else's change should have arrived by then; it is decided anew in any case.
const CATCH_UP: Duration = Duration::from_millis(100);
/// From so many times in a row on, several that are too late are kept from being so together by a pause of up to so long. It does not grow: who is
/// too late again and again would wait for longer and longer, and be too late for that.
const APART_FROM: u32 = 3;
const PAUSE: Duration = Duration::from_millis(2);
/// Commands wait for so long while everything is compared.
const COMPARISON: Duration = Duration::from_secs(5);

/// What a store says of itself when it is asked again.
pub(super) enum Found {
    /// All that it holds.
    All(Loaded),
    /// That its news will tell, up to a revision.
    News(Revision),
}

impl<S: Store> Writer<S> {
    pub(super) fn revision(&self) -> Revision {
        self.effects.publisher.read(View::revision)
    }

    /// Takes in what others did since somebody was faster than this process, for the `overtaken`th time in a row.
    pub(super) async fn catch_up(&mut self, overtaken: u32) -> Result<(), Failure> {
        if overtaken >= APART_FROM {
            sleep(PAUSE.mul_f64(rand::random())).await;
        }
        let base = self.revision();
        let until = Instant::now() + CATCH_UP;
        while self.revision() == base && self.doubt.is_none() {
            match timeout_at(until, self.store.news()).await {
                Ok(news) => self.hear(news).await?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Takes in what others did.
    pub(super) async fn hear(&mut self, news: News) -> Result<(), Failure> {
        match news {
            News::Changed { groups, leases } => {
                for (previous, committed) in groups {
                    if !self.follow(previous, committed) {
                        return self.read_again("a change was missed").await;
                    }
                }
                self.effects.hear(&leases);
                Ok(())
            }
            News::Retold(committed) => {
                let events: Vec<_> = committed.iter().flat_map(Committed::events).collect();
                self.effects.tell_late(&events);
                Ok(())
            }
            News::Missed { after, up_to } => {
                self.note_changes_of_nobody(after, up_to);
                Ok(())
            }
            News::ReadAgain(why) => self.read_again(why).await,
            News::Away(error) => {
                self.begin_doubt(&error, Vec::new());
                Ok(())
            }
        }
    }

    /// Applies a group of another's changes; yields whether it leads on from what is known.
    fn follow(&mut self, previous: Revision, committed: Vec<Committed>) -> bool {
        let known = self.revision();
        let Some(revision) = committed.last().map(|entry| entry.revision) else { return true };
        if revision <= known {
            // Our own, or read already.
            return true;
        }
        if previous != known {
            tracing::warn!(known, previous, revision, "the store's changes do not follow each other");
            return false;
        }
        let events = self.effects.apply(committed, By::Others);
        self.untold.extend(events);
        true
    }

    /// Tells people of changes of which nobody knows who made them.
    fn note_changes_of_nobody(&self, after: Revision, up_to: Revision) {
        let message = format!(
            "what was changed after revision {after} and up to {up_to} was found in the store, which does not tell by whom or why"
        );
        tracing::warn!(after, up_to, "{message}");
        let revisions = [("after", after.to_string()), ("revision", up_to.to_string())];
        self.effects.observation.note(of_registry("CHANGES_FOUND", message, revisions));
    }

    /// Compares everything with what the store holds, and corrects what differs.
    async fn read_again(&mut self, why: &str) -> Result<(), Failure> {
        tracing::debug!(why, "reading the store again");
        match self.load(None, COMPARISON, &mut VecDeque::new()).await {
            Ok(Found::All(loaded)) => self.believe(loaded, false),
            Ok(Found::News(_)) => Ok(()),
            Err(error) => {
                self.begin_doubt(&error, Vec::new());
                Ok(())
            }
        }
    }

    /// Reads the store, unless its news will tell all that has changed since what is `known`. Commands that come meanwhile, and those
    /// `waiting`, wait for so long, and are refused when it takes longer.
    pub(super) async fn load(
        &mut self,
        known: Option<Revision>,
        patience: Duration,
        waiting: &mut VecDeque<Envelope>,
    ) -> Result<Found, StoreError> {
        let patient_until = Instant::now() + patience;
        let mut batch: Vec<Envelope> = Vec::new();
        let store = &mut self.store;
        let mut loading = pin!(async {
            if let Some(base) = known
                && let Some(head) = store.resume(base).await?
            {
                return Ok(Found::News(head));
            }
            store.load().await.map(Found::All)
        });
        loop {
            if Instant::now() >= patient_until {
                for envelope in waiting.drain(..) {
                    answer(envelope.reply, Err(WriteError::StoreUnavailable));
                }
            }
            tokio::select! {
                biased;
                loaded = &mut loading => return loaded,
                () = sleep_until(patient_until), if Instant::now() < patient_until => {}
                count = self.queue.recv_many(&mut batch, MAX_GROUP), if Instant::now() >= patient_until => {
                    if count == 0 {
                        return loading.await;
                    }
                    self.refusing.send_if_modified(|told| {
                        let is_news = told.is_none();
                        told.get_or_insert(WriteError::StoreUnavailable);
                        is_news
                    });
                    for envelope in batch.drain(..) {
                        answer(envelope.reply, Err(WriteError::StoreUnavailable));
                    }
                }
            }
        }
    }

    /// Tells people of what was in hand, if the store turned out to hold it, up to this revision. Where others write to it, too, its
    /// news do, if it `owes` them.
    fn note_what_was_made(&mut self, revision: Revision, owes: bool) {
        let (known, in_hand) = (self.revision(), std::mem::take(&mut self.in_hand).into_mutations());
        if revision == known {
            return;
        }
        if self.store.is_shared() {
            if !owes {
                self.note_changes_of_nobody(known, revision);
            }
            return;
        }
        // All of it or nothing.
        let made = (known + 1..).zip(in_hand).map(|(revision, mutation)| Committed { revision, mutation });
        self.untold.extend(made.flat_map(|committed| committed.events()));
    }

    /// Puts what the store holds in the place of what was believed; `is_anew`, after nobody knew what it holds.
    pub(super) fn believe(&mut self, loaded: Loaded, is_anew: bool) -> Result<(), Failure> {
        let Loaded { epoch, revision, items, kept, owes, .. } = loaded;
        if epoch != *self.effects.publisher.epoch() || revision < self.revision() {
            return Err(Failure::fatal(
                "the store was replaced by another one while it was in use: start again",
            ));
        }
        self.note_what_was_made(revision, owes);
        let next = View::new(revision, items);
        match self.is_shaken {
            true => self.effects.replace(next),
            false => self.effects.correct(next),
        }
        match self.store.is_shared() {
            true => self.effects.leases.compare(&kept, is_anew, clock::now()),
            false => self.effects.leases.take_back(),
        }
        self.tell_refusal();
        Ok(())
    }
}
