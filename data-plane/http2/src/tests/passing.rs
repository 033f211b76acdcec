//! Whether somebody has to see to what was given to a stream, and what comes of requests that nobody sees to.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{End, Failure, Request, frame::ErrorCode};

/// A server with wide windows, and so many requests of its client.
fn asked(requests: u32) -> (Side, Vec<Request<Plain>>) {
    let mut side = Side::server(Config { send_buffer: 1 << 20, ..CONFIG });
    side.feed(&[setting(4, 1 << 20), window(0, 1 << 20)].concat());
    for number in 0..requests {
        side.feed(&headers(2 * number + 1, &GET, true));
    }
    side.sent();
    let requests = std::iter::from_fn(|| side.accept()).collect();
    (side, requests)
}

fn answer(request: &mut Request<Plain>, length: usize) {
    request.sender.send_head(ok(), false).unwrap();
    request.sender.send_data(Bytes::from(vec![1; length]), true).unwrap();
}

#[test]
fn what_the_next_look_at_the_socket_writes_needs_nobody_and_what_is_behind_it_does() {
    let (mut side, mut requests) = asked(2);
    let [first, second] = &mut requests[..] else { panic!("two have come") };
    answer(first, 64 * 1024);
    assert_eq!(first.sender.poll_passed(&mut cx()), Poll::Ready(Ok(())));
    answer(second, 1);
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let mut cx = Context::from_waker(&waker);
    assert!(second.sender.poll_passed(&mut cx).is_pending());
    assert!(!woken.take());
    side.sent();
    assert!(woken.take());
    assert_eq!(second.sender.poll_passed(&mut cx), Poll::Ready(Ok(())));
}

#[test]
fn what_nobody_sees_to_any_more_is_written_down_at_the_next_look_whoever_else_has_something() {
    let (mut side, mut requests) = asked(3);
    let [before, left, behind] = &mut requests[..] else { panic!("three have come") };
    before.sender.send_head(ok(), false).unwrap();
    before.sender.send_data(Bytes::from(vec![1; 1000]), false).unwrap();
    answer(left, 60_000);
    assert_eq!(left.sender.poll_passed(&mut cx()), Poll::Ready(Ok(())));
    for other in [&mut *before, behind] {
        if other.sender.queued().unsent == 0 {
            other.sender.send_head(ok(), false).unwrap();
        }
        other.sender.send_data(Bytes::from(vec![1; 200_000]), true).unwrap();
    }
    side.shared.borrow_mut().pump();
    side.feed(&setting(4, 0));
    let unsent = [&*before, left, behind].map(|request| request.sender.queued().unsent);
    assert!(unsent[0] > 0 && unsent[1] == 0 && unsent[2] > 0, "{unsent:?}");
    // The others go on in their turn.
    side.feed(&setting(4, 1 << 20));
    side.sent();
    assert_eq!([&*before, left, behind].map(|request| request.sender.queued().unsent), [0; 3]);
}

#[test]
fn what_stands_behind_a_socket_that_takes_nothing_waits_in_line_until_it_is_written() {
    let (mut side, mut requests) = asked(2);
    let [first, second] = &mut requests[..] else { panic!("two have come") };
    answer(first, 10);
    side.shared.borrow_mut().pump();
    // Also what no window holds back.
    second.sender.send_head(ok(), true).unwrap();
    assert!(second.sender.poll_passed(&mut cx()).is_pending());
    let queued = second.sender.queued();
    assert_eq!((queued.unsent, queued.is_in_line, queued.streams), (0, true, 1));
    let before = queued.written;
    side.sent();
    let queued = second.sender.queued();
    assert_eq!((queued.is_in_line, queued.streams), (false, 0));
    assert!(queued.written > before);
    assert_eq!(second.sender.poll_passed(&mut cx()), Poll::Ready(Ok(())));
}

#[test]
fn what_the_peer_takes_its_window_back_from_waits_for_that_and_not_in_line() {
    let (mut side, mut requests) = asked(1);
    let request = &mut requests[0];
    answer(request, 5000);
    side.feed(&setting(4, 1000));
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let mut cx = Context::from_waker(&waker);
    assert!(request.sender.poll_passed(&mut cx).is_pending());
    for is_sent in [false, true] {
        let queued = request.sender.queued();
        assert_eq!((queued.unsent, queued.is_in_line), (if is_sent { 4000 } else { 5000 }, false));
        side.sent();
        assert!(request.sender.poll_passed(&mut cx).is_pending());
    }
    assert!(!woken.take());
    side.feed(&window(1, 4000));
    side.sent();
    assert!(woken.take());
    assert_eq!(request.sender.poll_passed(&mut cx), Poll::Ready(Ok(())));
}

#[test]
fn who_sees_to_an_answer_is_told_when_nobody_takes_it_any_more() {
    type Ending = fn(&mut Side);
    let ends: [(Ending, Failure); 2] = [
        (|side| side.feed(&reset(1)), Failure::Reset(ErrorCode::CANCEL)),
        (|side| side.shared.borrow_mut().give_up(ErrorCode::NO_ERROR, "enough"), Failure::Cancelled),
    ];
    for (end, failure) in ends {
        let (mut side, mut requests) = asked(1);
        answer(&mut requests[0], 5000);
        side.feed(&setting(4, 0));
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        assert!(requests[0].sender.poll_passed(&mut cx).is_pending());
        end(&mut side);
        assert!(woken.take());
        assert_eq!(requests[0].sender.poll_passed(&mut cx), Poll::Ready(Err(failure)));
        assert_eq!(requests[0].sender.queued().unsent, 0, "nothing of it is kept");
    }
}

#[test]
fn a_request_that_is_taken_back_before_anybody_has_taken_it_on_is_nobodys_and_leaves_nothing() {
    let mut side = Side::server(CONFIG);
    // More than the connection's window in all.
    for number in 0..300 {
        let id = 2 * number + 1;
        side.feed(&[headers(id, &POST, false), data(id, 900, false), reset(id)].concat());
        assert!(side.accept().is_none());
        assert_eq!(side.shared.borrow().places(), 0);
        side.sent();
    }
    // What breaks the rules right away is no different.
    side.feed(&[headers(601, &POST, false), data(601, 1001, false), headers(603, &GET, true)].concat());
    assert_eq!(side.accept().map(|request| request.head), Some(get()));
    assert_eq!((side.shared.borrow().end(), side.shared.borrow().places()), (None, 0));
}

#[test]
fn requests_of_a_connection_that_has_ended_are_nobodys() {
    let mut side = Side::server(CONFIG);
    side.feed(&[headers(1, &GET, true), headers(3, &GET, true), window(0, 0)].concat());
    assert!(side.accept().is_none());
    assert_eq!(side.shared.borrow().places(), 0);
}

#[test]
fn what_a_client_opens_although_no_more_is_taken_on_costs_it_as_much_as_a_reset() {
    let mut guard = Counted { most_resets: Some(10), ..Counted::default() };
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &GET, true));
    let _under_way = side.accept().unwrap();
    side.shared.borrow_mut().leave();
    side.shared.borrow_mut().leave_now();
    for number in 1..=10 {
        side.feed_judged(&headers(2 * number + 1, &GET, true), &mut guard);
        assert_eq!(side.shared.borrow().end(), None);
    }
    side.feed_judged(&headers(23, &GET, true), &mut guard);
    assert_eq!(side.shared.borrow().end(), Some(End::GivenUp(ErrorCode::ENHANCE_YOUR_CALM, "enough")));
}

#[test]
fn a_response_has_so_many_interim_ones_in_front_of_it_whether_or_not_they_are_asked_for() {
    for is_read in [false, true] {
        let mut side = Side::new(Connection::client(CONFIG));
        side.feed(&frame(kind::SETTINGS, 0, 0, &[]));
        let (_sender, mut receiver) = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
        side.sent();
        for number in 0..=CONFIG.interim {
            side.feed(&headers(1, &[(":status", "103")], false));
            let is_told = side.kinds().contains(&(kind::RST_STREAM, 1));
            assert_eq!(is_told, number == CONFIG.interim, "{number}");
            if is_read && !is_told {
                assert!(receiver.poll_interim(&mut cx()).is_ready());
            }
        }
        let failure = Failure::Malformed("too many interim responses");
        assert_eq!(receiver.poll_head(&mut cx()), Poll::Ready(Err(failure)));
    }
}

#[test]
fn what_the_peer_keeps_for_heads_may_shrink_at_any_time() {
    let mut side = Side::server(CONFIG);
    let head = || list(&[(":status", "200"), ("x-kept", "one and the same")]);
    let mut decoder = crate::hpack::Decoder::new(4096, usize::MAX);
    for (id, size) in
        [(1, None), (3, None), (5, Some(0)), (7, None), (9, Some(100)), (11, Some(1 << 20)), (13, None)]
    {
        if let Some(size) = size {
            side.feed(&setting(1, size));
        }
        side.feed(&headers(id, &GET, true));
        let mut request = side.accept().unwrap();
        request.sender.send_head(head(), true).unwrap();
        let sent = side.sent();
        let (_, block) = sent.iter().find(|(head, _)| head.kind == kind::HEADERS).unwrap();
        let mut read = Vec::new();
        let limits = ListLimits { bytes: usize::MAX, fields: usize::MAX };
        let take = &mut |field: crate::hpack::Field<'_>| read.push(field.value.to_vec());
        decoder.decode(block, limits, take).unwrap();
        assert_eq!(read, [b"200".to_vec(), b"one and the same".to_vec()], "{id}");
        // A change is told in front of all (RFC 7541 section 4.2).
        assert_eq!(size.is_some(), block[0] & 0xe0 == 0x20, "{id}");
    }
}
