//! Replicas that end a connection in HTTP/2 with a GOAWAY, and what they say by it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use data_plane::routing::{Fault, State};
use gateway_proto::Policy;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    failover::states,
    harness::{Gateway, body, raw_replica, reason, status},
    http2_replicas::{H2Replica, answer, builder, h2c, read},
};

/// A replica that reads one request's head, says goodbye with this as the last stream that it took, and closes.
async fn leaving(last: u32, reason: Reason) -> SocketAddr {
    raw_replica(move |mut stream| async move {
        stream.read_exact(&mut [0; 24]).await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            // HEADERS
            if head[3] == 1 {
                break;
            }
        }
        let mut goodbye = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        goodbye.extend_from_slice(&last.to_be_bytes());
        goodbye.extend_from_slice(&u32::from(reason).to_be_bytes());
        stream.write_all(&goodbye).await.unwrap();
        stream.shutdown().await.unwrap();
        while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
    })
    .await
}

#[tokio::test]
async fn what_a_goodbye_leaves_out_is_asked_of_another_and_what_it_took_is_not() {
    let taking = H2Replica::start(builder(), |_, body, answering| async move {
        let (bytes, _) = read(body).await;
        answer(answering, str::from_utf8(&bytes).unwrap()).await;
    })
    .await;
    for reason_given in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR] {
        let left_out = vec![h2c(leaving(0, reason_given).await), taking.endpoint()];
        let gateway = Gateway::start_to(left_out, Arc::default(), Policy::default());
        for _ in 0..2 {
            let response = gateway.post("/orders/x", "paid once").await;
            assert_eq!(status(&response), 200, "{reason_given:?} {response}");
            assert!(body(&response).contains("paid once"), "{response}");
        }
        let counters = gateway.service().replicas()[0].counters();
        let has_failed = reason_given == Reason::INTERNAL_ERROR;
        assert_eq!(counters.failures, if has_failed { counters.attempts } else { 0 }, "{reason_given:?}");

        let took = vec![h2c(leaving(1, reason_given).await)];
        let gateway = Gateway::start_to([&took[..], &took].concat(), Arc::default(), Policy::default());
        let response = gateway.post("/orders/x", "paid once").await;
        let told = (status(&response), reason(&response));
        assert_eq!(told, (502, "connection_terminated".into()), "{reason_given:?} {response}");
        assert!(body(&response).contains("after 1 attempt"), "a POST is not sent twice: {response}");
    }
}

#[tokio::test]
async fn replicas_that_say_goodbye_with_an_error_to_whatever_comes_are_taken_out_and_cost_no_request() {
    let taking = H2Replica::start(builder(), |_, body, answering| async move {
        read(body).await;
        answer(answering, "paid once").await;
    })
    .await;
    let broken = [leaving(0, Reason::INTERNAL_ERROR).await, leaving(0, Reason::PROTOCOL_ERROR).await];
    let endpoints = vec![h2c(broken[0]), h2c(broken[1]), taking.endpoint()];
    let mut policy = Policy::default();
    policy.breaker.base_open = Duration::from_secs(60);
    let gateway = Gateway::start_to(endpoints, Arc::default(), policy);
    for number in 0..20 {
        let response = gateway.post("/orders/x", "once").await;
        assert_eq!(status(&response), 200, "request {number}: {response}");
    }
    assert_eq!(taking.count(), 20);
    let service = gateway.service();
    assert_eq!(states(&gateway), [State::Open, State::Open, State::Closed]);
    let fault = service.replicas()[0].last_failures()[0].fault;
    assert_eq!(fault, Fault::Reset);
}
