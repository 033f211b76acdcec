//! One data plane's snapshot stream, as a state machine: what to send next, and when.
//!
//! ```text
//!            ┌──────────── ack of the last part or delta ───────────┐
//!            ▼                                                      │
//!   ┌─ up to date ── head moved ──▶ send delta or full ──▶ waiting for its ack
//!   │     ▲  │                             ▲                        │
//!   │     └──┘ 5 s quiet: bookmark         └── after a back-off ◀── nack
//!   └─ nothing held: send full
//! ```
//!
//! It holds no snapshot and does no IO; the stream's task asks [`Session::next`] and does what it says.

use std::time::{Duration, Instant};

use gateway_proto::v1;

use crate::registry::Revision;

/// With nothing to say for this long, a bookmark tells the data plane that this side lives.
pub const QUIET: Duration = Duration::from_secs(5);
/// A data plane that owes an ack and says nothing for this long is dead.
pub const SILENCE: Duration = Duration::from_secs(15);
/// A data plane that talks but does not ack what it was sent within this long is stuck.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// The first full snapshot after a nack waits this long, each further one twice as long, so that a data plane which
/// refuses everything is no busy loop. Never longer than `MAX_BACKOFF`, or it would take us for dead.
pub const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// See [`MIN_BACKOFF`].
pub const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    /// What the data plane holds; `None`: nothing that a delta could start from.
    held: Option<Revision>,
    /// Revisions after `held` up to this one changed nothing that the data plane follows. Never goes back.
    irrelevant_up_to: Revision,
    /// No full snapshot before this one leads on.
    full_from: Revision,
    unacked: Option<Unacked>,
    bookmark: Option<(u64, Revision)>,
    full_after: Option<Instant>,
    backoff: Duration,
    last_sent: Option<Instant>,
    heard: Instant,
    last_nonce: u64,
}

#[derive(Debug, Clone, Copy)]
struct Unacked {
    nonce: u64,
    revision: Revision,
    sent: Instant,
    completes: bool,
}

/// What the stream's task is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send the first part of a full snapshot, or the next part of the one begun.
    Full,
    /// Send what changed since `base`; when nothing of that concerns the data plane, call [`Session::skip`].
    Delta {
        /// The revision the data plane holds.
        base: Revision,
    },
    /// Send a bookmark of `revision`.
    Bookmark {
        /// What the data plane is up to date with.
        revision: Revision,
    },
    /// Do nothing until then, unless a message comes or the registry changes.
    Wait {
        /// When to ask again.
        until: Instant,
    },
    /// End the stream: the data plane is dead or stuck.
    End,
}

/// What a message from the data plane meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It uses this revision now.
    Acked(Revision),
    /// It took one part of several.
    Part,
    /// It refused what it was sent.
    Nacked(v1::Nack),
    /// It answers to what it was not asked last; it counts as a sign of life only.
    Stale,
}

impl Session {
    /// A stream to a data plane that holds `resume`, if it can be told so: same epoch, not ahead of the registry.
    pub fn new(resume: Option<Revision>, now: Instant) -> Self {
        Self {
            held: resume,
            irrelevant_up_to: resume.unwrap_or(0),
            full_from: 0,
            unacked: None,
            bookmark: None,
            full_after: None,
            backoff: MIN_BACKOFF,
            last_sent: None,
            heard: now,
            last_nonce: 0,
        }
    }

    /// What to do, given the registry's revision.
    pub fn next(&self, now: Instant, head: Revision) -> Next {
        if let Some(unacked) = self.unacked {
            let until = (unacked.sent.max(self.heard) + SILENCE).min(unacked.sent + ACK_TIMEOUT);
            return if now >= until { Next::End } else { Next::Wait { until } };
        }
        match (self.held, self.full_after) {
            (_, Some(until)) if now < until => Next::Wait { until },
            (None, _) => Next::Full,
            (Some(base), _) if head > self.irrelevant_up_to => Next::Delta { base },
            // The first message of a resumed stream comes at once: it says that there is nothing else to say.
            _ => match self.last_sent.map(|sent| sent + QUIET) {
                Some(until) if now < until => Next::Wait { until },
                _ => Next::Bookmark { revision: self.irrelevant_up_to },
            },
        }
    }

    /// What the data plane may hold, and, if no delta led on from there, what comes next: a full snapshot must not be
    /// older.
    pub fn at_least(&self) -> Revision {
        self.irrelevant_up_to.max(self.full_from)
    }

    /// Notes that a delta, or a part of a full snapshot, of `revision` goes out; `completes` unless more parts follow.
    /// Yields its nonce.
    pub fn sent(&mut self, now: Instant, revision: Revision, completes: bool) -> String {
        let nonce = self.next_nonce(now);
        self.unacked = Some(Unacked { nonce, revision, sent: now, completes });
        self.full_after = None;
        nonce.to_string()
    }

    /// Notes that a bookmark goes out. It needs no ack, and the data plane holds its revision from then on.
    pub fn sent_bookmark(&mut self, now: Instant, revision: Revision) -> String {
        let nonce = self.next_nonce(now);
        self.bookmark = Some((nonce, revision));
        self.held = Some(revision);
        self.irrelevant_up_to = revision;
        nonce.to_string()
    }

    /// Notes that nothing up to `head` concerns the data plane: the next bookmark tells it so.
    pub fn skip(&mut self, head: Revision) {
        self.irrelevant_up_to = head;
    }

    /// Notes that no delta leads on from what the data plane holds. A full snapshot of that very revision would lead it
    /// round in a circle.
    pub fn lose_track(&mut self) {
        self.held = None;
        self.full_from = self.irrelevant_up_to + 1;
    }

    /// Notes that the client follows other services from now on: a full snapshot of them comes next. What it acks until
    /// then is of what it followed before.
    pub fn start_over(&mut self) {
        self.held = None;
        if let Some(unacked) = &mut self.unacked {
            unacked.completes = false;
        }
    }

    /// Takes in a message of the data plane.
    pub fn heard(&mut self, now: Instant, ack: v1::Ack) -> Heard {
        self.heard = now;
        let nonce = ack.nonce.parse().ok();
        if let Some(unacked) = self.unacked.filter(|unacked| Some(unacked.nonce) == nonce) {
            self.unacked = None;
            if let Some(nack) = ack.nack {
                return self.refused(now, nack);
            }
            if !unacked.completes {
                return Heard::Part;
            }
            self.held = Some(unacked.revision);
            self.irrelevant_up_to = unacked.revision;
            self.backoff = MIN_BACKOFF;
            return Heard::Acked(unacked.revision);
        }
        match (self.bookmark.filter(|(sent, _)| Some(*sent) == nonce), ack.nack) {
            (Some(_), Some(nack)) if self.unacked.is_none() => self.refused(now, nack),
            (Some((_, revision)), None) => Heard::Acked(revision),
            _ => Heard::Stale,
        }
    }

    fn refused(&mut self, now: Instant, nack: v1::Nack) -> Heard {
        self.held = None;
        self.full_after = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        Heard::Nacked(nack)
    }

    fn next_nonce(&mut self, now: Instant) -> u64 {
        self.last_sent = Some(now);
        self.last_nonce += 1;
        self.last_nonce
    }
}

#[cfg(test)]
mod tests;
