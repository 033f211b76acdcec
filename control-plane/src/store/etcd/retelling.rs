//! Commits that were read before anybody told of them: who made them, and why, is told later, each once, beside the watch, which goes on
//! with what is new.

use std::{collections::VecDeque, future::pending};

use super::{
    client::Client,
    keys::Keys,
    watch::{Seen, Watching},
};
use crate::{registry::Revision, store::News};

/// Gaps that wait to be told. Each takes another failure within the time that the one before takes to be told.
const MAX_GAPS: usize = 16;

/// What is still to be told, from the oldest on.
#[derive(Debug, Default)]
pub(super) struct Retelling {
    gaps: VecDeque<Gap>,
    /// Tells of the first one.
    watching: Option<Watching>,
    /// One that is told no more, and whoever waits for news has not heard so.
    missed: Option<Gap>,
}

/// Commits behind a revision, up to another, which is that of one.
#[derive(Debug, Clone, Copy)]
struct Gap {
    after: Revision,
    up_to: Revision,
}

impl Retelling {
    /// Commits behind `after` and up to `up_to` were read and not told.
    pub(super) fn owe(&mut self, after: Revision, up_to: Revision) {
        if up_to <= after {
            return;
        }
        if self.gaps.len() == MAX_GAPS {
            self.miss();
        }
        self.gaps.push_back(Gap { after, up_to });
    }

    /// They were of another history.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What comes next of it; never completes when nothing is owed. Cancel safe.
    pub(super) async fn next(&mut self, client: &Client, keys: &Keys) -> News {
        loop {
            if let Some(Gap { after, up_to }) = self.missed.take() {
                return News::Missed { after, up_to };
            }
            let Some(gap) = self.gaps.front_mut() else { return pending().await };
            let begin = || Watching::begin_late(client.clone(), keys.clone(), gap.after + 1);
            match self.watching.get_or_insert_with(begin).next().await {
                Seen::Changed { revision, groups, .. } => {
                    let (_, committed): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
                    let committed: Vec<_> =
                        committed.into_iter().flatten().filter(|entry| entry.revision <= gap.up_to).collect();
                    gap.after = gap.after.max(revision);
                    if gap.after >= gap.up_to {
                        self.gaps.pop_front();
                        self.watching = None;
                    }
                    if !committed.is_empty() {
                        return News::Retold(committed);
                    }
                }
                Seen::Broken(why) => {
                    tracing::debug!(why, ?gap, "commits are not told any more");
                    self.miss();
                }
            }
        }
    }

    /// Gives the first gap up. What is not told of several is told as one.
    fn miss(&mut self) {
        let Some(Gap { after, up_to }) = self.gaps.pop_front() else { return };
        self.watching = None;
        let after = self.missed.map_or(after, |missed| missed.after);
        self.missed = Some(Gap { after, up_to });
    }
}
