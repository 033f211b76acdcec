//! What a peer may not do, and what it comes to.

use super::*;
use crate::{End, frame::ErrorCode};

/// How a connection took something: by resetting a stream, by ending, or as nothing to speak of.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Reset(u32, ErrorCode),
    Ended(ErrorCode),
    Nothing,
}

fn fate(side: &mut Side) -> Fate {
    for (head, payload) in side.sent() {
        let code = |at: usize| ErrorCode(u32::from_be_bytes(*payload[at..].first_chunk().unwrap()));
        match head.kind {
            kind::RST_STREAM => return Fate::Reset(head.stream, code(0)),
            kind::GOAWAY => {
                let end = side.shared.borrow().end();
                assert!(
                    matches!(end, Some(End::Violation(told, _) | End::GivenUp(told, _)) if told == code(4))
                );
                assert!(side.shared.borrow().is_over());
                return Fate::Ended(code(4));
            }
            _ => {}
        }
    }
    Fate::Nothing
}

fn of(frames: &[Vec<u8>]) -> Fate {
    let mut side = Side::server(CONFIG);
    side.feed(&frames.concat());
    fate(&mut side)
}

const PROTOCOL: Fate = Fate::Ended(ErrorCode::PROTOCOL_ERROR);
const MALFORMED: Fate = Fate::Reset(1, ErrorCode::PROTOCOL_ERROR);

#[test]
fn whoever_begins_otherwise_is_told_that_the_connection_ends() {
    let beginnings = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        [b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n".to_vec(), frame(kind::SETTINGS, 0, 0, &[])].concat(),
        [frame::PREFACE.to_vec(), frame(kind::PING, 0, 0, &[0; 8])].concat(),
        [frame::PREFACE.to_vec(), frame(kind::SETTINGS, flag::ACK, 0, &[])].concat(),
    ];
    for beginning in beginnings {
        let mut side = Side::new(Connection::server(CONFIG));
        side.feed(&beginning);
        let sent = side.shared.borrow().end().is_some();
        assert!(sent, "{}", beginning.escape_ascii());
        let kinds = side.kinds();
        assert_eq!((kinds[0], kinds[kinds.len() - 1]), ((kind::SETTINGS, 0), (kind::GOAWAY, 0)));
    }
}

#[test]
fn a_request_says_what_it_has_to_once_and_in_its_order() {
    let with = |field| [&GET[..], &[field]].concat();
    for malformed in [
        vec![],
        GET[1..].to_vec(),
        vec![GET[0], GET[2]],
        vec![GET[0], GET[1]],
        with((":path", "/other")),
        with((":status", "200")),
        with((":other", "1")),
        with((":protocol", "websocket")),
        vec![GET[0], GET[1], GET[2], ("x", "1"), GET[3]],
        vec![GET[0], GET[1], (":path", ""), GET[3]],
        vec![("", "1"), GET[1], GET[2], GET[3]],
        vec![(":method", ""), GET[1], GET[2]],
        vec![(":method", "G T"), GET[1], GET[2]],
        vec![GET[0], (":scheme", "ht tp"), GET[2]],
        vec![(":method", "CONNECT"), GET[3], GET[2]],
        vec![(":method", "CONNECT")],
        vec![(":method", "CONNECT"), (":protocol", "websocket"), GET[3]],
        vec![(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2]],
        with(("X-Upper", "1")),
        with(("x name", "1")),
        with(("x:name", "1")),
        with(("x", "1\r\ny: 2")),
        with(("x", "\0")),
        with(("x", " 1")),
        with(("x", "1\t")),
        with(("connection", "close")),
        with(("keep-alive", "1")),
        with(("proxy-connection", "close")),
        with(("transfer-encoding", "chunked")),
        with(("upgrade", "h2c")),
        with(("te", "gzip")),
        with(("content-length", "1")),
        with(("content-length", "+0")),
        with(("content-length", "")),
        [&GET[..], &[("content-length", "0"), ("content-length", "0")]].concat(),
    ] {
        let mut side = Side::server(CONFIG);
        side.feed(&headers(1, &malformed, true));
        assert_eq!(fate(&mut side), MALFORMED, "{malformed:?}");
        assert!(side.accept().is_none(), "nobody hears of it: {malformed:?}");
    }
    for right in [
        GET.to_vec(),
        GET[..3].to_vec(),
        with(("te", "trailers")),
        with(("content-length", "0")),
        with(("x", "")),
        vec![(":method", "CONNECT"), GET[3]],
        vec![(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]],
    ] {
        let mut side = Side::server(CONFIG);
        side.feed(&headers(1, &right, true));
        assert_eq!(fate(&mut side), Fate::Nothing, "{right:?}");
        assert_eq!(side.accept().map(|request| request.head), Some(list(&right)), "{right:?}");
    }
}

#[test]
fn content_is_as_long_as_was_told() {
    let post = |length| headers(1, &[&POST[..], &[("content-length", length)]].concat(), false);
    for wrong in [
        vec![post("3"), data(1, 4, false)],
        vec![post("3"), data(1, 2, true)],
        vec![post("3"), data(1, 2, false), headers(1, &[("x", "1")], true)],
        vec![post("3"), data(1, 3, false), data(1, 1, true)],
    ] {
        assert_eq!(of(&wrong), MALFORMED);
    }
    for right in [
        vec![post("3"), data(1, 2, false), data(1, 1, true)],
        vec![post("3"), data(1, 3, false), data(1, 0, true)],
        vec![post("3"), data(1, 3, false), headers(1, &[("x", "1")], true)],
    ] {
        assert_eq!(of(&right), Fate::Nothing);
    }
}

#[test]
fn trailers_are_the_last_word_and_have_no_pseudo_fields() {
    let begun = headers(1, &POST, false);
    for wrong in [
        headers(1, &[("x", "1")], false),
        headers(1, &[(":path", "/")], true),
        headers(1, &[("X", "1")], true),
    ] {
        assert_eq!(of(&[begun.clone(), wrong]), MALFORMED);
    }
    let mut side = Side::server(CONFIG);
    side.feed(&[begun, headers(1, &[("x", "1")], true)].concat());
    let mut request = side.accept().unwrap();
    assert!(ready(request.receiver.poll_data(&mut cx())).is_none());
    assert_eq!(ready(request.receiver.poll_trailers(&mut cx())), Ok(Some(list(&[("x", "1")]))));
}

#[test]
fn frames_come_where_the_state_of_their_stream_has_them() {
    let (open, ended) = (headers(1, &POST, false), headers(1, &GET, true));
    let closed = Fate::Reset(1, ErrorCode::STREAM_CLOSED);
    for (frames, expected) in [
        // Idle.
        (vec![data(1, 1, false)], PROTOCOL),
        (vec![reset(1)], PROTOCOL),
        (vec![window(1, 1)], PROTOCOL),
        (vec![frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[])], PROTOCOL),
        (vec![frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 9, 1])], Fate::Nothing),
        // A server's, and an earlier one.
        (vec![headers(2, &GET, true)], PROTOCOL),
        (vec![headers(5, &GET, true), headers(3, &GET, true)], PROTOCOL),
        // Half closed.
        (vec![ended.clone(), data(1, 1, false)], closed),
        (vec![ended.clone(), headers(1, &[("x", "1")], true)], Fate::Reset(1, ErrorCode::STREAM_CLOSED)),
        (vec![ended.clone(), window(1, 1), frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 9, 1])], Fate::Nothing),
        // Closed.
        (vec![open.clone(), reset(1), data(1, 1, false)], Fate::Ended(ErrorCode::STREAM_CLOSED)),
        (vec![open.clone(), reset(1), headers(1, &GET, true)], Fate::Ended(ErrorCode::STREAM_CLOSED)),
        (vec![open.clone(), reset(1), window(1, 1), reset(1)], Fate::Nothing),
        // Between the frames of a head.
        (vec![frame(kind::HEADERS, 1, 1, &block(&GET)), frame(kind::PING, 0, 0, &[0; 8])], PROTOCOL),
        (vec![frame(kind::HEADERS, 1, 1, &block(&GET)), headers(3, &GET, true)], PROTOCOL),
        (vec![frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2])], PROTOCOL),
        (vec![frame(99, 255, 7, b"whatever")], Fate::Nothing),
        (
            vec![frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80])],
            Fate::Ended(ErrorCode::COMPRESSION_ERROR),
        ),
    ] {
        assert_eq!(of(&frames), expected, "{}", frames.concat().escape_ascii());
    }
}

#[test]
fn a_stream_that_depends_on_itself_is_malformed() {
    let block = [&[0, 0, 0, 1, 9][..], &block(&GET)].concat();
    let itself = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM | flag::PRIORITY, 1, &block);
    assert_eq!(of(&[itself]), MALFORMED);
}

#[test]
fn windows_are_kept_to_and_grow_to_what_they_may_be() {
    let open = headers(1, &POST, false);
    let flow = ErrorCode::FLOW_CONTROL_ERROR;
    for (frames, expected) in [
        (vec![open.clone(), data(1, 1000, false)], Fate::Nothing),
        (vec![open.clone(), data(1, 1001, false)], Fate::Reset(1, flow)),
        (vec![open.clone(), data(1, 999, false), data(1, 2, false)], Fate::Reset(1, flow)),
        // Padding counts.
        (
            vec![open.clone(), frame(kind::DATA, flag::PADDED, 1, &[&[200][..], &[0; 1000]].concat())],
            Fate::Reset(1, flow),
        ),
        (vec![open.clone(), window(1, (1 << 31) - 1)], Fate::Reset(1, flow)),
        (vec![window(0, (1 << 31) - 1)], Fate::Ended(flow)),
        (vec![open.clone(), window(1, 0)], Fate::Reset(1, ErrorCode::PROTOCOL_ERROR)),
        (vec![window(0, 0)], PROTOCOL),
        (vec![open.clone(), window(1, 1), setting(4, (1 << 31) - 1)], Fate::Ended(flow)),
        (vec![setting(4, 1 << 31)], Fate::Ended(flow)),
        (vec![setting(5, 100)], PROTOCOL),
        (vec![setting(2, 7)], PROTOCOL),
        (vec![setting(99, 7)], Fate::Nothing),
    ] {
        assert_eq!(of(&frames), expected, "{}", frames.concat().escape_ascii());
    }
    let small = Config { connection_window: 70_000, stream_window: 70_000, ..CONFIG };
    let mut side = Side::server(small);
    side.feed(&open);
    for _ in 0..5 {
        side.feed(&data(1, 14_000, false));
        assert_eq!(fate(&mut side), Fate::Nothing);
    }
    side.feed(&data(1, 1, false));
    assert_eq!(fate(&mut side), Fate::Ended(flow));
}

#[test]
fn a_frame_that_is_too_large_is_refused_before_it_has_come() {
    let mut side = Side::server(CONFIG);
    side.feed(&frame(kind::DATA, 0, 1, &[0; 16_385])[..9]);
    assert_eq!(fate(&mut side), Fate::Ended(ErrorCode::FRAME_SIZE_ERROR));
}

#[test]
fn more_streams_than_may_be_are_refused_and_their_frames_ignored() {
    let mut side = Side::server(CONFIG);
    for number in 0..8 {
        side.feed(&headers(2 * number + 1, &POST, false));
    }
    assert_eq!(fate(&mut side), Fate::Nothing);
    side.feed(&headers(17, &POST, false));
    assert_eq!(fate(&mut side), Fate::Reset(17, ErrorCode::REFUSED_STREAM));
    side.feed(&[data(17, 10, false), headers(17, &[("x", "1")], true)].concat());
    assert_eq!(fate(&mut side), Fate::Nothing);
    // The table that compresses heads is in step all the same.
    side.feed(&[reset(1), headers(19, &GET, true)].concat());
    assert_eq!(fate(&mut side), Fate::Nothing);
    assert_eq!(std::iter::from_fn(|| side.accept()).map(|request| request.head).last(), Some(get()));
}

#[test]
fn streams_that_have_to_be_reset_are_counted_and_the_connection_ends_when_there_are_too_many() {
    type Made = fn(u32) -> Vec<u8>;
    let ways: [(&str, Made); 5] = [
        ("a window that grows by nothing", |id| [headers(id, &POST, false), window(id, 0)].concat()),
        ("a window that is too large", |id| [headers(id, &POST, false), window(id, (1 << 31) - 1)].concat()),
        ("content behind the end", |id| [headers(id, &GET, true), data(id, 1, false)].concat()),
        ("content that is too long", |id| {
            [headers(id, &[&POST[..], &[("content-length", "1")]].concat(), false), data(id, 2, true)]
                .concat()
        }),
        ("a malformed head", |id| headers(id, &GET[1..], true)),
    ];
    for (name, made) in ways {
        let mut guard = Counted { most_resets: Some(10), ..Counted::default() };
        let mut side = Side::server(CONFIG);
        for number in 0..100 {
            side.feed_judged(&made(2 * number + 1), &mut guard);
            let requests: Vec<_> = std::iter::from_fn(|| side.accept()).collect();
            drop(requests);
        }
        assert_eq!(guard.resets, 11, "{name}");
        let end = side.shared.borrow().end();
        assert_eq!(end, Some(End::GivenUp(ErrorCode::ENHANCE_YOUR_CALM, "enough")), "{name}");
    }
}

#[test]
fn every_frame_is_judged_once_and_as_soon_as_its_head_has_come() {
    let mut guard = Counted::default();
    let mut side = Side::server(CONFIG);
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    for (at, byte) in ping.iter().enumerate() {
        assert_eq!(guard.frames, usize::from(at >= HEAD));
        side.feed_judged(&[*byte], &mut guard);
    }
    assert_eq!((guard.frames, side.kinds()), (1, vec![(kind::PING, 0)]));
}

#[test]
fn a_head_in_too_many_frames_or_far_too_large_ends_the_connection() {
    let begun = frame(kind::HEADERS, 0, 1, &block(&GET));
    let calm = Fate::Ended(ErrorCode::ENHANCE_YOUR_CALM);
    let empty = vec![frame(kind::CONTINUATION, 0, 1, &[]); 40];
    assert_eq!(of(&[vec![begun.clone()], empty].concat()), calm);
    let long = vec![frame(kind::CONTINUATION, 0, 1, &[b'x'; 2000]); 6];
    assert_eq!(of(&[vec![begun], long].concat()), calm);
    // One field of the table, again and again.
    let mut bomb = [&block(&GET)[..], &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e], &[b'y'; 4000]].concat();
    bomb.extend([0xbe; 100]);
    assert_eq!(of(&[frame(kind::HEADERS, flag::END_HEADERS, 1, &bomb)]), calm);
}

#[test]
fn a_request_whose_head_is_too_large_is_handed_on_as_one_and_trailers_are_not() {
    let long = "y".repeat(100);
    let many: Vec<(&str, &str)> = vec![("x", &long); 40];
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &[&GET[..], &many].concat(), true));
    let request = side.accept().unwrap();
    assert!(request.is_cut && request.head.0.len() < 44 && request.head.0[..4] == get().0);
    side.feed(&headers(3, &GET, true));
    assert!(!side.accept().unwrap().is_cut);
    assert_eq!(of(&[headers(1, &POST, false), headers(1, &many, true)]), MALFORMED);
}

#[test]
fn what_small_pieces_of_content_hold_is_no_more_than_they_are() {
    let config = Config { stream_window: 100_000, ..CONFIG };
    let mut side = Side::server(config);
    side.feed(&headers(1, &POST, false));
    for _ in 0..50_000 {
        side.feed(&data(1, 1, false));
    }
    let mut request = side.accept().unwrap();
    let content = ready(request.receiver.poll_data(&mut cx())).unwrap().unwrap();
    assert_eq!(content.len(), 50_000, "they are one");
}

#[test]
fn a_client_takes_no_pushes_and_no_streams_of_a_server() {
    let begun = frame(kind::SETTINGS, 0, 0, &[]);
    for (frames, code) in [
        (frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]), ErrorCode::PROTOCOL_ERROR),
        (headers(2, &[(":status", "200")], true), ErrorCode::PROTOCOL_ERROR),
        (headers(1, &[(":status", "200")], true), ErrorCode::PROTOCOL_ERROR),
        (setting(2, 1), ErrorCode::PROTOCOL_ERROR),
    ] {
        let mut side = Side::new(Connection::client(CONFIG));
        side.feed(&[begun.clone(), frames].concat());
        assert_eq!(fate(&mut side), Fate::Ended(code));
    }
}

#[test]
fn a_response_is_one() {
    let begun = frame(kind::SETTINGS, 0, 0, &[]);
    for wrong in [
        headers(1, &[(":status", "20")], true),
        headers(1, &[(":status", "abc")], true),
        headers(1, &[(":status", "099")], true),
        headers(1, &[(":status", "101")], false),
        headers(1, &[(":status", "103")], true),
        headers(1, &[("x", "1")], true),
        headers(1, &[(":status", "200"), (":path", "/")], true),
        headers(1, &[(":status", "200"), ("content-length", "3")], true),
        data(1, 1, true),
        [headers(1, &[(":status", "200")], false), headers(1, &[(":status", "200")], true)].concat(),
    ] {
        let mut side = Side::new(Connection::client(CONFIG));
        let (_sender, mut receiver) = crate::open(&side.shared, get(), true, Purpose::Content).unwrap();
        side.sent();
        side.feed(&[begun.clone(), wrong.clone()].concat());
        assert_eq!(fate(&mut side), MALFORMED, "{}", wrong.escape_ascii());
        let head = receiver.poll_head(&mut cx());
        let is_second = matches!(head, Poll::Ready(Ok(_)));
        assert!(is_second || matches!(head, Poll::Ready(Err(crate::Failure::Malformed(_)))), "{head:?}");
    }
}

#[test]
fn heads_that_nobody_takes_are_counted() {
    let mut guard = Counted { most_resets: Some(10), ..Counted::default() };
    let mut side = Side::server(CONFIG);
    side.feed_judged(&headers(1, &GET[1..], true), &mut guard);
    assert_eq!((fate(&mut side), guard.resets), (MALFORMED, 1));
    for _ in 0..10 {
        assert_eq!(side.shared.borrow().end(), None);
        side.feed_judged(&headers(1, &[("x", "1")], true), &mut guard);
    }
    assert_eq!(side.shared.borrow().end(), Some(End::GivenUp(ErrorCode::ENHANCE_YOUR_CALM, "enough")));
}

#[test]
fn a_head_for_nobody_that_is_far_too_large_ends_the_connection() {
    let mut bomb = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
    bomb.extend([0xbe; 100]);
    let large = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &bomb);
    let mut side = Side::server(CONFIG);
    side.feed(&headers(1, &GET[1..], true));
    assert_eq!(fate(&mut side), MALFORMED);
    side.feed(&large);
    assert_eq!(fate(&mut side), Fate::Ended(ErrorCode::ENHANCE_YOUR_CALM));
}
