//! Answers of replicas in HTTP/2 that have no body, by what they come to.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use data_plane::table::AttemptResult;
use gateway_proto::Policy;
use http::Response;

use crate::{
    harness::{Gateway, eventually, status},
    http2_replicas::H2Replica,
};

fn before(replica: &H2Replica) -> Gateway {
    Gateway::start_to(vec![replica.endpoint()], Arc::default(), Policy::default())
}

#[tokio::test]
async fn an_answer_without_a_body_is_a_success_however_its_stream_ends() {
    for at_once in [true, false] {
        let replica =
            H2Replica::start(h2::server::Builder::new(), move |number, _, mut answering| async move {
                let status = [200, 204, 304][number];
                let head = Response::builder().status(status).body(()).unwrap();
                let mut sending = answering.send_response(head, at_once).unwrap();
                if !at_once {
                    sending.send_data(Bytes::new(), true).unwrap();
                }
            })
            .await;
        let gateway = before(&replica);
        for (method, expected) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
            let request = format!("{method} /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n");
            assert_eq!(status(&gateway.send(&request).await), expected);
        }
        let service = gateway.service();
        let counted = |result| service.counters().attempts(result);
        eventually("all have ended", || gateway.inflight(0) == 0).await;
        assert_eq!((counted(AttemptResult::Success), counted(AttemptResult::Neutral)), (3, 0), "{at_once}");
        assert_eq!(replica.connections(), 1);
    }
}

#[tokio::test]
async fn an_answer_to_head_whose_stream_stays_open_is_a_success() {
    let replica = H2Replica::start(h2::server::Builder::new(), |_, _, mut answering| async move {
        let mut sending = answering.send_response(Response::new(()), false).unwrap();
        // It is reset in time.
        let _ = poll_fn(|cx| sending.poll_reset(cx)).await;
    })
    .await;
    let gateway = before(&replica);
    let answer = gateway.send("HEAD /orders/ HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), 200);
    let service = gateway.service();
    eventually("it is a success", || service.counters().attempts(AttemptResult::Success) == 1).await;
}
