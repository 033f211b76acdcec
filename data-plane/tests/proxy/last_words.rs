//! Connections in HTTP/2 that are to end: for how long the other side is listened and talked to then.

use std::{sync::Arc, time::Duration};

use data_plane::proxy::Limits;
use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};

use crate::{
    floods::{
        DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PING, SETTINGS, WINDOW_UPDATE, begin, frame,
        next, refused,
    },
    harness::{Gateway, eventually, raw_replica, read_message},
    http2_replicas::h2c,
    unread::{asked_for_much, much},
};

/// A frame that nobody knows.
const UNKNOWN: u8 = 0xbe;

/// Says something now and then, and reads nothing, until the other side is gone.
async fn until_it_is_gone(stream: &mut TcpStream) {
    let saying = async {
        while stream.write_all(&frame(UNKNOWN, 0, 0, &[])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), saying).await.expect("it is waited for without end");
}

#[tokio::test]
async fn a_replica_that_reads_nothing_any_more_has_two_seconds_to_take_the_goodbye() {
    let (told, mut asked) = mpsc::channel(1);
    let replica = raw_replica(move |mut stream| {
        let told = told.clone();
        async move {
            stream.read_exact(&mut [0; 24]).await.unwrap();
            // It has all the room there is, and reads none of what comes of it.
            stream.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).await.unwrap();
            stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())).await.unwrap();
            loop {
                let (kind, ..) = next(&mut stream).await.unwrap();
                if kind == HEADERS {
                    break;
                }
            }
            told.send(stream).await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start_to(vec![h2c(replica)], Arc::default(), Policy::default());
    let mut client = gateway.connect().await;
    let head = b"POST /orders/ HTTP/1.1\r\nhost: gw\r\ncontent-length: 1000000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    let piece = vec![b'x'; 64 << 10];
    // Until nothing moves for so long that the connection may be dead.
    let quiet = Duration::from_millis(1500);
    while let Ok(sent) = tokio::time::timeout(quiet, client.write_all(&piece)).await {
        sent.unwrap();
    }
    let mut stream = asked.recv().await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    eventually("the request is given up", || gateway.inflight(0) == 0).await;
    until_it_is_gone(&mut stream).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_any_more_has_the_linger_timeout_to_hear_what_it_did_wrong() {
    let replica = much().await;
    let limits = Limits { linger_timeout: Duration::from_millis(500), ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    let mut client = asked_for_much(&gateway, &replica).await;
    client.write_all(&frame(PING, 0, 1, &[0; 8])).await.unwrap();
    until_it_is_gone(&mut client).await;
    assert_eq!(refused(&gateway, "http2_violation"), 1);
}

#[tokio::test]
async fn a_client_that_hears_no_goodbye_is_answered_what_it_asked_within_the_linger_timeout_and_nothing_later()
 {
    let (answers, answered) = watch::channel(false);
    let (told, mut asked) = mpsc::channel(9);
    let replica = raw_replica(move |mut stream| {
        let (told, mut answered) = (told.clone(), answered.clone());
        async move {
            while read_message(&mut stream).await.is_some() {
                told.send(()).await.unwrap();
                answered.wait_for(|is_answered| *is_answered).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let linger_timeout = Duration::from_secs(3);
    let limits = Limits { requests_per_connection: Some(1), linger_timeout, ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica]).await;
    let mut client = begin(&gateway, &[]).await;
    let get = |id| frame(HEADERS, END_STREAM | END_HEADERS, id, GET);
    let mut goodbyes = Vec::new();
    client.write_all(&get(1)).await.unwrap();
    while goodbyes.is_empty() {
        let (kind, _, _, payload) = next(&mut client).await.unwrap();
        if kind == GOAWAY {
            goodbyes.push(payload[..4].to_vec());
        }
    }
    // Its PING stays without an answer.
    client.write_all(&get(3)).await.unwrap();
    for _ in 0..2 {
        asked.recv().await.unwrap();
    }
    while goodbyes.len() < 2 {
        let (kind, _, _, payload) = next(&mut client).await.unwrap();
        if kind == GOAWAY {
            goodbyes.push(payload[..4].to_vec());
        }
    }
    assert_eq!(goodbyes, [vec![0x7f, 0xff, 0xff, 0xff], vec![0, 0, 0, 3]]);
    client.write_all(&get(5)).await.unwrap();
    // Whose answer shows that the other one was seen.
    client.write_all(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    while !matches!(next(&mut client).await.unwrap(), (PING, 1, 0, payload) if payload == b"12345678") {}
    answers.send(true).unwrap();
    let (mut heads, mut ends) = (Vec::new(), Vec::new());
    while let Some((kind, flags, id, _)) = next(&mut client).await {
        if kind == HEADERS {
            heads.push(id);
        }
        if kind == DATA && flags & END_STREAM > 0 {
            ends.push(id);
        }
    }
    for ids in [&mut heads, &mut ends] {
        ids.sort_unstable();
        assert_eq!(*ids, [1, 3]);
    }
    assert!(asked.try_recv().is_err(), "nobody was asked for the third");
}
