//! The library h2 at the other end: each takes what the other says, in both roles.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::*;
use crate::{Receiver, Sender};

const SIZES: [usize; 6] = [0, 1, 100, 16_384, 70_000, 300_000];

/// Moves a connection's bytes.
async fn drive(shared: Shared<Plain>, mut wire: DuplexStream, mut came: impl FnMut()) {
    let mut input = BytesMut::new();
    poll_fn(|cx| {
        loop {
            let mut connection = shared.borrow_mut();
            connection.driven_by(cx.waker());
            connection.pump();
            let mut slices = [IoSlice::new(&[])];
            if connection.slices(&mut slices) > 0
                && let Poll::Ready(Ok(count)) = Pin::new(&mut wire).poll_write(cx, &slices[0])
            {
                connection.advance(count);
                continue;
            }
            if connection.is_over() {
                return Poll::Ready(());
            }
            let mut bytes = [0; 5000];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut wire).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    input.extend_from_slice(buffer.filled());
                    connection.receive(&mut input, &mut ());
                    assert_eq!(connection.end(), None);
                    drop(connection);
                    came();
                }
                Poll::Ready(_) => {
                    connection.lost(std::io::ErrorKind::UnexpectedEof);
                    return Poll::Ready(());
                }
            }
        }
    })
    .await;
}

async fn send(sender: &mut Sender<Plain>, length: usize) {
    let mut left = length;
    while left > 0 {
        let room = poll_fn(|cx| sender.poll_room(cx)).await.unwrap().min(left);
        sender.send_data(Bytes::from(vec![5; room]), false).unwrap();
        left -= room;
    }
    sender.send_trailers(list(&[("x-length", &length.to_string())])).unwrap();
}

async fn receive(receiver: &mut Receiver<Plain>) -> usize {
    let mut length = 0;
    while let Some(data) = poll_fn(|cx| receiver.poll_data(cx)).await {
        let data = data.unwrap();
        assert!(data.iter().all(|byte| *byte == 5));
        length += data.len();
        receiver.release(data.len());
    }
    let trailers = poll_fn(|cx| receiver.poll_trailers(cx)).await.unwrap();
    assert_eq!(trailers, Some(list(&[("x-length", &length.to_string())])));
    length
}

async fn library_sends(mut sender: SendStream<Bytes>, length: usize) {
    let mut left = length;
    while left > 0 {
        sender.reserve_capacity(left);
        let room = poll_fn(|cx| sender.poll_capacity(cx)).await.unwrap().unwrap().min(left);
        sender.send_data(Bytes::from(vec![5; room]), false).unwrap();
        left -= room;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-length", length.into());
    sender.send_trailers(trailers).unwrap();
}

async fn library_receives(mut receiver: RecvStream) -> usize {
    let mut length = 0;
    while let Some(data) = receiver.data().await {
        let data = data.unwrap();
        length += data.len();
        receiver.flow_control().release_capacity(data.len()).unwrap();
    }
    assert_eq!(receiver.trailers().await.unwrap().unwrap()["x-length"], length.to_string());
    length
}

fn on_a_thread(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, run);
}

/// A server of ours that answers each request with as many bytes as it had.
fn serve(wire: DuplexStream, config: Config) {
    let shared = Side::new(Connection::server(config)).shared;
    let accepting = Rc::clone(&shared);
    tokio::task::spawn_local(drive(shared, wire, move || {
        while let Some(mut request) = crate::accept(&accepting) {
            tokio::task::spawn_local(async move {
                let length = receive(&mut request.receiver).await;
                request.sender.send_head(ok(), false).unwrap();
                send(&mut request.sender, length).await;
            });
        }
    }));
}

#[test]
fn a_client_of_the_library_is_served() {
    for window in [500, 65_535, 1 << 20] {
        on_a_thread(async {
            let (ours, theirs) = tokio::io::duplex(3000);
            serve(ours, Config { stream_window: window, connection_window: 2 * window, ..CONFIG });
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(2 * window);
            let (client, connection) = builder.handshake(theirs).await.unwrap();
            tokio::task::spawn_local(connection);
            let asked = SIZES.map(|length| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let request = Request::post("http://a/").header("x-more", "1").body(()).unwrap();
                    let (response, sender) =
                        client.ready().await.unwrap().send_request(request, false).unwrap();
                    let sending = tokio::task::spawn_local(library_sends(sender, length));
                    let response = response.await.unwrap();
                    assert_eq!(library_receives(response.into_body()).await, length);
                    sending.await.unwrap();
                })
            });
            for asked in asked {
                asked.await.unwrap();
            }
        });
    }
}

#[test]
fn a_server_of_the_library_is_asked() {
    for window in [500, 65_535, 1 << 20] {
        on_a_thread(async {
            let (ours, theirs) = tokio::io::duplex(3000);
            tokio::task::spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                builder.initial_window_size(window).max_concurrent_streams(2);
                let mut connection = builder.handshake(theirs).await.unwrap();
                while let Some(request) = connection.accept().await {
                    let (request, mut respond) = request.unwrap();
                    tokio::task::spawn_local(async move {
                        let interim =
                            Response::builder().status(103).header("link", "</a>").body(()).unwrap();
                        respond.send_informational(interim).unwrap();
                        let length = library_receives(request.into_body()).await;
                        let sender = respond.send_response(Response::new(()), false).unwrap();
                        library_sends(sender, length).await;
                    });
                }
            });
            let config = Config { stream_window: window, connection_window: 2 * window, ..CONFIG };
            let shared = Side::new(Connection::client(config)).shared;
            tokio::task::spawn_local(drive(Rc::clone(&shared), ours, || {}));
            while !shared.borrow().is_settled() {
                tokio::task::yield_now().await;
            }
            let asked = SIZES.map(|length| {
                let (mut sender, mut receiver) =
                    crate::open(&shared, post(), false, Purpose::Content).unwrap();
                tokio::task::spawn_local(async move {
                    let mut sending = pin!(send(&mut sender, length));
                    let mut is_sent = false;
                    let head = poll_fn(|cx| {
                        is_sent = is_sent || sending.as_mut().poll(cx).is_ready();
                        while let Poll::Ready(Some((status, _))) = receiver.poll_interim(cx) {
                            assert_eq!(status, 103);
                        }
                        receiver.poll_head(cx)
                    });
                    assert_eq!(head.await.unwrap(), (200, ok()));
                    assert_eq!(receive(&mut receiver).await, length);
                })
            });
            for asked in asked {
                asked.await.unwrap();
            }
        });
    }
}

#[test]
fn a_client_of_the_library_that_gives_requests_up_leaves_nothing_behind() {
    on_a_thread(async {
        let (ours, theirs) = tokio::io::duplex(3000);
        let shared = Side::new(Connection::server(CONFIG)).shared;
        let accepting = Rc::clone(&shared);
        tokio::task::spawn_local(drive(Rc::clone(&shared), ours, move || {
            while let Some(mut request) = crate::accept(&accepting) {
                // It never answers.
                tokio::task::spawn_local(async move { poll_fn(|cx| request.sender.poll_reset(cx)).await });
            }
        }));
        let (client, connection) = h2::client::handshake(theirs).await.unwrap();
        tokio::task::spawn_local(connection);
        for _ in 0..100 {
            let request = Request::post("http://a/").body(()).unwrap();
            let (response, mut sender) =
                client.clone().ready().await.unwrap().send_request(request, false).unwrap();
            sender.send_data(Bytes::from(vec![5; 100]), false).unwrap();
            tokio::task::yield_now().await;
            drop((response, sender));
        }
        while shared.borrow().places() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
