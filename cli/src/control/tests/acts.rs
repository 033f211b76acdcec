//! Commands that change something: what they ask for, and how they end.

use gateway_proto::v1::{ReplicaMode, Rollout};
use prost_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;

fn rollout(acked: i32, pending: &[&str]) -> Rollout {
    let pending_node_ids = pending.iter().map(|id| (*id).to_owned()).collect();
    Rollout { node_count: 2, acked_node_count: acked, pending_node_ids, ..Default::default() }
}

fn receipt(mode: ReplicaMode, acked: i32, inflight: i32) -> v1::WatchDrainResponse {
    v1::WatchDrainResponse {
        replica: Some(v1::Replica { mode: mode.into(), ..replica("orders", "r-1") }),
        status: Some(v1::DrainStatus {
            rollout: Some(rollout(acked, &["dp-2"])),
            inflight_request_count: inflight,
            ..Default::default()
        }),
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn a_drain_asks_with_who_why_and_for_how_long() {
    let (fake, _, url) = connect(orders()).await;
    run("drain orders/r-1 --reason update --author ana --drain-timeout 5s --allow-last", &url).await.unwrap();
    let asked = fake.with(|script| script.drained.pop().unwrap());
    assert_eq!((asked.service.as_str(), asked.replica_id.as_str()), ("orders", "r-1"));
    assert_eq!((asked.reason.as_str(), asked.author.as_str()), ("update", "ana"));
    assert_eq!((asked.drain_timeout, asked.allow_last, asked.validate_only), (seconds(5), true, false));
}

#[tokio::test]
async fn the_last_ready_replica_is_drained_only_when_that_is_said() {
    let (_, _, url) = connect(Script { is_last_ready: true, ..orders() }).await;
    let error = run("drain orders/r-1", &url).await.unwrap_err();
    assert_eq!(
        (error.exit, error.hints.as_slice()),
        (Exit::Conflict, &["add --allow-last to drain it all the same".to_owned()][..])
    );
    assert_eq!(error.code, "FAILED_PRECONDITION / LAST_READY_REPLICA");
    run("drain orders/r-1 --allow-last", &url).await.unwrap();
}

#[tokio::test]
async fn a_drain_is_followed_to_its_end_over_streams_that_break() {
    let receipts = vec![
        vec![receipt(ReplicaMode::Draining, 1, 2)],
        vec![receipt(ReplicaMode::Draining, 2, 1), receipt(ReplicaMode::Drained, 2, 0)],
    ];
    let (fake, _, url) = connect(Script { receipts, ..orders() }).await;
    run("drain orders/r-1 --wait 30s", &url).await.unwrap();
    assert!(fake.with(|script| script.receipts.is_empty()));
}

#[tokio::test]
async fn a_drain_that_does_not_end_in_time_says_what_is_in_the_way() {
    let receipts = vec![vec![receipt(ReplicaMode::Draining, 1, 2)]];
    let (_, _, url) = connect(Script { receipts, ..orders() }).await;
    let error = run("drain orders/r-1 --wait 100ms", &url).await.unwrap_err();
    assert_eq!(
        (error.exit, error.headline.as_str()),
        (Exit::WaitOver, "orders/r-1 still drains after 100ms: 2 in flight")
    );
    assert_eq!(error.details, ["1/2 data planes stopped sending: waiting for dp-2"]);
}

#[tokio::test]
async fn a_drain_that_somebody_undoes_meanwhile_is_a_conflict() {
    let receipts = vec![vec![receipt(ReplicaMode::Draining, 1, 2), receipt(ReplicaMode::Serving, 0, 0)]];
    let (_, _, url) = connect(Script { receipts, ..orders() }).await;
    let error = run("drain orders/r-1 --wait 30s", &url).await.unwrap_err();
    assert_eq!(
        (error.exit, error.headline.as_str()),
        (Exit::Conflict, "orders/r-1 was returned to service meanwhile")
    );
}

#[tokio::test]
async fn a_replica_is_returned_with_who_and_why() {
    let (fake, _, url) = connect(orders()).await;
    run("undrain orders/r-1 --reason done --author ana", &url).await.unwrap();
    let asked = fake.with(|script| script.undrained.pop().unwrap());
    assert_eq!(
        (asked.replica_id.as_str(), asked.reason.as_str(), asked.author.as_str()),
        ("r-1", "done", "ana")
    );
}

#[tokio::test]
async fn a_breaker_is_forced_for_a_quarter_of_an_hour_unless_somebody_says_for_how_long() {
    let (fake, _, url) = connect(orders()).await;
    run("breaker open orders/r-1 --reason broken --author ana", &url).await.unwrap();
    run("breaker close orders --all --reason really --ttl 5m --node dp-1 --dry-run --wait 1s", &url)
        .await
        .unwrap();
    let [open, close] = fake.with(|script| std::mem::take(&mut script.forced)).try_into().unwrap();
    assert_eq!(
        (open.state(), open.replica_id.as_str(), open.ttl),
        (v1::BreakerState::ForcedOpen, "r-1", seconds(900))
    );
    assert_eq!((open.reason.as_str(), open.author.as_str(), open.validate_only), ("broken", "ana", false));
    assert_eq!(open.wait_timeout, seconds(5));
    assert_eq!(
        (close.state(), close.replica_id.as_str(), close.ttl),
        (v1::BreakerState::ForcedClosed, "-", seconds(300))
    );
    assert_eq!((close.node_id.as_str(), close.validate_only, close.wait_timeout), ("dp-1", true, seconds(1)));
}

#[tokio::test]
async fn a_change_that_has_not_come_everywhere_in_time_is_done_in_part() {
    let (_, _, url) = connect(Script { rollout: rollout(1, &["dp-2"]), ..orders() }).await;
    for command in [
        "breaker open orders/r-1 --reason broken",
        "breaker reset orders/r-1",
        "breaker auto orders/r-1",
        "policy set orders breaker.window=20s",
    ] {
        let error = run(command, &url).await.unwrap_err();
        assert_eq!(error.exit, Exit::Partial, "{command}");
        assert_eq!(error.details, ["dp-2"], "{command}");
        run(&format!("{command} --wait 0s"), &url).await.expect(command);
    }
}

#[tokio::test]
async fn a_service_is_not_taken_for_all_of_its_replicas() {
    let (fake, _, url) = connect(orders()).await;
    let error = run("breaker open orders --reason broken", &url).await.unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(fake.with(|script| script.forced.is_empty()));
}

#[tokio::test]
async fn a_breaker_is_reset_or_handed_back() {
    let overrides = vec![v1::OverrideEntry {
        service: "orders".into(),
        replica_id: "r-77".into(),
        kind: v1::OverrideKind::BreakerOpen.into(),
        ..Default::default()
    }];
    let (fake, _, url) = connect(Script { overrides, ..orders() }).await;
    run("breaker reset orders --all --reason calm", &url).await.unwrap();
    let reset = fake.with(|script| script.reset.pop().unwrap());
    assert_eq!((reset.replica_id.as_str(), reset.reason.as_str()), ("-", "calm"));
    // The replica is gone, what was forced of it is not.
    run("breaker auto orders/r-7", &url).await.unwrap();
    let auto = fake.with(|script| script.forced.pop().unwrap());
    assert_eq!((auto.state(), auto.replica_id.as_str(), auto.ttl), (v1::BreakerState::Closed, "r-77", None));
}

#[tokio::test]
async fn a_guard_is_released_and_an_override_ended_with_who_and_why() {
    let (fake, _, url) = connect(orders()).await;
    run("release-guard orders --reason gone --author ana", &url).await.unwrap();
    let released = fake.with(|script| script.released.pop().unwrap());
    assert_eq!((released.service.as_str(), released.ttl), ("orders", seconds(600)));
    assert_eq!((released.reason.as_str(), released.author.as_str()), ("gone", "ana"));
    run("end-override guard/orders --author ana", &url).await.unwrap();
    let ended = fake.with(|script| script.ended.pop().unwrap());
    assert_eq!((ended.override_id.as_str(), ended.author.as_str()), ("guard/orders", "ana"));
}

#[tokio::test]
async fn a_deregistration_can_keep_the_replica_out() {
    let (fake, _, url) = connect(orders()).await;
    run("deregister orders/r-1 --block 10m --author ana", &url).await.unwrap();
    let asked = fake.with(|script| script.deregistered.pop().unwrap());
    assert_eq!((asked.block_reregister_ttl, asked.author.as_str()), (seconds(600), "ana"));
}

#[tokio::test]
async fn policies_are_set_setting_by_setting() {
    let (fake, _, url) = connect(orders()).await;
    let mask =
        |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    run("policy set orders timeout.per_try=800ms breaker.window=20s --reason flaky --author ana", &url)
        .await
        .unwrap();
    let asked = fake.with(|script| script.updated.pop().unwrap());
    assert_eq!(asked.update_mask, mask(&["breaker.window", "timeout.per_try"]));
    assert_eq!((asked.reason.as_str(), asked.author.as_str(), asked.allow_missing), ("flaky", "ana", true));
    let stored = fake.with(|script| script.policies["orders"].clone());
    assert_eq!(stored.breaker.unwrap().window, seconds(20));

    run("policy unset orders breaker --dry-run", &url).await.unwrap();
    let asked = fake.with(|script| script.updated.pop().unwrap());
    assert_eq!(
        (asked.update_mask, asked.validate_only, asked.allow_missing),
        (mask(&["breaker"]), true, false)
    );
    assert!(fake.with(|script| script.policies["orders"].breaker.is_some()), "nothing changed");

    run("policy delete orders --dry-run", &url).await.unwrap();
    assert!(fake.with(|script| script.updated.pop().unwrap().validate_only && script.deleted.is_empty()));
    run("policy delete orders --reason calm", &url).await.unwrap();
    assert_eq!(fake.with(|script| script.deleted.pop().unwrap()).reason, "calm");
}

#[tokio::test]
async fn a_policy_that_is_not_there_is_not_found() {
    let (_, _, url) = connect(orders()).await;
    for command in ["policy get orders", "policy unset orders breaker", "policy delete orders"] {
        let error = run(command, &url).await.unwrap_err();
        assert_eq!(
            (error.exit, error.code.as_str()),
            (Exit::NotFound, "NOT_FOUND / POLICY_NOT_FOUND"),
            "{command}"
        );
    }
}

#[tokio::test]
async fn a_setting_out_of_range_is_refused_by_the_control_plane_and_one_given_twice_here() {
    let (fake, _, url) = connect(orders()).await;
    let error = run("policy set orders breaker.failure_ratio=50", &url).await.unwrap_err();
    assert_eq!((error.exit, error.code.as_str()), (Exit::Usage, "INVALID_ARGUMENT / POLICY_INVALID"));
    let error = run("policy set orders breaker.window=20s breaker.window=30s", &url).await.unwrap_err();
    assert_eq!((error.exit, error.headline.as_str()), (Exit::Usage, "breaker.window is given twice"));
    assert!(fake.with(|script| script.updated.is_empty()));
}

#[tokio::test]
async fn a_route_is_set_field_by_field_shown_and_removed() {
    let (fake, _, url) = connect(orders()).await;
    run("route set shop service=orders path_prefix=/api headers=x-a:1 headers=x-b --dry-run", &url)
        .await
        .unwrap();
    let asked = fake.with(|script| script.routed.pop().unwrap());
    assert!(asked.validate_only && asked.allow_missing);
    assert_eq!(asked.update_mask.unwrap().paths, ["headers", "path_prefix", "service"]);
    assert!(fake.with(|script| script.routes.is_empty()), "nothing changed");

    run("route set shop service=orders path_prefix=/api priority=3 --reason launch --author ana", &url)
        .await
        .unwrap();
    let asked = fake.with(|script| script.routed.pop().unwrap());
    assert_eq!((asked.reason.as_str(), asked.author.as_str()), ("launch", "ana"));
    run("route set shop priority=", &url).await.unwrap();
    let stored = fake.with(|script| script.routes["shop"].clone());
    assert_eq!((stored.priority, stored.path_prefix.as_str()), (0, "/api"));
    for command in ["route get", "get routes", "route get shop", "route delete shop"] {
        run(command, &url).await.unwrap();
    }
    for command in ["route get shop", "route delete shop"] {
        let error = run(command, &url).await.unwrap_err();
        assert_eq!(
            (error.exit, error.code.as_str()),
            (Exit::NotFound, "NOT_FOUND / ROUTE_NOT_FOUND"),
            "{command}"
        );
    }
    let error = run("route set shop host=a host=b", &url).await.unwrap_err();
    assert_eq!((error.exit, error.headline.as_str()), (Exit::Usage, "host is given twice"));
}

/// Files with a policy for each of these services.
fn policies(services: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for service in services {
        let policy = format!(r#"{{"service": "{service}", "breaker": {{"window": "20s"}}}}"#);
        std::fs::write(folder.path().join(service).with_extension("json"), policy).unwrap();
    }
    folder
}

#[tokio::test]
async fn who_applies_policies_does_so_in_one_transaction_and_overwrites_none_that_he_has_not_seen() {
    let stored = |service: &str, etag: &str| {
        let policy = v1::Policy { service: service.into(), etag: etag.into(), ..Default::default() };
        (service.to_owned(), policy)
    };
    let stored = [stored("orders", "e-1"), stored("old", "e-2")].into();
    let (fake, _, url) = connect(Script { policies: stored, ..Script::default() }).await;
    let folder = policies(&["new", "orders"]);
    let files = folder.path().display();
    run(&format!("policy apply -f {files} --prune"), &url).await.unwrap();
    let asked = fake.with(|script| std::mem::take(&mut script.applied));
    let [asked] = &asked[..] else { panic!("{asked:?}") };
    let changes: Vec<_> = asked
        .changes
        .iter()
        .map(|change| {
            let service = change.policy.as_ref().unwrap().service.as_str();
            (service, change.remove, change.etag.as_str(), change.must_be_missing)
        })
        .collect();
    let wanted = [("new", false, "", true), ("orders", false, "e-1", false), ("old", true, "e-2", false)];
    assert_eq!((asked.validate_only, &changes[..]), (false, &wanted[..]));
    run(&format!("policy apply -f {files} --dry-run"), &url).await.unwrap();
    assert!(fake.with(|script| script.applied.iter().all(|asked| asked.validate_only)));
}

#[tokio::test]
async fn more_policies_than_one_transaction_takes_are_all_asked_about_before_the_first_is_changed() {
    let (fake, _, url) = connect(Script::default()).await;
    let services: Vec<_> = (0..150).map(|number| format!("s-{number:03}")).collect();
    let folder = policies(&services.iter().map(String::as_str).collect::<Vec<_>>());
    run(&format!("policy apply -f {}", folder.path().display()), &url).await.unwrap();
    let asked = fake.with(|script| std::mem::take(&mut script.applied));
    let asked: Vec<_> = asked.iter().map(|asked| (asked.validate_only, asked.changes.len())).collect();
    assert_eq!(asked, [(true, 100), (true, 50), (false, 100), (false, 50)]);
}

#[tokio::test]
async fn a_policy_that_is_refused_among_several_is_named() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("changes[1].policy.breaker.max_open", "is less than base_open");
    let refused = Status::with_error_details(Code::InvalidArgument, "no", details);
    let (_, _, url) = connect(Script { refuse_changes: Some(refused), ..Script::default() }).await;
    let folder = policies(&["a", "b"]);
    let error = run(&format!("policy apply -f {}", folder.path().display()), &url).await.unwrap_err();
    assert_eq!((error.exit, error.headline.as_str()), (Exit::Usage, "invalid change of policies"));
    assert_eq!(error.details, ["b: breaker.max_open: is less than base_open"]);
}

/// What somebody sees of `orders` who may look at one replica, and not list them.
fn owned() -> Script {
    let lease = Some(v1::Lease { permanent: true, ..Default::default() });
    Script {
        replicas: vec![v1::Replica { lease, mode: ReplicaMode::Drained.into(), ..replica("orders", "r-1") }],
        hides_lists: true,
        shown_at: Some(None),
        ..orders()
    }
}

#[tokio::test]
async fn what_an_owner_may_do_takes_no_list_of_replicas_where_the_whole_id_is_given() {
    let (fake, _, url) = connect(owned()).await;
    for line in [
        "drain orders/r-1",
        "drain orders/r-1 --dry-run",
        "undrain orders/r-1",
        "wait orders/r-1 --for drained",
        "deregister orders/r-1",
    ] {
        run(line, &url).await.expect(line);
    }
    assert_eq!(fake.with(|script| (script.drained.len(), script.undrained.len())), (2, 1));
    let error = run("drain orders/r", &url).await.unwrap_err();
    assert_eq!((error.exit, error.headline.as_str()), (Exit::NotFound, "orders has no replica \"r\""));
    assert_eq!(error.hints, ["only the role reader finds it by the beginning of its id: type all of it"]);
}

#[tokio::test]
async fn that_a_replica_is_gone_is_not_said_of_a_name_that_may_be_the_beginning_of_an_id() {
    let (fake, _, url) = connect(owned()).await;
    let error = run("wait orders/r --for deleted --timeout 1s", &url).await.unwrap_err();
    assert_eq!((error.exit, error.headline.as_str()), (Exit::NotFound, "orders has no replica \"r\""));
    assert_eq!(error.hints, ["only the role reader finds it by the beginning of its id: type all of it"]);
    // Of one that was there it is known.
    let waiting = run("wait orders/r-1 --for deleted --timeout 10s", &url);
    let mut looks = fake.with(|script| script.looks.subscribe());
    let removing = async {
        let seen = *looks.borrow();
        looks.wait_for(|looks| *looks > seen).await.unwrap();
        fake.with(|script| script.replicas.clear());
    };
    let (waited, ()) = tokio::join!(waiting, removing);
    waited.unwrap();
}

#[tokio::test]
async fn nothing_is_done_to_another_replica_whose_id_begins_with_that_of_one_that_is_gone() {
    let lease = Some(v1::Lease { permanent: true, ..Default::default() });
    let both = ["r-1", "r-10"].map(|id| v1::Replica { lease, ..replica("orders", id) });
    let script = Script { replicas: both.to_vec(), shown_at: Some(None), ..orders() };
    let (fake, _, url) = connect(script).await;
    let waiting = run("wait orders/r-1 --for deleted --timeout 10s", &url);
    let mut looks = fake.with(|script| script.looks.subscribe());
    let removing = async {
        looks.wait_for(|looks| *looks > 0).await.unwrap();
        // Who was started anew since knows of nobody who was removed.
        fake.with(|script| script.replicas.retain(|replica| replica.replica_id != "r-1"));
    };
    let (waited, ()) = tokio::join!(waiting, removing);
    waited.unwrap();

    fake.with(|script| script.removed = vec!["r-1"]);
    run("wait orders/r-1 --for deleted --timeout 10s", &url).await.unwrap();
    for line in ["deregister orders/r-1 --yes", "drain orders/r-1"] {
        let error = run(line, &url).await.unwrap_err();
        assert_eq!(error.exit, Exit::NotFound, "{line}");
        assert!(format!("{error:?}").contains("deregistered by ana"), "{error:?}");
    }
    assert!(fake.with(|script| script.deregistered.is_empty() && script.drained.is_empty()));
}

#[tokio::test]
async fn who_waits_for_a_replica_is_denied_the_list_once() {
    let (fake, _, url) = connect(owned()).await;
    let waiting = run("wait orders/r-9 --for ready --timeout 10s", &url);
    let mut looks = fake.with(|script| script.looks.subscribe());
    let coming = async {
        looks.wait_for(|looks| *looks == 2).await.unwrap();
        let (health, mode) = (v1::HealthStatus::Healthy.into(), ReplicaMode::Serving.into());
        let come = v1::Replica { health, mode, ..replica("orders", "r-9") };
        fake.with(|script| script.replicas.push(come));
    };
    let (waited, ()) = tokio::join!(waiting, coming);
    waited.unwrap();
    assert_eq!(fake.with(|script| script.denials), 1);
}

#[tokio::test]
async fn who_has_the_lease_of_a_replica_removes_it_by_that_and_is_asked_nothing() {
    let (fake, _, url) = connect(owned()).await;
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    let id = format!("{:032x}", 7);
    std::fs::write(&good, format!("{id}\n")).unwrap();
    std::fs::write(&bad, "orders/r-1").unwrap();
    run(&format!("deregister orders/r-1 --lease-file {}", good.display()), &url).await.unwrap();
    let asked = fake.with(|script| script.deregistered.pop().unwrap());
    assert_eq!((asked.lease_id, asked.force), (id, false));
    let error =
        run(&format!("deregister orders/r-1 --lease-file {}", bad.display()), &url).await.unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.headline.ends_with("it holds no id of a lease"), "{}", error.headline);
}

#[tokio::test]
async fn the_end_of_an_override_that_is_not_there_is_not_found() {
    let (_, _, url) = connect(Script { has_no_overrides: true, ..orders() }).await;
    let error = run("end-override nope", &url).await.unwrap_err();
    assert_eq!((error.exit, error.headline.as_str()), (Exit::NotFound, "there is no override \"nope\""));
    assert_eq!(error.hints, ["gwctl get overrides"]);
}
