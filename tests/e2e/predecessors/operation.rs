//! What people see and turn: statistics, algorithms with ejection and without, and a service that fails on request.

use std::time::{Duration, Instant};

use gateway_tests::{Act, DemoReplica, Gateway, Scripted, command, eventually, http1, http1::Connection};
use serde_json::{Value, json};

use super::{ask, live, obedient, set, status};

#[tokio::test]
async fn statistics_are_what_was_driven_and_reading_them_changes_nothing() {
    let gateway = Gateway::start_unchecked().await;
    let replica = obedient();
    gateway.register("orders", "r-1", replica.address()).await;
    set(&gateway, "orders", &["breaker.consecutive_failure_count=3", "breaker.base_open=50s"]).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for status in [200, 500, 200, 200, 404, 500, 201] {
        assert_eq!(ask(&mut client, &format!("/orders/{status}")).await, status);
    }
    let read = async || {
        let answer = http1::get(gateway.control.address(), "/statistics/orders").await;
        serde_json::from_slice::<Value>(answer.body()).unwrap()
    };
    let said = |successes: u32, errors: u32, is_out: bool| {
        let line = |value: &dyn std::fmt::Display| json!([format!("http://{} {value}", replica.address())]);
        json!({"SUCCESS_COUNT": line(&successes), "ERROR_COUNT": line(&errors), "COOLDOWNS": line(&is_out)})
    };
    let becomes = async |wanted: Value| {
        eventually("the statistics are what was driven", async || match read().await {
            found if found == wanted => Ok(()),
            found => Err(found.to_string()),
        })
        .await;
    };
    becomes(said(5, 2, false)).await;
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "/orders/500").await, 500);
    }
    becomes(said(5, 5, true)).await;
    let before = live(&gateway, "orders").await;
    for _ in 0..20 {
        read().await;
    }
    let after = live(&gateway, "orders").await;
    assert_eq!((&before["generation"], &before["retryTime"]), (&after["generation"], &after["retryTime"]));
    assert_eq!(replica.seen().len(), 10);
}

#[tokio::test]
async fn turns_and_chance_go_with_ejection_and_without() {
    let gateway = Gateway::start_unchecked().await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for (number, (algorithm, ejects)) in
        [("round_robin", true), ("round_robin", false), ("random", true), ("random", false)]
            .into_iter()
            .enumerate()
    {
        let (service, observes) = (format!("s{number}"), format!("breaker.observe_only={}", !ejects));
        let (ill, well) = (Scripted::start(|_, _| status(500)), Scripted::start(|_, _| Act::ok(b"hello")));
        gateway.register(&service, "r-1", ill.address()).await;
        gateway.register(&service, "r-2", well.address()).await;
        let algorithm = format!("balancing.algorithm={algorithm}");
        // No other rule, and no probe before the end.
        let rule = [
            "breaker.consecutive_failure_count=3",
            "breaker.base_open=50s",
            "breaker.min_request_count=1000",
        ];
        set(&gateway, &service, &[&rule[..], &[&algorithm, &observes]].concat()).await;
        for _ in 0..100 {
            ask(&mut client, &format!("/{service}/x")).await;
        }
        let asked = ill.seen().len();
        match (ejects, number) {
            (true, _) => assert_eq!(asked, 3, "{algorithm}"),
            (false, 1) => assert_eq!(asked, 50, "{algorithm}"),
            // Five standard deviations.
            (false, _) => assert!((25..=75).contains(&asked), "{algorithm}: {asked}"),
        }
    }
}

#[tokio::test]
async fn the_demo_service_fails_in_its_six_ways_through_the_gateway() {
    let gateway = Gateway::start_unchecked().await;
    let replica = DemoReplica::start("r-1").await;
    gateway.register("chat", "r-1", replica.address()).await;
    set(&gateway, "*", &["breaker.observe_only=true"]).await;
    let get = async |path: &str| {
        let answer = http1::get(gateway.proxy(), &format!("/chat{path}")).await;
        (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).trim().to_owned())
    };
    let messages = |body: &str| serde_json::from_str::<Vec<Value>>(body).unwrap();
    let (status, body) = get("/messages").await;
    assert_eq!((status, messages(&body).len()), (200, 15));
    assert!(
        messages(&body).iter().all(|m| m["id"].is_u64() && m["user"].is_string() && m["text"].is_string())
    );
    assert_eq!(get("/messages/down").await, (500, "Service unavailable".into()));
    let mut flaky = Vec::new();
    for _ in 0..6 {
        flaky.push(get("/messages/flaky").await.0);
    }
    assert_eq!(flaky, [500, 500, 200, 500, 500, 200]);
    let mut unreliable = [0, 0];
    while unreliable.contains(&0) {
        let (status, body) = get("/messages/unreliable").await;
        assert!(status == 200 || (status, body.as_str()) == (500, "Random failure"), "{status} {body}");
        unreliable[usize::from(status == 200)] += 1;
        assert!(unreliable[0] + unreliable[1] < 100, "{unreliable:?}");
    }
    let (status, body) = get("/messages/fallback").await;
    let system = messages(&body);
    assert_eq!(
        (status, system.len(), &system[0]["id"], &system[0]["user"]),
        (200, 1, &json!(0), &json!("System"))
    );
    let began = Instant::now();
    assert_eq!(get("/messages/slow?delay=300ms").await.0, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_call_is_made_again_by_its_users_rules_and_every_try_is_counted() {
    let gateway = Gateway::start_unchecked().await;
    // A cycle of two failures and a success, as the demo service has it.
    let flaky = Scripted::start(|_, number| if number % 3 < 2 { status(500) } else { Act::ok(b"done") });
    gateway.register("orders", "r-1", flaky.address()).await;
    set(&gateway, "*", &["breaker.observe_only=true"]).await;
    let proxy = format!("http://{}", gateway.proxy());
    let call = async |flags: &[&str]| {
        let line = [&["call", "orders/x", "--proxy", &proxy][..], flags].concat();
        command::gwctl(&gateway.control.url(), &line).await
    };
    // Without a word nobody tries again, and nobody can be asked.
    let once = call(&[]).await;
    assert_eq!((once.code(), flaky.seen().len()), (1, 1), "{}", once.stderr);
    assert!(once.stderr.contains("try 1: 500 after ") && once.stderr.contains(", by r-1"), "{}", once.stderr);

    // The next one fails once more, and then there are whole cycles.
    let retried =
        call(&["--auto-retry", "--retry-delay", "300ms", "--count", "2", "-o", "json"]).await.json();
    let tries = |call: &Value| {
        call["tries"].as_array().unwrap().iter().map(|t| t["status"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(tries(&retried["calls"][0]), [500, 200]);
    assert_eq!(tries(&retried["calls"][1]), [500, 500, 200]);
    assert_eq!(retried["calls"][1]["body"], "done\n");
    let counts = json!([2, 0, 3, {"r-1": 2}]);
    assert_eq!(
        json!([retried["good"], retried["failed"], retried["retries"], retried["answeredBy"]]),
        counts
    );
    let seen = flaky.seen();
    let pauses = [(1, 2), (3, 4), (4, 5)].map(|(one, next)| seen[next].arrived - seen[one].arrived);
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_millis(300)), "{pauses:?}");

    let bounded = call(&["--auto-retry", "--retry-delay", "0s", "--retry-limit", "1"]).await;
    assert_eq!((bounded.code(), flaky.seen().len()), (1, seen.len() + 2));
    set(&gateway, "*", &["timeout.per_try=30s"]).await;
    let silent = Scripted::start(|_, _| Act::Hang);
    gateway.register("silent", "r-1", silent.address()).await;
    let silent = ["call", "silent", "--proxy", &proxy, "--timeout", "500ms"];
    let late = command::gwctl(&gateway.control.url(), &silent).await;
    assert!(late.code() == 1 && late.stderr.contains("not within 500ms"), "{}", late.stderr);
}
