//! Tunnels over HTTP/2 on both sides that are broken off with bytes under way in both directions: what they had of the windows is
//! others' again.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::Response;

use crate::{
    connects::{ask, connect},
    harness::eventually,
    http2_replicas::H2Replica,
    switched_replicas::{gateway, takes_connects},
};

const PIECE: usize = 16 << 10;
/// What is sent on a tunnel that is broken off.
const SENT: usize = 8 * PIECE;
/// So many of those send several times as much as the windows of their connections hold.
const ROUNDS: usize = 120;

/// How a tunnel is broken off, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// The client resets it.
    ByClient,
    /// The client does, and has read nothing.
    Unread,
    /// The replica resets it.
    ByReplica,
    /// The client does, and the replica has read nothing.
    Unheard,
}

fn broken(number: usize) -> Option<Break> {
    let ways = [Break::ByClient, Break::Unread, Break::ByReplica, Break::Unheard];
    (number < ROUNDS).then(|| ways[number % 4])
}

/// Sends as much as there is room for, again and again. Whether all of it went.
async fn send(outgoing: &mut SendStream<Bytes>, length: usize) -> bool {
    let mut left = length;
    while left > 0 {
        outgoing.reserve_capacity(left.min(PIECE));
        let Some(Ok(room)) = poll_fn(|cx| outgoing.poll_capacity(cx)).await else { return false };
        let size = room.min(left);
        if outgoing.send_data(Bytes::from(vec![7; size]), false).is_err() {
            return false;
        }
        left -= size;
    }
    true
}

/// Reads so many bytes, unless it ends before.
async fn read(incoming: &mut RecvStream, length: usize) -> usize {
    let mut heard = 0;
    while heard < length {
        let Some(Ok(data)) = incoming.data().await else { break };
        let _ = incoming.flow_control().release_capacity(data.len());
        heard += data.len();
    }
    heard
}

/// Says back what it hears.
async fn replica(number: usize, mut hears: RecvStream, mut answering: SendResponse<Bytes>) {
    let mut says = answering.send_response(Response::new(()), false).unwrap();
    let mut heard = 0;
    if broken(number) == Some(Break::Unheard) {
        let _ = poll_fn(|cx| says.poll_reset(cx)).await;
        return;
    }
    while let Some(Ok(data)) = hears.data().await {
        let _ = hears.flow_control().release_capacity(data.len());
        heard += data.len();
        if !send(&mut says, data.len()).await {
            return;
        }
        if broken(number) == Some(Break::ByReplica) && heard >= SENT / 2 {
            return says.send_reset(Reason::INTERNAL_ERROR);
        }
    }
    let _ = says.send_data(Bytes::new(), true);
}

#[tokio::test]
async fn tunnels_that_are_broken_off_leave_all_of_the_windows_to_those_that_follow() {
    let replica = H2Replica::start(takes_connects(), replica).await;
    let gateway = gateway(&replica);
    let mut sender = connect(&gateway).await;
    for number in 0..ROUNDS {
        let round = async {
            let (answer, mut outgoing) = ask(&mut sender, "websocket");
            let mut incoming = answer.await.unwrap().into_body();
            let way = broken(number).unwrap();
            let reading = async {
                match way {
                    Break::ByClient => read(&mut incoming, SENT / 2).await,
                    Break::ByReplica => read(&mut incoming, usize::MAX).await,
                    Break::Unread | Break::Unheard => 0,
                }
            };
            let (_, was_sent) = tokio::join!(reading, send(&mut outgoing, SENT));
            assert!(was_sent || way == Break::ByReplica, "{way:?}");
            outgoing.send_reset(Reason::CANCEL);
        };
        tokio::time::timeout(Duration::from_secs(10), round).await.unwrap_or_else(|_| {
            panic!("tunnel {number} stands still: {:?}", broken(number));
        });
    }
    eventually("all of them have ended", || gateway.inflight(0) == 0).await;
    // One that goes on to its end, with more than all windows together hold.
    let whole = async {
        const MUCH: usize = 32 << 20;
        let (answer, mut outgoing) = ask(&mut sender, "websocket");
        let mut incoming = answer.await.unwrap().into_body();
        let sending = async {
            assert!(send(&mut outgoing, MUCH).await);
            outgoing.send_data(Bytes::new(), true).unwrap();
        };
        let (heard, ()) = tokio::join!(read(&mut incoming, usize::MAX), sending);
        assert_eq!(heard, MUCH);
    };
    tokio::time::timeout(Duration::from_secs(60), whole).await.expect("it stands still");
    eventually("nothing is under way", || gateway.inflight(0) == 0).await;
    assert_eq!(replica.connections(), 1, "all on one connection");
    assert_eq!(gateway.service().tunnels().totals(), (ROUNDS as u64 + 1, 0));
}
