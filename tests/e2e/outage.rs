//! The control plane goes away; traffic does not notice. The data plane starts without it, from what it kept.

use std::{
    fs,
    time::{Duration, Instant},
};

use gateway_proto::v1::{Endpoint, HeartbeatRequest, RegisterRequest};
use gateway_tests::{Act, Gateway, Load, Scripted, eventually, http1};

/// A gateway with two replicas that answer "hello".
async fn gateway() -> (Gateway, [Scripted; 2]) {
    let gateway = Gateway::start().await;
    let replicas = [(); 2].map(|()| Scripted::start(|_, _| Act::ok(b"hello")));
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    (gateway, replicas)
}

/// Waits until the snapshot on disk is no older than what the data plane acknowledged.
async fn cached(gateway: &Gateway) {
    let file = gateway.directory().join("dp-1/snapshot.bin");
    let text = |needle: &[u8], bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    eventually("both replicas are in the data plane's cache", async || match fs::read(&file) {
        Ok(bytes) if text(b"r-0", &bytes) && text(b"r-1", &bytes) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn traffic_goes_on_without_one_error_while_the_control_plane_is_killed_and_restarted() {
    let (mut gateway, _replicas) = gateway().await;
    let load = Load::start(gateway.proxy(), "/orders/hello", 200);
    gateway.control.kill();
    let at_kill = load.tally().sent;
    eventually("requests are answered without a control plane", async || {
        let sent = load.tally().sent - at_kill;
        if sent >= 300 { Ok(()) } else { Err(format!("{sent} requests")) }
    })
    .await;

    gateway.control.restart().await;
    let ids: Vec<_> =
        gateway.replicas("orders").await.into_iter().map(|replica| replica.replica_id).collect();
    assert_eq!(ids, ["r-0", "r-1"]);

    // The data plane follows the new process: a replica that registers with it gets requests.
    let joined = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-2", joined.address()).await;
    eventually("the new replica is asked", async || {
        if joined.seen().is_empty() { Err("it is not".to_owned()) } else { Ok(()) }
    })
    .await;
    load.stop().await.assert_flawless();
}

#[tokio::test]
async fn a_data_plane_that_starts_without_a_control_plane_routes_from_its_cache() {
    let (mut gateway, _replicas) = gateway().await;
    cached(&gateway).await;
    gateway.control.kill();
    gateway.data.kill();

    let began = Instant::now();
    gateway.data.restart().await;
    let answer = http1::get(gateway.proxy(), "/orders/hello").await;
    assert_eq!(answer.status(), 200);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let ready = http1::get(gateway.data.admin(), "/readyz?verbose").await;
    assert_eq!(ready.status(), 200);
    let text = String::from_utf8_lossy(ready.body()).into_owned();
    assert!(text.contains("cached"), "{text}");

    // And follows the registry once it is back.
    gateway.control.restart().await;
    eventually("the snapshot is live", async || {
        let ready = http1::get(gateway.data.admin(), "/readyz?verbose").await;
        let text = String::from_utf8_lossy(ready.body()).into_owned();
        if text.contains("live") { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn a_corrupt_cache_is_ignored_and_answered_with_503_at_once() {
    let (mut gateway, _replicas) = gateway().await;
    cached(&gateway).await;
    gateway.control.kill();
    gateway.data.kill();
    let file = gateway.directory().join("dp-1/snapshot.bin");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&file, bytes).unwrap();

    gateway.data.restart().await;
    assert_eq!(http1::get(gateway.data.admin(), "/livez").await.status(), 200);
    assert_eq!(http1::get(gateway.data.admin(), "/readyz").await.status(), 503);
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let answer = http1::get(gateway.proxy(), "/orders/hello").await;
        fastest = fastest.min(began.elapsed());
        assert_eq!(answer.status(), 503, "{:?}", answer.body());
        assert!(answer.headers().contains_key("retry-after"));
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    let log = gateway.data.process().stderr();
    assert!(log.contains("snapshot.bin"), "the log names the file: {log}");

    // The registry heals it.
    gateway.control.restart().await;
    eventually("it is ready", async || match http1::get(gateway.data.admin(), "/readyz").await.status() {
        status if status == 200 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/hello").await.status(), 200);
}

#[tokio::test]
async fn a_lease_outlives_the_control_plane_and_gets_its_whole_ttl_again() {
    let mut gateway = Gateway::start().await;
    let ttl = Duration::from_secs(3);
    let register = |replica_id: &str, port: u16| RegisterRequest {
        service: "orders".into(),
        replica_id: replica_id.into(),
        endpoint: Some(Endpoint { address: format!("127.0.0.1:{port}"), ..Default::default() }),
        lease_ttl: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        ..Default::default()
    };
    let kept = gateway.control.registry().register(register("r-1", 9001)).await.unwrap().into_inner();
    gateway.control.registry().register(register("r-2", 9002)).await.unwrap();
    let registered = Instant::now();
    // Away for most of the ttl: counted from the registration, it would soon be over.
    gateway.control.kill();
    eventually("two thirds of the ttl pass", async || match registered.elapsed() {
        elapsed if elapsed >= ttl * 2 / 3 => Ok(()),
        elapsed => Err(format!("{elapsed:?}")),
    })
    .await;
    gateway.control.restart().await;
    let restarted = Instant::now();

    // The owner of the first goes on with the lease that it has; nobody renews the second.
    let heartbeat = HeartbeatRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        lease_id: kept.lease_id.clone(),
        ..Default::default()
    };
    let gone = eventually("the second lease expires", async || {
        let renewed = gateway.control.registry().heartbeat(heartbeat.clone()).await;
        renewed.map_err(|status| panic!("a lease was lost: {status}")).ok();
        let replicas = gateway.replicas("orders").await;
        let ids: Vec<_> = replicas.iter().map(|replica| replica.replica_id.as_str()).collect();
        if ids == ["r-1"] { Ok(Instant::now()) } else { Err(format!("{ids:?}")) }
    })
    .await;
    let lived = gone - restarted;
    // The process counts from its own start, a little before it said that it was ready.
    assert!(lived > ttl * 5 / 6 && lived < ttl + Duration::from_secs(2), "{lived:?}");
}
