//! A server may say anything to a client: it ends what it says it of, or the connection, and holds no more than there may be.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Receiver, Sender, frame::ErrorCode};

/// Something that a server says, mostly of a stream that is there.
#[derive(Debug, Clone)]
enum Said {
    Head { stream: u32, status: u16, is_last: bool },
    Trailers { stream: u32, is_last: bool },
    Data { stream: u32, length: usize, is_last: bool },
    Reset { stream: u32, code: u32 },
    Window { stream: u32, increment: u32 },
    Setting { number: u16, value: u32 },
    Goodbye { last: u32, code: u32 },
    Other { kind: u8, flags: u8, stream: u32, payload: Vec<u8> },
}

impl Said {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Head { stream, status, is_last } => {
                headers(*stream, &[(":status", &status.to_string()), ("x", "1")], *is_last)
            }
            Self::Trailers { stream, is_last } => headers(*stream, &[("x", "1")], *is_last),
            Self::Data { stream, length, is_last } => data(*stream, *length, *is_last),
            Self::Reset { stream, code } => frame(kind::RST_STREAM, 0, *stream, &code.to_be_bytes()),
            Self::Window { stream, increment } => window(*stream, *increment),
            Self::Setting { number, value } => setting(*number, *value),
            Self::Goodbye { last, code } => {
                frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
            }
            Self::Other { kind, flags, stream, payload } => frame(*kind, *flags, *stream, payload),
        }
    }
}

fn any_said() -> impl Strategy<Value = Said> {
    let stream = || prop_oneof![8 => (0..6_u32).prop_map(|number| 2 * number + 1), 1 => Just(0), 1 => Just(2), 1 => Just(99)];
    let status = prop_oneof![4 => Just(200_u16), 2 => Just(103), 1 => Just(100), 1 => Just(204), 1 => Just(101), 1 => Just(7)];
    prop_oneof![
        4 => (stream(), status, any::<bool>())
            .prop_map(|(stream, status, is_last)| Said::Head { stream, status, is_last }),
        1 => (stream(), any::<bool>()).prop_map(|(stream, is_last)| Said::Trailers { stream, is_last }),
        4 => (stream(), 0..600_usize, any::<bool>())
            .prop_map(|(stream, length, is_last)| Said::Data { stream, length, is_last }),
        1 => (stream(), 0..15_u32).prop_map(|(stream, code)| Said::Reset { stream, code }),
        1 => (stream(), any::<u32>()).prop_map(|(stream, increment)| Said::Window { stream, increment: increment >> 8 }),
        1 => (0..10_u16, 0..1_u32 << 17).prop_map(|(number, value)| Said::Setting { number, value }),
        1 => (stream(), 0..3_u32).prop_map(|(last, code)| Said::Goodbye { last, code }),
        1 => (0..12_u8, any::<u8>(), stream(), prop::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(kind, flags, stream, payload)| Said::Other { kind, flags, stream, payload }),
    ]
}

/// What the client does in between.
#[derive(Debug, Clone, Copy)]
enum Done {
    Opens { is_last: bool, purpose: Purpose },
    Sends { which: usize, length: usize, is_last: bool },
    Reads(usize),
    Resets(usize),
    Drops(usize),
    Writes,
}

fn any_done() -> impl Strategy<Value = Done> {
    prop_oneof![
        3 => (any::<bool>(), prop::sample::select(&[Purpose::Content, Purpose::Head, Purpose::Tunnel][..])).prop_map(|(is_last, purpose)| Done::Opens { is_last, purpose }),
        2 => (0..8_usize, 0..500_usize, any::<bool>())
            .prop_map(|(which, length, is_last)| Done::Sends { which, length, is_last }),
        3 => (0..8_usize).prop_map(Done::Reads),
        1 => (0..8_usize).prop_map(Done::Resets),
        1 => (0..8_usize).prop_map(Done::Drops),
        3 => Just(Done::Writes),
    ]
}

/// With whether its head was read, which is there once.
type Exchange = (Sender<Plain>, Receiver<Plain>, bool);

fn act(side: &mut Side, exchanges: &mut Vec<Exchange>, done: Done) {
    let of = |which: usize, exchanges: &[Exchange]| which % exchanges.len().max(1);
    match done {
        Done::Opens { is_last, purpose } => {
            let opened = crate::open(&side.shared, get(), is_last, purpose);
            exchanges.extend(opened.map(|(sender, receiver)| (sender, receiver, false)));
        }
        Done::Writes => drop(side.bytes()),
        _ if exchanges.is_empty() => {}
        Done::Sends { which, length, is_last } => {
            let which = of(which, exchanges);
            if let Poll::Ready(Ok(room)) = exchanges[which].0.poll_room(&mut cx()) {
                // It may have been reset.
                let _ = exchanges[which].0.send_data(Bytes::from(vec![0; length.min(room)]), is_last);
            }
        }
        Done::Reads(which) => {
            let which = of(which, exchanges);
            let (_, receiver, has_head) = &mut exchanges[which];
            while let Poll::Ready(Some(_)) = receiver.poll_interim(&mut cx()) {}
            *has_head = *has_head || matches!(receiver.poll_head(&mut cx()), Poll::Ready(Ok(_)));
            while let Poll::Ready(Some(Ok(data))) = receiver.poll_data(&mut cx()) {
                receiver.release(data.len());
            }
            let _ = receiver.poll_trailers(&mut cx());
        }
        Done::Resets(which) => {
            let which = of(which, exchanges);
            exchanges[which].0.reset(ErrorCode::CANCEL);
        }
        Done::Drops(which) => drop(exchanges.swap_remove(of(which, exchanges))),
    }
}

proptest! {
    #[test]
    fn fuzz_whatever_a_server_says_its_client_knows_what_became_of_each_request(
        steps in prop::collection::vec((any_said(), prop::collection::vec(any_done(), 0..4)), 1..60),
        is_settled in any::<bool>(),
    ) {
        let mut side = Side::new(Connection::client(CONFIG));
        if is_settled {
            side.feed(&frame(kind::SETTINGS, 0, 0, &[]));
            side.feed(&frame(kind::SETTINGS, flag::ACK, 0, &[]));
        }
        let mut exchanges = Vec::new();
        for (said, done) in steps {
            for done in done {
                act(&mut side, &mut exchanges, done);
            }
            side.feed(&said.bytes());
            let connection = side.shared.borrow();
            prop_assert!(connection.open_streams() <= CONFIG.streams as usize);
            prop_assert_eq!(connection.may_open(), connection.end().is_none() && !connection.has_goodbye);
        }
        // The socket ends: whoever still waits is told, and whether the server may have seen it.
        side.bytes();
        side.shared.borrow_mut().lost(std::io::ErrorKind::UnexpectedEof);
        for (sender, receiver, has_head) in &mut exchanges {
            while let Poll::Ready(Some(_)) = receiver.poll_interim(&mut cx()) {}
            if !*has_head {
                let _ = ready(receiver.poll_head(&mut cx()).map(|head| head.map(drop)));
            }
            while let Some(data) = ready(receiver.poll_data(&mut cx())) {
                let Ok(data) = data else { break };
                receiver.release(data.len());
            }
            let _ = ready(receiver.poll_trailers(&mut cx()).map(|trailers| trailers.map(drop)));
            prop_assert_eq!(sender.is_sent(), receiver.is_sent());
        }
        exchanges.clear();
        let connection = side.shared.borrow();
        prop_assert_eq!((connection.open_streams(), connection.places(), connection.claimed()), (0, 0, 0));
    }
}
