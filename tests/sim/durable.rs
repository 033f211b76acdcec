//! The disk under the control plane: the memory store, which survives the simulated process, and its failures.

use std::{
    collections::VecDeque,
    pin::pin,
    task::{Context, Poll, Waker},
};

use control_plane::{
    registry::{Command, Mutation, Revision},
    store::{Loaded, Memory, Store, StoreError},
};

use crate::{
    checks::{Checked, Ledger},
    env::Env,
    journal::note,
};

/// How a commit fails. Its caller cannot tell which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFault {
    /// Nothing became durable.
    Nothing,
    /// All of it became durable, and the answer was lost.
    AnswerLost,
}

/// A disk.
pub(crate) struct Durable {
    memory: Memory,
    /// What happens to the next commits.
    pub(crate) faults: VecDeque<CommitFault>,
    /// Nothing can be read before this nanosecond.
    pub(crate) unreadable_until: u64,
    /// Nothing more fits before this nanosecond.
    pub(crate) full_until: u64,
    /// Commits take long before this nanosecond.
    pub(crate) slow_until: u64,
}

impl Durable {
    pub(crate) fn new() -> Self {
        Self {
            memory: Memory::new(),
            faults: VecDeque::new(),
            unreadable_until: 0,
            full_until: 0,
            slow_until: 0,
        }
    }

    /// Commits a group, or fails; the ledger learns what is durable in either case.
    pub(crate) fn commit(
        &mut self,
        env: &mut Env,
        ledger: &mut Ledger,
        commands: &[Command],
        group: &[Mutation],
    ) -> Checked<Result<Vec<Revision>, StoreError>> {
        if env.now < self.full_until && env.is_troubled() {
            env.journal.count("the disk was full");
            note!(env, "store: no room for {}, nothing is durable", group.len());
            return Ok(Err(StoreError::Full("injected".into())));
        }
        let fault = self.faults.pop_front().filter(|_| env.is_troubled());
        if fault == Some(CommitFault::Nothing) {
            env.journal.count("a commit failed");
            note!(env, "store: commit of {} failed, nothing is durable", group.len());
            return Ok(Err(StoreError::Unavailable("injected".into())));
        }
        let revisions = self.memory.write(group);
        for ((command, mutation), revision) in commands.iter().zip(group).zip(&revisions) {
            ledger.became_durable(env, command, mutation, *revision)?;
        }
        if fault == Some(CommitFault::AnswerLost) {
            env.journal.count("a commit's answer was lost");
            note!(env, "store: {revisions:?} are durable, the answer is lost");
            return Ok(Err(StoreError::Unavailable("injected".into())));
        }
        Ok(Ok(revisions))
    }

    /// Reads everything.
    pub(crate) fn load(&mut self, env: &Env) -> Result<Loaded, StoreError> {
        if env.now < self.unreadable_until && env.is_troubled() {
            return Err(StoreError::Unavailable("injected".into()));
        }
        Ok(at_once(self.memory.load()).expect("the memory store never fails"))
    }
}

/// The memory store's futures wait for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("nothing to wait for"),
    }
}
