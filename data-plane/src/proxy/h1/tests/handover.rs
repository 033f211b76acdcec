//! A request that a connection did not take is whole for the next one.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::super::{
    ClientConnection, Failure, HeadLimits, Length, Outgoing, RequestReader,
    inbound::{Inbound, Next},
    request,
    wire::{Buffers, Wire},
};
use crate::{
    clock::Clock,
    proxy::{
        body::{
            kept::ReplayMemory,
            pace::MinRate,
            request_body::{ClientBody, RequestBody, RequestSource},
        },
        downstream::stream::Stream,
        head::hints::AttemptHints,
    },
    request_rules::BodyCheck,
};

fn rate() -> MinRate {
    MinRate { bytes_per_second: 1, grace: Duration::ZERO }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

fn wire(stream: TcpStream) -> Wire {
    Wire::new(Stream::Tcp(stream), Rc::new(Buffers::default()))
}

#[tokio::test]
async fn a_request_of_which_no_byte_was_taken_is_not_taken() {
    let (near, far) = pair().await;
    socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    // The event loop has not told yet, so nothing but the write can.
    let mut connection = ClientConnection::new(wire(near), HeadLimits::default());
    let (parsed, _) =
        request::parse(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n", &HeadLimits::default())
            .unwrap();
    connection.begin(Outgoing {
        head: &parsed.head,
        length: Length::Exact(3),
        body: Full::new(Bytes::from_static(b"abc")),
        expects_continue: false,
        hints: AttemptHints { attempt: 1, time: Duration::from_secs(1), call: None, trace: None },
    });
    let failure = poll_fn(|cx| connection.poll_head(cx, drop)).await.unwrap_err();
    assert!(matches!(failure, Failure::NotTaken(_)), "{failure}");
    assert!(!connection.has_sent());
}

/// The next frame's data, which has to be there.
fn data(body: &mut RequestBody) -> Option<Bytes> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame.map(|frame| frame.unwrap().into_data().unwrap()),
        Poll::Pending => panic!("nothing is there"),
    }
}

#[tokio::test]
async fn the_first_frame_is_given_out_again_until_it_was_sent_also_where_nothing_is_kept() {
    for may_replay in [false, true] {
        let (near, mut far) = pair().await;
        far.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await.unwrap();
        let inbound = Rc::new(RefCell::new(Inbound::new(wire(near))));
        let next = poll_fn(|cx| inbound.borrow_mut().poll_next(cx, &HeadLimits::default())).await;
        assert!(matches!(next, Ok(Next::Request(_))));
        let reader = ClientBody::Http1(RequestReader::new(&inbound));
        let check = BodyCheck::new(&gateway_proto::Policy::default().request);
        let source =
            RequestSource::new(reader, may_replay, check, &ReplayMemory::new(9, 9), rate(), Clock::new());
        assert_eq!(data(&mut source.attempt()).unwrap(), "abc");
        let mut second = source.attempt();
        assert_eq!(data(&mut second).unwrap(), "abc");
        far.write_all(b"def").await.unwrap();
        let rest = poll_fn(|cx| Pin::new(&mut second).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(rest.into_data().unwrap(), "def");
        // Both have been sent by then: only what is kept can be sent once more.
        let mut third = source.attempt();
        let polled = Pin::new(&mut third).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled.is_ready(), may_replay);
        assert_eq!(source.is_replayable(), may_replay);
    }
}

#[tokio::test]
async fn what_fills_most_of_a_buffer_is_sent_again_as_it_came_also_when_the_next_request_is_there() {
    let (near, mut far) = pair().await;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000\r\n\r\n";
    let request = [&head[..], &[b'x'; 10_000]].concat();
    far.write_all(&request).await.unwrap();
    // Read at once, it comes in one piece.
    while near.peek(&mut vec![0; 2 * request.len()]).await.unwrap() < request.len() {}
    let inbound = Rc::new(RefCell::new(Inbound::new(wire(near))));
    let next = async || poll_fn(|cx| inbound.borrow_mut().poll_next(cx, &HeadLimits::default())).await;
    assert!(matches!(next().await, Ok(Next::Request(_))));
    let reader = ClientBody::Http1(RequestReader::new(&inbound));
    let check = BodyCheck::new(&gateway_proto::Policy::default().request);
    let memory = ReplayMemory::new(16 * 1024, 10_000);
    let source = RequestSource::new(reader, true, check, &memory, rate(), Clock::new());
    let first = data(&mut source.attempt()).unwrap();
    far.write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    assert!(matches!(next().await, Ok(Next::Request(_))));
    let second = data(&mut source.attempt()).unwrap();
    assert_eq!((second.as_ptr(), second.len()), (first.as_ptr(), 10_000), "it was not copied");
    assert!(second.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn the_fields_behind_a_body_are_given_out_again_with_what_they_follow() {
    for (body, may_replay, is_given_again) in [
        ("0\r\nx: 1\r\n\r\n", false, true),
        ("0\r\nx: 1\r\n\r\n", true, true),
        ("3\r\nabc\r\n0\r\nx: 1\r\n\r\n", true, true),
        // Without its body it is another message.
        ("3\r\nabc\r\n0\r\nx: 1\r\n\r\n", false, false),
    ] {
        let (near, mut far) = pair().await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        far.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let inbound = Rc::new(RefCell::new(Inbound::new(wire(near))));
        let next = poll_fn(|cx| inbound.borrow_mut().poll_next(cx, &HeadLimits::default())).await;
        assert!(matches!(next, Ok(Next::Request(_))));
        let reader = ClientBody::Http1(RequestReader::new(&inbound));
        let check = BodyCheck::new(&gateway_proto::Policy::default().request);
        let memory = ReplayMemory::new(9, 9);
        let source = RequestSource::new(reader, may_replay, check, &memory, rate(), Clock::new());
        let read = async || {
            let collected = source.attempt().collect();
            let collected = tokio::time::timeout(Duration::from_millis(200), collected).await.ok()?.unwrap();
            Some(collected.trailers().expect("there are trailers").len())
        };
        assert_eq!(read().await, Some(1));
        assert_eq!(read().await, is_given_again.then_some(1), "{body:?} {may_replay}");
        assert_eq!(source.is_replayable(), may_replay);
    }
}

/// A body of short frames without end, which counts those that were taken.
struct Frames(Rc<Cell<usize>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.set(self.0.get() + 1);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"abc")))))
    }
}

#[tokio::test]
async fn no_second_frame_is_taken_before_a_byte_was_sent() {
    let (near, _far) = pair().await;
    near.writable().await.unwrap();
    // The system takes nothing more.
    while near.try_write(&[0; 65_536]).is_ok() {}
    let mut connection = ClientConnection::new(wire(near), HeadLimits::default());
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let (parsed, _) = request::parse(head, &HeadLimits::default()).unwrap();
    let taken = Rc::new(Cell::new(0));
    connection.begin(Outgoing {
        head: &parsed.head,
        length: Length::Chunked,
        body: Frames(Rc::clone(&taken)),
        expects_continue: false,
        hints: AttemptHints { attempt: 1, time: Duration::from_secs(1), call: None, trace: None },
    });
    for _ in 0..3 {
        let polled = connection.poll_head(&mut Context::from_waker(Waker::noop()), drop);
        assert!(polled.is_pending() && !connection.has_sent());
        assert_eq!(taken.get(), 1);
    }
}
