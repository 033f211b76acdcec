//! The leases of a group, which etcd has to know before the group is committed.
//!
//! A group that somebody else was faster than is decided anew and has the same leases. They are not asked for again: where the disks of
//! etcd are slow, that would take as long as the commit itself, in which whoever was faster is faster again, for ever.

use std::collections::HashSet;

use tokio::task::JoinSet;
use tonic::Status;

use super::{client::Client, transaction::Grant};
use crate::leases::LeaseTag;

/// Those of the last group. Whether etcd still keeps one says the commit, for one that it does not keep is never committed.
#[derive(Debug, Default)]
pub(super) struct Granted(HashSet<LeaseTag>);

impl Granted {
    /// Has etcd keep these leases, but for those that the last group had, too.
    ///
    /// # Errors
    /// What etcd says of the first that it does not keep. Of all others it is unknown whether it does, and to ask again is safe.
    pub(super) async fn grant(&mut self, client: &Client, grants: &[Grant]) -> Result<(), Status> {
        let known = std::mem::take(&mut self.0);
        let mut granting = JoinSet::new();
        for &Grant { tag, ttl } in grants {
            if known.contains(&tag) {
                self.0.insert(tag);
                continue;
            }
            let client = client.clone();
            granting.spawn(async move { client.grant(tag.get(), ttl).await.map(|_| tag) });
        }
        while let Some(granted) = granting.join_next().await {
            let ended = Err(Status::internal("the task that asked for a lease ended"));
            self.0.insert(granted.unwrap_or(ended)?);
        }
        Ok(())
    }

    /// Believes nothing of it any more: etcd does not know one of them.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Etcd,
            fake::Fake,
            tests::{TTL, leased, registration, store},
        },
        *,
    };
    use crate::{
        registry::{Mutation, Revision},
        store::{Commit, News, Store as _},
    };

    /// A store, the group with a lease that somebody else was faster than, and the revision that he made.
    async fn overtaken(fake: &Fake) -> (Etcd, Revision, [Mutation; 1]) {
        let (mut one, mut other) = (store(fake).await, store(fake).await);
        let base = one.load().await.unwrap().revision;
        other.load().await.unwrap();
        assert!(matches!(other.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
        let group = [leased(2, Some(TTL))];
        assert!(matches!(one.commit(base, &group).await, Ok(Commit::Overtaken(_))));
        let News::Changed { groups, .. } = one.news().await else { panic!() };
        (one, groups[0].1[0].revision, group)
    }

    #[tokio::test]
    async fn a_lease_whose_group_was_overtaken_is_asked_for_once() {
        let fake = Fake::start().await;
        let before = fake.grants();
        let (mut one, base, group) = overtaken(&fake).await;
        assert!(matches!(one.commit(base, &group).await, Ok(Commit::Durable(_))));
        assert_eq!(fake.grants(), before + 1);
    }

    #[tokio::test]
    async fn a_lease_that_etcd_forgot_before_its_replica_was_there_is_asked_for_anew() {
        let fake = Fake::start().await;
        let (mut one, base, group) = overtaken(&fake).await;
        let lease = group[0].writes().next().unwrap().record().unwrap().lease.unwrap().id;
        fake.drop_lease(LeaseTag::of(lease).get());
        assert!(matches!(one.commit(base, &group).await, Ok(Commit::Overtaken(_))));
        assert!(matches!(one.commit(base, &group).await, Ok(Commit::Durable(_))));
        assert!(fake.has_under(LeaseTag::of(lease).get()));
    }
}
