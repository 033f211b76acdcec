use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<Frame<'_>, Violation> {
    parse(Head { length: payload.len() as u32, kind, flags, stream }, payload)
}

/// What a frame is refused with, and whether that is its stream's affair.
fn refused(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> (ErrorCode, Option<u32>) {
    let violation = frame(kind, flags, stream, payload).unwrap_err();
    (violation.code, violation.stream)
}

/// One frame that was written, as it is read.
fn written(out: &[u8]) -> (Head, Frame<'_>) {
    let head = Head::parse(*out.first_chunk().unwrap());
    assert_eq!(out.len(), HEAD + head.length as usize);
    (head, parse(head, &out[HEAD..]).unwrap())
}

#[test]
fn a_frame_that_breaks_the_rules_of_its_kind_is_refused_with_the_error_that_the_rule_has() {
    use ErrorCode as E;
    for (kind, flags, stream, payload, expected) in [
        (kind::DATA, 0, 0, &[][..], (E::PROTOCOL_ERROR, None)),
        (kind::DATA, flag::PADDED, 1, &[], (E::FRAME_SIZE_ERROR, None)),
        (kind::DATA, flag::PADDED, 1, &[1], (E::PROTOCOL_ERROR, None)),
        (kind::DATA, flag::PADDED, 1, &[3, 0, 0], (E::PROTOCOL_ERROR, None)),
        (kind::HEADERS, 0, 0, &[], (E::PROTOCOL_ERROR, None)),
        (kind::HEADERS, flag::PRIORITY, 1, &[0; 4], (E::FRAME_SIZE_ERROR, None)),
        (kind::HEADERS, flag::PRIORITY | flag::PADDED, 1, &[1, 0, 0, 0, 0, 0], (E::PROTOCOL_ERROR, None)),
        (kind::PRIORITY, 0, 0, &[0; 5], (E::PROTOCOL_ERROR, None)),
        (kind::PRIORITY, 0, 1, &[0; 4], (E::FRAME_SIZE_ERROR, Some(1))),
        (kind::PRIORITY, 0, 3, &[0x80, 0, 0, 3, 0], (E::PROTOCOL_ERROR, Some(3))),
        (kind::RST_STREAM, 0, 0, &[0; 4], (E::PROTOCOL_ERROR, None)),
        (kind::RST_STREAM, 0, 1, &[0; 5], (E::FRAME_SIZE_ERROR, None)),
        (kind::SETTINGS, 0, 1, &[], (E::PROTOCOL_ERROR, None)),
        (kind::SETTINGS, 0, 0, &[0; 7], (E::FRAME_SIZE_ERROR, None)),
        (kind::SETTINGS, flag::ACK, 0, &[0; 6], (E::FRAME_SIZE_ERROR, None)),
        (kind::PUSH_PROMISE, 0, 0, &[], (E::PROTOCOL_ERROR, None)),
        (kind::PING, 0, 1, &[0; 8], (E::PROTOCOL_ERROR, None)),
        (kind::PING, 0, 0, &[0; 7], (E::FRAME_SIZE_ERROR, None)),
        (kind::GOAWAY, 0, 1, &[0; 8], (E::PROTOCOL_ERROR, None)),
        (kind::GOAWAY, 0, 0, &[0; 7], (E::FRAME_SIZE_ERROR, None)),
        (kind::WINDOW_UPDATE, 0, 0, &[0; 3], (E::FRAME_SIZE_ERROR, None)),
        (kind::WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0], (E::PROTOCOL_ERROR, None)),
        (kind::WINDOW_UPDATE, 0, 5, &[0; 4], (E::PROTOCOL_ERROR, Some(5))),
        (kind::CONTINUATION, 0, 0, &[], (E::PROTOCOL_ERROR, None)),
    ] {
        assert_eq!(
            refused(kind, flags, stream, payload),
            expected,
            "kind {kind}, flags {flags}, {payload:x?}"
        );
    }
}

#[test]
fn a_frame_that_is_too_large_is_refused_by_its_head_whatever_it_is() {
    for kind in 0..=u8::MAX {
        let head = |length| Head { length, kind, flags: 0, stream: 1 };
        assert_eq!(head(16_385).check(MIN_MAX_SIZE).unwrap_err().code, ErrorCode::FRAME_SIZE_ERROR);
    }
    let data = Head { length: 16_384, kind: kind::DATA, flags: 0, stream: 1 };
    assert_eq!(data.check(MIN_MAX_SIZE), Ok(()));
}

#[test]
fn padding_and_priorities_stand_around_what_counts() {
    let padded = frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x03dat\0\0\0").unwrap();
    assert_eq!(padded, Frame::Data { data: 1..4, is_last: true });
    assert_eq!(frame(kind::DATA, flag::PADDED, 1, &[0]).unwrap(), Frame::Data { data: 1..1, is_last: false });
    let flags = flag::PADDED | flag::PRIORITY | flag::END_HEADERS;
    let headers = |depends_on_itself| Frame::Headers {
        block: b"block",
        is_last: false,
        is_complete: true,
        depends_on_itself,
    };
    assert_eq!(frame(kind::HEADERS, flags, 7, b"\x02\0\0\0\x05\xffblock\0\0").unwrap(), headers(false));
    assert_eq!(frame(kind::HEADERS, flags, 7, b"\x02\x80\0\0\x07\xffblock\0\0").unwrap(), headers(true));
    // Flags of other kinds mean nothing.
    assert_eq!(
        frame(kind::PING, flag::PADDED, 0, &[7; 8]).unwrap(),
        Frame::Ping { is_ack: false, payload: [7; 8] }
    );
    assert_eq!(frame(0xbe, 0xff, 9, b"any").unwrap(), Frame::Unknown);
}

#[test]
fn settings_hold_in_their_order_and_such_that_cannot_be_are_refused() {
    let payload = |settings: &[(u16, u32)]| -> Vec<u8> {
        let octets = settings
            .iter()
            .flat_map(|(number, value)| number.to_be_bytes().into_iter().chain(value.to_be_bytes()));
        octets.collect()
    };
    let told = payload(&[
        (1, 0),
        (2, 0),
        (3, 7),
        (4, 70_000),
        (4, 1),
        (0xbeef, 5),
        (5, 16_385),
        (6, 100),
        (8, 1),
        (2, 1),
    ]);
    let expected = [
        Setting::HeaderTableSize(0),
        Setting::EnablePush(false),
        Setting::MaxConcurrentStreams(7),
        Setting::InitialWindowSize(70_000),
        Setting::InitialWindowSize(1),
        Setting::MaxFrameSize(16_385),
        Setting::MaxHeaderListSize(100),
        Setting::EnableConnectProtocol(true),
        Setting::EnablePush(true),
    ];
    assert_eq!(settings(&told).collect::<Result<Vec<_>, _>>().unwrap(), expected);
    for (number, value, code) in [
        (2, 2, ErrorCode::PROTOCOL_ERROR),
        (4, 1 << 31, ErrorCode::FLOW_CONTROL_ERROR),
        (5, 16_383, ErrorCode::PROTOCOL_ERROR),
        (5, 1 << 24, ErrorCode::PROTOCOL_ERROR),
        (8, 2, ErrorCode::PROTOCOL_ERROR),
    ] {
        let told = payload(&[(number, value)]);
        let violation = settings(&told).next().unwrap().unwrap_err();
        assert_eq!((violation.code, violation.stream), (code, None), "setting {number} = {value}");
    }
}

#[test]
fn what_is_written_is_read_as_what_it_was() {
    let mut out = Vec::new();
    let mut each = |write: &dyn Fn(&mut Vec<u8>), stream, expected: Frame<'_>| {
        out.clear();
        write(&mut out);
        let (head, read) = written(&out);
        assert_eq!((head.stream, &read), (stream, &expected));
    };
    each(&|out| write_ping(out, [1; 8], true), 0, Frame::Ping { is_ack: true, payload: [1; 8] });
    each(&write_settings_ack, 0, Frame::SettingsAck);
    each(&|out| write_settings(out, &[Setting::EnablePush(false)]), 0, Frame::Settings(&[0, 2, 0, 0, 0, 0]));
    each(&|out| write_reset(out, 5, ErrorCode::CANCEL), 5, Frame::Reset { code: ErrorCode::CANCEL });
    each(&|out| write_window_update(out, 5, MAX_WINDOW), 5, Frame::WindowUpdate { increment: MAX_WINDOW });
    each(
        &|out| write_goaway(out, 9, ErrorCode(99), "why"),
        0,
        Frame::GoAway { last_stream: 9, code: ErrorCode(99), debug: b"why" },
    );
    each(
        &|out| {
            write_data_head(out, 3, 4, true);
            out.extend_from_slice(b"data");
        },
        3,
        Frame::Data { data: 0..4, is_last: true },
    );
}

#[test]
fn every_setting_is_read_as_it_is_written() {
    let all = [
        Setting::HeaderTableSize(0),
        Setting::EnablePush(false),
        Setting::MaxConcurrentStreams(1),
        Setting::InitialWindowSize(2),
        Setting::MaxFrameSize(MAX_MAX_SIZE),
        Setting::MaxHeaderListSize(4),
        Setting::EnableConnectProtocol(true),
    ];
    let mut out = Vec::new();
    write_settings(&mut out, &all);
    let Frame::Settings(payload) = written(&out).1 else { panic!("it is one of settings") };
    assert_eq!(settings(payload).collect::<Result<Vec<_>, _>>().unwrap(), all);
}

proptest! {
    #[test]
    fn a_block_is_cut_where_a_frame_would_be_too_large_and_is_whole_behind_it(
        before in prop::collection::vec(any::<u8>(), 0..5),
        block in prop::collection::vec(any::<u8>(), 0..100),
        max in 1..40_u32,
        was_last in any::<bool>(),
    ) {
        let mut out = before.clone();
        let start = HeadersStart::begin(&mut out);
        out.extend_from_slice(&block);
        start.finish(&mut out, 3, was_last, max);
        let mut rest = out.strip_prefix(&before[..]).unwrap();
        let (mut read, mut parts, mut ended) = (Vec::new(), 0, false);
        while let Some((head, behind)) = rest.split_first_chunk() {
            prop_assert!(!ended, "something stands behind the end");
            let head = Head::parse(*head);
            let (payload, behind) = behind.split_at(head.length as usize);
            prop_assert!(head.length <= max && head.stream == 3);
            let (part, is_complete) = match parse(head, payload).unwrap() {
                Frame::Headers { block, is_last, is_complete, .. } if parts == 0 && is_last == was_last => (block, is_complete),
                Frame::Continuation { block, is_complete } if parts > 0 => (block, is_complete),
                other => panic!("{other:?} as number {parts}"),
            };
            read.extend_from_slice(part);
            (rest, parts, ended) = (behind, parts + 1, is_complete);
        }
        prop_assert!(ended);
        prop_assert_eq!(read, block);
    }

    #[test]
    fn fuzz_any_frame_is_read_within_its_payload_or_refused(
        kind in 0..12_u8,
        flags in any::<u8>(),
        stream in prop_oneof![Just(0), Just(1), any::<u32>()],
        payload in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let head = Head { length: payload.len() as u32, kind, flags, stream: stream & MAX_WINDOW };
        let by_head = head.check(MIN_MAX_SIZE);
        match parse(head, &payload) {
            Ok(Frame::Data { data, .. }) => prop_assert!(data.end <= payload.len() && by_head.is_ok()),
            Ok(Frame::Headers { block, .. } | Frame::Continuation { block, .. }) => {
                prop_assert!(block.len() <= payload.len() && by_head.is_ok());
            }
            Ok(_) => prop_assert!(by_head.is_ok()),
            Err(violation) => {
                prop_assert!(violation.stream.is_none_or(|of| of == head.stream && of != 0));
                if let Err(told) = by_head {
                    prop_assert_eq!(told, violation, "the head alone says the same");
                }
            }
        }
    }
}
