//! How many replicas there are, and whether there is room for one more.

/// Replicas of one service, or of one registrant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Population {
    /// Those that are not lost.
    pub living: usize,
    /// Those that the guard holds.
    pub lost: usize,
}

impl Population {
    /// How many there are, if that is too many for one more where there may be `most`.
    ///
    /// Lost ones do not count: the guard lets them go once others have come in their place, which must not wait for the guard in
    /// turn. There are never more of both than twice as many as may be, or who lets one after another be lost would have any number.
    pub(super) fn excess(self, most: usize) -> Option<usize> {
        let Self { living, lost } = self;
        match living >= most {
            true => Some(living),
            false => (living + lost >= most.saturating_mul(2)).then_some(living + lost),
        }
    }

    /// The same with so many more that are not lost.
    #[must_use]
    pub(super) fn and(self, living: usize) -> Self {
        Self { living: self.living + living, ..self }
    }

    /// Counts one more.
    pub(super) fn add(&mut self, is_lost: bool) {
        *self.of(is_lost) += 1;
    }

    /// Counts one less.
    pub(super) fn remove(&mut self, is_lost: bool) {
        *self.of(is_lost) -= 1;
    }

    fn of(&mut self, is_lost: bool) -> &mut usize {
        if is_lost { &mut self.lost } else { &mut self.living }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_ones_leave_room_until_there_are_of_both_twice_as_many_as_may_be() {
        let excess = |living, lost| Population { living, lost }.excess(2);
        assert_eq!([excess(0, 0), excess(1, 0), excess(0, 2), excess(1, 2)], [None; 4]);
        assert_eq!([excess(2, 0), excess(3, 9)], [Some(2), Some(3)]);
        assert_eq!([excess(1, 3), excess(0, 4)], [Some(4); 2]);
        assert_eq!(Population { living: 0, lost: 1 }.and(2).excess(2), Some(2));
    }
}
