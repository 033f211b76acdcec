//! What clients get in place of a failure, where the policy has something.

use data_plane::{
    routing::{Fault, State},
    table::{FallbackKind, ReplicaSpec, ServiceSpec},
};
use gateway_proto::{
    Address, Policy, ReplicaId, ServiceName,
    policy::{Fallback, FaultInjection, Methods},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    faults::{aborting, delaying, inject},
    harness::{
        Act, Dead, Gateway, Replica, body, eventually, field, ok, raw_replica, read_message, respond, status,
    },
};

fn static_answer() -> Policy {
    let mut policy = Policy::default();
    policy.fallback.static_status = 200;
    policy.fallback.body = "{\"orders\": []}".parse().expect("it is valid");
    policy
}

fn stand_in() -> Policy {
    let mut policy = Policy::default();
    policy.fallback.service = "orders-cache".parse().expect("it is valid");
    policy
}

/// Has the gateway know the service that stands in.
pub(crate) fn stands_in(gateway: &Gateway, replica: &Replica, policy: Policy) {
    stands_in_at(gateway, replica.address, policy);
}

fn stands_in_at(gateway: &Gateway, address: std::net::SocketAddr, policy: Policy) {
    let address = Address::parse(&address.to_string()).expect("it is valid");
    let replicas = vec![ReplicaSpec::listed(ReplicaId::parse("c-0").expect("it is valid"), address)];
    let spec =
        ServiceSpec { name: ServiceName::parse("orders-cache").expect("it is valid"), policy, replicas };
    gateway.table.apply(&[spec], &[], gateway.clock.now());
}

#[tokio::test]
async fn a_static_answer_stands_in_for_the_gateways_own_errors_and_says_so() {
    let dead = Dead::new();
    let gateway = Gateway::start(&[dead.address], static_answer()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (200, "{\"orders\": []}"));
    assert_eq!(field(&response, "content-type").as_deref(), Some("application/json"));
    assert_eq!(field(&response, "x-gw-fallback").as_deref(), Some("static"));
    let proxy_status = field(&response, "proxy-status").unwrap();
    assert!(
        proxy_status.ends_with("; error=connection_refused; details=\"fallback=static\""),
        "{proxy_status}"
    );
    assert!(field(&response, "x-request-id").is_some());
    let service = gateway.service();
    assert_eq!((service.fallbacks(FallbackKind::Static), service.fallbacks(FallbackKind::Service)), (1, 0));
    assert_eq!(service.counters().totals(), (1, 1), "its replicas failed all the same");
}

#[tokio::test]
async fn an_open_breaker_is_answered_by_it_too_and_no_replica_is_asked() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let gateway = Gateway::start(&[replica.address], static_answer()).await;
    let service = gateway.service();
    let now = gateway.clock.now();
    while let Ok(picked) = service.pick(0, now, &[], data_plane::routing::Draw::default()) {
        let failure = data_plane::routing::Outcome::Failure(Fault::Reset);
        service.settle(0, &picked.replica, picked.permit, failure, now, 0.5);
    }
    assert_eq!(service.replicas()[0].breaker_view(now, &service.policy().breaker).state, State::Open);
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (200, "{\"orders\": []}"));
    assert!(replica.seen().is_empty());
}

#[tokio::test]
async fn answers_of_replicas_count_by_their_status_and_only_those_of_the_policy() {
    let bad = Replica::start(|_, text| {
        let asked: u16 = text.split_whitespace().nth(1).unwrap().trim_matches('/').parse().unwrap();
        respond(asked, "bad")
    })
    .await;
    let gateway = Gateway::start(&[bad.address], static_answer()).await;
    for (asked, answered) in [(503, 200), (502, 200), (500, 500), (404, 404), (201, 201)] {
        let response = gateway.get(&format!("/orders/{asked}")).await;
        assert_eq!(status(&response), answered, "{asked}");
        assert_eq!(field(&response, "x-gw-fallback").is_some(), asked != answered);
    }
    let response = gateway.get("/orders/503").await;
    assert!(field(&response, "proxy-status").unwrap().contains("received-status=503"), "{response}");
}

#[tokio::test]
async fn a_head_gets_the_head_of_it() {
    let dead = Dead::new();
    let gateway = Gateway::start(&[dead.address], static_answer()).await;
    let response = gateway.send("HEAD /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n").await;
    assert_eq!((status(&response), field(&response, "x-gw-fallback").as_deref()), (200, Some("static")));
    assert!(response.ends_with("\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn another_service_is_asked_with_the_whole_request() {
    let dead = Dead::new();
    let cache = Replica::start(|_, _| ok("from the cache")).await;
    let gateway = Gateway::start(&[dead.address], stand_in()).await;
    stands_in(&gateway, &cache, Policy::default());
    let response = gateway.post("/orders/7?full=1", "body").await;
    assert_eq!((status(&response), body(&response)), (200, "from the cache"));
    assert_eq!(field(&response, "x-gw-fallback").as_deref(), Some("service orders-cache"));
    let seen = &cache.seen()[0];
    assert!(seen.starts_with("POST /7?full=1 ") && seen.ends_with("body"), "{seen}");
    assert_eq!(gateway.service().fallbacks(FallbackKind::Service), 1);
    let cache = gateway.table.service("orders-cache").unwrap();
    assert_eq!(cache.counters().totals(), (1, 0), "it did answer well");
}

#[tokio::test]
async fn a_post_that_a_replica_may_have_seen_is_not_sent_to_another_service() {
    let bad = Replica::start(|_, _| Act::Reset).await;
    let cache = Replica::start(|_, _| ok("from the cache")).await;
    let gateway = Gateway::start(&[bad.address], stand_in()).await;
    stands_in(&gateway, &cache, Policy::default());
    assert_eq!(status(&gateway.post("/orders/", "x").await), 502);
    assert!(cache.seen().is_empty());
    assert_eq!(status(&gateway.get("/orders/").await), 200, "a GET is");
}

#[tokio::test]
async fn when_the_other_service_fails_too_the_static_answer_is_given_and_else_the_first_failure() {
    let bad = Replica::start(|_, _| respond(503, "first")).await;
    let worse = Replica::start(|_, _| respond(503, "second")).await;
    let gateway = Gateway::start(&[bad.address], stand_in()).await;
    stands_in(&gateway, &worse, stand_in());
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (503, "first"));
    assert_eq!(field(&response, "x-gw-fallback"), None);

    let mut both = stand_in();
    both.fallback.static_status = 503;
    both.fallback.content_type = "text/plain".parse().unwrap();
    both.fallback.body = "later".parse().unwrap();
    let gateway = Gateway::start(&[bad.address], both).await;
    stands_in(&gateway, &worse, both);
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (503, "later"));
    assert_eq!(field(&response, "content-type").as_deref(), Some("text/plain"));
}

#[tokio::test]
async fn a_service_that_is_unknown_or_takes_no_such_request_stands_in_for_nobody() {
    let dead = Dead::new();
    let gateway = Gateway::start(&[dead.address], stand_in()).await;
    assert_eq!(status(&gateway.get("/orders/").await), 502);
    let cache = Replica::start(|_, _| ok("from the cache")).await;
    let mut reads_only = Policy::default();
    reads_only.request.methods = Methods::parse(["GET"]).unwrap();
    stands_in(&gateway, &cache, reads_only);
    assert_eq!(status(&gateway.post("/orders/", "x").await), 502);
    assert_eq!(status(&gateway.get("/orders/").await), 200);
}

#[tokio::test]
async fn the_other_service_s_own_policy_says_whether_a_request_may_be_sent_twice() {
    let dead = Dead::new();
    let closing = Replica::start(|_, _| Act::Reset).await;
    let mut primary = stand_in();
    primary.retry.methods = Methods::parse(["POST"]).unwrap();
    let gateway = Gateway::start(&[dead.address], primary).await;
    stands_in(&gateway, &closing, Policy::default());
    let first = gateway.table.service("orders-cache").unwrap().replicas()[0].spec().clone();
    let second = ReplicaSpec { id: ReplicaId::parse("c-1").unwrap(), ..first.clone() };
    let name = ServiceName::parse("orders-cache").unwrap();
    let both = ServiceSpec { name, policy: Policy::default(), replicas: vec![first, second] };
    gateway.table.apply(&[both], &[], gateway.clock.now());
    assert_eq!(status(&gateway.post("/orders/", "x").await), 502);
    assert_eq!(closing.seen().len(), 1, "a POST that may have been seen is not repeated there");
}

#[tokio::test]
async fn a_body_that_the_other_service_would_look_at_more_closely_does_not_go_there() {
    let dead = Dead::new();
    let cache = Replica::start(|_, _| ok("from the cache")).await;
    let gateway = Gateway::start(&[dead.address], stand_in()).await;
    let mut strict = Policy::default();
    strict.request.json_only = true;
    stands_in(&gateway, &cache, strict);
    let json =
        "POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{]";
    assert_eq!(status(&gateway.send(json).await), 502);
    let mut small = Policy::default();
    small.request.max_body_bytes = 4;
    stands_in(&gateway, &cache, small);
    let chunked =
        "POST /orders/ HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(status(&gateway.send(chunked).await), 502);
    assert!(cache.seen().is_empty());
    assert_eq!(status(&gateway.get("/orders/").await), 200);
}

#[tokio::test]
async fn a_status_without_content_has_none() {
    let dead = Dead::new();
    let mut policy = static_answer();
    policy.fallback.static_status = 205;
    let gateway = Gateway::start(&[dead.address], policy).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (205, ""));
}

fn stale_answers() -> Policy {
    let mut policy = Policy::default();
    policy.fallback.stale_max_age = std::time::Duration::from_secs(60);
    policy
}

/// A replica that answers well to its first so many requests, and with 503 from then on.
async fn breaks_after(requests: usize, answer: &'static str) -> Replica {
    Replica::start(move |number, _| match number < requests {
        true => Act::Send(answer.into()),
        false => respond(503, "broken"),
    })
    .await
}

#[tokio::test]
async fn the_last_good_answer_to_the_same_request_stands_in_and_says_how_old_it_is() {
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: text/x\r\nage: 7\r\netag: \"a\"\r\n\r\ngood!";
    let replica = breaks_after(1, answer).await;
    let gateway = Gateway::start(&[replica.address], stale_answers()).await;
    assert_eq!(field(&gateway.get("/orders/1").await, "x-gw-fallback"), None);
    let response = gateway.get("/orders/1").await;
    assert_eq!((status(&response), body(&response)), (200, "good!"));
    assert_eq!(field(&response, "x-gw-fallback").as_deref(), Some("stale"));
    assert_eq!(field(&response, "content-type").as_deref(), Some("text/x"));
    assert_eq!(field(&response, "etag").as_deref(), Some("\"a\""));
    let age: u64 = field(&response, "age").unwrap().parse().unwrap();
    assert!((7..60).contains(&age), "{response}");
    let proxy_status = field(&response, "proxy-status").unwrap();
    assert!(proxy_status.ends_with("; received-status=503; details=\"fallback=stale\""), "{proxy_status}");
    assert_eq!(gateway.service().fallbacks(FallbackKind::Stale), 1);
    assert_eq!(status(&gateway.get("/orders/2").await), 503, "nobody has ever answered that");
}

#[tokio::test]
async fn what_was_changed_or_is_gone_is_nobody_s_last_good_answer() {
    let private = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: private\r\n\r\nmine";
    for (method, then, is_given) in [
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n", false),
        ("POST", "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", false),
        ("POST", "HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n", true),
        ("GET", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false),
        ("GET", "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n", true),
        ("GET", private, false),
    ] {
        let replica = Replica::start(move |number, _| match number {
            0 => Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ngood!".into()),
            1 => Act::Send(then.into()),
            _ => respond(503, "broken"),
        })
        .await;
        let gateway = Gateway::start(&[replica.address], stale_answers()).await;
        assert_eq!(body(&gateway.get("/orders/1").await), "good!");
        let request = format!(
            "{method} /orders/1 HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let changed = gateway.send(&request).await;
        assert!(changed.starts_with(&then[..12]), "{changed}");
        let last = gateway.get("/orders/1").await;
        assert_eq!(status(&last) == 200, is_given, "{method} {then:?}: {last}");
    }
}

#[tokio::test]
async fn an_answer_that_was_asked_for_before_its_resource_changed_is_nobodys_last_good_one() {
    let gate = tokio::sync::watch::Sender::new(false);
    let opens = gate.clone();
    let replica = raw_replica(move |mut stream| {
        let gate = opens.clone();
        async move {
            while let Some(message) = read_message(&mut stream).await {
                let answer = match &message {
                    deletion if deletion.starts_with("DELETE") => "204 No Content\r\n\r\n",
                    _ if *gate.borrow() => "503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                    _ => {
                        gate.subscribe().wait_for(|is_open| *is_open).await.unwrap();
                        "200 OK\r\ncontent-length: 5\r\n\r\ngood!"
                    }
                };
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let gateway = Gateway::start(&[replica], stale_answers()).await;
    let mut client = gateway.connect().await;
    client.write_all(b"GET /orders/1 HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    eventually("the replica is asked", || gateway.service().requests_inflight() == 1).await;
    let deletion = "DELETE /orders/1 HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&gateway.send(deletion).await), 204);
    gate.send_replace(true);
    let answer = read_message(&mut client).await.expect("it comes");
    assert_eq!(body(&answer), "good!");
    let last = gateway.get("/orders/1").await;
    assert_eq!(status(&last), 503, "{last}");
}

#[tokio::test]
async fn what_the_service_that_stands_in_has_changed_is_no_last_good_answer_of_either() {
    let good = |number: usize, answer: &'static str| match number {
        0 => Act::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{answer}")),
        _ => respond(503, "broken"),
    };
    let replica = Replica::start(move |number, _| good(number, "mine")).await;
    let cache = Replica::start(move |number, request| match request.starts_with("DELETE ") {
        true => Act::Send("HTTP/1.1 204 No Content\r\n\r\n".into()),
        false => good(number, "copy"),
    })
    .await;
    let mut policy = stale_answers();
    policy.fallback.service = "orders-cache".parse().expect("it is valid");
    let gateway = Gateway::start(&[replica.address], policy).await;
    stands_in(&gateway, &cache, stale_answers());
    for (path, answer) in [("/orders/1", "mine"), ("/orders-cache/1", "copy")] {
        assert_eq!(body(&gateway.get(path).await), answer);
    }
    // By its key, it may be asked of another although the replica has seen it.
    let request = "DELETE /orders/1 HTTP/1.1\r\nhost: gw\r\nidempotency-key: 7\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let changed = gateway.send(request).await;
    assert_eq!(
        (status(&changed), field(&changed, "x-gw-fallback").as_deref()),
        (204, Some("service orders-cache"))
    );
    for path in ["/orders/1", "/orders-cache/1"] {
        let last = gateway.get(path).await;
        assert_eq!(status(&last), 503, "{path}: {last}");
    }
}

#[tokio::test]
async fn an_answer_in_chunks_is_kept_and_one_that_broke_off_or_has_trailers_is_not() {
    for (answer, is_kept) in [
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ngood!\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ngood!\r\n0\r\nx-sum: 1\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncache-control: no-store\r\n\r\ngood!", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nset-cookie: a=b\r\n\r\ngood!", false),
    ] {
        let replica = breaks_after(1, answer).await;
        let gateway = Gateway::start(&[replica.address], stale_answers()).await;
        let first = gateway.get("/orders/").await;
        let again = gateway.get("/orders/").await;
        assert_eq!(status(&again) == 200, is_kept, "{answer:?}: {again}");
        if is_kept {
            assert!(again.ends_with(if body(&first).is_empty() { "\r\n\r\n" } else { "good!" }), "{again}");
        }
    }
    let endless = Replica::start(|number, _| match number {
        0 => Act::SendAndClose("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf or whole?".into()),
        _ => respond(503, "broken"),
    })
    .await;
    let gateway = Gateway::start(&[endless.address], stale_answers()).await;
    assert!(body(&gateway.get("/orders/").await).contains("half or whole?"));
    assert_eq!(status(&gateway.get("/orders/").await), 503, "nobody knows whether it was all");

    let cut = Replica::start(|number, _| match number {
        0 => Act::SendAndClose("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ngoo".into()),
        _ => respond(503, "broken"),
    })
    .await;
    let gateway = Gateway::start(&[cut.address], stale_answers()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    assert_eq!(read_message(&mut stream).await, None, "it is cut");
    assert_eq!(status(&gateway.get("/orders/").await), 503);
}

#[tokio::test]
async fn what_one_client_asks_for_with_credentials_is_nobody_s_fallback() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ngood!";
    for field in ["authorization: Basic eA==", "cookie: a=b", "range: bytes=0-1", "cache-control: no-store"] {
        let replica = breaks_after(1, answer).await;
        let gateway = Gateway::start(&[replica.address], stale_answers()).await;
        let request = format!("GET /orders/ HTTP/1.1\r\nhost: gw\r\n{field}\r\nconnection: close\r\n\r\n");
        assert_eq!(status(&gateway.send(&request).await), 200);
        assert_eq!(status(&gateway.get("/orders/").await), 503, "{field}");
    }
    let replica = breaks_after(1, answer).await;
    let gateway = Gateway::start(&[replica.address], stale_answers()).await;
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    let personal = "GET /orders/ HTTP/1.1\r\nhost: gw\r\ncookie: a=b\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&gateway.send(personal).await), 503, "nor is it given to whoever has some");
    let french = "GET /orders/ HTTP/1.1\r\nhost: gw\r\naccept-language: fr\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&gateway.send(french).await), 503, "nor to whoever accepts something else");
    assert_eq!(status(&gateway.post("/orders/", "x").await), 503);
}

#[tokio::test]
async fn what_a_replica_may_have_answered_by_a_key_is_given_to_nobody_else_unless_it_is_public() {
    let own = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nAnn";
    let public = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncache-control: public\r\n\r\nall";
    let by_key =
        |key| format!("GET /orders/me HTTP/1.1\r\nhost: gw\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n");
    for (answer, policy, then) in [
        (own, stale_answers(), 503),
        (public, stale_answers(), 200),
        (own, Policy { fallback: ignoring("x-tenant"), ..stale_answers() }, 503),
        (own, Policy { fallback: ignoring("x-api-key"), ..stale_answers() }, 200),
    ] {
        let replica = breaks_after(1, answer).await;
        let gateway = Gateway::start(&[replica.address], policy).await;
        assert_eq!(status(&gateway.send(&by_key("ann")).await), 200);
        assert_eq!(status(&gateway.send(&by_key("bob")).await), then, "{answer:?}");
    }
}

fn ignoring(fields: &str) -> Fallback {
    Fallback { stale_ignored_fields: fields.parse().expect("they are names"), ..stale_answers().fallback }
}

#[tokio::test]
async fn a_service_that_stands_in_goes_before_the_last_good_answer_and_that_before_the_static_one() {
    let mut policy = stale_answers();
    policy.fallback.service = "orders-cache".parse().expect("it is valid");
    policy.fallback.static_status = 200;
    policy.fallback.body = "static".parse().expect("it is valid");
    let replica = breaks_after(1, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ngood!").await;
    let cache = breaks_after(1, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ncache").await;
    let gateway = Gateway::start(&[replica.address], policy).await;
    stands_in(&gateway, &cache, Policy::default());
    let mut bodies = Vec::new();
    for path in ["/orders/1", "/orders/1", "/orders/1", "/orders/2"] {
        bodies.push(body(&gateway.get(path).await).to_owned());
    }
    assert_eq!(bodies, ["good!", "cache", "good!", "static"]);
}

#[tokio::test]
async fn an_injected_failure_is_answered_as_a_real_one() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let cache = Replica::start(|_, _| ok("from the cache")).await;
    let mut policy = static_answer();
    policy.fallback.service = "orders-cache".parse().expect("it is valid");
    policy.timeout.request = std::time::Duration::from_millis(50);
    let gateway = Gateway::start(&[replica.address], policy).await;
    gateway.table.allow_faults();
    stands_in(&gateway, &cache, Policy::default());
    let unavailable = FaultInjection { abort_status: 503, ..aborting() };
    inject(&gateway, unavailable);
    let answer = gateway.post("/orders/7", "body").await;
    assert_eq!((status(&answer), body(&answer)), (200, "from the cache"));
    assert!(cache.seen()[0].ends_with("body"), "{:?}", cache.seen());
    assert!(answer.contains("; error=proxy_internal_response; details=\"fallback=service\""), "{answer}");
    // One for which the policy has nothing.
    inject(&gateway, FaultInjection { abort_status: 500, ..aborting() });
    assert_eq!(status(&gateway.get("/orders/").await), 500);
    cache.kill().await;
    inject(&gateway, unavailable);
    let answer = gateway.get("/orders/").await;
    assert_eq!(field(&answer, "x-gw-fallback").as_deref(), Some("static"), "{answer}");
    // A delay that takes all the time there is.
    inject(&gateway, delaying(std::time::Duration::from_secs(5)));
    let answer = gateway.get("/orders/").await;
    assert_eq!(field(&answer, "x-gw-fallback").as_deref(), Some("static"), "{answer}");

    let service = gateway.service();
    assert_eq!((service.fallbacks(FallbackKind::Service), service.fallbacks(FallbackKind::Static)), (1, 2));
    assert_eq!(service.counters().totals().0, 4);
    assert!(replica.seen().is_empty());
    assert_eq!(service.attempts().attempts, 0);
}

#[tokio::test]
async fn a_request_is_in_flight_at_the_service_that_stands_in_until_its_answer_has_ended() {
    let dead = Dead::new();
    let (go_on, goes_on) = tokio::sync::watch::channel(false);
    let cache = raw_replica(move |mut stream| {
        let mut goes_on = goes_on.clone();
        async move {
            read_message(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nha").await.unwrap();
            goes_on.wait_for(|goes_on| *goes_on).await.unwrap();
            stream.write_all(b"lf!").await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(&[dead.address], stand_in()).await;
    stands_in_at(&gateway, cache, Policy::default());
    let mut client = gateway.connect().await;
    client.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"ha") {
        client.read_buf(&mut heard).await.unwrap();
    }
    let inflight = || {
        let stand_in = gateway.table.service("orders-cache").unwrap();
        [gateway.service().requests_inflight(), stand_in.requests_inflight()]
    };
    assert_eq!(inflight(), [1, 1]);
    go_on.send_replace(true);
    client.read_exact(&mut [0; 3]).await.unwrap();
    eventually("it is over at both", || inflight() == [0, 0]).await;
}

#[tokio::test]
async fn a_route_to_a_service_that_has_left_leads_to_its_fallback() {
    let replica = Replica::start(|_, _| ok("fine")).await;
    let gateway = Gateway::start(&[replica.address], static_answer()).await;
    let wire = gateway_proto::v1::Route {
        name: "a".into(),
        service: "orders".into(),
        path_prefix: "/shop".into(),
        ..Default::default()
    };
    let route = gateway_proto::Route::parse(&wire).unwrap();
    gateway.table.set_routes(&[route]);
    assert_eq!(body(&gateway.get("/shop/").await), "fine");
    gateway.table.apply(&[], &[ServiceName::parse("orders").unwrap()], gateway.clock.now());
    let answer = gateway.get("/shop/").await;
    assert_eq!((status(&answer), field(&answer, "x-gw-fallback").as_deref()), (200, Some("static")));
}
