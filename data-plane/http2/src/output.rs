//! What is to be written: frames one behind the other, of which long payloads lie beside the buffer and are not copied.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// A payload that is not longer is copied, so that it is one piece with what stands before and behind it.
const COPIED: usize = 4 * 1024;
/// Of a buffer that never comes to its end, as much that was written is taken off.
const TAKEN_OFF: usize = 16 * 1024;

/// Frames in their order.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Written up to `start`.
    buffer: Vec<u8>,
    start: usize,
    /// Payloads, and where in the buffer each has its place.
    payloads: VecDeque<(usize, Bytes)>,
    /// Bytes in `payloads`.
    beside: usize,
    /// Bytes that were given to the socket so far.
    written: u64,
}

impl Output {
    /// Where the next frame begins, counted from the first byte of the connection.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.len() as u64
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that are still to be written.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len() - self.start + self.beside
    }

    /// Where frames are appended.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// A frame's payload, behind its head.
    pub(crate) fn push(&mut self, payload: Bytes) {
        if payload.len() <= COPIED {
            self.buffer.extend_from_slice(&payload);
        } else {
            self.beside += payload.len();
            self.payloads.push_back((self.buffer.len(), payload));
        }
    }

    /// All that is to be written, where it lies in one piece.
    pub(crate) fn piece(&self) -> Option<&[u8]> {
        self.payloads.is_empty().then(|| &self.buffer[self.start..])
    }

    /// Fills `slices` with what is to be written next, and yields how many there are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut count, mut from) = (0, self.start);
        let ends = self.payloads.iter().map(|(at, payload)| (*at, &payload[..]));
        for (at, payload) in ends.chain([(self.buffer.len(), &[][..])]) {
            for piece in [&self.buffer[from..at], payload] {
                if count < slices.len() && !piece.is_empty() {
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
            }
            from = at;
        }
        count
    }

    /// So many bytes were taken.
    pub(crate) fn advance(&mut self, mut count: usize) {
        self.written += count as u64;
        while count > 0 {
            let until = self.payloads.front().map_or(self.buffer.len(), |(at, _)| *at);
            let of_buffer = count.min(until - self.start);
            self.start += of_buffer;
            count -= of_buffer;
            if let Some((_, payload)) = self.payloads.front_mut()
                && count > 0
            {
                let of_payload = count.min(payload.len());
                payload.advance(of_payload);
                self.beside -= of_payload;
                count -= of_payload;
                if payload.is_empty() {
                    self.payloads.pop_front();
                }
            }
        }
        if self.len() == 0 {
            self.buffer.clear();
            self.start = 0;
        } else if self.start >= TAKEN_OFF {
            self.buffer.drain(..self.start);
            self.payloads.iter_mut().for_each(|(at, _)| *at -= self.start);
            self.start = 0;
        }
    }

    /// The buffer, to be lent to another connection as long as nothing is to be written.
    pub(crate) fn take_buffer(&mut self) -> Option<Vec<u8>> {
        (self.len() == 0).then(|| std::mem::take(&mut self.buffer))
    }

    /// A buffer to write to, in place of none.
    pub(crate) fn give_buffer(&mut self, buffer: Vec<u8>) {
        debug_assert!(self.buffer.is_empty() && buffer.is_empty(), "nothing is lost");
        self.buffer = buffer;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_taken_is_what_was_pushed_in_its_order_however_it_is_taken(
            pieces in prop::collection::vec((0..20_usize, prop_oneof![0..10_usize, Just(COPIED), Just(COPIED + 1), Just(9000)]), 0..8),
            steps in prop::collection::vec(1..6000_usize, 1..6),
            most in 1..5_usize,
        ) {
            let mut output = Output::default();
            let (mut expected, mut byte) = (Vec::new(), 0_u8);
            let mut some = |length: usize| (0..length).map(|_| { byte = byte.wrapping_add(1); byte }).collect::<Vec<u8>>();
            for (head, payload) in pieces {
                let (head, payload) = (some(head), some(payload));
                output.buffer().extend_from_slice(&head);
                output.push(payload.clone().into());
                expected.extend([head, payload].concat());
            }
            prop_assert_eq!(output.position(), expected.len() as u64);
            let (mut taken, mut steps) = (Vec::new(), steps.iter().cycle());
            while output.len() > 0 {
                let mut slices = vec![IoSlice::new(&[]); most];
                let count = output.slices(&mut slices);
                let next: Vec<u8> = slices[..count].concat_all();
                if let Some(piece) = output.piece() {
                    prop_assert_eq!(piece, &next);
                }
                let step = next.len().min(*steps.next().unwrap());
                prop_assert!(step > 0, "it stands still");
                taken.extend_from_slice(&next[..step]);
                output.advance(step);
            }
            prop_assert_eq!(&taken, &expected);
            prop_assert_eq!(output.written(), expected.len() as u64);
        }
    }

    #[test]
    fn a_buffer_that_never_comes_to_its_end_does_not_grow() {
        let mut output = Output::default();
        for _ in 0..100_000 {
            output.buffer().extend_from_slice(&[0; 9]);
            output.push(Bytes::from_static(&[1; COPIED + 1]));
            // One payload is always left.
            if output.payloads.len() > 1 {
                output.advance(9 + COPIED + 1);
            }
        }
        assert!(output.buffer.len() <= TAKEN_OFF + 18, "{}", output.buffer.len());
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(output.slices(&mut slices), 2);
    }

    trait ConcatAll {
        fn concat_all(&self) -> Vec<u8>;
    }

    impl ConcatAll for [IoSlice<'_>] {
        fn concat_all(&self) -> Vec<u8> {
            self.iter().flat_map(|slice| slice.iter().copied()).collect()
        }
    }
}
