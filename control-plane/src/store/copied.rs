//! A copy of what a store holds at one revision, while that goes on: a backup, and the way back from one.
//!
//! Nobody is kept from changing the store, which knows nothing of it. The copy is a store of its own, with an epoch of its own: whoever goes on with it has
//! an older state under revisions that start anew, which must not pass for what data planes hold of the store that it comes from.

use super::{AnyStore, EtcdFiles, Loaded, Store, StoreError, StoreLocation, migrate::Copy, redb::Draft};
use crate::registry::Revision;

/// What a store holds, and what a copy of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Replicas, policies, overrides and routes.
    pub records: usize,
    /// Of the store that they came from: its epoch, and its revision when they were read.
    pub from: (String, Revision),
    /// The same of the copy.
    pub to: (String, Revision),
}

/// Everything that a store holds at one revision, without a trace in it.
///
/// # Errors
/// [`StoreError`] as of [`Store::load`].
pub async fn read<F: Store>(from: &mut F) -> Result<Loaded, StoreError> {
    let mut read = from.load().await?;
    // Whom the last process has named is for the next one that goes on with the store.
    if let Some(followers) = read.followers.take()
        && let Err(error) = from.name_followers(followers).await
    {
        tracing::warn!(%error, "the next process on it is not told which data planes to expect");
    }
    Ok(read)
}

/// Where a copy is made. A file has its name once it is whole, and keys of an etcd have a fence until they are.
#[derive(Debug)]
pub struct Blank(Place);

#[derive(Debug)]
enum Place {
    File(Draft),
    Shared(AnyStore),
}

impl Blank {
    /// Where no file is, or an empty store in an etcd, which is made when missing.
    ///
    /// # Errors
    /// [`StoreError`] when there is a file, and as of [`AnyStore::open`].
    pub async fn at(location: &StoreLocation, files: &EtcdFiles) -> Result<Self, StoreError> {
        Ok(Self(match location {
            StoreLocation::Redb(path) => Place::File(Draft::begin(path.clone()).await?),
            shared => Place::Shared(AnyStore::open(shared, files).await?),
        }))
    }

    /// Makes it a store that holds all that was read of the one that is called `from`.
    ///
    /// # Errors
    /// [`StoreError`] when it holds something already, and of what it could not do. Of a file nothing is left then.
    pub async fn fill(self, from: &str, read: Loaded) -> Result<Copied, StoreError> {
        match self.0 {
            Place::File(mut draft) => {
                let copied = fill(&mut draft.store, from, read).await?;
                draft.finish().await?;
                Ok(copied)
            }
            Place::Shared(mut store) => fill(&mut store, from, read).await,
        }
    }
}

async fn fill<T: Store>(to: &mut T, from: &str, read: Loaded) -> Result<Copied, StoreError> {
    let Loaded { epoch, revision, items, .. } = read;
    let mut copy = Copy::begin(to, from, &epoch).await?;
    let filled = match copy.follow(items.clone()).await {
        Ok(_) => copy.compare(items).await,
        Err(why) => Err(why),
    };
    if let Err(why) = filled {
        copy.leave().await;
        return Err(why);
    }
    let (records, to) = (copy.len(), (copy.epoch.clone(), copy.base));
    match copy.to.fence(None, None).await {
        Ok(_) => Ok(Copied { records, from: (epoch, revision), to }),
        Err(why) => Err(StoreError::Unavailable(format!(
            "all of it was copied, and then this one did not answer when it was to be opened: {why}; remove what is there, and begin again"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gateway_proto::NodeId;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        registry::{
            Mutation,
            arbitrary::{carried_out, choices},
        },
        store::{Commit, Fence, Memory, Redb, migrate::contents},
    };

    fn files_of(folder: &tempfile::TempDir) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn blank(folder: &tempfile::TempDir, name: &str) -> Result<Blank, StoreError> {
        let location = StoreLocation::Redb(folder.path().join(name));
        Blank::at(&location, &EtcdFiles::default()).await
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn a_copy_holds_all_that_was_read_under_an_epoch_of_its_own_and_its_source_goes_on(choices in choices(60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mutations: Vec<_> =
                carried_out(&choices).into_iter().map(|(committed, _, _)| committed.mutation).collect();
            runtime.block_on(async {
                let mut from = Memory::new();
                from.write(&mutations);
                let held = read(&mut from).await.unwrap();
                let mut epochs = BTreeSet::from([held.epoch.clone()]);
                for name in ["one", "two"] {
                    let copied =
                        blank(&folder, name).await.unwrap().fill("the old one", held.clone()).await.unwrap();
                    let mut copy = Redb::open(folder.path().join(name)).await.unwrap();
                    let loaded = copy.load().await.unwrap();
                    assert_eq!(copied.records, held.items.len());
                    assert_eq!(copied.from, (held.epoch.clone(), held.revision));
                    assert_eq!(copied.to, (loaded.epoch.clone(), loaded.revision));
                    assert_eq!(contents(loaded.items), contents(held.items.clone()));
                    assert!(epochs.insert(loaded.epoch), "two copies are two histories");
                }
                assert_eq!(from.load().await.unwrap(), held);
                assert_eq!(files_of(&folder), ["one", "two"], "nothing is left beside them");
            });
        }
    }

    #[tokio::test]
    async fn where_something_is_no_copy_is_made_and_it_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        std::fs::write(&path, "my notes").unwrap();
        let refused = blank(&folder, "taken").await.unwrap_err();
        assert!(refused.to_string().contains("there is a file already"), "{refused}");
        // Or it comes while the copy is made.
        let late = blank(&folder, "late").await.unwrap();
        std::fs::write(folder.path().join("late"), "my notes").unwrap();
        let refused = late.fill("", Memory::new().load().await.unwrap()).await.unwrap_err();
        assert!(refused.to_string().contains("there is a file already"), "{refused}");
        for name in ["taken", "late"] {
            assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), "my notes");
        }
        assert_eq!(files_of(&folder), ["late", "taken"]);
    }

    #[tokio::test]
    async fn what_is_filled_has_a_fence_and_no_name_until_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut draft = Draft::begin(folder.path().join("copy")).await.unwrap();
        Copy::begin(&mut draft.store, "the old one", "").await.unwrap();
        let beside = files_of(&folder);
        let [beside] = &beside[..] else { panic!("{beside:?}") };
        assert!(beside.starts_with("copy.") && beside.ends_with(".part"), "{beside}");
        // As after a process that was killed.
        std::fs::copy(folder.path().join(beside), folder.path().join("left")).unwrap();
        let left = Redb::open(folder.path().join("left")).await.unwrap().load().await;
        assert_eq!(left, Err(StoreError::Fenced(Fence::Filling { from: "the old one".into() })));
        drop(draft);
        assert_eq!(files_of(&folder), ["left"], "whoever ends in order takes it away");
    }

    /// A store that takes nothing.
    struct Full(Memory);

    impl Store for Full {
        async fn load(&mut self) -> Result<Loaded, StoreError> {
            self.0.load().await
        }

        async fn commit(&mut self, _: Revision, _: &[Mutation]) -> Result<Commit, StoreError> {
            Err(StoreError::Full("no room".into()))
        }
    }

    #[tokio::test]
    async fn a_copy_that_fails_says_why() {
        let mut from = Memory::new();
        from.write(&[crate::store::redb::tests::put("r-1")]);
        let held = read(&mut from).await.unwrap();
        let failed = fill(&mut Full(Memory::new()), "the old one", held.clone()).await;
        assert_eq!(failed, Err(StoreError::Full("no room".into())));
        let failed = fill(&mut from, "the old one", held).await.unwrap_err();
        assert!(failed.to_string().contains("it is the store that is to be copied"), "{failed}");
    }

    #[tokio::test]
    async fn whom_a_process_has_named_is_told_to_the_next_control_plane_also_after_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.redb");
        let named = BTreeSet::from([NodeId::parse("n-1").unwrap()]);
        Redb::open(path.clone()).await.unwrap().name_followers(named.clone()).await.unwrap();
        read(&mut Redb::open(path.clone()).await.unwrap()).await.unwrap();
        let next = Redb::open(path).await.unwrap().load().await.unwrap();
        assert_eq!(next.followers, Some(named));
    }
}
