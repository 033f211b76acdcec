//! How much of what a stranger sends is read. Pure: the time is an argument.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Bytes in a second.
const RATE: u64 = 16 << 10;
/// Bytes at once: pages with all that belongs to them, and any head with which somebody says who he is.
const BURST: u64 = 48 << 10;
/// What a request costs beside its bytes, of which it may have few; and a call of gRPC, of which a page needs none.
const REQUEST: u64 = 1 << 10;
const CALL: u64 = 2 << 10;
/// No more is owed, whatever was asked: what comes behind it may show who he is, or that he lives, which others wait for.
const LONGEST: Duration = Duration::from_secs(5);

/// What one connection may still send before anybody on it is known: a bucket that time fills, by the generic cell rate algorithm
/// (ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// When all that was read will be paid for, in nanoseconds since its beginning.
    paid_at: AtomicU64,
}

impl Allowance {
    /// So many bytes were read.
    pub(super) fn read(&self, bytes: usize, at: Duration) {
        self.spend(u64::try_from(bytes).unwrap_or(u64::MAX), at);
    }

    /// They were one request more, or one call of gRPC.
    pub(super) fn asked(&self, is_call: bool, at: Duration) {
        self.spend(if is_call { CALL } else { REQUEST }, at);
    }

    /// How long it is until more is read.
    pub(super) fn wait(&self, at: Duration) -> Duration {
        Duration::from_nanos(self.paid_at.load(Relaxed)).saturating_sub(at + time_of(BURST))
    }

    fn spend(&self, bytes: u64, at: Duration) {
        let (at, cost) = (nanos(at), nanos(time_of(bytes)));
        let most = at.saturating_add(nanos(time_of(BURST) + LONGEST));
        let next = |paid: u64| Some(paid.max(at).saturating_add(cost).min(most));
        let _ = self.paid_at.fetch_update(Relaxed, Relaxed, next);
    }
}

/// How long it takes until so much is paid for.
fn time_of(bytes: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000 / RATE))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn as_much_as_a_page_is_read_at_once_and_then_so_much_in_a_second() {
        let allowance = Allowance::default();
        allowance.read(48 << 10, SECOND);
        assert_eq!(allowance.wait(SECOND), Duration::ZERO);
        allowance.read(16 << 10, SECOND);
        let wait = allowance.wait(SECOND);
        assert!((SECOND - wait) < Duration::from_millis(1), "{wait:?}");
        assert_eq!(allowance.wait(2 * SECOND), Duration::ZERO);
    }

    #[test]
    fn requests_of_a_few_bytes_are_paid_for_too() {
        for (is_call, at_once) in [(false, 47), (true, 23)] {
            let allowance = Allowance::default();
            let many = (0..1000).take_while(|_| {
                allowance.read(20, SECOND);
                allowance.asked(is_call, SECOND);
                allowance.wait(SECOND).is_zero()
            });
            assert_eq!(many.count(), at_once);
        }
    }

    #[test]
    fn whoever_was_silent_for_long_has_saved_no_more_than_at_the_beginning() {
        let allowance = Allowance::default();
        allowance.read(64 << 10, 1000 * SECOND);
        assert!(allowance.wait(1000 * SECOND) > SECOND / 2);
    }

    #[test]
    fn whatever_was_asked_more_is_read_within_five_seconds() {
        let allowance = Allowance::default();
        (0..1000).for_each(|_| allowance.asked(true, SECOND));
        assert_eq!(allowance.wait(SECOND), LONGEST);
        allowance.read(usize::MAX, SECOND);
        assert_eq!(allowance.wait(SECOND), LONGEST);
    }
}
