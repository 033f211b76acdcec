//! Attacks over HTTP/2, played frame by frame: the gateway's memory stays bounded, other clients are served, and the
//! attacker's connection ends.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use data_plane::proxy::{Limits, MinRate};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use crate::harness::{Gateway, Replica, eventually, ok, raw_replica, read_message, status};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET http://gw/orders/`, as HPACK has it without its table.
pub(crate) const GET: &[u8] = b"\x82\x86\x01\x02gw\x04\x08/orders/";
/// The same with POST.
const POST: &[u8] = b"\x83\x86\x01\x02gw\x04\x08/orders/";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The error of those who are asked to calm down.
const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Kind, flags, stream and payload of the next frame; `None` once the connection has ended.
pub(crate) async fn next(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, number @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, u32::from_be_bytes(number), payload))
}

/// Whether the gateway resets a stream before the connection ends.
async fn has_reset(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let ended = async {
        while let Some((kind, ..)) = next(stream).await {
            if kind == RST_STREAM {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it goes on for ever")
}

/// A connection that has begun, with these settings of the client's.
pub(crate) async fn begin(gateway: &Gateway, settings: &[u8]) -> TcpStream {
    let mut stream = gateway.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
    stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap();
    stream
}

/// How the gateway ended the connection: by which error, or without a word.
#[derive(Debug, PartialEq, Eq)]
enum End {
    GoAway(u32, String),
    Silent,
}

/// Sends what `attack` says, so many times, as fast as it is taken, and reads all the while, until the connection ends.
async fn played(
    gateway: &Gateway,
    settings: &[u8],
    times: u32,
    attack: impl Fn(u32) -> Vec<u8> + Send + 'static,
) -> End {
    let (mut reading, mut writing) = begin(gateway, settings).await.into_split();
    let sending = tokio::spawn(async move {
        for number in 0..times {
            if writing.write_all(&attack(number)).await.is_err() {
                return None;
            }
        }
        Some(writing)
    });
    let mut end = End::Silent;
    let reading = async {
        while let Some((kind, _, _, payload)) = next(&mut reading).await {
            if kind == GOAWAY {
                let error = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                end = End::GoAway(error, String::from_utf8(payload[8..].to_vec()).unwrap());
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(ended.is_ok(), "the connection goes on");
    drop(sending.await.unwrap());
    end
}

/// A gateway with these limits whose replica answers, and the process's memory in use.
async fn gateway(limits: Limits) -> (Gateway, Replica) {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    (gateway, replica)
}

/// Another client is served, in both versions of HTTP.
async fn others_are_served(gateway: &Gateway) {
    assert_eq!(status(&gateway.get("/orders/").await), 200);
    let mut stream = begin(gateway, &[]).await;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await.unwrap();
    loop {
        let (kind, _, number, payload) = next(&mut stream).await.expect("an answer");
        if kind == HEADERS {
            // 200, by its index in HPACK's table.
            assert_eq!((number, payload[0]), (1, 0x88));
            return;
        }
    }
}

pub(crate) fn refused(gateway: &Gateway, reason: &str) -> u64 {
    gateway.refusals().iter().find(|(counted, _)| *counted == reason).map_or(0, |(_, count)| *count)
}

fn calm(why: &str) -> End {
    End::GoAway(ENHANCE_YOUR_CALM, why.into())
}

#[tokio::test]
async fn streams_that_are_reset_one_after_the_other_end_their_connection_and_no_replica_works_for_them() {
    let (seen, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let arrived = Arc::new(Notify::new());
    let counts = (Arc::clone(&seen), Arc::clone(&over), Arc::clone(&arrived));
    let replica = raw_replica(move |mut stream| {
        let (counted, closed, arrived) = counts.clone();
        async move {
            while read_message(&mut stream).await.is_some() {
                // It never answers.
                counted.fetch_add(1, Relaxed);
                arrived.notify_one();
            }
            closed.fetch_add(1, Relaxed);
        }
    })
    .await;
    let gateway = Gateway::start_limited(Limits { resets: 50, ..Limits::default() }, &[replica]).await;
    let mut stream = begin(&gateway, &[]).await;
    let mut taken = 0;
    for number in 0..1000_u32 {
        let id = 2 * number + 1;
        if stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, id, GET)).await.is_err() {
            break;
        }
        // Not before it is on its way: what is reset unseen costs nothing.
        let is_under_way = async {
            while seen.load(Relaxed) <= u64::from(number) {
                arrived.notified().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), is_under_way).await.is_err() {
            break;
        }
        taken += 1;
        if stream.write_all(&frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())).await.is_err() {
            break;
        }
    }
    // As many as may be reset at once, those that came free meanwhile, and the one that was too many.
    assert!((51..75).contains(&taken), "{taken}");
    let mut end = None;
    while let Some((kind, _, _, payload)) = next(&mut stream).await {
        if kind == GOAWAY {
            end = Some((payload[..8].to_vec(), String::from_utf8(payload[8..].to_vec()).unwrap()));
        }
    }
    let last_stream = 2 * taken - 1;
    let last_stream_and_error = [u32::to_be_bytes(last_stream), ENHANCE_YOUR_CALM.to_be_bytes()].concat();
    assert_eq!(end, Some((last_stream_and_error, "too many streams were reset".into())));
    eventually("every request is cancelled at the replica", || over.load(Relaxed) == u64::from(taken)).await;
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
    assert_eq!(refused(&gateway, "too_many_resets"), 1);
}

#[tokio::test]
async fn a_rapid_reset_ends_its_connection_and_others_are_served() {
    let (gateway, _replica) = gateway(Limits::default()).await;
    let attack = |number: u32| {
        let id = 2 * number + 1;
        let mut both = frame(HEADERS, END_STREAM | END_HEADERS, id, GET);
        both.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        both
    };
    let End::GoAway(error, _) = played(&gateway, &[], 100_000, attack).await else {
        panic!("without a word")
    };
    assert_eq!(error, ENHANCE_YOUR_CALM);
    assert!(refused(&gateway, "too_many_resets") + refused(&gateway, "http2_violation") > 0);
    others_are_served(&gateway).await;
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn frames_that_carry_nothing_end_their_connection() {
    let empty_data = |_| frame(DATA, 0, 1, &[]);
    let (gateway, _replica) = gateway(Limits { control_frames: 100, ..Limits::default() }).await;
    type Attack = fn(u32) -> Vec<u8>;
    let floods: [(&str, Attack); 5] = [
        ("PING", |_| frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("WINDOW_UPDATE", |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("PRIORITY", |_| frame(2, 0, 1, &[0, 0, 0, 3, 9])),
        ("unknown", |_| frame(99, 0, 0, b"whatever")),
    ];
    for (index, (name, flood)) in floods.into_iter().enumerate() {
        let end = played(&gateway, &[], 100_000, flood).await;
        assert_eq!(end, calm("too many frames without a request"), "{name}");
        assert_eq!(refused(&gateway, "too_many_control_frames"), 1 + index as u64);
        others_are_served(&gateway).await;
    }
    let end = played(&gateway, &[], 100_000, move |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, POST),
        _ => empty_data(number),
    });
    assert_eq!(end.await, calm("too many frames without a request"), "empty DATA");
    others_are_served(&gateway).await;
}

#[tokio::test]
async fn a_head_without_end_ends_its_connection() {
    let (gateway, _replica) = gateway(Limits::default()).await;
    let attack = |number: u32| match number {
        0 => frame(HEADERS, 0, 1, GET),
        _ => frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y"),
    };
    let end = played(&gateway, &[], 100_000, attack).await;
    assert_eq!(end, calm("a head comes in too many frames"));
    assert_eq!(refused(&gateway, "http2_violation"), 1);
    others_are_served(&gateway).await;
}

/// One long field in HPACK's table, and a head that refers to it again and again.
#[tokio::test]
async fn a_head_that_unfolds_into_megabytes_ends_its_connection() {
    let (gateway, _replica) = gateway(Limits::default()).await;
    let attack = |number: u32| {
        let mut head = GET.to_vec();
        if number == 0 {
            head.extend_from_slice(b"\x40\x01x\x7f\xa1\x1e");
            head.extend_from_slice(&[b'y'; 4000]);
        }
        head.extend_from_slice(&[0xbe; 15_000][..if number == 0 { 100 } else { 15_000 }]);
        frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &head)
    };
    let end = played(&gateway, &[], 1000, attack).await;
    assert_eq!(end, calm("a head is far too large"));
    others_are_served(&gateway).await;
}

#[tokio::test]
async fn whoever_opens_no_window_has_its_streams_ended_and_holds_no_replica() {
    let replica = Replica::start(|_, _| ok(&"x".repeat(100_000))).await;
    let limits = Limits {
        unread_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        linger_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    // INITIAL_WINDOW_SIZE 0.
    let mut stream = begin(&gateway, &[0, 4, 0, 0, 0, 0]).await;
    for number in 0..20 {
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, GET)).await.unwrap();
    }
    let (mut reset, mut data) = (0, 0);
    let mut went = false;
    let reading = async {
        while let Some((kind, ..)) = next(&mut stream).await {
            reset += u64::from(kind == RST_STREAM);
            data += u64::from(kind == DATA);
            went |= kind == GOAWAY;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the connection goes on");
    assert_eq!((reset, data, went), (20, 0, true));
    assert_eq!(refused(&gateway, "unread"), 20);
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn a_connection_without_a_request_ends_in_time_and_one_with_a_request_does_not() {
    let replica = raw_replica(|mut stream| async move {
        while read_message(&mut stream).await.is_some() {
            tokio::time::sleep(Duration::from_secs(4)).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let second = Duration::from_secs(1);
    let limits = Limits { idle_timeout: second, linger_timeout: second, ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica]).await;
    let mut stream = begin(&gateway, &[]).await;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await.unwrap();
    let mut kinds = Vec::new();
    // Until the connection ends.
    while let Some((kind, ..)) = next(&mut stream).await {
        kinds.push(kind);
    }
    let at =
        |kind| kinds.iter().position(|one| *one == kind).unwrap_or_else(|| panic!("{kind} in {kinds:?}"));
    assert!(at(DATA) < at(GOAWAY), "{kinds:?}");
}

#[tokio::test]
async fn a_connection_has_as_many_requests_as_its_limit_says() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let limits = Limits { requests_per_connection: Some(2), ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    let mut stream = gateway.connect().await;
    let get = b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n";
    stream.write_all(get).await.unwrap();
    let first = read_message(&mut stream).await.unwrap();
    assert_eq!(crate::harness::field(&first, "connection"), None);
    stream.write_all(get).await.unwrap();
    let second = read_message(&mut stream).await.unwrap();
    assert_eq!(crate::harness::field(&second, "connection").as_deref(), Some("close"));
    assert!(read_message(&mut stream).await.is_none());
    let mut stream = begin(&gateway, &[]).await;
    for id in [1, 3] {
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, id, GET)).await.unwrap();
    }
    let mut answered = 0;
    let mut went = false;
    while let Some((kind, _, _, payload)) = next(&mut stream).await {
        answered += u32::from(kind == HEADERS);
        went |= kind == GOAWAY;
        if kind == PING {
            // What a graceful end waits for.
            stream.write_all(&frame(PING, 1, 0, &payload)).await.unwrap();
        }
    }
    assert_eq!((answered, went), (2, true));
}

#[tokio::test]
async fn whoever_opens_its_window_bit_by_bit_has_its_stream_ended() {
    let replica = Replica::start(|_, _| ok(&"x".repeat(1 << 20))).await;
    let rate = MinRate { bytes_per_second: 100_000, grace: Duration::from_secs(1) };
    let limits = Limits { min_response_rate: rate, ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    // INITIAL_WINDOW_SIZE 100.
    let mut stream = begin(&gateway, &[0, 4, 0, 0, 0, 100]).await;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let opening = tokio::spawn(async move {
        while writing.write_all(&frame(WINDOW_UPDATE, 0, 1, &100_u32.to_be_bytes())).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(has_reset(&mut reading).await);
    assert_eq!(refused(&gateway, "slow_reader"), 1);
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
    opening.abort();
}

#[tokio::test]
async fn the_last_of_an_answer_is_not_kept_for_a_client_that_takes_nothing_of_it() {
    let replica = Replica::start(|_, _| ok("hello")).await;
    let limits = Limits { unread_timeout: Duration::from_secs(1), ..Limits::default() };
    let gateway = Gateway::start_limited(limits, &[replica.address]).await;
    // INITIAL_WINDOW_SIZE 1.
    let mut stream = begin(&gateway, &[0, 4, 0, 0, 0, 1]).await;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await.unwrap();
    assert!(has_reset(&mut stream).await);
    assert_eq!(refused(&gateway, "unread"), 1);
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn what_begins_like_http_2_and_is_none_is_not_answered_in_http_1() {
    let (gateway, _replica) = gateway(Limits::default()).await;
    let beginnings = [
        "PRI * HTTP/1.1\r\nhost: gw\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n",
        "INVALID CONNECTION PREFACE\r\n\r\n",
    ];
    for (count, beginning) in (1..).zip(beginnings) {
        let mut stream = gateway.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut kinds = Vec::new();
        while let Some((kind, ..)) = next(&mut stream).await {
            kinds.push(kind);
        }
        assert!(
            kinds.iter().all(|kind| matches!(*kind, SETTINGS | WINDOW_UPDATE | GOAWAY)),
            "{beginning}: {kinds:?}"
        );
        eventually("it is counted", || refused(&gateway, "http2_violation") == count).await;
    }
    others_are_served(&gateway).await;
}

#[tokio::test]
async fn what_is_wrong_in_http_1_is_told_in_http_1() {
    let (gateway, replica) = gateway(Limits::default()).await;
    let get = "GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n";
    for (wrong, code) in [
        ("GET /orders/ HTTP/2.0\r\nhost: gw\r\n\r\n", 505),
        ("GET /orders/\r\n\r\n", 400),
        ("GET /orders/ PREFACE\r\n\r\n", 400),
        ("INVALID CONNECTION HTTP/1.1\r\nhost: gw\r\n\r\n", 400),
        ("\x16\x03\x01\x02", 400),
    ] {
        assert_eq!(status(&gateway.send(wrong).await), code, "{wrong:?}");
    }
    // Its method only begins as the preface does.
    assert_eq!(status(&gateway.send(&get.replacen("GET", "PRINT", 1)).await), 200);
    // Once it has spoken HTTP/1, it is answered in that.
    let mut stream = gateway.connect().await;
    stream.write_all(format!("{get}INVALID CONNECTION PREFACE\r\n\r\n").as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let codes: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(codes, ["200", "400"]);
    assert_eq!((replica.seen().len(), refused(&gateway, "http2_violation")), (2, 0));
}
