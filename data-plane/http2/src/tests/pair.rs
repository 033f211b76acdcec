//! Two of them talk, over wires that pass bytes in any pieces: all that is sent comes, and nothing is left behind.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Failure, Receiver, Request, Sender, frame::ErrorCode};

/// Numbers that a seed makes up.
struct Dice(u64);

impl Dice {
    /// One below `most`.
    fn roll(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    fn one_in(&mut self, most: usize) -> bool {
        self.roll(most) == 0
    }

    fn size(&mut self) -> usize {
        let most = [1, 10, 2000, 30_000][self.roll(4)];
        self.roll(most)
    }
}

/// What is sent in one direction of an exchange.
struct Body {
    mark: u8,
    length: usize,
    sent: usize,
    has_trailers: bool,
    is_done: bool,
}

impl Body {
    fn new(mark: u8, dice: &mut Dice) -> Self {
        Self { mark, length: dice.size(), sent: 0, has_trailers: dice.one_in(2), is_done: false }
    }

    fn of(length: usize, mark: u8, dice: &mut Dice) -> Self {
        Self { length, ..Self::new(mark, dice) }
    }

    /// Sends some more, as far as that goes.
    fn send(&mut self, sender: &mut Sender<Plain>, dice: &mut Dice) -> Result<(), Failure> {
        if self.is_done {
            return Ok(());
        }
        if self.sent < self.length {
            let Poll::Ready(room) = sender.poll_room(&mut cx()) else { return Ok(()) };
            let size = room?.min(self.length - self.sent).min(1 + dice.roll(20_000));
            self.sent += size;
            self.is_done = self.sent == self.length && !self.has_trailers;
            return sender.send_data(Bytes::from(vec![self.mark; size]), self.is_done);
        }
        self.is_done = true;
        match self.has_trailers {
            true => sender.send_trailers(list(&[("x-mark", &self.mark.to_string())])),
            false => sender.send_data(Bytes::new(), true),
        }
    }
}

/// What has come in one direction.
#[derive(Default)]
struct Heard {
    length: usize,
    trailers: Option<List>,
    is_done: bool,
}

impl Heard {
    fn hear(&mut self, receiver: &mut Receiver<Plain>, mark: u8) -> Result<(), Failure> {
        while !self.is_done {
            match receiver.poll_data(&mut cx()) {
                Poll::Ready(Some(data)) => {
                    let data = data?;
                    assert!(data.iter().all(|byte| *byte == mark), "it is another's");
                    self.length += data.len();
                    receiver.release(data.len());
                }
                Poll::Ready(None) => {
                    self.trailers = ready(receiver.poll_trailers(&mut cx()))?;
                    self.is_done = true;
                    assert!(receiver.is_end());
                }
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }
}

struct Asked {
    mark: u8,
    sender: Sender<Plain>,
    receiver: Receiver<Plain>,
    body: Body,
    answer: usize,
    has_head: bool,
    heard: Heard,
}

struct Answered {
    mark: u8,
    request: Request<Plain>,
    expected: usize,
    body: Body,
    has_head: bool,
    heard: Heard,
}

struct World {
    dice: Dice,
    sides: [Side; 2],
    wires: [Vec<u8>; 2],
    asked: Vec<Asked>,
    answered: Vec<Answered>,
    to_ask: u8,
    given_up: Vec<u8>,
}

fn number(head: &List, name: &str) -> usize {
    let (_, value) = head.0.iter().find(|(known, _)| known == name).unwrap();
    str::from_utf8(value).unwrap().parse().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed | 1);
        let mut config = || Config {
            streams: u32::try_from(1 + dice.roll(6)).unwrap(),
            stream_window: u32::try_from([100, 5000, 100_000][dice.roll(3)]).unwrap(),
            connection_window: u32::try_from([1000, 65_535, 300_000][dice.roll(3)]).unwrap(),
            send_buffer: 1 + dice.roll(30_000),
            ..CONFIG
        };
        let mut sides = [Side::new(Connection::client(config())), Side::new(Connection::server(config()))];
        // How many streams it may open the client has to hear first.
        let told = sides[1].bytes();
        sides[0].feed(&told);
        let wires = [Vec::new(), Vec::new()];
        Self { dice, sides, wires, asked: Vec::new(), answered: Vec::new(), to_ask: 12, given_up: Vec::new() }
    }

    /// Something happens.
    fn step(&mut self) {
        match self.dice.roll(6) {
            0 if self.to_ask > 0 => self.ask(),
            1 => self.asker_moves(),
            2 => self.answerer_moves(),
            _ => self.bytes_move(),
        }
    }

    fn bytes_move(&mut self) {
        let from = self.dice.roll(2);
        if self.dice.one_in(2) {
            let bytes = self.sides[from].bytes();
            self.wires[from].extend(bytes);
        } else if !self.wires[from].is_empty() {
            let most = [1, 9, 300, 40_000][self.dice.roll(4)];
            let count = (1 + self.dice.roll(most)).min(self.wires[from].len());
            let piece: Vec<u8> = self.wires[from].drain(..count).collect();
            self.sides[1 - from].feed(&piece);
            assert_eq!(self.sides[1 - from].shared.borrow().end(), None);
            while let Some(request) = self.sides[1].accept() {
                let mark = u8::try_from(number(&request.head, "x-mark")).unwrap();
                let body = Body::of(number(&request.head, "x-answer"), mark, &mut self.dice);
                let expected = number(&request.head, "x-body");
                let heard = Heard::default();
                self.answered.push(Answered { mark, request, expected, body, has_head: false, heard });
            }
        }
    }

    fn ask(&mut self) {
        let (mark, answer) = (self.to_ask, self.dice.size());
        let body = Body::new(mark, &mut self.dice);
        let mut head = post();
        for (name, value) in [("x-mark", mark.into()), ("x-answer", answer), ("x-body", body.length)] {
            head.0.push((name.into(), value.to_string().into()));
        }
        let (sender, receiver) = crate::open(&self.sides[0].shared, head, false, Purpose::Content).unwrap();
        let heard = Heard::default();
        self.asked.push(Asked { mark, sender, receiver, body, answer, has_head: false, heard });
        self.to_ask -= 1;
    }

    fn asker_moves(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let index = self.dice.roll(self.asked.len());
        if self.dice.one_in(100) {
            self.given_up.push(self.asked.swap_remove(index).mark);
            return;
        }
        let asked = &mut self.asked[index];
        let mark = asked.mark;
        // Who answers early has the rest of the request reset, without an error.
        match asked.body.send(&mut asked.sender, &mut self.dice) {
            Ok(()) | Err(Failure::Reset(ErrorCode::NO_ERROR)) => {}
            Err(failure) => panic!("{failure:?}"),
        }
        if !asked.has_head {
            let Poll::Ready(head) = asked.receiver.poll_head(&mut cx()) else { return };
            assert_eq!(head.unwrap(), (200, ok()));
            asked.has_head = true;
        }
        asked.heard.hear(&mut asked.receiver, mark).unwrap();
        if asked.heard.is_done {
            assert_eq!(asked.heard.length, asked.answer);
            self.asked.swap_remove(index);
        }
    }

    fn answerer_moves(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        let index = self.dice.roll(self.answered.len());
        let answered = &mut self.answered[index];
        let mark = answered.mark;
        let moved = (|| {
            answered.heard.hear(&mut answered.request.receiver, mark)?;
            if !answered.has_head {
                answered.has_head = true;
                answered.request.sender.send_head(ok(), false)?;
            }
            answered.body.send(&mut answered.request.sender, &mut self.dice)
        })();
        match moved {
            Err(Failure::Reset(ErrorCode::CANCEL)) => drop(self.answered.swap_remove(index)),
            Err(failure) => panic!("{failure:?}"),
            Ok(()) if answered.heard.is_done => {
                assert_eq!(answered.heard.length, answered.expected);
                if answered.body.is_done {
                    self.answered.swap_remove(index);
                }
            }
            // It answers without having heard all.
            Ok(()) if answered.body.is_done && self.dice.one_in(20) => drop(self.answered.swap_remove(index)),
            Ok(()) => {}
        }
    }

    fn is_done(&self) -> bool {
        self.to_ask == 0 && self.asked.is_empty() && self.answered.is_empty()
    }
}

proptest! {
    #[test]
    fn all_that_is_sent_comes_and_nothing_is_left_behind(seed in any::<u64>()) {
        let mut world = World::new(seed);
        let mut steps = 0;
        while !world.is_done() {
            world.step();
            steps += 1;
            prop_assert!(steps < 2_000_000, "it stands still: {} asked, {} answered", world.asked.len(), world.answered.len());
        }
        for _ in 0..3 {
            for from in [0, 1] {
                let bytes = [std::mem::take(&mut world.wires[from]), world.sides[from].bytes()].concat();
                world.sides[1 - from].feed(&bytes);
                prop_assert!(world.sides[1].accept().is_none_or(|_| true));
            }
        }
        for side in &world.sides {
            let connection = side.shared.borrow();
            prop_assert_eq!((connection.end(), connection.open_streams(), connection.places(), connection.claimed()), (None, 0, 0, 0));
        }
    }

    #[test]
    fn pieces_change_nothing(seed in any::<u64>()) {
        let mut dice = Dice(seed | 1);
        let mut frames = vec![frame::PREFACE.to_vec(), setting(4, 100)];
        for number in 0..6_u32 {
            let id = 2 * number + 1;
            frames.push(match dice.roll(4) {
                0 => headers(id, &GET, true),
                1 => [headers(id, &POST, false), data(id, dice.roll(6000), false), data(id, 5, true)].concat(),
                2 => [frame(kind::HEADERS, 1, id, &block(&GET[..2])), frame(kind::CONTINUATION, 4, id, &block(&GET[2..]))].concat(),
                _ => [headers(id, &POST, false), headers(id, &[("x", "1")], true), frame(kind::PING, 0, 0, &[1; 8])].concat(),
            });
        }
        if dice.one_in(3) {
            let index = 2 + dice.roll(6);
            let bytes = &mut frames[index];
            let at = dice.roll(bytes.len());
            bytes[at] ^= 1 << dice.roll(8);
        }
        let bytes = frames.concat();
        // What a client has taken back by then is nobody's, so that it does depend on when it is asked for.
        let play = |pieces: &mut dyn Iterator<Item = usize>| {
            let mut side = Side::new(Connection::server(CONFIG));
            let (mut at, mut heads, mut written) = (0, Vec::new(), Vec::new());
            while at < bytes.len() {
                let end = (at + pieces.next().unwrap()).min(bytes.len());
                side.feed(&bytes[at..end]);
                at = end;
                written.extend(side.bytes());
            }
            while let Some(mut request) = side.accept() {
                let mut content = Vec::new();
                while let Poll::Ready(Some(Ok(data))) = request.receiver.poll_data(&mut cx()) {
                    content.extend_from_slice(&data);
                }
                heads.push((request.head.clone(), content));
                std::mem::forget(request);
            }
            (heads, written, side.shared.borrow().end())
        };
        let whole = play(&mut std::iter::repeat(usize::MAX / 2));
        prop_assert_eq!(&play(&mut std::iter::repeat(1)), &whole);
        prop_assert_eq!(&play(&mut std::iter::repeat_with(|| 1 + dice.roll(100))), &whole);
    }

    /// Whatever comes, nothing panics, and what it holds is bounded.
    #[test]
    fn noise_has_an_end(seed in any::<u64>()) {
        let mut dice = Dice(seed | 1);
        let mut side = Side::server(CONFIG);
        let mut requests = Vec::new();
        for _ in 0..300 {
            let id = [0, 1, 3, 5, 7, 2, 99][dice.roll(7)];
            let payload: Vec<u8> = (0..[0, 4, 5, 8, 40][dice.roll(5)]).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect();
            let flags = [0, 1, 4, 5, 8, 32, 255][dice.roll(7)];
            side.feed(&match dice.roll(8) {
                0 => headers(id, &GET, dice.one_in(2)),
                1 => headers(id, &POST, false),
                2 => data(id, dice.roll(400), dice.one_in(4)),
                3 => reset(id),
                4 => window(id, u32::try_from(dice.roll(1 << 16)).unwrap()),
                5 => setting(u16::try_from(dice.roll(9)).unwrap(), u32::try_from(dice.roll(1 << 17)).unwrap()),
                _ => frame(u8::try_from(dice.roll(11)).unwrap(), flags, id, &payload),
            });
            if side.shared.borrow().end().is_some() {
                side.sent();
                side = Side::server(CONFIG);
                requests.clear();
            }
            while let Some(request) = side.accept() {
                requests.push(request);
            }
            if !requests.is_empty() {
                let index = dice.roll(requests.len());
                let request: &mut Request<Plain> = &mut requests[index];
                match dice.roll(7) {
                    0 => drop(request.sender.send_head(ok(), dice.one_in(3))),
                    1 => drop(request.sender.send_data(Bytes::from(vec![0; dice.roll(3000)]), dice.one_in(2))),
                    2 => drop(request.sender.send_trailers(ok())),
                    3 => drop(request.receiver.poll_data(&mut cx())),
                    4 => request.sender.reset(ErrorCode::CANCEL),
                    5 => drop(request.sender.poll_room(&mut cx())),
                    _ => drop(requests.swap_remove(index)),
                }
            }
            if dice.one_in(3) {
                side.sent();
            }
            prop_assert!(side.shared.borrow().open_streams() <= 8);
        }
    }
}
