//! Clients in HTTP/2 that ask for much and take nothing of it: nobody keeps it for them, and no replica waits for them.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use data_plane::proxy::{Limits, MinRate};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use crate::{
    floods::{
        DATA, END_HEADERS, END_STREAM, GET, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
        next, refused,
    },
    harness::{Act, Gateway, Replica, eventually, ok},
};

/// Less than what is held of an answer, and with all of [`STREAMS`] more than the system holds.
const ANSWER: usize = 60_000;
const STREAMS: u32 = 120;
const CANCEL: u32 = 8;

/// Streams of a client, as they end.
#[derive(Default)]
struct Ends {
    whole: BTreeSet<u32>,
    cancelled: BTreeSet<u32>,
}

impl Ends {
    /// Reads until the stream with this id has ended.
    async fn read_to(&mut self, client: &mut TcpStream, id: u32) {
        let reading = async {
            while !self.whole.contains(&id) && !self.cancelled.contains(&id) {
                let (kind, flags, stream, payload) = next(client).await.expect("the connection goes on");
                match kind {
                    RST_STREAM => {
                        assert_eq!(payload, CANCEL.to_be_bytes(), "of {stream}");
                        assert!(self.cancelled.insert(stream), "{stream} ends twice");
                    }
                    HEADERS | DATA if flags & END_STREAM > 0 => {
                        assert!(self.whole.insert(stream), "{stream} ends twice");
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it is kept for ever");
    }
}

/// A client with wide windows that has asked for all there is, and that the system holds no more for.
pub(crate) async fn asked_for_much(gateway: &Gateway, replica: &Replica) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut client = socket.connect(gateway.listen).await.unwrap();
    let mut said = PREFACE.to_vec();
    said.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0]));
    said.extend(frame(SETTINGS, 1, 0, &[]));
    said.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
    for number in 0..STREAMS {
        said.extend(frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, GET));
    }
    client.write_all(&said).await.unwrap();
    eventually("all answers have come", || replica.seen().len() == STREAMS as usize).await;
    eventually("no replica is waited for", || gateway.inflight(0) == 0).await;
    client
}

pub(crate) async fn much() -> Replica {
    Replica::start(|_, _| ok(&"x".repeat(ANSWER))).await
}

/// Limits of which the kernel, which has the other one, is not to know.
fn impatient() -> Limits {
    let rate = MinRate { bytes_per_second: 100_000, grace: Duration::from_secs(2) };
    Limits { min_response_rate: rate, ..Limits::default() }
}

#[tokio::test]
async fn what_a_client_takes_its_windows_back_from_is_not_kept_although_its_connection_is_in_use() {
    let replica = much().await;
    let gateway = Gateway::start_limited(impatient(), &[replica.address]).await;
    let mut client = asked_for_much(&gateway, &replica).await;
    let (held, mut ends) = (2 * STREAMS + 1, Ends::default());
    // What was not written by now has no window any more.
    client.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    client.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, held, GET)).await.unwrap();
    // By then, that is known; and this one has none either, from its beginning.
    eventually("it is asked for", || replica.seen().len() > STREAMS as usize).await;
    ends.read_to(&mut client, held).await;
    for id in (1..held).step_by(2) {
        ends.read_to(&mut client, id).await;
    }
    assert!(ends.cancelled.len() > 1, "the system holds all of it: {} are whole", ends.whole.len());
    eventually("each is counted", || refused(&gateway, "slow_reader") == ends.cancelled.len() as u64).await;
    // The connection goes on.
    client.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0])).await.unwrap();
    client.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, held + 2, GET)).await.unwrap();
    ends.read_to(&mut client, held + 2).await;
    assert!(ends.whole.contains(&(held + 2)));
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
}

#[tokio::test]
async fn what_waits_for_a_client_that_reads_nothing_is_not_kept_although_its_connection_is_in_use() {
    // The last request is never answered, so that the connection is never idle.
    let asked = AtomicU64::new(0);
    let replica = Replica::start(move |_, _| match asked.fetch_add(1, Relaxed) < u64::from(STREAMS) {
        true => ok(&"x".repeat(ANSWER)),
        false => Act::Hang,
    })
    .await;
    let gateway = Gateway::start_limited(impatient(), &[replica.address]).await;
    let mut client = asked_for_much(&gateway, &replica).await;
    client.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * STREAMS + 1, GET)).await.unwrap();
    eventually("it is found out", || refused(&gateway, "slow_reader") > 1).await;
}
