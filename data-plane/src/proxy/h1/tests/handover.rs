//! A request that a connection did not take is whole for the next one.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
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
        request_body::{ClientBody, ReplayMemory, RequestBody, RequestSource},
        stream::Stream,
    },
    request_rules::BodyCheck,
};

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
    let parsed =
        request::parse(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n", &HeadLimits::default())
            .unwrap();
    connection.begin(Outgoing {
        head: &parsed.head,
        length: Length::Exact(3),
        body: Full::new(Bytes::from_static(b"abc")),
        expects_continue: false,
    });
    let failure = poll_fn(|cx| connection.poll_head(cx, drop)).await.unwrap_err();
    assert!(matches!(failure, Failure::NotTaken), "{failure}");
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
        let source = RequestSource::new(reader, may_replay, check, &ReplayMemory::new(9, 9), Clock::new());
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
