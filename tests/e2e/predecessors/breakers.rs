//! An ejected replica: for how long, what it and its clients see meanwhile, and how it comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::v1::BreakerState;
use gateway_tests::{Act, Gateway, Scripted, command, eventually, http1, http1::Connection};
use tokio::task::JoinSet;

use super::{ask, obedient, set, status};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn an_ejected_replica_is_asked_again_when_its_open_time_is_over_and_its_peers_have_all_until_then() {
    let gateway = Gateway::start_unchecked().await;
    let ill = Scripted::start(|_, _| status(503));
    let well = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    for (number, replica) in [&ill, &well[0], &well[1]].into_iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    set(&gateway, "orders", &["breaker.consecutive_failure_count=1", "breaker.base_open=2s"]).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    while ill.seen().is_empty() {
        assert_eq!(ask(&mut client, "/orders/x").await, 200, "another one answers");
    }
    let before: Vec<_> = well.iter().map(|replica| replica.seen().len()).collect();
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "/orders/x").await, 200);
    }
    let shares: Vec<_> =
        well.iter().zip(before).map(|(replica, before)| replica.seen().len() - before).collect();
    assert_eq!(shares, [10, 10], "each has half of what there is");
    eventually("it is asked again", async || {
        assert_eq!(ask(&mut client, "/orders/x").await, 200, "also when it fails again");
        if ill.seen().len() == 2 { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    let seen = ill.seen();
    let rest = seen[1].arrived - seen[0].ended.unwrap();
    // Two seconds, give or take a fifth, and what this machine takes.
    assert!((Duration::from_millis(1590)..Duration::from_millis(3400)).contains(&rest), "{rest:?}");
}

#[tokio::test]
async fn while_a_breaker_is_open_its_replica_sees_nothing_and_answers_come_at_once() {
    let gateway = Gateway::start_unchecked().await;
    let replica = obedient();
    gateway.register("orders", "r-1", replica.address()).await;
    set(&gateway, "orders", &["breaker.consecutive_failure_count=1", "breaker.base_open=50s"]).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    assert_eq!(ask(&mut client, "/orders/500").await, 500);
    let mut fastest = Duration::MAX;
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(ask(&mut client, "/orders/200").await, 503);
        fastest = fastest.min(began.elapsed());
    }
    // The best of several: what is measured is the gateway and not its neighbours on this machine.
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    assert_eq!(replica.seen().len(), 1);
}

#[tokio::test]
async fn of_fifty_requests_at_once_one_is_the_probe_of_an_open_breaker() {
    let gateway = Gateway::start_unchecked().await;
    let is_well = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    let replica = Scripted::start(move |_, number| match number {
        0 => status(500),
        // Long enough that all of a batch have their answers first.
        _ => Act::AnswerAfter(Duration::from_secs(2), is_well.clone()),
    });
    gateway.register("orders", "r-1", replica.address()).await;
    set(&gateway, "orders", &["breaker.consecutive_failure_count=1", "breaker.base_open=500ms"]).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Connection::open(gateway.proxy()).await.unwrap());
    }
    assert_eq!(ask(&mut clients[0], "/orders/x").await, 500);
    loop {
        let mut asked = JoinSet::new();
        for mut client in clients.drain(..) {
            asked.spawn(async move { (ask(&mut client, "/orders/x").await, client) });
        }
        let mut statuses = Vec::new();
        while let Some(answered) = asked.join_next().await {
            let (status, client) = answered.unwrap();
            statuses.push(status);
            clients.push(client);
        }
        statuses.sort_unstable();
        assert_eq!(statuses[1..], [503; 49]);
        if statuses[0] == 200 {
            break;
        }
    }
    assert_eq!(replica.seen().len(), 2, "the failure and the probe");
}

#[tokio::test]
async fn an_operator_opens_and_closes_a_breaker_by_its_name() {
    let gateway = Gateway::start_unchecked().await;
    let (named, other) = (obedient(), obedient());
    gateway.register("orders", "r-1", named.address()).await;
    gateway.register("orders", "r-2", other.address()).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for (verb, state, share) in
        [("open", BreakerState::ForcedOpen, 0), ("close", BreakerState::ForcedClosed, 5)]
    {
        let line = ["breaker", verb, "orders/r-1", "--reason", "a test"];
        command::gwctl(&gateway.control.url(), &line).await.success();
        gateway.breaker_becomes("orders", "r-1", state, LONG).await;
        let before = named.seen().len();
        for _ in 0..10 {
            assert_eq!(ask(&mut client, "/orders/200").await, 200);
        }
        assert_eq!(named.seen().len() - before, share, "{verb}");
    }
}

#[tokio::test]
async fn each_state_of_a_breaker_is_shown_with_its_time_and_each_step_is_one_line_of_the_log() {
    let mut gateway = Gateway::start_unchecked().await;
    let holds = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&holds);
    let replica = Scripted::start(move |_, number| match number {
        0 => status(500),
        1 if held.load(Relaxed) => Act::Hang,
        _ => status(200),
    });
    gateway.register("orders", "r-1", replica.address()).await;
    let policy = ["breaker.consecutive_failure_count=1", "breaker.base_open=1s", "timeout.per_try=2s"];
    set(&gateway, "orders", &policy).await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 500);
    let url = gateway.control.url();
    let shown = async |state: &str| {
        eventually(&format!("{state} is shown"), async || {
            let line = ["get", "breakers", "orders", "--all", "-o", "json"];
            let list = command::gwctl(&url, &line).await.json();
            let row = list["breakers"][0].clone();
            if row["state"] == format!("BREAKER_STATE_{state}") { Ok(row) } else { Err(row.to_string()) }
        })
        .await
    };
    let open = shown("OPEN").await;
    assert!(open["retryTime"].is_string() && open["outTime"].is_string(), "{open}");
    let proxy = gateway.proxy();
    // Requests go on, of which one is the probe that hangs.
    let requests = tokio::spawn(async move {
        let mut client = Connection::open(proxy).await.unwrap();
        loop {
            ask(&mut client, "/orders/x").await;
        }
    });
    let half_open = shown("HALF_OPEN").await;
    assert!(half_open["retryTime"].is_null() && half_open["outTime"].is_string(), "{half_open}");
    holds.store(false, Relaxed);
    let closed = shown("CLOSED").await;
    assert!(closed["retryTime"].is_null() && closed["outTime"].is_null(), "{closed}");
    requests.abort();

    let log = gateway.data.process().stderr();
    let steps = [
        "opened: consecutive_failures 1 >= 1",
        "opened: probe failed: no response in time",
        "half-open: ",
        "closed: ",
    ];
    let counts = steps.map(|step| log.matches(&format!("breaker {step}")).count());
    assert_eq!(counts, [1, 1, 2, 1], "{log}");
}
