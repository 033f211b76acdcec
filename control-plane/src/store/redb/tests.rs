use std::time::UNIX_EPOCH;

use super::{volatile_disk::Disk, *};
use crate::{
    registry::{Cause, RecordWrite},
    store::stored::tests::record,
};

pub(in crate::store) fn put(id: &str) -> Mutation {
    Mutation::one(RecordWrite::put(record(id), None, Cause::Registered), UNIX_EPOCH)
}

pub(super) fn removal(id: &str, expected: Revision) -> Mutation {
    let key = Item::from(record(id)).key();
    Mutation::one(RecordWrite::remove(key, expected, Cause::Registered), UNIX_EPOCH)
}

fn replacement(id: &str, expected: Revision) -> Mutation {
    Mutation::one(RecordWrite::put(record(id), Some(expected), Cause::Registered), UNIX_EPOCH)
}

#[tokio::test]
async fn a_reopened_file_has_everything_that_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let mut store = Redb::open(path.clone()).await.unwrap();
    assert_eq!(store.write(&[put("a"), put("b"), put("c")]).await, Ok(vec![1, 2, 3]));
    assert_eq!(store.write(&[removal("b", 2), replacement("a", 1)]).await, Ok(vec![4, 5]));
    let before = store.load().await.unwrap();
    drop(store);
    let after = Redb::open(path).await.unwrap().load().await.unwrap();
    assert_eq!(after, before);
    assert_eq!(after.revision, 5);
    let kept = [("c", 3), ("a", 5)].map(|(id, revision)| Item::from(record(id)).at(revision));
    assert_eq!(after.items, kept);
}

/// Files of this process by their numbers are in a folder that nobody can sync.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_that_is_there_opens_although_its_folder_cannot_be_synced() {
    use std::os::fd::AsRawFd;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    Redb::open(path.clone()).await.unwrap().write(&[put("a")]).await.unwrap();
    let file = File::open(&path).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    assert!(sync_folder(&path).is_err());
    assert_eq!(Redb::open(path).await.unwrap().load().await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_change_of_what_the_file_does_not_hold_is_refused_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Redb::open(folder.path().join("gateway.redb")).await.unwrap();
    store.write(&[put("a"), put("b")]).await.unwrap();
    for wrong in [removal("a", 2), removal("c", 1), replacement("a", 9)] {
        assert!(store.write(&[replacement("b", 2), wrong]).await.is_err());
        let kept = [("a", 1), ("b", 2)].map(|(id, revision)| Item::from(record(id)).at(revision));
        assert_eq!(store.load().await.unwrap().items, kept);
    }
}

#[tokio::test]
async fn a_file_of_another_layout_is_refused_by_its_number_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let database = open_file(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", "1000").unwrap();
    transaction.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let refused = Redb::open(path.clone()).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            "the file has format 1000, this version reads format 5; the version that wrote it still does, and \
             docs/versions.md says how to go on from there"
        );
    }
}

#[tokio::test]
async fn two_new_files_have_two_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let mut epochs = Vec::new();
    for name in ["one", "two"] {
        epochs.push(Redb::open(folder.path().join(name)).await.unwrap().load().await.unwrap().epoch);
    }
    assert_ne!(epochs[0], epochs[1]);
}

#[tokio::test]
async fn a_second_opening_of_one_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let _first = Redb::open(path.clone()).await.unwrap();
    let second = Redb::open(path).await.unwrap_err();
    assert_eq!(second, StoreError::InUse);
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "my notes").unwrap();
    assert!(Redb::open(path.clone()).await.is_err());
    assert_eq!(std::fs::read_to_string(path).unwrap(), "my notes");
}

#[tokio::test]
async fn a_new_store_is_at_its_place_only_once_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    // What a process leaves behind that was killed while it made its store.
    fs::write(folder.path().join("gateway.redb.0123.new"), [0; 4096]).unwrap();
    let _store = Redb::open(path.clone()).await.unwrap();
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["gateway.redb", "gateway.redb.0123.new"]);
}

#[tokio::test]
async fn of_many_who_make_one_store_at_once_one_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.redb");
    let makers: Vec<_> = (0..8).map(|_| tokio::spawn(Redb::open(path.clone()))).collect();
    let mut holders = Vec::new();
    for maker in makers {
        match maker.await.unwrap() {
            Ok(store) => holders.push(store),
            Err(error) => assert_eq!(error, StoreError::InUse),
        }
    }
    assert_eq!(holders.len(), 1);
}

#[tokio::test]
async fn an_empty_file_and_another_programs_database_are_no_stores() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, foreign) = (folder.path().join("empty"), folder.path().join("foreign"));
    File::create(&empty).unwrap();
    drop(Database::create(&foreign).unwrap());
    for path in [&empty, &foreign] {
        let error = Redb::open(path.clone()).await.unwrap_err().to_string();
        assert!(error.starts_with("the file is damaged, or no store of this program: "), "{error}");
        assert!(error.contains("put a backup in its place, or move it away"), "{error}");
    }
    assert_eq!(fs::metadata(empty).unwrap().len(), 0, "it is left alone");
}

#[tokio::test]
async fn after_a_failure_the_next_load_opens_the_file_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Redb::open(folder.path().join("gateway.redb")).await.unwrap();
    store.write(&[put("a")]).await.unwrap();
    store.database = None;
    assert!(store.write(&[put("b")]).await.is_err());
    assert_eq!(store.load().await.unwrap().revision, 1);
    assert_eq!(store.write(&[put("b")]).await, Ok(vec![2]));
}

#[tokio::test]
async fn a_change_that_was_written_before_the_disk_failed_is_not_said_to_be_none() {
    for (kind, is_full) in [
        (ErrorKind::StorageFull, true),
        (ErrorKind::QuotaExceeded, true),
        (ErrorKind::ReadOnlyFilesystem, false),
        (ErrorKind::Other, false),
    ] {
        let disk = Disk::new(1);
        disk.power_on(u64::MAX);
        drop(create_in(disk.attach().unwrap()).unwrap());
        let mut store = Redb::open_at(Place::Disk(disk.clone())).await.unwrap();
        disk.fail_syncs(kind);
        let failed = store.write(&[put("a")]).await.unwrap_err();
        let is_as_expected = match is_full {
            true => matches!(failed, StoreError::FullUnanswered(_)),
            false => matches!(failed, StoreError::Unanswered(_)),
        };
        assert!(is_as_expected, "{kind}: {failed:?}");
    }
}
