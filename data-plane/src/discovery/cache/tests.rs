//! The file on disk: what was saved is loaded, and nothing else.

use super::*;
use crate::discovery::tests::held;

const HOUR: Duration = Duration::from_secs(3600);

fn noon() -> SystemTime {
    UNIX_EPOCH + 500_000 * HOUR
}

#[test]
fn a_saved_snapshot_is_loaded_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().join("made/when/needed"), HOUR);
    assert_eq!(cache.load(noon()).unwrap(), None);
    cache.save(&held(), noon()).unwrap();
    let loaded = cache.load(noon() + HOUR).unwrap();
    assert_eq!(loaded, Some(Cached { snapshot: held(), age: HOUR }), "as old as allowed");
    let files = fs::read_dir(cache.path().parent().unwrap()).unwrap();
    assert_eq!(files.count(), 1, "no temporary file is left");
}

#[test]
fn a_later_save_replaces_an_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path(), HOUR);
    cache.save(&held(), noon()).unwrap();
    let empty = Snapshot::new("f", 9, vec![]);
    cache.save(&empty, noon()).unwrap();
    assert_eq!(cache.load(noon()).unwrap().unwrap().snapshot, empty);
}

#[test]
fn a_snapshot_that_is_too_old_is_refused_with_both_ages() {
    let bytes = encode(&held(), noon());
    let error = decode(&bytes, noon() + 2 * HOUR, HOUR).unwrap_err();
    assert_eq!(error.to_string(), "was current 2h ago, at most 1h is allowed");
}

#[test]
fn a_wall_clock_that_went_back_makes_the_snapshot_new() {
    let bytes = encode(&held(), noon());
    assert_eq!(decode(&bytes, noon() - HOUR, HOUR).unwrap().age, Duration::ZERO);
}

#[test]
fn another_schema_is_refused_whatever_follows_it() {
    let mut bytes = encode(&held(), noon());
    bytes.truncate(12);
    bytes[8] = 2;
    let error = decode(&bytes, noon(), HOUR).unwrap_err();
    assert_eq!(error.to_string(), "has schema version 2, this data plane reads 1");
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let good = encode(&held(), noon());
    for offset in 0..good.len() {
        let mut bytes = good.clone();
        bytes[offset] ^= 1 << (offset % 8);
        assert!(decode(&bytes, noon(), HOUR).is_err(), "offset {offset}");
    }
}

#[test]
fn a_file_cut_anywhere_is_found() {
    let good = encode(&held(), noon());
    for length in 0..good.len() {
        assert!(decode(&good[..length], noon(), HOUR).is_err(), "length {length}");
    }
}

#[test]
fn right_bytes_with_invalid_content_are_refused_with_the_resource() {
    let nameless = Snapshot::new("", 3, vec![]);
    let error = decode(&encode(&nameless, noon()), noon(), HOUR).unwrap_err();
    assert!(matches!(error, CacheError::Invalid(_)), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_and_not_a_crash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = Cache::new(file.path().join("below-a-file"), HOUR);
    assert!(cache.save(&held(), noon()).is_err());
    assert!(matches!(cache.load(noon()), Err(CacheError::Unreadable(_))));
}
