//! Streams and connections as they live and end.

use bytes::Bytes;

use super::*;
use crate::{End, Failure, frame::ErrorCode};

fn client() -> Side {
    let mut side = Side::new(Connection::client(CONFIG));
    side.feed(&frame(kind::SETTINGS, 0, 0, &[]));
    side.sent();
    side
}

#[test]
fn a_request_is_answered_in_one_piece() {
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &GET, true));
    let mut request = side.accept().unwrap();
    assert!(request.receiver.is_end());
    request.sender.send_interim(list(&[(":status", "103")])).unwrap();
    request.sender.send_head(ok(), false).unwrap();
    assert!(request.sender.send_interim(list(&[(":status", "103")])).is_err(), "it comes too late");
    assert_eq!(ready(request.sender.poll_room(&mut cx())), Ok(4096));
    request.sender.send_data(Bytes::from_static(b"hello"), false).unwrap();
    request.sender.send_trailers(list(&[("x", "1")])).unwrap();
    drop(request);
    let sent: Vec<_> = side.sent().into_iter().map(|(head, _)| (head.kind, head.flags)).collect();
    let expected = [(kind::HEADERS, 4), (kind::HEADERS, 4), (kind::DATA, 0), (kind::HEADERS, 5)];
    assert_eq!(sent, expected);
    assert_eq!(side.shared.borrow().open_streams(), 0);
}

#[test]
fn what_nobody_asks_for_any_more_is_never_sent() {
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &GET, true));
    let mut request = side.accept().unwrap();
    request.sender.send_head(ok(), false).unwrap();
    request.sender.send_data(Bytes::from_static(b"hello"), false).unwrap();
    drop(request);
    assert_eq!(side.kinds(), [(kind::RST_STREAM, 1)], "the answer has no end");

    let mut side = client();
    let (sender, receiver) = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
    assert!(!sender.is_sent());
    drop((sender, receiver));
    assert_eq!(side.kinds(), [], "nobody has heard of it");
    let (sender, receiver) = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
    assert_eq!(side.kinds(), [(kind::HEADERS, 1)], "it is the first one");
    assert!(sender.is_sent());
    drop((sender, receiver));
    assert_eq!(side.kinds(), [(kind::RST_STREAM, 1)]);
}

#[test]
fn once_the_connection_has_ended_it_is_known_whether_a_byte_of_a_request_was_taken() {
    let mut side = client();
    let (first, first_receiver) = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
    side.sent();
    let (second, mut receiver) = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
    side.shared.borrow_mut().pump();
    assert!(second.is_sent(), "it may go out");
    assert!(!receiver.is_taken(), "what follows its head is still to be had for another connection");
    side.shared.borrow_mut().lost(std::io::ErrorKind::BrokenPipe);
    assert!(first.is_sent() && first_receiver.is_taken());
    assert!(!second.is_sent() && !receiver.is_taken());
    let failed = Err(Failure::Lost(std::io::ErrorKind::BrokenPipe));
    assert_eq!(ready(receiver.poll_head(&mut cx())), failed);
}

#[test]
fn an_answer_that_comes_before_the_end_of_the_request_ends_it() {
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &POST, false));
    let mut request = side.accept().unwrap();
    request.sender.send_head(ok(), true).unwrap();
    assert_eq!(side.kinds(), [(kind::HEADERS, 1)], "somebody may still read the request");
    drop(request);
    let sent = side.sent();
    assert_eq!((sent[0].0.kind, &sent[0].1[..]), (kind::RST_STREAM, &[0, 0, 0, 0][..]), "without an error");
    side.feed(&[data(1, 100, false), data(1, 100, true)].concat());
    assert_eq!(side.kinds(), [], "what was on its way is nobody's fault");
    assert!(side.shared.borrow().end().is_none());
}

#[test]
fn what_the_peer_resets_is_told_to_both_ends_of_a_stream_behind_what_has_come() {
    let mut side = Side::server(CONFIG);
    side.feed(&[headers(1, &POST, false), data(1, 3, false)].concat());
    let mut request = side.accept().unwrap();
    side.feed(&reset(1));
    assert_eq!(ready(request.receiver.poll_data(&mut cx())).unwrap().unwrap().len(), 3);
    let failure = Failure::Reset(ErrorCode::CANCEL);
    assert_eq!(ready(request.receiver.poll_data(&mut cx())), Some(Err(failure)));
    assert_eq!(ready(request.sender.poll_reset(&mut cx())), failure);
    assert_eq!(request.sender.send_head(ok(), true), Err(failure));
    drop(request);
    assert_eq!(side.kinds(), []);
}

#[test]
fn a_stream_whose_window_is_shut_stops_no_other_and_one_that_became_negative_has_to_come_back() {
    let mut side = Side::server(CONFIG);
    side.feed(&[setting(4, 10), headers(1, &GET, true), headers(3, &GET, true), window(3, 90)].concat());
    let mut requests: Vec<_> = std::iter::from_fn(|| side.accept()).collect();
    for request in &mut requests {
        request.sender.send_head(ok(), false).unwrap();
    }
    let [first, second] = &mut requests[..] else { panic!("two have come") };
    assert_eq!(ready(first.sender.poll_room(&mut cx())), Ok(10));
    first.sender.send_data(Bytes::from(vec![1; 10]), false).unwrap();
    assert!(first.sender.poll_room(&mut cx()).is_pending());
    assert_eq!(ready(second.sender.poll_room(&mut cx())), Ok(100));
    second.sender.send_data(Bytes::from(vec![2; 100]), true).unwrap();
    let content = |side: &mut Side| -> Vec<_> {
        let data = side.sent().into_iter().filter(|(head, _)| head.kind == kind::DATA);
        data.map(|(head, payload)| (head.stream, payload.len())).collect()
    };
    assert_eq!(content(&mut side), [(1, 10), (3, 100)]);
    // Ten less than before, of which all was used.
    side.feed(&setting(4, 0));
    side.feed(&window(1, 5));
    assert!(first.sender.poll_room(&mut cx()).is_pending());
    side.feed(&window(1, 6));
    assert_eq!(ready(first.sender.poll_room(&mut cx())), Ok(1));
}

#[test]
fn what_a_stream_was_given_and_the_peer_takes_back_waits_and_holds_nobody_up() {
    let mut side = Side::server(CONFIG);
    side.feed(&[headers(1, &GET, true), headers(3, &GET, true)].concat());
    let mut requests: Vec<_> = std::iter::from_fn(|| side.accept()).collect();
    let [first, second] = &mut requests[..] else { panic!("two have come") };
    first.sender.send_head(ok(), false).unwrap();
    first.sender.send_data(Bytes::from(vec![1; 4096]), true).unwrap();
    side.feed(&setting(4, 0));
    second.sender.send_head(ok(), false).unwrap();
    side.feed(&window(3, 100));
    second.sender.send_data(Bytes::from(vec![1; 100]), true).unwrap();
    let streams: Vec<_> = side.kinds().into_iter().filter(|(kind, _)| *kind == kind::DATA).collect();
    assert_eq!(streams, [(kind::DATA, 3)]);
    side.feed(&window(1, 5000));
    assert_eq!(side.kinds(), [(kind::DATA, 1)]);
}

#[test]
fn streams_share_the_connections_window_and_have_one_frame_in_turn() {
    let config = Config { send_buffer: 1 << 20, ..CONFIG };
    let mut side = Side::server(config);
    side.feed(&[setting(4, 1 << 20), window(0, (1 << 20) - 65_535)].concat());
    side.feed(&[headers(1, &GET, true), headers(3, &GET, true)].concat());
    let mut requests: Vec<_> = std::iter::from_fn(|| side.accept()).collect();
    for request in &mut requests {
        request.sender.send_head(ok(), false).unwrap();
        request.sender.send_data(Bytes::from(vec![1; 40_000]), true).unwrap();
    }
    let streams: Vec<_> = side.kinds().into_iter().filter(|(kind, _)| *kind == kind::DATA).collect();
    assert_eq!(streams, [1, 3, 1, 3, 1, 3].map(|stream| (kind::DATA, stream)));
}

#[test]
fn room_in_the_connections_window_goes_to_those_that_wait_for_it() {
    let config = Config { send_buffer: 1 << 20, ..CONFIG };
    let mut side = Side::server(config);
    side.feed(&[setting(4, 1 << 20), headers(1, &GET, true), headers(3, &GET, true)].concat());
    let mut requests: Vec<_> = std::iter::from_fn(|| side.accept()).collect();
    let [first, second] = &mut requests[..] else { panic!("two have come") };
    first.sender.send_head(ok(), false).unwrap();
    second.sender.send_head(ok(), false).unwrap();
    assert_eq!(ready(first.sender.poll_room(&mut cx())), Ok(65_535));
    first.sender.send_data(Bytes::from(vec![1; 65_535]), true).unwrap();
    assert!(second.sender.poll_room(&mut cx()).is_pending());
    // It is given up: what it was promised is the other's.
    first.sender.reset(ErrorCode::CANCEL);
    assert_eq!(ready(second.sender.poll_room(&mut cx())), Ok(65_535));
}

#[test]
fn content_that_nobody_reads_any_more_holds_nothing_of_the_connections_window() {
    let config = Config { stream_window: 60_000, connection_window: 65_535, ..CONFIG };
    let mut side = Side::server(config);
    for number in 0..4 {
        let id = 2 * number + 1;
        side.feed(&[headers(id, &POST, false), data(id, 15_000, false), data(id, 15_000, false)].concat());
        drop(side.accept().unwrap().receiver);
        assert!(side.shared.borrow().end().is_none());
        side.sent();
    }
    assert_eq!(side.shared.borrow().end(), None);
}

#[test]
fn what_was_read_may_be_sent_again_and_the_peer_is_told_when_that_is_worth_it() {
    let mut side = Side::server(CONFIG);
    side.feed(&[headers(1, &POST, false), data(1, 600, false)].concat());
    let mut request = side.accept().unwrap();
    assert_eq!(ready(request.receiver.poll_data(&mut cx())).unwrap().unwrap().len(), 600);
    request.receiver.release(499);
    assert_eq!(side.kinds(), []);
    request.receiver.release(101);
    let sent = side.sent();
    assert_eq!((sent[0].0.kind, &sent[0].1[..]), (kind::WINDOW_UPDATE, &600_u32.to_be_bytes()[..]));
    side.feed(&data(1, 1000, true));
    assert_eq!(ready(request.receiver.poll_data(&mut cx())).unwrap().unwrap().len(), 1000);
    request.receiver.release(1000);
    assert_eq!(side.kinds(), [], "nothing more is to come of it");
}

#[test]
fn padding_counts_and_is_read_at_once() {
    let mut side = Side::server(CONFIG);
    let padded = frame(kind::DATA, flag::PADDED, 1, &[&[250][..], &[0; 300]].concat());
    side.feed(&[headers(1, &POST, false), padded.clone(), padded].concat());
    let sent = side.sent();
    assert_eq!((sent[0].0.kind, &sent[0].1[..]), (kind::WINDOW_UPDATE, &502_u32.to_be_bytes()[..]));
    let mut request = side.accept().unwrap();
    assert_eq!(ready(request.receiver.poll_data(&mut cx())).unwrap().unwrap().len(), 100);
}

#[test]
fn a_window_that_the_peer_has_not_heard_of_is_the_one_that_everybody_begins_with() {
    let mut side = Side::new(Connection::server(CONFIG));
    side.feed(&[frame::PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat());
    side.feed(&[headers(1, &POST, false), data(1, 5000, false)].concat());
    assert!(side.shared.borrow().end().is_none());
    let request = side.accept().unwrap();
    assert!(side.kinds().iter().all(|(kind, _)| *kind != kind::RST_STREAM));
    // Once it has, what it may send is less than nothing.
    side.feed(&[frame(kind::SETTINGS, flag::ACK, 0, &[]), data(1, 1, false)].concat());
    assert_eq!(side.kinds(), [(kind::RST_STREAM, 1)]);
    drop(request);
}

#[test]
fn a_server_leaves_in_two_steps_and_answers_what_came_in_between() {
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &GET, true));
    let mut first = side.accept().unwrap();
    side.shared.borrow_mut().leave();
    let sent = side.sent();
    assert_eq!(sent[0].1[..4], [0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(sent[1].0.kind, kind::PING);
    side.feed(&headers(3, &GET, true));
    let mut second = side.accept().unwrap();
    side.feed(&[frame(kind::PING, flag::ACK, 0, &sent[1].1), headers(5, &GET, true)].concat());
    assert!(side.accept().is_none(), "it is others' to answer");
    side.feed(&headers(5, &[("x", "1")], true));
    let sent = side.sent();
    assert_eq!((sent[0].0.kind, &sent[0].1[..4]), (kind::GOAWAY, &[0, 0, 0, 3][..]));
    for request in [&mut first, &mut second] {
        assert!(!side.shared.borrow().is_over());
        request.sender.send_head(ok(), true).unwrap();
        side.sent();
    }
    assert!(side.shared.borrow().is_over());
    assert_eq!(side.shared.borrow().end(), None);
}

#[test]
fn a_client_that_does_not_answer_when_a_server_leaves_is_served_no_more_once_that_took_too_long() {
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &GET, true));
    let mut first = side.accept().unwrap();
    side.shared.borrow_mut().leave_now();
    assert_eq!(side.kinds(), [], "it does not leave");
    side.shared.borrow_mut().leave();
    side.sent();
    for _ in 0..2 {
        side.shared.borrow_mut().leave_now();
    }
    let sent = side.sent();
    assert_eq!((sent.len(), sent[0].0.kind, &sent[0].1[..4]), (1, kind::GOAWAY, &[0, 0, 0, 1][..]));
    side.feed(&headers(3, &GET, true));
    assert!(side.accept().is_none());
    first.sender.send_head(ok(), true).unwrap();
    side.sent();
    assert!(side.shared.borrow().is_over());
}

#[test]
fn what_a_servers_goodbye_leaves_out_was_not_processed() {
    let mut side = client();
    let mut opened: Vec<_> =
        (0..3).map(|_| crate::open(&side.shared, get(), true, Purpose::Content).unwrap()).collect();
    side.sent();
    let waiting = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
    let mut goodbye = Vec::new();
    frame::write_goaway(&mut goodbye, 3, ErrorCode::NO_ERROR, "");
    side.feed(&goodbye);
    opened.push(waiting);
    let failures: Vec<_> = opened.iter_mut().map(|(_, receiver)| receiver.poll_head(&mut cx())).collect();
    let left_out = Poll::Ready(Err(Failure::GoAway(ErrorCode::NO_ERROR)));
    assert_eq!(failures, [Poll::Pending, Poll::Pending, left_out.clone(), left_out]);
    assert!(crate::open(&side.shared, get(), true, Purpose::Content).is_none());
    assert_eq!(side.kinds(), [], "nothing is told of them");
    side.feed(&headers(3, &[(":status", "200")], true));
    assert_eq!(ready(opened[1].1.poll_head(&mut cx())).unwrap().0, 200);
}

#[test]
fn a_client_opens_as_many_streams_as_the_server_takes() {
    let mut side = client();
    side.feed(&setting(3, 2));
    side.sent();
    let mut opened: Vec<_> =
        (0..3).map(|_| crate::open(&side.shared, get(), true, Purpose::Content).unwrap()).collect();
    assert_eq!(side.kinds(), [(kind::HEADERS, 1), (kind::HEADERS, 3)]);
    assert!(!opened[2].0.is_sent());
    side.feed(&headers(1, &[(":status", "204")], true));
    assert_eq!(side.kinds(), [(kind::HEADERS, 5)]);
    // What waits is given up without a word.
    let fourth = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
    assert_eq!(side.kinds(), []);
    drop(fourth);
    drop(opened.remove(1));
    assert_eq!(side.kinds(), [(kind::RST_STREAM, 3)]);
}

#[test]
fn interim_responses_come_in_front_of_the_head_and_trailers_behind_the_content() {
    let mut side = client();
    let (_sender, mut receiver) = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
    side.sent();
    assert!(receiver.poll_interim(&mut cx()).is_pending());
    side.feed(&[headers(1, &[(":status", "103")], false), headers(1, &[(":status", "200")], false)].concat());
    side.feed(&[data(1, 5, false), headers(1, &[("x", "1")], true)].concat());
    assert_eq!(ready(receiver.poll_interim(&mut cx())).map(|(status, _)| status), Some(103));
    assert_eq!(ready(receiver.poll_interim(&mut cx())), None);
    assert_eq!(ready(receiver.poll_head(&mut cx())).unwrap().0, 200);
    assert!(!receiver.is_end());
    assert_eq!(ready(receiver.poll_data(&mut cx())).unwrap().unwrap().len(), 5);
    assert_eq!(ready(receiver.poll_data(&mut cx())), None);
    assert_eq!(ready(receiver.poll_trailers(&mut cx())), Ok(Some(list(&[("x", "1")]))));
    assert!(receiver.is_end());
}

#[test]
fn a_ping_is_answered_and_an_answer_is_told_once() {
    let mut side = Side::server(CONFIG);
    side.feed(&frame(kind::PING, 0, 0, b"12345678"));
    let sent = side.sent();
    assert_eq!((sent[0].0.flags, &sent[0].1[..]), (flag::ACK, &b"12345678"[..]));
    side.shared.borrow_mut().ping();
    let ping = side.sent().remove(0).1;
    side.feed(&frame(kind::PING, flag::ACK, 0, b"12345678"));
    assert!(!side.shared.borrow_mut().take_pong());
    side.feed(&frame(kind::PING, flag::ACK, 0, &ping));
    let told = [(); 2].map(|()| side.shared.borrow_mut().take_pong());
    assert_eq!(told, [true, false]);
}

#[test]
fn a_connection_that_is_lost_is_over_for_all_its_streams() {
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &POST, false));
    let mut request = side.accept().unwrap();
    let kind = std::io::ErrorKind::ConnectionReset;
    side.shared.borrow_mut().lost(kind);
    assert_eq!(ready(request.receiver.poll_data(&mut cx())), Some(Err(Failure::Lost(kind))));
    assert_eq!(ready(request.sender.poll_reset(&mut cx())), Failure::Lost(kind));
    assert_eq!(side.shared.borrow().end(), Some(End::Lost(kind)));
    drop(request);
    assert_eq!(side.kinds(), []);
}

#[test]
fn a_connection_without_streams_holds_no_place_for_them() {
    let mut side = Side::server(Config { streams: 100, ..CONFIG });
    for number in 0..50 {
        side.feed(&headers(2 * number + 1, &GET, true));
    }
    for mut request in std::iter::from_fn(|| side.accept()).collect::<Vec<_>>() {
        request.sender.send_head(ok(), true).unwrap();
    }
    side.sent();
    assert_eq!(side.shared.borrow().places(), 0);
}

#[test]
fn who_waits_for_the_connections_window_is_woken_when_another_gives_its_part_of_it_back() {
    type Giving = fn(&mut Side, &mut crate::Request<Plain>);
    let ways: [(&str, Giving); 4] = [
        ("it is reset", |_, first| first.sender.reset(ErrorCode::CANCEL)),
        ("the client resets it", |side, _| side.feed(&reset(1))),
        ("its window is taken back", |side, _| side.feed(&[setting(4, 10), window(3, 100)].concat())),
        ("the client has more of the connection's", |side, _| side.feed(&window(0, 10))),
    ];
    for (name, give) in ways {
        let mut side = Side::server(Config { send_buffer: 1 << 20, ..CONFIG });
        side.feed(&[setting(4, 1 << 20), headers(1, &GET, true), headers(3, &GET, true)].concat());
        let mut requests: Vec<_> = std::iter::from_fn(|| side.accept()).collect();
        let [first, second] = &mut requests[..] else { panic!("two have come") };
        first.sender.send_head(ok(), false).unwrap();
        second.sender.send_head(ok(), false).unwrap();
        first.sender.send_data(Bytes::from(vec![1; 65_535]), true).unwrap();
        let woken = std::sync::Arc::new(Woken::default());
        let waker = std::sync::Arc::clone(&woken).into();
        assert!(second.sender.poll_room(&mut Context::from_waker(&waker)).is_pending());
        assert!(!woken.take());
        give(&mut side, first);
        assert!(woken.take(), "{name}");
        assert!(second.sender.poll_room(&mut cx()).is_ready(), "{name}");
    }
}

#[test]
fn who_waits_for_the_buffer_and_then_for_the_connections_window_is_woken() {
    let mut side = Side::server(Config { send_buffer: 65_535, ..CONFIG });
    side.feed(&[setting(4, 1 << 20), headers(1, &GET, true)].concat());
    let mut request = side.accept().unwrap();
    request.sender.send_head(ok(), false).unwrap();
    request.sender.send_data(Bytes::from(vec![1; 65_535]), false).unwrap();
    let woken = std::sync::Arc::new(Woken::default());
    let waker = std::sync::Arc::clone(&woken).into();
    assert!(request.sender.poll_room(&mut Context::from_waker(&waker)).is_pending());
    side.sent();
    assert!(!woken.take(), "there is room in the buffer, and none in the window");
    side.feed(&window(0, 10));
    assert!(woken.take());
    assert_eq!(ready(request.sender.poll_room(&mut cx())), Ok(10));
}

#[test]
fn whoever_moves_the_bytes_is_woken_when_content_of_a_stream_that_is_over_is_given_up() {
    let config = Config { stream_window: 60_000, connection_window: 65_535, ..CONFIG };
    let mut side = Side::server(config);
    side.feed(
        &[headers(1, &POST, false), data(1, 16_000, false), data(1, 16_000, false), data(1, 16_000, true)]
            .concat(),
    );
    let request = side.accept().unwrap();
    let woken = std::sync::Arc::new(Woken::default());
    side.shared.borrow_mut().driven_by(&std::sync::Arc::clone(&woken).into());
    drop(request.receiver);
    assert!(woken.take());
    assert_eq!(side.kinds(), [(kind::WINDOW_UPDATE, 0)]);
}

#[test]
fn a_connection_that_breaks_off_while_it_leaves_takes_nothing_on_that_it_had_left_to_others() {
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &GET, true));
    let _request = side.accept().unwrap();
    side.shared.borrow_mut().leave();
    let ping = side.sent().remove(1).1;
    side.feed(&[frame(kind::PING, flag::ACK, 0, &ping), headers(3, &GET, true)].concat());
    side.shared.borrow_mut().give_up(ErrorCode::ENHANCE_YOUR_CALM, "enough");
    let last: Vec<_> = side.sent().into_iter().map(|(_, payload)| payload[..4].to_vec()).collect();
    assert_eq!(last, [[0, 0, 0, 1], [0, 0, 0, 1]]);
}

#[test]
fn streams_that_are_not_read_take_nothing_of_what_the_others_may_send_again() {
    let (most, piece) = (100_000, 5_000);
    for unread in [0, 60_000, 95_000, most - 1] {
        let config = Config { stream_window: 1 << 20, connection_window: most, ..CONFIG };
        let mut side = Side::server(config);
        side.feed(&[headers(1, &POST, false), headers(3, &POST, false)].concat());
        let mut requests: Vec<_> = std::iter::from_fn(|| side.accept()).collect();
        let told = |side: &mut Side| -> u32 {
            let updates = side
                .sent()
                .into_iter()
                .filter(|(head, _)| (head.kind, head.stream) == (kind::WINDOW_UPDATE, 0));
            updates.map(|(_, payload)| u32::from_be_bytes(*payload.first_chunk().unwrap())).sum()
        };
        let (mut left, mut sent, mut frames, mut updates) = (most, 0, 0_u32, 0_u32);
        while sent < unread {
            let length = piece.min(unread - sent);
            side.feed(&data(1, length as usize, false));
            (sent, left) = (sent + length, left - length);
        }
        while frames < 200 {
            let length = piece.min(left);
            assert!(length > 0, "the client stands still after {frames} frames, {unread} bytes are not read");
            side.feed(&data(3, length as usize, false));
            frames += 1;
            let read = ready(requests[1].receiver.poll_data(&mut cx())).unwrap().unwrap().len();
            requests[1].receiver.release(read);
            let more = told(&mut side);
            updates += u32::from(more > 0);
            left = left - length + more;
        }
        assert!(unread > 0 || updates <= frames / 5, "{updates} updates for {frames} frames");
        assert_eq!(side.shared.borrow().end(), None);
    }
}

#[test]
fn what_was_taken_of_a_stream_and_never_released_is_the_connections_again_once_its_receiver_is_gone() {
    let config = Config { stream_window: 60_000, connection_window: 65_535, ..CONFIG };
    let mut side = Side::server(config);
    for number in 0..10 {
        let id = 2 * number + 1;
        side.feed(&[headers(id, &POST, false), data(id, 15_000, false), data(id, 15_000, false)].concat());
        let mut request = side.accept().unwrap();
        assert_eq!(ready(request.receiver.poll_data(&mut cx())).unwrap().unwrap().len(), 15_000);
        request.receiver.release(5_000);
        drop(request.receiver);
        side.sent();
        assert_eq!(side.shared.borrow().end(), None, "after {number}");
    }
}

#[test]
fn what_still_goes_out_of_a_connection_that_was_given_up_counts_as_sent() {
    let violation: fn(&mut Side) = |side| side.feed(&window(0, 0));
    let given_up: fn(&mut Side) = |side| side.shared.borrow_mut().give_up(ErrorCode::NO_ERROR, "enough");
    for end in [violation, given_up] {
        let mut side = client();
        let (mut first, _first) = crate::open(&side.shared, post(), false, Purpose::Content).unwrap();
        first.send_data(Bytes::from(vec![1; 4096]), false).unwrap();
        let (second, _second) = crate::open(&side.shared, post(), true, Purpose::Content).unwrap();
        side.shared.borrow_mut().pump();
        let (third, _third) = crate::open(&side.shared, post(), true, Purpose::Content).unwrap();
        // The server reads nothing, and speaks.
        end(&mut side);
        let told = [first.is_sent(), second.is_sent(), third.is_sent()];
        let kinds = [(kind::HEADERS, 1), (kind::DATA, 1), (kind::HEADERS, 3), (kind::GOAWAY, 0)];
        assert_eq!(side.kinds(), kinds);
        assert_eq!(told, [true, true, false]);
    }
}

#[test]
fn the_last_words_to_a_server_that_has_said_all_are_sent_when_nobody_asks_for_the_stream_any_more() {
    let mut side = client();
    for (id, is_whole) in [(1, true), (3, false)] {
        let (mut sender, receiver) = crate::open(&side.shared, post(), false, Purpose::Content).unwrap();
        side.sent();
        side.feed(&headers(id, &[(":status", "200")], true));
        sender.send_data(Bytes::from_static(b"bye"), is_whole).unwrap();
        drop((sender, receiver));
        // What has no end yet, as a request that was answered early, is of no use.
        assert_eq!(side.kinds(), [(if is_whole { kind::DATA } else { kind::RST_STREAM }, id)]);
        assert_eq!(side.shared.borrow().places(), 0);
    }
}

#[test]
fn a_tunnel_is_as_long_as_it_is_whatever_is_told_of_it() {
    let length = ("content-length", "3");
    let mut side = Side::server(CONFIG);
    let connect = [(":method", "CONNECT"), (":authority", "a"), length];
    side.feed(&[headers(1, &connect, false), data(1, 5, true)].concat());
    let mut request = side.accept().unwrap();
    assert_eq!(request.head, list(&connect[..2]), "it is passed on to nobody");
    assert_eq!(ready(request.receiver.poll_data(&mut cx())).unwrap().unwrap().len(), 5);

    let mut side = client();
    for (id, status, is_tunnel) in [(1, "200", true), (3, "403", false)] {
        let (_sender, mut receiver) = crate::open(&side.shared, post(), false, Purpose::Tunnel).unwrap();
        side.sent();
        side.feed(&[headers(id, &[(":status", status), length], false), data(id, 5, true)].concat());
        let resets = side.kinds().contains(&(kind::RST_STREAM, id));
        assert_eq!((resets, receiver.poll_head(&mut cx()).is_ready()), (!is_tunnel, true), "{status}");
    }
}
