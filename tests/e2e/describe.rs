//! `gwctl describe` of everything that is there, filters of what data planes report, and a service that fails open.

use gateway_tests::{Act, Gateway, Load, Scripted, command, eventually};

async fn run(gateway: &Gateway, line: &[&str]) -> command::Finished {
    command::gwctl(&gateway.control.url(), line).await
}

async fn gwctl(gateway: &Gateway, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    run(gateway, &words).await.success()
}

#[tokio::test]
async fn everything_that_is_listed_is_described_with_what_happened_to_it() {
    let gateway = Gateway::start_with_faults().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    gwctl(&gateway, "route set shop path_prefix=/shop service=orders --author ana").await;
    gwctl(&gateway, "breaker open orders/r-1 --reason test --author ana --ttl 5m").await;
    gwctl(&gateway, "fault set orders --abort 503 --ratio 0.1 --for 5m --reason test --author ana").await;
    gwctl(&gateway, "policy set orders timeout.per_try=800ms --author ana --reason slow").await;
    eventually("the breaker is forced open", async || {
        let text = gwctl(&gateway, "describe breaker orders/r-1").await;
        if text.contains("FORCED-OPEN for") { Ok(()) } else { Err(text) }
    })
    .await;
    let id = gwctl(&gateway, "get overrides -o name").await;
    let event = gwctl(&gateway, "events --filter event_type=POLICY_UPDATED -o name").await;
    let event = event.lines().next().unwrap().to_owned();
    for (line, words) in [
        (
            "describe service orders",
            &["Status not served", "Policy timeout.per_try from orders", "shop", "FAULT_INJECTION_BEGAN"][..],
        ),
        ("describe replica orders/r", &["Replica orders/r-1", "breaker OPEN (ana, ", "OVERRIDE_SET"]),
        ("describe breaker orders/r-1 --node dp-1", &["Rules opens after 5 failures", "BREAKER_FORCED_OPEN"]),
        ("describe node dp-1", &["State synced", "FORCED-OPEN", "NODE_CONNECTED"]),
        (
            "describe policy orders",
            &["by ana: \"slow\"", "timeout.per_try 800ms", "POLICY_UPDATED", "Faults abort 503"],
        ),
        ("describe route shop", &["Leads to orders, of which 1 of 1", "ROUTE_UPDATED"]),
        (
            &format!("describe override {}", id.trim()),
            &["ago by ana Reason test", "FORCED-OPEN", "OVERRIDE_SET"],
        ),
        ("describe fault orders", &["abort 503 of 0.1", "For orders", "FAULT_INJECTION_BEGAN"]),
        (&format!("describe event {event}"), &["Type POLICY_UPDATED", "By ana", "changes"]),
    ] {
        let text = gwctl(&gateway, line).await;
        // However wide the columns are, and however long it took.
        let told = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(told.contains(word), "{line}: {word}\n\n{text}");
        }
        assert!(!text.contains("not shown:"), "{line}\n\n{text}");
    }
}

#[tokio::test]
async fn breakers_data_planes_and_policies_are_found_by_filters_and_mistakes_in_them_explained() {
    let gateway = Gateway::start().await;
    gateway.register("orders", "r-1", "127.0.0.1:9".parse().unwrap()).await;
    gwctl(&gateway, "policy set orders timeout.per_try=800ms --author ana").await;
    let names = async |noun: &str, filter: &str| {
        run(&gateway, &["get", noun, "--filter", filter, "-o", "name"]).await.success()
    };
    eventually("the data plane has reported", async || match names("breakers", "service = orders").await {
        found if found == "orders/r-1\n" => Ok(()),
        found => Err(found),
    })
    .await;
    assert_eq!(names("breakers", "trip_count > 1000").await, "");
    assert_eq!(names("nodes", "node_id = dp-* AND acked_revision > 0").await, "dp-1\n");
    assert_eq!(names("nodes", "node_id = other").await, "");
    assert_eq!(names("policies", "settings.timeout.per_try = 800ms").await, "orders\n");
    for (noun, filter, meant) in [
        ("breakers", "stat = OPEN", "did you mean state"),
        ("breakers", "state = OPNE", "did you mean OPEN"),
        ("nodes", "nod_id = dp-1", "did you mean node_id"),
        ("policies", "updatd_by = ana", "did you mean updated_by"),
    ] {
        let refused = run(&gateway, &["get", noun, "--filter", filter]).await;
        assert_eq!(refused.code(), 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(meant), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_service_that_fails_open_says_panic_wherever_it_is_looked_at() {
    let gateway = Gateway::start_unchecked().await;
    let failing = Scripted::start(|_, _| {
        Act::Answer(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec())
    });
    let working = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", failing.address()).await;
    gateway.register("orders", "r-2", working.address()).await;
    let rules = "policy set orders breaker.consecutive_failure_count=1 breaker.fail_open_threshold=0.9 breaker.base_open=30s";
    gwctl(&gateway, rules).await;
    let load = Load::start(gateway.proxy(), "/orders/x", 50);
    eventually("the list says it", async || match gwctl(&gateway, "get services").await {
        text if text.contains("1 closed, 1 NOT CLOSED, PANIC") => Ok(()),
        text => Err(text),
    })
    .await;
    let told = "PANIC: too few let traffic through on 1 data plane";
    assert!(gwctl(&gateway, "explain orders").await.contains(told));
    assert!(gwctl(&gateway, "describe service orders").await.contains(told));
    let filtered =
        run(&gateway, &["get", "services", "--filter", "fail_open_node_count > 0", "-o", "name"]).await;
    assert_eq!(filtered.success(), "orders\n");
    let check = run(&gateway, &["check", "--fail-on", "warn"]).await;
    assert_eq!(check.code(), 1, "{}", check.stdout);
    assert!(
        check.stdout.contains("orders is in PANIC mode: it fails open on 1 data plane"),
        "{}",
        check.stdout
    );
    load.stop().await;
}

#[tokio::test]
async fn who_names_nothing_to_describe_is_told_where_names_are_from_and_shown_a_line() {
    for (line, words) in [
        (&["describe"][..], &["Usage: gwctl describe", "override", "gwctl describe replica orders/r-1"][..]),
        (&["describe", "service"], &["<SERVICE>", "gwctl get services", "gwctl describe service orders"]),
        (&["describe", "dp"], &["<NODE>", "gwctl get nodes", "gwctl describe node dp-1"]),
    ] {
        // Nobody is asked for anything.
        let refused = command::gwctl("http://127.0.0.1:9", line).await;
        assert_eq!((refused.code(), refused.stdout.as_str()), (2, ""), "{line:?}");
        for word in words {
            assert!(refused.stderr.contains(word), "{line:?}: {word}\n\n{}", refused.stderr);
        }
    }
}
