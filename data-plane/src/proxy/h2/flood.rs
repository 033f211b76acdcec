//! Judges how much of a peer's HTTP/2 frames is work for nothing: streams that are reset, and frames that carry neither a
//! request, nor an answer, nor a byte of one. The engine bounds the memory that they take; how many there may be is for this to say.
//!
//! Pure: time comes in as an argument, and is asked for only when something costs.

use std::time::Duration;

use gateway_http2::frame::{
    Head,
    flag::END_STREAM,
    kind::{CONTINUATION, DATA, HEADERS, RST_STREAM},
};

use crate::{proxy::errors::refusals::Reason, routing::Tick};

/// In this time as many come free as there may be at once.
const REFILL: Duration = Duration::from_secs(30);
/// So many frames for nothing each frame that was sent to the client accounts for: it may tell windows of the stream and
/// the connection anew, and measure how long it takes.
const FREE_FOR_EACH_SENT: u64 = 8;
/// As many of those are saved up.
const MAX_FREE: u64 = 8192;

/// What a client does too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Flood {
    /// It resets streams (CVE-2023-44487).
    Resets,
    /// It sends frames that carry nothing.
    ControlFrames,
}

impl Flood {
    /// What it is counted as.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Resets => Reason::TooManyResets,
            Self::ControlFrames => Reason::TooManyControlFrames,
        }
    }

    /// For whoever reads the end of the connection.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Resets => "too many streams were reset",
            Self::ControlFrames => "too many frames without a request",
        }
    }
}

/// What a client may still do on one connection.
#[derive(Debug)]
pub(in crate::proxy) struct FloodGuard {
    resets: Bucket,
    control_frames: Bucket,
    /// Frames for nothing that are accounted for by what was sent.
    free: u64,
    /// Frames that had been sent at the last look.
    sent: u64,
}

impl FloodGuard {
    /// Allows so many of both at once, and as many again over half a minute.
    pub(in crate::proxy) fn new(resets: u32, control_frames: u32) -> Self {
        Self { resets: Bucket::new(resets), control_frames: Bucket::new(control_frames), free: 0, sent: 0 }
    }

    /// A frame came from the client, which had been `sent` so many frames of answers by then.
    ///
    /// # Errors
    /// It is one too many.
    pub(super) fn received(&mut self, frame: &Head, sent: u64, now: impl Fn() -> Tick) -> Result<(), Flood> {
        match frame.kind {
            // How many of these there may be is bounded by streams, windows and the size of a head.
            HEADERS | CONTINUATION => Ok(()),
            DATA if frame.length > 0 || frame.flags & END_STREAM > 0 => Ok(()),
            RST_STREAM => self.reset(now),
            _ => self.carries_nothing(sent, now),
        }
    }

    /// A frame came from a replica, which had been `sent` so many frames of requests by then. They account for the heads that answer them, and
    /// for what ends them.
    ///
    /// # Errors
    /// It is one too many.
    pub(in crate::proxy) fn answered(
        &mut self,
        frame: &Head,
        sent: u64,
        now: impl Fn() -> Tick,
    ) -> Result<(), Flood> {
        match frame.kind {
            CONTINUATION => Ok(()),
            DATA if frame.length > 0 || frame.flags & END_STREAM > 0 => Ok(()),
            _ => self.carries_nothing(sent, now),
        }
    }

    fn carries_nothing(&mut self, sent: u64, now: impl Fn() -> Tick) -> Result<(), Flood> {
        let is_allowed = self.is_free(sent) || self.control_frames.take(now());
        if is_allowed { Ok(()) } else { Err(Flood::ControlFrames) }
    }

    /// Whether a frame for nothing is accounted for.
    fn is_free(&mut self, sent: u64) -> bool {
        let more = FREE_FOR_EACH_SENT * (sent - std::mem::replace(&mut self.sent, sent));
        self.free = (self.free + more).min(MAX_FREE);
        let is_free = self.free > 0;
        self.free -= u64::from(is_free);
        is_free
    }

    /// A stream is reset, by the client, or because of what it has sent, which costs as much.
    ///
    /// # Errors
    /// It is one too many.
    pub(super) fn reset(&mut self, now: impl Fn() -> Tick) -> Result<(), Flood> {
        if self.resets.take(now()) { Ok(()) } else { Err(Flood::Resets) }
    }
}

/// So many at once, and as many again in [`REFILL`].
#[derive(Debug)]
struct Bucket {
    most: u32,
    left: u32,
    refilled_at: Tick,
}

impl Bucket {
    fn new(most: u32) -> Self {
        Self { most, left: most, refilled_at: Tick::ORIGIN }
    }

    fn take(&mut self, now: Tick) -> bool {
        let each = REFILL / self.most.max(1);
        let came = now.since(self.refilled_at).as_nanos() / each.as_nanos().max(1);
        let came = u32::try_from(came).unwrap_or(u32::MAX);
        if came >= self.most - self.left {
            self.left = self.most;
            self.refilled_at = self.refilled_at.max(now);
        } else {
            self.left += came;
            // What is left of the time counts for the next one.
            self.refilled_at = self.refilled_at.plus(each * came);
        }
        let has_any = self.left > 0;
        self.left -= u32::from(has_any);
        has_any
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, length: u32) -> Head {
        Head { kind, flags, stream: 1, length }
    }

    fn at(millis: u64) -> impl Fn() -> Tick {
        move || Tick::ORIGIN.plus(Duration::from_millis(millis))
    }

    #[test]
    fn what_a_replica_answers_is_accounted_for_by_what_it_was_asked() {
        let mut guard = FloodGuard::new(0, 1);
        for requests in 1..100 {
            for kind in [HEADERS, HEADERS, RST_STREAM, PING] {
                assert_eq!(guard.answered(&frame(kind, 0, 8), requests, at(0)), Ok(()), "{requests}");
            }
            assert_eq!(guard.answered(&frame(DATA, 0, 1), requests, at(0)), Ok(()));
        }
        let mut guard = FloodGuard::new(0, 1);
        for _ in 0..9 {
            assert_eq!(guard.answered(&frame(HEADERS, 0, 8), 1, at(0)), Ok(()));
        }
        for kind in [HEADERS, RST_STREAM, PING] {
            assert_eq!(guard.answered(&frame(kind, 0, 8), 1, at(0)), Err(Flood::ControlFrames));
        }
        assert_eq!(guard.answered(&frame(DATA, 0, 0), 1, at(0)), Err(Flood::ControlFrames));
        assert_eq!(guard.answered(&frame(DATA, END_STREAM, 0), 1, at(0)), Ok(()));
    }

    #[test]
    fn requests_and_their_bodies_cost_nothing() {
        let mut guard = FloodGuard::new(1, 1);
        for frame in
            [frame(HEADERS, 0, 30), frame(CONTINUATION, 0, 0), frame(DATA, 0, 1), frame(DATA, END_STREAM, 0)]
        {
            for _ in 0..100 {
                assert_eq!(guard.received(&frame, 0, || panic!("nobody asks for the time")), Ok(()));
            }
        }
    }

    #[test]
    fn so_many_resets_come_at_once_and_as_many_again_in_half_a_minute() {
        let mut guard = FloodGuard::new(100, 1);
        let reset = frame(RST_STREAM, 0, 4);
        let mut count =
            |millis| (0..1000).take_while(|_| guard.received(&reset, 0, at(millis)).is_ok()).count();
        assert_eq!(count(0), 100);
        assert_eq!(count(299), 0);
        assert_eq!(count(300), 1);
        assert_eq!(count(15_300), 50);
        assert_eq!(count(90_000), 100);
        assert_eq!(guard.received(&reset, 0, at(90_000)), Err(Flood::Resets));
        assert_eq!(
            guard.reset(at(90_000)),
            Err(Flood::Resets),
            "whoever resets it, it is the client's doing"
        );
    }

    #[test]
    fn whatever_carries_nothing_counts_unless_it_answers_what_was_sent() {
        let nothing = [frame(DATA, 0, 0), frame(PING, 0, 8), frame(4, 0, 6), frame(8, 0, 4), frame(99, 0, 9)];
        for nothing in nothing {
            let mut guard = FloodGuard::new(1, 3);
            let allowed = (0..1000).take_while(|_| guard.received(&nothing, 1, at(0)).is_ok()).count();
            assert_eq!(allowed, 3 + 8, "{nothing:?}");
            assert_eq!(guard.received(&nothing, 1, at(0)), Err(Flood::ControlFrames));
        }
    }

    proptest! {
        /// However it is spread, nobody gets more than what is there at once and what came free since.
        #[test]
        fn in_any_time_no_more_is_taken_than_a_bucket_holds_and_what_flows_in(
            most in 1..200_u32,
            pauses in prop::collection::vec(0..2_000_u64, 1..300),
        ) {
            let mut bucket = Bucket::new(most);
            let (mut now, mut taken) = (0, 0_u64);
            for pause in pauses {
                now += pause;
                taken += u64::from(bucket.take(at(now)()));
                let flowed = u64::from(most) * now / 30_000;
                prop_assert!(taken <= u64::from(most) + flowed + 1, "{taken} by {now}");
            }
        }

        /// Whoever keeps to the rate is never refused.
        #[test]
        fn a_steady_rate_is_let_through_for_ever(most in 1..1000_u32, count in 1..2000_u32) {
            let mut bucket = Bucket::new(most);
            let step = 30_000_u64.div_ceil(u64::from(most));
            for number in 0..count {
                prop_assert!(bucket.take(at(u64::from(number) * step)()));
            }
        }
    }
}
