//! What is asked for, refused and taken when a client in HTTP/1.1 wants to switch protocols.

use std::time::Duration;

use data_plane::routing::State;
use gateway_proto::{Policy, policy::Upgrades};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Act, Dead, Gateway, Replica, body, eventually, field, raw_replica, status, until},
    tunnels::{ASK, SWITCH, head, switching},
};

/// Answers the first request with an empty 200 and tells what it saw.
async fn plain(request: &str, policy: Policy) -> (String, String) {
    let replica =
        Replica::start(|_, _| Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into())).await;
    let gateway = Gateway::start(&[replica.address], policy).await;
    let answer = gateway.send(request).await;
    assert_eq!((status(&answer), body(&answer)), (200, "ok"), "{request}");
    (replica.seen().remove(0), answer)
}

#[tokio::test]
async fn a_handshake_reaches_the_replica_and_its_answer_the_client_to_the_byte() {
    let (address, mut seen) = switching(SWITCH, |stream| async move { drop(stream) }).await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(ASK.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    let asked = seen.recv().await.unwrap();
    let id = field(&asked, "x-request-id").unwrap();
    let is_own = |line: &&str| line.starts_with("x-forwarded-") || line.starts_with("x-gw-");
    let (own, passed): (Vec<_>, Vec<_>) = asked.split_inclusive("\r\n").partition(is_own);
    assert_eq!(
        passed.concat(),
        format!(
            "GET /chat?room=1 HTTP/1.1\r\nhost: gw\r\nsec-websocket-key: a2V5\r\nsec-websocket-version: 13\r\n\
             sec-websocket-protocol: chat\r\norigin: http://page\r\nx-request-id: {id}\r\nvia: 1.1 gw-dp-1\r\n\
             connection: upgrade\r\nupgrade: WebSocket\r\n\r\n"
        )
    );
    assert!(own.contains(&"x-forwarded-prefix: /orders\r\n"), "{own:?}");
    // What is shown for debugging tells times and ports.
    let is_shown = |line: &&str| line.starts_with("server-timing") || line.starts_with("proxy-status");
    let (_, answer): (Vec<_>, Vec<_>) = answer.split_inclusive("\r\n").partition(is_shown);
    assert_eq!(
        answer.concat(),
        format!(
            "HTTP/1.1 101 Switching\r\nsec-websocket-accept: YWNjZXB0\r\nsec-websocket-protocol: chat\r\n\
             x-gw-replica: r-0\r\nx-gw-attempts: 1\r\nvia: 1.1 gw-dp-1\r\nx-request-id: {id}\r\n\
             connection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn what_the_policy_does_not_have_goes_on_as_an_ordinary_request() {
    let ask = |version: &str, protocol: &str, rest: &str| {
        format!(
            "POST /orders/ HTTP/{version}\r\nhost: gw\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n{rest}"
        )
    };
    let mut none = Policy::default();
    none.request.upgrades = Upgrades::parse(["none"]).unwrap();
    for (request, policy) in [
        (ask("1.1", "h2c", "\r\n"), Policy::default()),
        (ask("1.1", "websocket", "\r\n"), none),
        (ask("1.0", "websocket", "\r\n"), Policy::default()),
        (ask("1.1", "websocket", "content-length: 1\r\n\r\nx"), Policy::default()),
        (ask("1.1", "websocket", "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"), Policy::default()),
        ("GET /orders/ HTTP/1.1\r\nhost: gw\r\nupgrade: websocket\r\n\r\n".into(), Policy::default()),
        ("GET /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: upgrade\r\n\r\n".into(), Policy::default()),
    ] {
        let (seen, _) = plain(&request, policy).await;
        assert_eq!((field(&seen, "upgrade"), field(&seen, "connection")), (None, None), "{request}: {seen}");
    }
    let mut two = Policy::default();
    two.request.upgrades = Upgrades::parse(["websocket", "spdy/3.1"]).unwrap();
    let (seen, _) = plain(&ask("1.1", "h2c, SPDY/3.1, websocket", "\r\n"), two).await;
    assert_eq!(field(&seen, "upgrade").as_deref(), Some("SPDY/3.1, websocket"));
}

#[tokio::test]
async fn a_replica_that_does_not_switch_has_answered_and_the_connection_goes_on() {
    let replica = Replica::start(|number, _| {
        let answer = ["426 Upgrade Required", "200 OK"][number];
        Act::Send(format!(
            "HTTP/1.1 {answer}\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nok"
        ))
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    let mut client = gateway.connect().await;
    for expected in [426, 200] {
        client.write_all(ASK.as_bytes()).await.unwrap();
        let answer = crate::harness::read_message(&mut client).await.unwrap();
        assert_eq!((status(&answer), body(&answer)), (expected, "ok"));
    }
    assert_eq!(gateway.service().tunnels().totals(), (0, 0));
}

#[tokio::test]
async fn a_426_says_what_is_wanted_as_far_as_clients_may_switch_to_it() {
    let replica = Replica::start(|_, _| {
        Act::Send(
            "HTTP/1.1 426 Upgrade Required\r\nupgrade: HTTP/2.0, websocket\r\nconnection: upgrade\r\n\
             content-length: 2\r\n\r\nno"
                .into(),
        )
    })
    .await;
    let mut none = Policy::default();
    none.request.upgrades = Upgrades::parse(["none"]).unwrap();
    for (policy, wanted) in [(Policy::default(), Some("websocket")), (none, None)] {
        let gateway = Gateway::start(&[replica.address], policy).await;
        let answer = gateway.send("GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await;
        assert_eq!((status(&answer), field(&answer, "upgrade").as_deref()), (426, wanted), "{answer}");
        let is_named = field(&answer, "connection").is_some_and(|options| options.contains("upgrade"));
        assert_eq!(is_named, wanted.is_some(), "{answer}");
    }
}

#[tokio::test]
async fn a_switch_that_is_none_of_what_was_asked_is_malformed_and_asked_for_nowhere_else() {
    let switch = |fields: &str| format!("HTTP/1.1 101 X\r\n{fields}\r\n");
    for hostile in [
        switch("connection: upgrade\r\nupgrade: h2c\r\n"),
        switch("connection: upgrade\r\nupgrade: websocket2\r\n"),
        switch("connection: upgrade\r\nupgrade: websocket, h2c\r\n"),
        switch("connection: upgrade\r\nupgrade: websocket\r\nupgrade: websocket\r\n"),
        switch("connection: upgrade\r\n"),
        switch("upgrade: websocket\r\n"),
        switch("connection: close\r\nupgrade: websocket\r\n"),
        switch("connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n") + "hello",
        switch("connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\ncontent-length: 0\r\n"),
        switch("connection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n") + "0\r\n\r\n",
        "HTTP/1.0 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".into(),
    ] {
        let answer = hostile.clone();
        let replica = Replica::start(move |_, _| Act::Send(answer.clone())).await;
        let other = Replica::start(move |_, _| panic!("asked, too")).await;
        let gateway = Gateway::start(&[replica.address, other.address], Policy::default()).await;
        let answer = gateway.send(ASK).await;
        assert_eq!(status(&answer), 502, "{hostile:?}");
        assert!(body(&answer).contains("malformed_response"), "{hostile:?}: {answer}");
        assert_eq!(gateway.service().replicas()[0].counters().failures, 1, "{hostile:?}");
        assert_eq!((gateway.inflight(0), other.connections()), (0, 0), "{hostile:?}");
    }
}

#[tokio::test]
async fn a_second_switch_and_a_body_are_bytes_of_the_tunnel() {
    const TWICE: &str = "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n\
                         HTTP/1.1 101 X\r\nupgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let (address, _seen) = switching(TWICE, |stream| async move { drop(stream) }).await;
    let gateway = Gateway::start(&[address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(ASK.as_bytes()).await.unwrap();
    assert_eq!(field(&head(&mut client).await, "content-length"), None);
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "HTTP/1.1 101 X\r\nupgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
}

#[tokio::test]
async fn an_upgrade_is_asked_elsewhere_only_while_no_replica_can_have_seen_it() {
    let dead = Dead::new();
    let (address, _seen) = switching(SWITCH, |stream| async move { drop(stream) }).await;
    let gateway = Gateway::start(&[dead.address, address], Policy::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(ASK.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    assert_eq!((status(&answer), field(&answer, "x-gw-attempts").as_deref()), (101, Some("2")));

    for act in [Act::Reset, Act::SendAndClose(String::new()), crate::harness::respond(503, "no")] {
        let (expected, failing) = (if matches!(act, Act::Send(_)) { 503 } else { 502 }, act);
        let act = failing.clone();
        let failing = Replica::start(move |_, _| act.clone()).await;
        let other = Replica::start(|_, _| Act::Hang).await;
        let gateway = Gateway::start(&[failing.address, other.address], Policy::default()).await;
        assert_eq!(status(&gateway.send(ASK).await), expected);
        assert_eq!((failing.seen().len(), other.connections()), (1, 0));
    }
}

#[tokio::test]
async fn an_upgrade_takes_no_connection_that_its_replica_may_be_about_to_close() {
    let replica = Replica::start(|_, request| {
        let asks = field(request, "upgrade").is_some();
        Act::Send(if asks { SWITCH } else { "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" }.into())
    })
    .await;
    let gateway = Gateway::start(&[replica.address], Policy::default()).await;
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    let mut client = gateway.connect().await;
    client.write_all(ASK.as_bytes()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 101);
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    assert_eq!(replica.connections(), 2, "the idle one is still of use");
}

#[tokio::test]
async fn the_verdict_falls_with_the_switch_and_the_attempt_lasts_as_long_as_the_tunnel() {
    let replica = Replica::start(|number, _| match number {
        0 => Act::Reset,
        _ => Act::Send(SWITCH.into()),
    })
    .await;
    let mut policy = Policy::default();
    policy.breaker.consecutive_failure_count = 1;
    policy.breaker.half_open_success_count = 1;
    policy.breaker.base_open = Duration::from_millis(10);
    let gateway = Gateway::start(&[replica.address], policy).await;
    assert_eq!(status(&gateway.post("/orders/", "x").await), 502);
    let state = || gateway.service().replicas()[0].breaker_view(gateway.clock.now(), &policy.breaker).state;
    let mut client = until("a probe is let through", async || {
        let mut client = gateway.connect().await;
        client.write_all(ASK.as_bytes()).await.unwrap();
        match status(&head(&mut client).await) {
            101 => Some(client),
            503 => None,
            other => panic!("{other}"),
        }
    })
    .await;
    // The tunnel is open, and was the probe.
    assert_eq!((state(), gateway.inflight(0)), (State::Closed, 1));
    assert_eq!(gateway.service().tunnels().totals(), (1, 1));
    replica.kill().await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "its client is told");
    drop(client);
    eventually("it has ended", || gateway.inflight(0) == 0).await;
    assert_eq!(gateway.service().tunnels().totals(), (1, 0));
    assert_eq!(state(), State::Closed, "what becomes of the tunnel says nothing");
}

#[tokio::test]
async fn a_replica_that_never_switches_has_the_time_of_any_other_attempt() {
    let address = raw_replica(|mut stream| async move {
        head(&mut stream).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(100);
    let gateway = Gateway::start(&[address], policy).await;
    assert_eq!(status(&gateway.send(ASK).await), 504);
}
