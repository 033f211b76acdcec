//! What has come of a request's body, kept to be sent again, and how much memory a worker has for that.
//!
//! A piece that is most of the buffer it lies in is kept as it is: none of its bytes is copied. Of a smaller one, which would hold
//! on to far more than it is, a copy is. What is taken of the memory is what is held, in either case.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;

/// How much memory a worker has for what is kept for replay.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct ReplayMemory {
    free: Rc<Cell<usize>>,
    per_request: usize,
}

impl ReplayMemory {
    /// Of so many bytes over all of a worker's requests, and so many for one of them: a longer body passes through and is
    /// sent once.
    pub(in crate::proxy) fn new(total: usize, per_request: usize) -> Self {
        Self { free: Rc::new(Cell::new(total)), per_request }
    }

    fn take(&self, bytes: usize) -> bool {
        let left = self.free.get().checked_sub(bytes);
        left.inspect(|left| self.free.set(*left)).is_some()
    }

    fn give_back(&self, bytes: usize) {
        self.free.set(self.free.get() + bytes);
    }
}

/// The bytes of one body from its beginning.
#[derive(Debug)]
pub(super) struct Kept {
    memory: ReplayMemory,
    /// In their order, each with the place of its first byte.
    pieces: Vec<(usize, Bytes)>,
    /// Copies of small ones, behind those.
    copied: Vec<u8>,
    /// Bytes of all of them.
    length: usize,
    /// What was taken of the memory.
    held: usize,
}

impl Kept {
    /// Nothing yet.
    pub(super) fn new(memory: &ReplayMemory) -> Self {
        Self { memory: memory.clone(), pieces: Vec::new(), copied: Vec::new(), length: 0, held: 0 }
    }

    /// Keeps what comes next, a part of a buffer of this size, if that is known. `false` where there is no room for it.
    pub(super) fn push(&mut self, piece: &Bytes, buffer_size: Option<usize>) -> bool {
        let is_shared = buffer_size.filter(|size| piece.len() >= size / 2);
        let holds = is_shared.unwrap_or(piece.len());
        if self.length + piece.len() > self.memory.per_request || !self.memory.take(holds) {
            return false;
        }
        match is_shared {
            Some(_) => {
                if !self.copied.is_empty() {
                    self.pieces.push((self.copied_from(), std::mem::take(&mut self.copied).into()));
                }
                self.pieces.push((self.length, piece.clone()));
            }
            None => self.copied.extend_from_slice(piece),
        }
        self.length += piece.len();
        self.held += holds;
        true
    }

    /// What is kept from that place on, up to the end of the piece that it is a part of; `None` at the end of all.
    pub(super) fn piece_at(&self, place: usize) -> Option<Bytes> {
        if let Some(place) = place.checked_sub(self.copied_from()) {
            return self.copied.get(place..).filter(|rest| !rest.is_empty()).map(Bytes::copy_from_slice);
        }
        let (start, piece) = &self.pieces[self.pieces.partition_point(|(start, _)| *start <= place) - 1];
        Some(piece.slice(place - start..))
    }

    /// The place of the first byte that was copied and stands behind all pieces.
    fn copied_from(&self) -> usize {
        self.length - self.copied.len()
    }

    /// Keeps none of it any longer.
    pub(super) fn forget(&mut self) {
        self.pieces.clear();
        self.copied = Vec::new();
        self.length = 0;
        self.memory.give_back(std::mem::take(&mut self.held));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that is kept from a place on, piece by piece.
    fn rest(kept: &Kept, mut place: usize) -> Vec<u8> {
        let mut rest = Vec::new();
        while let Some(piece) = kept.piece_at(place) {
            assert!(!piece.is_empty());
            place += piece.len();
            rest.extend_from_slice(&piece);
        }
        rest
    }

    #[test]
    fn what_is_most_of_its_buffer_is_kept_as_it_is_and_costs_the_buffer() {
        let memory = ReplayMemory::new(100, 50);
        let mut kept = Kept::new(&memory);
        let (large, small) = (Bytes::from(vec![b'a'; 20]), Bytes::from_static(b"b"));
        assert!(kept.push(&large, Some(40)));
        assert_eq!((kept.piece_at(0).unwrap().as_ptr(), memory.free.get()), (large.as_ptr(), 60));
        assert!(kept.push(&small, Some(40)) && kept.push(&large, None));
        assert_eq!(memory.free.get(), 39, "copies cost what they are");
        assert!(!kept.push(&large, Some(20)), "more than one request may keep");
        assert_eq!(rest(&kept, 19), [&b"ab"[..], &large].concat());
        drop(kept);
        assert_eq!(memory.free.get(), 100);
    }

    #[test]
    fn what_there_is_no_memory_for_is_not_kept_and_takes_none() {
        let memory = ReplayMemory::new(30, 50);
        let mut kept = Kept::new(&memory);
        let piece = Bytes::from(vec![b'a'; 16]);
        assert!(!kept.push(&piece, Some(31)), "its buffer is larger");
        assert_eq!((memory.free.get(), kept.piece_at(0)), (30, None));
        assert!(kept.push(&piece, Some(30)));
        assert!(!kept.push(&piece, None));
        assert_eq!((memory.free.get(), rest(&kept, 0).len()), (0, 16));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However a body was cut into pieces, and whichever of them were copied: from any place on, all that came is there.
        #[test]
        fn from_any_place_on_it_is_what_came(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..9), prop::option::of(1..40_usize)), 0..20),
            place in 0..100_usize,
        ) {
            let memory = ReplayMemory::new(1000, 1000);
            let mut kept = Kept::new(&memory);
            let mut came = Vec::new();
            for (piece, buffer_size) in pieces {
                came.extend_from_slice(&piece);
                prop_assert!(kept.push(&piece.into(), buffer_size));
            }
            let place = place.min(came.len());
            prop_assert_eq!(rest(&kept, place), &came[place..]);
            kept.forget();
            prop_assert_eq!((rest(&kept, 0), memory.free.get()), (Vec::new(), 1000));
        }
    }
}
