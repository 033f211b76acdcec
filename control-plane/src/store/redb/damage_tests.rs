//! A file that is not what was written: it is refused, or one of the states that were committed. Nothing else is served.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Redb,
    tests::{put, removal},
};
use crate::store::{Loaded, Store, StoreError};

/// redb's.
const PAGE: usize = 4096;

/// A file with a last commit, and what it holds with and without that.
struct Written {
    _folder: tempfile::TempDir,
    path: PathBuf,
    /// Before the last commit: as a kill leaves it, and as an end in good order does.
    before: [Vec<u8>; 2],
    /// After it.
    after: [Vec<u8>; 2],
    states: [Loaded; 2],
}

async fn written() -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let groups: [Vec<_>; 2] = [
        (0..40).map(|number| put(&format!("r-{number}"))).collect(),
        (0..20).map(|number| removal(&format!("r-{number}"), number + 1)).collect(),
    ];
    let (mut states, mut files) = (Vec::new(), Vec::new());
    for group in groups {
        let mut store = Redb::open(path.clone()).await.unwrap();
        store.write(&group).await.unwrap();
        states.push(store.load().await.unwrap());
        let killed = fs::read(&path).unwrap();
        drop(store);
        files.push([killed, fs::read(&path).unwrap()]);
    }
    let [before, after] = files.try_into().unwrap();
    Written { _folder: folder, path, before, after, states: states.try_into().unwrap() }
}

/// How often a file was refused, and how often it held which state.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    refused: usize,
    before: usize,
    after: usize,
}

impl Written {
    /// Opens the file with these bytes in it.
    async fn open(&self, bytes: &[u8], damage: &str, found: &mut Found) {
        fs::write(&self.path, bytes).unwrap();
        match loaded(&self.path).await {
            Ok(loaded) if loaded == self.states[1] => found.after += 1,
            Ok(loaded) if loaded == self.states[0] => found.before += 1,
            Ok(loaded) => panic!("{damage}: it serves what was never committed: {loaded:?}"),
            Err(StoreError::Unusable(why)) => {
                assert!(why.starts_with("the file is damaged, "), "{damage}: {why}");
                assert!(why.contains("put a backup in its place"), "{damage}: {why}");
                found.refused += 1;
            }
            Err(other) => panic!("{damage}: {other}"),
        }
    }
}

async fn loaded(path: &Path) -> Result<Loaded, StoreError> {
    Redb::open(path.to_owned()).await?.load().await
}

/// Places of pages that are not empty.
fn pages(bytes: &[u8]) -> impl Iterator<Item = usize> {
    (0..bytes.len()).step_by(PAGE).filter(|page| bytes[*page..].iter().take(PAGE).any(|byte| *byte != 0))
}

#[tokio::test]
async fn a_file_of_which_one_bit_has_flipped_is_refused_or_whole() {
    let written = written().await;
    let mut found = Found::default();
    let bytes = &written.after[1];
    // Prime steps, so that every kind of page is hit at many places.
    for place in (0..bytes.len()).step_by(1009).filter(|place| bytes[*place] != 0) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        written.open(&flipped, &format!("flipped at {place}"), &mut found).await;
    }
    assert!(found.refused > 0 && found.after > 0, "{found:?}");
}

#[tokio::test]
async fn a_file_that_was_cut_anywhere_is_refused_or_whole() {
    let written = written().await;
    let mut found = Found::default();
    for bytes in &written.after {
        // To nothing, at borders of pages, and not.
        for cut in 0..=20 {
            let len = bytes.len() * cut / 21 / PAGE * PAGE + cut % 2 * (PAGE / 2 + cut);
            written.open(&bytes[..len], &format!("cut to {len}"), &mut found).await;
        }
    }
    println!("{found:?}");
    assert!(found.refused > 0, "{found:?}");
}

#[tokio::test]
async fn a_file_with_a_page_of_zeros_is_refused_or_whole() {
    let written = written().await;
    let mut found = Found::default();
    for bytes in &written.after {
        for page in pages(bytes) {
            let mut zeroed = bytes.clone();
            zeroed[page..].iter_mut().take(PAGE).for_each(|byte| *byte = 0);
            written.open(&zeroed, &format!("zeros at {page}"), &mut found).await;
        }
    }
    println!("{found:?}");
    assert!(found.refused > 0, "{found:?}");
}

#[tokio::test]
async fn a_file_to_which_the_last_commit_came_in_part_is_refused_or_whole() {
    let written = written().await;
    let mut found = Found::default();
    for (before, after) in written.before.iter().zip(&written.after) {
        let differ = |page: &usize| before.get(*page..page + PAGE) != after.get(*page..page + PAGE);
        for page in pages(after).filter(differ) {
            // The whole page, its first half and its second half are as they were.
            for lost in [page..page + PAGE, page..page + PAGE / 2, page + PAGE / 2..page + PAGE] {
                let mut torn = after.clone();
                let old = before.get(lost.clone()).map_or_else(|| vec![0; lost.len()], <[u8]>::to_vec);
                torn[lost.clone()].copy_from_slice(&old);
                written.open(&torn, &format!("{lost:?} is as it was"), &mut found).await;
            }
        }
    }
    println!("{found:?}");
    assert!(found.refused + found.before > 0 && found.after > 0, "{found:?}");
}
