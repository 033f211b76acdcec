//! Where registrations survive the process.
//!
//! A store makes groups of mutations durable and numbers them. It decides nothing: what may be written was decided
//! before, and only what a store has returned is applied. The writer is its only caller.

mod any;
mod copied;
mod etcd;
mod fence;
mod location;
mod memory;
mod migrate;
mod patience;
mod peers;
mod redb;
#[cfg(test)]
mod round_trip_tests;
mod served;
mod stored;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use gateway_proto::{LeaseId, NodeId, ReplicaKey};
use gateway_runtime::tls::Standing;

use crate::{
    leases::{LeaseTag, Outlet},
    registry::{Committed, Item, Mutation, Revision},
};

#[cfg(test)]
pub(crate) use self::etcd::simulated;
pub(crate) use self::patience::load_patiently;
pub(crate) use self::served::parts;
pub use self::{
    any::AnyStore,
    copied::{Blank, Copied, read},
    etcd::{Etcd, EtcdFiles, EtcdLocation},
    fence::Fence,
    location::StoreLocation,
    memory::Memory,
    migrate::{Locations, MoveError, Moved, migrate},
    peers::{Known, Peers},
    redb::Redb,
    served::Served,
};

/// What to do about a store of another format.
const ANOTHER_FORMAT: &str =
    "the version that wrote it still does, and docs/versions.md says how to go on from there";

/// Durable records under growing revisions.
///
/// One process may have it to itself, or several control planes share it. Then a commit says which revision it was
/// decided on, and is refused when somebody else came first; what others commit arrives as [`News`]. A store that is
/// nobody else's has no news and refuses no base.
pub trait Store: Send + 'static {
    /// Reads everything. Called at the start, again after a failed commit, whose outcome is unknown until then, and
    /// whenever news ask for it. News begin behind what was read; commits that were read and that nothing has told of are [retold](News::Retold).
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known; try again later.
    fn load(&mut self) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Makes the first mutations of `group` durable, at least one, all of those or none, if nothing has become durable
    /// since `base`. What one mutation writes has one revision; several mutations may share one.
    ///
    /// Not cancel safe: once polled it must be awaited, or its outcome is unknown.
    ///
    /// # Errors
    /// [`StoreError`]: the outcome is unknown until [`Store::load`] succeeds, or [`Store::resume`] yields a revision and
    /// the news have come to it.
    fn commit(
        &mut self,
        base: Revision,
        group: &[Mutation],
    ) -> impl Future<Output = Result<Commit, StoreError>> + Send;

    /// Whether nothing has become durable since `base`, so that what was decided on it without changing anything may be
    /// answered.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be asked.
    fn is_at(&mut self, _base: Revision) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(true))
    }

    /// After a failure, the revision up to which [`Store::news`] will tell all that has become durable since `base`, what became of the
    /// failed commit among it; `None`: everything has to be loaded.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be asked.
    fn resume(
        &mut self,
        _base: Revision,
    ) -> impl Future<Output = Result<Option<Revision>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Waits for what others did. Never completes for a store that is nobody else's. Cancel safe.
    fn news(&mut self) -> impl Future<Output = News> + Send {
        std::future::pending()
    }

    /// How many mutations are committed together at most.
    fn max_group(&self) -> usize {
        256
    }

    /// Whether others may write to it while this process does.
    fn is_shared(&self) -> bool {
        false
    }

    /// Where renewals of leases go, if others are to know of them; `None`: they are nobody else's business.
    fn outlet(&self) -> Option<Outlet> {
        None
    }

    /// Names the data planes that may be routing as this process ends to the next one, in [`Loaded::followers`]. A shared store
    /// need not: other control planes know them.
    ///
    /// # Errors
    /// [`StoreError`]: the next process is told nothing.
    fn name_followers(
        &mut self,
        _followers: BTreeSet<NodeId>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Puts a fence there, for everybody else who uses the store, or takes it away: from that moment on, no change of theirs becomes durable,
    /// and a load of theirs says so. One that says that all has moved keeps us out, too, until it is taken away. A store that ends with its
    /// process has nobody else, and heeds only that one.
    ///
    /// A fence is put where there is none, or in the place of our own, and with `base`, where others write to the store, only if nothing has become
    /// durable since. What is taken away is our own, or the one that the last load has met. Yields whether it is so now: `false` when ours was to be
    /// replaced and somebody else has taken it away, or when something has become durable; then nothing was done.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when there is one of somebody else; otherwise as [`Store::commit`].
    fn fence(
        &mut self,
        _fence: Option<Fence>,
        _base: Option<Revision>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        std::future::ready(Ok(true))
    }

    /// Of the files for TLS to it, if there are any.
    fn certificates(&self) -> Option<Arc<Standing>> {
        None
    }

    /// The control planes that share this store; `None`: nobody else may use it.
    fn peers(&self) -> Option<Peers> {
        None
    }
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// The first mutations are durable, one revision for each, in order. The others are to be handed in anew.
    Durable(Vec<Revision>),
    /// Nothing is: somebody else was faster, as the news will tell, or has heard of a replica that was to go. Says of which.
    Overtaken(Vec<LeaseNews>),
}

/// What others did to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// This became durable, in this order.
    Changed {
        /// Groups, each with what was the store's revision before.
        groups: Vec<(Revision, Vec<Committed>)>,
        /// What became of leases by then, in order.
        leases: Vec<LeaseNews>,
    },
    /// This was read before anybody told of it, and is told now, once, for people only.
    Retold(Vec<Committed>),
    /// What was read of commits behind a revision, up to another, is not told any more.
    Missed {
        /// Told up to there.
        after: Revision,
        /// The last one.
        up_to: Revision,
    },
    /// News were missed, or it is time to look: read everything again. Says why.
    ReadAgain(&'static str),
    /// The store is out of reach, and nobody knows what others do to it.
    Away(StoreError),
}

/// What a shared store says of a replica's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseNews {
    /// The replica.
    pub key: ReplicaKey,
    /// Whether the store keeps this lease from now on; `None`: it keeps none of the replica's.
    pub kept: Option<LeaseTag>,
}

/// Everything a store holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Names this incarnation of the store: random, drawn when it was created. Revisions of two epochs do not compare.
    pub epoch: String,
    /// The revision of the last mutation.
    pub revision: Revision,
    /// Every record: replicas, then policies, overrides and routes, each kind in an order of the store's own.
    pub items: Vec<Item>,
    /// Leases that the store itself keeps alive, and says when they lapse. Empty where this process does so alone.
    pub kept: HashSet<LeaseId>,
    /// Whether what was changed since it was asked before is [told](News::Changed) or [retold](News::Retold).
    pub owes: bool,
    /// The data planes that the process before this one named as it ended; `None`: it has named none, or not as the last thing
    /// that it did.
    pub followers: Option<BTreeSet<NodeId>>,
}

/// Why a store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no room left.
    #[error("no space left: {0}")]
    Full(String),
    /// What it holds moves from one store to another.
    #[error("{0}")]
    Fenced(Fence),
    /// It is in a file, which only one process may have open.
    #[error("another process has the file open")]
    InUse,
    /// It is not what it has to be, or not for us: that does not pass before somebody has seen to it.
    #[error("{0}")]
    Unusable(String),
    /// It was asked for a change and has not answered, or not as it should: the change may have been made or not.
    #[error("{0}")]
    Unanswered(String),
    /// The same, and there is no room left.
    #[error("no space left: {0}")]
    FullUnanswered(String),
    /// Anything else; it may pass.
    #[error("{0}")]
    Unavailable(String),
}

impl StoreError {
    /// Whether to try again later may be of use.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Full(_)
            | Self::InUse
            | Self::Unanswered(_)
            | Self::FullUnanswered(_)
            | Self::Unavailable(_) => true,
            Self::Fenced(fence) => !matches!(fence, Fence::Moved { .. }),
            Self::Unusable(_) => false,
        }
    }
}

/// A new epoch's name: 128 random bits.
fn new_epoch() -> String {
    format!("{:032x}", rand::random::<u128>())
}
