//! What the checks of a replica have shown, as requests are routed by it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU8,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    time::Duration,
};

use gateway_proto::{Address, ReplicaKey, policy::HealthCheck};

use crate::{
    health::check::{Check, Result, Turn, Verdict},
    routing::Tick,
};

/// Whether a replica is asked, as far as its checks are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Asked,
    /// It fails: asked only when too few others are left.
    Failing,
    /// It has joined, and has to pass a check first: never asked.
    Waiting,
}

/// A verdict on a replica that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckChange {
    /// Which one.
    pub key: ReplicaKey,
    /// Where it listens.
    pub address: Address,
    /// Which registration of it.
    pub incarnation: i64,
    /// How long the verdict before had held.
    pub lasted: Duration,
    /// From what to what.
    pub turn: Turn,
}

/// The checks of one registration of a replica.
#[derive(Debug)]
pub(super) struct Checks {
    /// As [`Verdict`], for views, which are made of very many of them.
    verdict: AtomicU8,
    /// Whether its first check may be waited for.
    has_joined: AtomicBool,
    /// Whether there is something to forget.
    is_used: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    incarnation: i64,
    check: Check,
}

impl Checks {
    pub(super) fn new(incarnation: i64) -> Self {
        Self {
            verdict: AtomicU8::new(Verdict::Pending as u8),
            has_joined: AtomicBool::new(false),
            is_used: AtomicBool::new(false),
            inner: Mutex::new(Inner { incarnation, check: Check::default() }),
        }
    }

    /// Forgets everything when this is another registration, which joins.
    pub(super) fn follow(&self, incarnation: i64) {
        self.is_used.store(true, Release);
        let mut inner = self.inner();
        if inner.incarnation != incarnation {
            *inner = Inner { incarnation, check: Check::default() };
            self.has_joined.store(true, Release);
            self.verdict.store(Verdict::Pending as u8, Release);
        }
    }

    /// It has joined just now.
    pub(super) fn joins(&self) {
        self.is_used.store(true, Release);
        self.has_joined.store(true, Release);
    }

    /// Forgets everything: nobody checks it.
    pub(super) fn forget(&self, incarnation: i64) {
        if self.is_used.swap(false, AcqRel) {
            let mut inner = self.inner();
            *inner = Inner { incarnation, check: Check::default() };
            self.has_joined.store(false, Release);
            self.verdict.store(Verdict::Pending as u8, Release);
        }
    }

    /// Takes the result of a check of that registration in. `None` when it is another one by now.
    pub(super) fn record(
        &self,
        incarnation: i64,
        result: Result,
        policy: &HealthCheck,
    ) -> Option<(Option<Turn>, Duration)> {
        let mut inner = self.inner();
        if inner.incarnation != incarnation {
            return None;
        }
        let lasted = result.ended.since(inner.check.since());
        let turn = inner.check.record(result, policy);
        self.verdict.store(inner.check.verdict() as u8, Release);
        Some((turn, lasted))
    }

    /// How many checks in a row it has passed, if those are enough to believe in it.
    pub(super) fn passes(&self, policy: &HealthCheck) -> Option<u32> {
        let inner = self.inner();
        let has_passed = inner.check.last().is_some_and(|last| last.failure.is_none());
        let streak = inner.check.streak();
        (has_passed && streak >= policy.rise.into()).then_some(streak)
    }

    pub(super) fn schedule(&self, due: Option<Tick>) {
        self.inner().check.schedule(due);
    }

    /// As they stand.
    pub(super) fn read(&self) -> Check {
        self.inner().check.clone()
    }

    /// Whether the replica is asked, while these checks count.
    pub(super) fn standing(&self, policy: &HealthCheck) -> Standing {
        let verdict = self.verdict.load(Acquire);
        if policy.observe_only {
            Standing::Asked
        } else if verdict == Verdict::Failing as u8 {
            Standing::Failing
        } else if verdict == Verdict::Pending as u8 && policy.wait_for_first && self.has_joined.load(Acquire)
        {
            Standing::Waiting
        } else {
            Standing::Asked
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves plain values behind, which are as good as before.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
