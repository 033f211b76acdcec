//! Policies on their way from an operator to requests: how these are shared out, and what opens breakers.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use gateway_proto::{
    time::duration,
    v1::{
        BalancingAlgorithm, BalancingPolicy, BreakerPolicy, BreakerRule, BreakerState, Policy,
        UpdatePolicyRequest, policy_service_client::PolicyServiceClient,
    },
};
use gateway_tests::{
    Act, Gateway, Scripted, command, eventually,
    http1::{self, Connection},
};
use http::Request;

/// Sets the policy of `orders`, and waits until the data plane goes by it.
async fn set(gateway: &Gateway, policy: Policy) {
    let mut client = PolicyServiceClient::connect(gateway.control.url()).await.unwrap();
    let request = UpdatePolicyRequest {
        policy: Some(Policy { service: "orders".into(), ..policy }),
        allow_missing: true,
        wait_timeout: Some(duration(Duration::from_secs(10))),
        ..Default::default()
    };
    client.update_policy(request).await.unwrap();
    gateway.synced().await;
}

fn request(user: &str) -> Request<Bytes> {
    Request::get("/orders/hello").header("x-user", user).body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn a_policy_that_goes_by_a_header_sends_each_user_to_one_replica_from_then_on() {
    let gateway = Gateway::start().await;
    let replicas: Vec<Scripted> = (0..4).map(|_| Scripted::start(|_, _| Act::ok(b"hello"))).collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    let balancing = BalancingPolicy {
        algorithm: Some(BalancingAlgorithm::ConsistentHash.into()),
        hash_by: Some("header:X-User".into()),
        ..Default::default()
    };
    set(&gateway, Policy { balancing: Some(balancing), ..Default::default() }).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    let mut used = BTreeSet::new();
    for user in 0..24 {
        let before: Vec<_> = replicas.iter().map(|replica| replica.seen().len()).collect();
        for _ in 0..5 {
            assert_eq!(client.send(request(&format!("user-{user}"))).await.unwrap().status(), 200);
        }
        let seen = replicas.iter().zip(&before).map(|(replica, before)| replica.seen().len() - before);
        let asked: Vec<_> = seen.enumerate().filter(|(_, count)| *count > 0).collect();
        let [(replica, 5)] = asked[..] else { panic!("user {user}: {asked:?}") };
        used.insert(replica);
    }
    assert!(used.len() >= 3, "{used:?}");
}

#[tokio::test]
async fn a_replica_that_is_slow_by_the_policy_is_out_and_anybody_can_see_why() {
    let gateway = Gateway::start().await;
    let Act::Answer(late) = Act::ok(b"late") else { unreachable!("that is what it is") };
    let slow = Scripted::start(move |_, _| Act::AnswerAfter(Duration::from_millis(200), late.clone()));
    let fast = Scripted::start(|_, _| Act::ok(b"fast"));
    gateway.register("orders", "r-slow", slow.address()).await;
    gateway.register("orders", "r-fast", fast.address()).await;
    let breaker = BreakerPolicy {
        slow_threshold: Some(duration(Duration::from_millis(150))),
        min_request_count: Some(5),
        base_open: Some(duration(Duration::from_secs(50))),
        ..Default::default()
    };
    let observing = BreakerPolicy { observe_only: Some(true), ..breaker };
    set(&gateway, Policy { breaker: Some(observing), ..Default::default() }).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(client.send(request("ann")).await.unwrap().status(), 200);
    }
    eventually("what would have happened is told", async || {
        let types = gateway.event_types("orders", "r-slow").await;
        if types.iter().any(|kind| kind == "BREAKER_WITHHELD") { Ok(()) } else { Err(format!("{types:?}")) }
    })
    .await;
    assert_eq!(gateway.breaker("orders", "r-slow").await.unwrap().state(), BreakerState::Closed);

    set(
        &gateway,
        Policy {
            breaker: Some(BreakerPolicy { observe_only: Some(false), ..breaker }),
            ..Default::default()
        },
    )
    .await;
    for _ in 0..4 {
        assert_eq!(client.send(request("ann")).await.unwrap().status(), 200);
    }
    eventually("the slow one is out", async || {
        let row = gateway.breaker("orders", "r-slow").await.ok_or("no row")?;
        let is_it = (row.state(), row.rule()) == (BreakerState::Open, BreakerRule::SlowRatio);
        if is_it { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    let row = gateway.breaker("orders", "r-slow").await.unwrap();
    assert!(
        row.reason.starts_with("slow_ratio 1.00 >= 0.50 (") && row.reason.ends_with("took 150ms or more)"),
        "{}",
        row.reason
    );
    let before = slow.seen().len();
    for _ in 0..6 {
        assert_eq!(client.send(request("ann")).await.unwrap().status(), 200);
    }
    assert_eq!(slow.seen().len(), before);
}

#[tokio::test]
async fn a_limit_that_an_operator_sets_refuses_what_is_too_much_and_lets_others_wait() {
    let gateway = Gateway::start().await;
    let Act::Answer(late) = Act::ok(b"late") else { unreachable!("that is what it is") };
    let replica = Scripted::start(move |_, _| Act::AnswerAfter(Duration::from_millis(300), late.clone()));
    gateway.register("orders", "r-1", replica.address()).await;
    let limit = async |settings: &[&str]| {
        let args = [&["policy", "set", "orders"][..], settings].concat();
        command::gwctl(&gateway.control.url(), &args).await.success();
        gateway.synced().await;
    };
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Connection::open(gateway.proxy()).await.unwrap());
    }
    let statuses = async |clients: &mut [Connection]| {
        let [one, two, three] = clients else { panic!("there are three") };
        let answers = tokio::join!(one.send(request("a")), two.send(request("b")), three.send(request("c")));
        let mut statuses = [answers.0, answers.1, answers.2].map(|answer| answer.unwrap().status().as_u16());
        statuses.sort_unstable();
        statuses
    };
    limit(&["concurrency.max_per_replica=1", "concurrency.max_pending=1", "concurrency.max_queue_time=30s"])
        .await;
    assert_eq!(statuses(&mut clients).await, [200, 200, 503]);
    limit(&["concurrency.max_pending=2"]).await;
    assert_eq!(statuses(&mut clients).await, [200, 200, 200]);
    let args = ["policy", "set", "orders", "concurrency.adaptive_min=5000"];
    let refused = command::gwctl(&gateway.control.url(), &args).await;
    let why = "concurrency.adaptive_min: 5000 is above concurrency.adaptive_max";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
}

#[tokio::test]
async fn a_rate_that_an_operator_sets_refuses_what_is_too_much_and_one_that_observes_only_counts_it() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    let gwctl = async |args: &[&str]| command::gwctl(&gateway.control.url(), args).await;
    let limit = async |settings: &[&str]| {
        gwctl(&[&["policy", "set", "orders"][..], settings].concat()).await.success();
        gateway.synced().await;
    };
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    let mut statuses = async |users: &[&str]| {
        let mut statuses = Vec::new();
        for user in users {
            statuses.push(client.send(request(user)).await.unwrap().status().as_u16());
        }
        statuses
    };
    let rate = ["rate_limit.requests_per_second=0.001", "rate_limit.burst=2", "rate_limit.key=header:X-User"];
    limit(&rate).await;
    assert_eq!(statuses(&["ann", "ann", "ann", "bob", "ann"]).await, [200, 200, 429, 200, 429]);
    assert_eq!(replica.seen().len(), 3);
    limit(&["rate_limit.observe_only=true"]).await;
    assert_eq!(statuses(&["ann"; 4]).await, [200; 4]);
    let metrics = http1::get(gateway.data.admin(), "/metrics").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    for counted in ["refused\"} 2", "observed\"} 2"] {
        let line = format!("gateway_rate_limited_requests_total{{service=\"orders\",action=\"{counted}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    let shown = gwctl(&["policy", "get", "orders"]).await.success();
    assert!(shown.contains("header:x-user"), "{shown}");
    let diff = gwctl(&["policy", "set", "orders", "rate_limit.burst=0", "--dry-run"]).await.success();
    assert!(diff.contains("rate_limit.burst"), "{diff}");
    let refused = gwctl(&["policy", "set", "orders", "rate_limit.requests_per_second=0.0001"]).await;
    let why = "rate_limit.requests_per_second: 0.0001 is not 0 or 0.001..=1000000";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
}

#[tokio::test]
async fn operators_see_what_is_in_flight_how_much_may_be_and_who_waits_until_nobody_does() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(move |_, _| Act::Hang);
    gateway.register("orders", "r-1", replica.address()).await;
    let gwctl = async |args: &[&str]| command::gwctl(&gateway.control.url(), args).await.success();
    let limits = ["concurrency.max_per_replica=1", "concurrency.max_queue_time=1m"];
    gwctl(&[&["policy", "set", "orders"][..], &limits].concat()).await;
    gateway.synced().await;
    let shows = async |inflight: &str, pending: &str, of_limit: &str| {
        eventually(&format!("{of_limit} in flight and {pending} waiting are shown"), async || {
            let services = gwctl(&["get", "services", "-o", "wide"]).await;
            let replicas = gwctl(&["get", "replicas", "orders"]).await;
            let service = row(&services, "INFLIGHT", "PENDING");
            let is_it = service == (inflight, pending) && row(&replicas, "INFLIGHT", "WEIGHT").0 == of_limit;
            if is_it { Ok(()) } else { Err(format!("{services}\n{replicas}")) }
        })
        .await;
    };
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let proxy = gateway.proxy();
            tokio::spawn(async move { Connection::open(proxy).await.unwrap().send(request("ann")).await })
        })
        .collect();
    shows("1", "2", "1/1").await;
    let described = gwctl(&["describe", "replica", "orders/r-1"]).await;
    assert!(described.contains("1 of 1 in flight (2 of the service's wait)"), "{described}");
    let busy = ["get", "services", "--filter", "pending_count > 1", "-o", "name"];
    assert!(gwctl(&busy).await.contains("orders"));
    for client in clients {
        client.abort();
    }
    shows("0", "-", "0/1").await;
    assert!(!gwctl(&busy).await.contains("orders"));
}

/// What a table of one row has in two columns.
fn row<'table>(table: &'table str, one: &str, other: &str) -> (&'table str, &'table str) {
    let mut lines = table.lines();
    let (Some(headings), Some(row)) = (lines.next(), lines.next()) else { return Default::default() };
    let cell = |heading: &str| {
        let column = headings.find(heading).unwrap_or_else(|| panic!("no {heading} in {headings}"));
        row.get(column..).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default()
    };
    (cell(one), cell(other))
}
