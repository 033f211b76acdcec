//! Strangers who have a control plane hold as much for them as they can: connections by the hundred, on each of which they watch
//! its health with long heads, begin checks whose messages never come, and send messages that nobody let them send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{
    greedy::{MODEST, usual},
    locked::Locked,
};
use crate::{
    Size,
    figures::Figures,
    process,
    stage::{SECOND, metric},
};

/// Calls of each kind that are begun on a connection, on which a stranger may have eight under way.
const CALLS: u32 = 100;
/// What goes with the head of each call, as long as a stranger's may be, and with some more.
const PADDING: [usize; 2] = [3500, 8000];
/// What is sent of a message, so that the first window of a connection has room for all (65,535 bytes).
const BEGUN: usize = 200;
/// Memory for all that they may have held, as for one who is known and asks for too much.
const MOST_MIB: u64 = 200;

/// All that strangers may keep is theirs, and nearly all of the other places as they come and go; somebody who is known does what is usual.
pub(super) async fn crowd_in(size: Size, figures: &mut Figures) {
    let (places, strangers) = size.of(("1000", 900), ("40", 36));
    let flags = ["--open-metrics", "--max-connections", places];
    let mut locked = Locked::start(MODEST, &flags).await;
    let (url, address, pid) =
        (locked.control.url(), locked.control.address(), locked.control.process().pid());
    let lasts = SECOND * size.of(20, 4);
    usual(&url, SECOND, 0).await;
    let before = process::resident_kib(pid);
    let mut crowd = JoinSet::new();
    for number in 0..strangers {
        crowd.spawn(intrude(address, number));
    }
    let mut held = Vec::new();
    for (turn, when) in [(1, "at first"), (2, "later")] {
        let beside = usual(&url, lasts / 2, turn).await;
        beside.hold_served(figures, &format!("beside {strangers} connections of strangers, {when}"));
        held.push(process::resident_peak_kib(pid).saturating_sub(before) / 1024);
    }
    crowd.shutdown().await;
    figures.at_most("MiB more than before at the most", MOST_MIB, held[1]);
    figures.at_most("MiB more, the longer it goes on", 16, held[1] - held[0]);
    let refused = locked.counted("gateway_access_denied_total{reason=\"CREDENTIALS_REQUIRED\"}").await;
    figures.hold("their calls are counted as refused", refused, refused >= strangers);
    let panics = metric(address, "gateway_panics_total").await;
    figures.hold("panics 0", panics, panics == 0.0);
}

/// One connection after the other, each for as long as it is let be.
async fn intrude(address: SocketAddr, number: u64) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let (mut reading, mut writing) = stream.split();
            let sent = script(number.is_multiple_of(4));
            let read = async {
                let mut heard = [0; 4096];
                while reading.read(&mut heard).await.is_ok_and(|read| read > 0) {}
            };
            // What is not taken any more is as well sent as what is not read.
            let _ = timeout(60 * SECOND, async { tokio::join!(writing.write_all(&sent), read) }).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// All that a stranger sends on a connection, which ends in what is no HTTP/2 or goes on without a word.
fn script(ends_in_garbage: bool) -> Vec<u8> {
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut sent, SETTINGS, 0, 0, &[]);
    let mut stream = 1;
    for number in 0..CALLS {
        let padding = PADDING[usize::from(number % 8 == 7)];
        for (path, length) in [
            ("/grpc.health.v1.Health/Watch", 0),
            ("/grpc.health.v1.Health/Check", 4096),
            ("/gateway.v1.RegistryService/Register", 6 << 20),
        ] {
            frame(&mut sent, HEADERS, END_HEADERS, stream, &head(path, padding));
            let message = [&[0][..], &u32::to_be_bytes(length), &[b'x'; BEGUN]].concat();
            match length {
                0 => frame(&mut sent, DATA, END_STREAM, stream, &message[..5]),
                _ => frame(&mut sent, DATA, 0, stream, &message),
            }
            stream += 2;
        }
    }
    if ends_in_garbage {
        sent.extend([0xff; 300]);
    }
    sent
}

/// Types and flags of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(sent: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    sent.extend(&length[1..]);
    sent.extend([kind, flags]);
    sent.extend(stream.to_be_bytes());
    sent.extend(payload);
}

/// The head of a call: fields by name and value, neither compressed nor kept (RFC 7541, section 6.2.2).
fn head(path: &str, padding: usize) -> Vec<u8> {
    let mut head = Vec::new();
    let padding = "x".repeat(padding);
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-padding", &padding),
    ] {
        head.push(0);
        for text in [name, value] {
            integer(&mut head, text.len());
            head.extend(text.as_bytes());
        }
    }
    head
}

/// A length of seven bits and more (RFC 7541, section 5.1).
fn integer(head: &mut Vec<u8>, number: usize) {
    const MOST: usize = 127;
    if number < MOST {
        return head.push(u8::try_from(number).expect("it has seven bits"));
    }
    head.push(127);
    let mut rest = number - MOST;
    while rest >= 128 {
        head.push(u8::try_from(rest % 128 + 128).expect("it has eight bits"));
        rest /= 128;
    }
    head.push(u8::try_from(rest).expect("it has seven bits"));
}
