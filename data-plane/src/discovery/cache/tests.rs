//! The file on disk: what was saved is loaded, and nothing else.

use std::time::UNIX_EPOCH;

use gateway_proto::v1;

use super::{
    format::{decode, encode},
    *,
};
use crate::discovery::{
    Mirror,
    tests::{full, held, override_of, replica, service},
};

const HOUR: Duration = Duration::from_secs(3600);

fn noon() -> SystemTime {
    UNIX_EPOCH + 500_000 * HOUR
}

fn nothing() -> Guard {
    Guard::default()
}

#[test]
fn a_saved_snapshot_is_loaded_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().join("made/when/needed"), HOUR);
    assert_eq!(cache.load(noon()).unwrap(), None);
    cache.save(&held(), &nothing(), noon()).unwrap();
    let loaded = cache.load(noon() + HOUR).unwrap();
    assert_eq!(loaded, Some(Cached { snapshot: held(), guard: nothing(), age: HOUR }), "as old as allowed");
    let files = fs::read_dir(cache.path().parent().unwrap()).unwrap();
    assert_eq!(files.count(), 1, "no temporary file is left");
}

/// Holds `orders/r-1` since noon beside the registry's `users/r-1`.
fn holding() -> Mirror {
    let users = || service("users", vec![replica("users", "r-1", 1)]);
    let endpoint = Some(v1::Endpoint {
        address: "127.0.0.1:2".into(),
        protocol: v1::EndpointProtocol::Tls.into(),
        tls_server_name: "orders.example".into(),
    });
    let orders = service(
        "orders",
        vec![v1::Replica { weight: 7, priority: 3, endpoint, ..replica("orders", "r-1", 2) }],
    );
    let mut mirror = Mirror::new("dp-1".parse().unwrap(), Snapshot::default(), nothing(), noon());
    mirror.tell(full(5, vec![orders, users()]), noon());
    mirror.tell(full(6, vec![users()]), noon());
    assert_eq!(mirror.guard().len(), 1);
    mirror
}

#[test]
fn what_the_guard_holds_is_loaded_as_it_was() {
    let mirror = holding();
    let bytes = encode(mirror.snapshot(), mirror.guard(), noon());
    let loaded = decode(&bytes, noon() + HOUR, HOUR).unwrap();
    assert_eq!(&loaded.snapshot, mirror.snapshot());
    assert!(loaded.guard.replicas().eq(mirror.guard().replicas()));
}

#[test]
fn a_replica_that_is_both_registered_and_held_is_no_content() {
    let mirror = holding();
    let error = decode(&encode(&held(), mirror.guard(), noon()), noon(), HOUR).unwrap_err();
    assert_eq!(error.to_string(), "holds what is no snapshot: held replica orders/r-1 is named twice");
}

#[test]
fn draining_replicas_overrides_and_routes_are_loaded_as_they_were() {
    let drain = v1::Drain { deadline_time: Some((noon() + HOUR).into()), ..Default::default() };
    let mode = v1::ReplicaMode::Draining.into();
    let draining = v1::Replica { drain: Some(drain), mode, revision: 4, ..replica("orders", "r-1", 1) };
    let content = v1::FullSnapshot {
        services: vec![service("orders", vec![draining])],
        overrides: vec![override_of("o-1", "orders", "r-1")],
        default_policy: Some(v1::Policy { revision: 3, ..Default::default() }),
        routes: vec![v1::Route {
            name: "shop".into(),
            service: "orders".into(),
            revision: 2,
            ..Default::default()
        }],
        last_part: true,
        ..Default::default()
    };
    let update = Some(v1::stream_snapshots_response::Update::Full(content));
    let message = v1::StreamSnapshotsResponse { epoch: "e".into(), update, ..Default::default() };
    let mut mirror = Mirror::new("dp-1".parse().unwrap(), Snapshot::default(), nothing(), noon());
    mirror.tell(message, noon());
    let bytes = encode(mirror.snapshot(), mirror.guard(), noon());
    assert_eq!(&decode(&bytes, noon(), HOUR).unwrap().snapshot, mirror.snapshot());
}

#[test]
fn a_later_save_replaces_an_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path(), HOUR);
    cache.save(&held(), &nothing(), noon()).unwrap();
    let empty = Snapshot::new("f", 9, vec![]);
    cache.save(&empty, &nothing(), noon()).unwrap();
    assert_eq!(cache.load(noon()).unwrap().unwrap().snapshot, empty);
}

#[test]
fn a_snapshot_that_is_too_old_is_refused_with_both_ages() {
    let bytes = encode(&held(), &nothing(), noon());
    let error = decode(&bytes, noon() + 2 * HOUR, HOUR).unwrap_err();
    assert_eq!(error.to_string(), "was current 2h ago, at most 1h is allowed");
}

#[test]
fn a_wall_clock_that_went_back_makes_the_snapshot_new() {
    let bytes = encode(&held(), &nothing(), noon());
    assert_eq!(decode(&bytes, noon() - HOUR, HOUR).unwrap().age, Duration::ZERO);
}

#[test]
fn another_schema_is_refused_whatever_follows_it() {
    let mut bytes = encode(&held(), &nothing(), noon());
    bytes.truncate(12);
    bytes[8] = 1;
    let error = decode(&bytes, noon(), HOUR).unwrap_err();
    assert_eq!(error.to_string(), "has schema version 1, this data plane reads 3");
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let mirror = holding();
    let good = encode(mirror.snapshot(), mirror.guard(), noon());
    for offset in 0..good.len() {
        let mut bytes = good.clone();
        bytes[offset] ^= 1 << (offset % 8);
        assert!(decode(&bytes, noon(), HOUR).is_err(), "offset {offset}");
    }
}

#[test]
fn a_file_cut_anywhere_is_found() {
    let mirror = holding();
    let good = encode(mirror.snapshot(), mirror.guard(), noon());
    for length in 0..good.len() {
        assert!(decode(&good[..length], noon(), HOUR).is_err(), "length {length}");
    }
}

#[test]
fn right_bytes_with_invalid_content_are_refused_with_the_resource() {
    let nameless = Snapshot::new("", 3, vec![]);
    let error = decode(&encode(&nameless, &nothing(), noon()), noon(), HOUR).unwrap_err();
    assert!(matches!(error, CacheError::Invalid(_)), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_and_not_a_crash() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = Cache::new(file.path().join("below-a-file"), HOUR);
    assert!(cache.save(&held(), &nothing(), noon()).is_err());
    assert!(matches!(cache.load(noon()), Err(CacheError::Unreadable(_))));
}
