//! What happens when replicas fail: who is asked again, and who never.

use std::time::{Duration, Instant};

use data_plane::routing::{Draw, Fault, Outcome, State};
use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{
    Act, Dead, Gateway, Replica, body, eventually, field, ok, raw_replica, read_message, respond, status,
};

fn quick() -> Policy {
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(200);
    policy
}

pub(crate) fn states(gateway: &Gateway) -> Vec<State> {
    let policy = gateway.service().policy();
    let replicas = gateway.service().replicas();
    let now = data_plane::routing::Tick::ORIGIN;
    replicas.iter().map(|replica| replica.breaker_view(now, &policy.breaker).state).collect()
}

#[tokio::test]
async fn no_request_fails_by_a_replica_that_refuses_connections_post_included() {
    let alive = Replica::start(|_, _| ok("alive")).await;
    let dead = Dead::new();
    let mut gateway = Gateway::start(&[dead.address, alive.address], Policy::default()).await;
    for number in 0..40 {
        let response =
            if number % 2 == 0 { gateway.get("/orders/").await } else { gateway.post("/orders/", "x").await };
        assert_eq!((status(&response), body(&response)), (200, "alive"), "request {number}");
    }
    assert_eq!(alive.seen().len(), 40, "every request was seen exactly once");
    let transition = gateway.transitions.try_recv().unwrap();
    assert_eq!(transition.change.reason.to_string(), "consecutive_failures 5 >= 5: connect refused");
    assert_eq!(states(&gateway), [State::Open, State::Closed]);
}

#[tokio::test]
async fn a_get_that_was_cut_off_is_asked_again_and_a_post_never() {
    for act in [Act::Reset, Act::SendAndClose(String::new()), Act::SendAndClose("HTTP/1.1 2".into())] {
        let bad = Replica::start(move |_, _| act.clone()).await;
        let good = Replica::start(|_, _| ok("good")).await;
        let gateway = Gateway::start(&[bad.address, good.address], Policy::default()).await;
        let response = gateway.get("/orders/").await;
        assert_eq!((status(&response), body(&response)), (200, "good"));
        assert_eq!(field(&response, "x-gw-attempts").as_deref(), Some("2"));

        // The good one has its own turn, and the next is the bad one's.
        assert_eq!(body(&gateway.get("/orders/").await), "good");
        let response = gateway.post("/orders/", "x").await;
        assert_eq!(status(&response), 502, "{response}");
        assert_eq!(bad.seen().len(), 2);
        assert_eq!(good.seen().len(), 2, "a POST that a replica may have seen is not sent to another");
    }
}

#[tokio::test]
async fn a_post_keeps_away_from_a_replica_that_hangs_long_before_that_is_proven() {
    let hanging = Replica::start(|_, _| Act::Hang).await;
    let good = [Replica::start(|_, _| ok("good")).await, Replica::start(|_, _| ok("good")).await];
    let replicas = [hanging.address, good[0].address, good[1].address];
    // An attempt may take ten seconds.
    let gateway = Gateway::start(&replicas, Policy::default()).await;
    let mut waiting = Vec::new();
    while hanging.seen().len() < 9 {
        let (mut stream, seen) = (gateway.connect().await, hanging.seen().len());
        stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        waiting.push(stream);
        let turns = waiting.len();
        eventually("it is asked in its turn", || hanging.seen().len() > seen || turns % 3 != 1).await;
    }
    eventually("the others have answered", || gateway.inflight(1) + gateway.inflight(2) == 0).await;
    for number in 0..30 {
        let response = gateway.post("/orders/", "x").await;
        assert_eq!((status(&response), body(&response)), (200, "good"), "request {number}");
    }
    assert_eq!((hanging.seen().len(), states(&gateway)[0]), (9, State::Closed), "nothing is proven yet");
}

#[tokio::test]
async fn a_body_that_is_small_enough_is_sent_again_whole() {
    let bad = Replica::start(|_, _| Act::SendAndClose(String::new())).await;
    let good = Replica::start(|_, request| ok(body(request))).await;
    let gateway = Gateway::start(&[bad.address, good.address], Policy::default()).await;
    let content = "x".repeat(60_000);
    let request = |content: &str| {
        format!("PUT /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: {}\r\n\r\n{content}", content.len())
    };
    let response = gateway.send(&request(&content)).await;
    assert_eq!(status(&response), 200, "{response}");
    assert!(body(&response) == content, "the second attempt had another body");

    // The good one has its own turn.
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    let too_large = "x".repeat(200_000);
    let response = gateway.send(&request(&too_large)).await;
    assert_eq!(status(&response), 502, "a body that is not held cannot be sent again");
}

#[tokio::test]
async fn a_503_is_asked_elsewhere_and_the_last_real_answer_is_returned_when_all_fail() {
    let bad = Replica::start(|_, _| respond(503, "bad")).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let gateway = Gateway::start(&[bad.address, good.address], Policy::default()).await;
    for turn in ["the bad one's", "the good one's"] {
        assert_eq!(body(&gateway.get("/orders/").await), "good", "{turn}");
    }
    let response = gateway.post("/orders/", "x").await;
    assert_eq!((status(&response), body(&response)), (503, "bad"), "a POST gets the answer there is");

    let dead = Dead::new();
    let gateway = Gateway::start(&[bad.address, dead.address], Policy::default()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (503, "bad"));
    assert!(!field(&response, "proxy-status").unwrap().contains("error="), "{response}");
}

#[tokio::test]
async fn a_500_is_the_replicas_answer_and_is_not_asked_again() {
    let bad = Replica::start(|_, _| respond(500, "broken")).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let gateway = Gateway::start(&[bad.address, good.address], Policy::default()).await;
    let response = gateway.get("/orders/").await;
    assert_eq!((status(&response), body(&response)), (500, "broken"));
}

#[tokio::test]
async fn a_replica_that_hangs_costs_a_get_one_timeout_and_a_post_its_answer() {
    let hung = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("good")).await;
    let gateway = Gateway::start(&[hung.address, good.address], quick()).await;
    let started = Instant::now();
    assert_eq!(body(&gateway.get("/orders/").await), "good");
    assert!(started.elapsed() >= Duration::from_millis(200));
    // The good one has its own turn.
    assert_eq!(body(&gateway.get("/orders/").await), "good");
    let response = gateway.post("/orders/", "x").await;
    assert_eq!(status(&response), 504);
    assert_eq!(good.seen().len(), 2);
}

#[tokio::test]
async fn a_replica_that_lets_all_of_the_requests_time_pass_is_blamed() {
    let hung = Replica::start(|_, _| Act::Hang).await;
    let mut policy = Policy::default();
    policy.timeout.request = Duration::from_millis(100);
    let gateway = Gateway::start(&[hung.address], policy).await;
    for _ in 0..5 {
        assert_eq!(status(&gateway.get("/orders/").await), 504);
    }
    assert_eq!(gateway.service().replicas()[0].counters().failures, 5);
    assert_eq!(
        states(&gateway),
        [State::Open],
        "a limit of the whole request must not keep a breaker closed"
    );
}

#[tokio::test]
async fn a_replica_that_was_left_too_little_time_is_not_blamed() {
    let hung = [Replica::start(|_, _| Act::Hang).await, Replica::start(|_, _| Act::Hang).await];
    let mut policy = quick();
    policy.timeout.request = Duration::from_millis(300);
    let gateway = Gateway::start(&[hung[0].address, hung[1].address], policy).await;
    assert_eq!(status(&gateway.get("/orders/").await), 504);
    let replicas = gateway.service().replicas();
    let failures: Vec<_> = replicas.iter().map(|replica| replica.counters().failures).collect();
    assert_eq!((failures, hung[1].seen().len()), (vec![1, 0], 1));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_shown_as_complete_and_counts_as_a_failure() {
    let torn =
        Replica::start(|_, _| Act::SendAndClose("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".into()))
            .await;
    let gateway = Gateway::start(&[torn.address], Policy::default()).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    let text = String::from_utf8_lossy(&all);
    assert!(
        text.is_empty() || text.ends_with("half"),
        "the message must break off where the replica's did: {text}"
    );
    assert!(!text.contains("transfer-encoding"), "only a length shows that something is missing: {text}");
    eventually("the failure is counted", || gateway.service().replicas()[0].counters().failures == 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_nobodys_fault_and_its_request_is_cancelled() {
    let hung = Replica::start(|_, _| Act::Hang).await;
    let gateway = Gateway::start(&[hung.address], Policy::default()).await;
    for _ in 0..10 {
        let mut stream = gateway.connect().await;
        stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        let before = hung.seen().len();
        eventually("the replica has the request", || hung.seen().len() > before).await;
    }
    let counters = || gateway.service().replicas()[0].counters();
    eventually("nothing is in flight", || counters().inflight == 0).await;
    assert_eq!((counters().attempts, counters().failures), (10, 0));
    assert_eq!(states(&gateway), [State::Closed]);
}

/// One that waits for so long, and leaves.
async fn leaves_after(gateway: &Gateway, patience: Duration) {
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.expect("the gateway listens");
    tokio::time::sleep(patience).await;
    drop(stream);
    eventually("it is missed", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn a_replica_that_hangs_is_found_out_by_clients_that_all_leave_before_its_time_is_over() {
    let hung = Replica::start(|_, _| Act::Hang).await;
    let good = Replica::start(|_, _| ok("")).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(300);
    policy.breaker.consecutive_failure_count = 2;
    policy.breaker.base_open = Duration::from_secs(60);
    let gateway = Gateway::start(&[hung.address, good.address], policy).await;
    let failures = || gateway.service().replicas()[0].counters().failures;
    // Half of them are answered.
    for _ in 0..4 {
        leaves_after(&gateway, Duration::from_millis(100)).await;
    }
    assert_eq!(failures(), 0, "as long as it may yet answer");
    let mut more = 0;
    while states(&gateway) == [State::Closed; 2] {
        leaves_after(&gateway, Duration::from_millis(100)).await;
        more += 1;
        assert!(more <= 6, "it hangs on and on");
    }
    assert_eq!(states(&gateway), [State::Open, State::Closed]);
    let fault = gateway.service().replicas()[0].last_failures()[0].fault.to_string();
    assert!(fault.starts_with("no answer to anybody in "), "{fault}");
}

#[tokio::test]
async fn where_all_calls_wait_on_purpose_nobody_is_blamed_for_it() {
    let waiting = [Replica::start(|_, _| Act::Hang).await, Replica::start(|_, _| Act::Hang).await];
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(300);
    policy.breaker.consecutive_failure_count = 1;
    let gateway = Gateway::start(&[waiting[0].address, waiting[1].address], policy).await;
    for _ in 0..12 {
        leaves_after(&gateway, Duration::from_millis(100)).await;
    }
    assert_eq!((waiting[0].seen().len(), waiting[1].seen().len()), (6, 6));
    assert_eq!(states(&gateway), [State::Closed; 2]);
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
}

#[tokio::test]
async fn a_replica_that_sends_more_of_an_answer_is_not_blamed_for_others_that_wait() {
    let streaming = raw_replica(|mut stream| async move {
        if !read_message(&mut stream).await.is_some_and(|request| request.starts_with("POST")) {
            return std::future::pending().await;
        }
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let good = Replica::start(|_, _| ok("")).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(300);
    policy.breaker.consecutive_failure_count = 1;
    let gateway = Gateway::start(&[streaming, good.address], policy).await;
    let mut client = gateway.connect().await;
    client.write_all(b"POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    eventually("the first one has it", || gateway.inflight(0) == 1).await;
    for _ in 0..12 {
        let mut stream = gateway.connect().await;
        stream.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(stream);
        eventually("it is missed", || gateway.inflight(0) == 1).await;
    }
    assert!(good.seen().len() < 12, "half of them wait");
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
    assert_eq!(states(&gateway), [State::Closed; 2]);
}

#[tokio::test]
async fn a_replica_that_answers_somebody_in_between_is_not_blamed_for_those_that_wait_for_less() {
    let slow =
        Replica::start(|_, request| if request.starts_with("POST") { ok("") } else { Act::Hang }).await;
    let mut policy = Policy::default();
    policy.timeout.per_try = Duration::from_millis(300);
    policy.breaker.consecutive_failure_count = 1;
    let gateway = Gateway::start(&[slow.address], policy).await;
    for _ in 0..6 {
        let leaves = || leaves_after(&gateway, Duration::from_millis(100));
        // Together they wait for longer than an attempt may take.
        tokio::join!(leaves(), leaves(), leaves(), leaves(), leaves());
        assert_eq!(status(&gateway.post("/orders/", "x").await), 200);
    }
    assert_eq!(gateway.service().replicas()[0].counters().failures, 0);
    assert_eq!(states(&gateway), [State::Closed]);
}

#[tokio::test]
async fn with_all_replicas_down_the_answer_is_fast_and_says_when_to_come_back() {
    let dead = [Dead::new(), Dead::new()];
    let gateway = Gateway::start(&[dead[0].address, dead[1].address], Policy::default()).await;
    for _ in 0..5 {
        let response = gateway.get("/orders/").await;
        assert_eq!(status(&response), 502, "{response}");
    }
    let started = Instant::now();
    let response = gateway.get("/orders/").await;
    assert!(started.elapsed() < Duration::from_millis(50));
    assert_eq!(status(&response), 503);
    assert!(body(&response).contains("breaker_open"), "{response}");
    let wait = field(&response, "retry-after").expect(&response);
    assert!(
        ["1", "2"].contains(&wait.as_str()),
        "one second, a fifth more or less, in whole seconds: {wait}"
    );
    let attempts: u64 = gateway.service().replicas().iter().map(|replica| replica.counters().attempts).sum();
    assert_eq!(attempts, 10, "an open breaker lets nothing through");
}

#[tokio::test]
async fn a_replica_that_comes_back_is_probed_by_one_request_at_a_time() {
    let dead = Dead::new();
    let other = Replica::start(|_, _| ok("other")).await;
    let mut policy = Policy::default();
    policy.breaker.base_open = Duration::from_millis(50);
    let gateway = Gateway::start(&[dead.address, other.address], policy).await;
    for _ in 0..20 {
        assert_eq!(status(&gateway.get("/orders/").await), 200);
    }
    assert_eq!(states(&gateway)[0], State::Open);
    let listener = dead.revive();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = read_message(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback").await;
        }
    });
    let mut answers = Vec::new();
    while states(&gateway)[0] != State::Closed {
        let response = gateway.get("/orders/").await;
        assert_eq!(status(&response), 200);
        answers.push(body(&response).to_owned());
        assert!(answers.len() < 10_000, "the breaker never closed");
    }
    assert_eq!(answers.iter().filter(|answer| *answer == "back").count(), 2, "two probes close it");
    server.abort();
}

/// Opens the breaker of the only replica.
pub(crate) fn trip(gateway: &Gateway) {
    let (service, now) = (gateway.service(), gateway.clock.now());
    let picked = service.pick(0, now, &[], Draw::default()).expect("nobody else is asked");
    service.settle(0, &picked.replica, picked.permit, Outcome::Failure(Fault::Reset), now, 0.5);
    assert_eq!(states(gateway), [State::Open]);
}

pub(crate) fn at_once() -> Policy {
    let mut policy = Policy::default();
    policy.breaker.consecutive_failure_count = 1;
    policy.breaker.half_open_success_count = 1;
    policy.breaker.base_open = Duration::from_millis(10);
    policy.breaker.max_open = Duration::from_millis(10);
    policy
}

/// Asks until a request is let through, as a probe, and reads no more of its answer than that it looks good.
async fn probe(gateway: &Gateway) -> TcpStream {
    loop {
        let (mut client, mut status) = (gateway.connect().await, [0; 12]);
        client.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.expect("it listens");
        client.read_exact(&mut status).await.expect("it answers");
        if &status == b"HTTP/1.1 200" {
            return client;
        }
    }
}

#[tokio::test]
async fn a_probe_whose_body_breaks_off_is_a_failure() {
    let address = raw_replica(|mut stream| async move {
        let _ = read_message(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n12").await;
    })
    .await;
    let gateway = Gateway::start(&[address], at_once()).await;
    trip(&gateway);
    let _client = probe(&gateway).await;
    eventually("its verdict is there", || gateway.service().replicas()[0].counters().failures == 2).await;
    assert_eq!(states(&gateway), [State::Open]);
}

#[tokio::test]
async fn a_probe_that_streams_passes_by_time_although_its_client_reads_nothing_of_it() {
    let address = raw_replica(|mut stream| async move {
        let _ = read_message(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Gateway::start(&[address], at_once()).await;
    trip(&gateway);
    let _client = probe(&gateway).await;
    assert_eq!(states(&gateway), [State::HalfOpen], "it may yet break off");
    eventually("it has passed", || states(&gateway) == [State::Closed]).await;
}

#[tokio::test]
async fn a_replicas_own_failure_says_why_there_was_no_other_attempt() {
    let replicas =
        [Replica::start(|_, _| respond(503, "no")).await, Replica::start(|_, _| respond(503, "no")).await];
    let gateway = Gateway::start(&[replicas[0].address, replicas[1].address], Policy::default()).await;
    let told = |response: &str| field(response, "proxy-status").unwrap();
    let posted = told(&gateway.post("/orders/", "x").await);
    assert!(posted.ends_with("; received-status=503; retry-denied=not_idempotent"), "{posted}");
    let got = told(&gateway.get("/orders/").await);
    assert!(got.ends_with("; received-status=503; retry-denied=no_other_replica"), "{got}");
}

#[tokio::test]
async fn a_replica_that_is_killed_between_requests_costs_nothing() {
    let doomed = Replica::start(|_, _| ok("doomed")).await;
    let other = Replica::start(|_, _| ok("other")).await;
    let gateway = Gateway::start(&[doomed.address, other.address], Policy::default()).await;
    for _ in 0..10 {
        assert_eq!(status(&gateway.post("/orders/", "x").await), 200);
    }
    doomed.kill().await;
    for number in 0..30 {
        let response = gateway.post("/orders/", "x").await;
        assert_eq!((status(&response), body(&response)), (200, "other"), "request {number}");
    }
}
