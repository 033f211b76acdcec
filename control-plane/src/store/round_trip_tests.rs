//! What a store was given is what it gives back, whatever happened in the registry.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Memory, Redb, Store};
use crate::registry::{
    Item, Key, View,
    arbitrary::{carried_out, choices},
};

proptest! {
    // Each case is a file with some fsyncs.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_stores_give_back_the_registry_as_it_was(choices in choices(60), groups in 1..9_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let steps = carried_out(&choices);
        let mutations: Vec<_> = steps.iter().map(|(committed, _, _)| committed.mutation.clone()).collect();
        let path = folder.path().join("gateway.redb");
        let (kept, remembered) = runtime.block_on(async {
            let (mut redb, mut memory) = (Redb::open(path.clone()).await.unwrap(), Memory::new());
            for group in mutations.chunks(groups) {
                assert_eq!(redb.commit(0, group).await, memory.commit(0, group).await);
            }
            drop(redb);
            (Redb::open(path).await.unwrap().load().await.unwrap(), memory.load().await.unwrap())
        });
        prop_assert_eq!(kept.revision, remembered.revision);
        prop_assert_eq!(by_key(&kept.items), by_key(&remembered.items));
        let view = steps.last().map(|(_, _, view)| view.clone()).unwrap_or_default();
        let loaded = View::new(kept.revision, kept.items);
        prop_assert_eq!(loaded.revision(), view.revision());
        prop_assert!(loaded.items().eq(view.items()));
        prop_assert!(view.changes_to(&loaded).is_empty());
    }
}

fn by_key(items: &[Item]) -> BTreeMap<Key, &Item> {
    items.iter().map(|item| (item.key(), item)).collect()
}
