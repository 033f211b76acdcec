//! What everything in a simulation shares: the seed's dice, virtual time, and the queue of what happens next.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use data_plane::routing::Tick;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    event::{Event, RequestId, StreamId},
    journal::Journal,
    plan::Plan,
    sabotage::Sabotage,
};

/// One millisecond.
pub(crate) const MS: Duration = Duration::from_millis(1);
/// One second.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The world's laws: whoever acts does so at [`Env::now`], by these dice.
pub(crate) struct Env {
    /// Nanoseconds since the simulation began.
    pub(crate) now: u64,
    pub(crate) journal: Journal,
    pub(crate) plan: Plan,
    /// The bug that this run has on purpose, if any.
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) phase: Phase,
    rng: StdRng,
    /// Lots of reports, so that those who report do not change what else happens.
    reports: StdRng,
    queue: BinaryHeap<Due>,
    scheduled: u64,
    streams: StreamId,
    requests: RequestId,
    /// Where virtual time begins on the monotonic clock: only differences to it are ever looked at.
    origin: Instant,
}

/// What a run goes through, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Things break.
    Trouble,
    /// Nothing breaks any more, and everything heals.
    Calm,
    /// Everything has had its time to heal.
    Well,
    /// No client comes any more.
    Leaving,
    /// Nothing is under way any more.
    Over,
}

/// An event and its time.
struct Due {
    at: u64,
    order: u64,
    event: Event,
}

impl Env {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = Plan::draw(&mut rng);
        Self {
            now: 0,
            journal: Journal::default(),
            plan,
            sabotage,
            phase: Phase::Trouble,
            rng,
            reports: StdRng::seed_from_u64(!seed),
            queue: BinaryHeap::new(),
            scheduled: 0,
            streams: 0,
            requests: 0,
            origin: Instant::now(),
        }
    }

    /// Schedules an event; of two at one time the one scheduled first comes first.
    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + nanos(delay), event);
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Due { at: at.max(self.now), order: self.scheduled, event });
    }

    /// Moves time on to the next event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Due { at, event, .. } = self.queue.pop()?;
        self.now = at;
        Some(event)
    }

    pub(crate) fn tick(&self) -> Tick {
        Tick::from_nanos(self.now)
    }

    pub(crate) fn instant(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now)
    }

    /// The nanosecond at which `instant` lies.
    pub(crate) fn nanos_of(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    pub(crate) fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_nanos(self.now)
    }

    pub(crate) fn has(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    /// Whether things may break now.
    pub(crate) fn is_troubled(&self) -> bool {
        self.phase == Phase::Trouble
    }

    pub(crate) fn next_stream(&mut self) -> StreamId {
        self.streams += 1;
        self.streams
    }

    pub(crate) fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        self.requests
    }

    /// Uniform in 0.0..1.0.
    pub(crate) fn random(&mut self) -> f64 {
        self.rng.random()
    }

    /// Random bits for ids.
    pub(crate) fn bits(&mut self) -> (u64, u128) {
        (self.rng.random(), self.rng.random())
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.random() < probability
    }

    /// A number below `count`, which is not zero.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    /// One of a slice, which is not empty.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(crate) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        Duration::from_nanos(self.rng.random_range(nanos(from)..=nanos(to)))
    }

    /// What a report takes over the network.
    pub(crate) fn report_latency(&mut self) -> Duration {
        Duration::from_nanos(self.reports.random_range(nanos(MS / 10)..=nanos(100 * MS)))
    }

    /// What one message takes over the network.
    pub(crate) fn latency(&mut self) -> Duration {
        let slow = if self.chance(0.02) { 100 } else { 5 };
        self.between(MS / 10, slow * MS)
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a simulation lasts minutes, not centuries")
}

impl Ord for Due {
    /// The soonest is the greatest, as the heap hands out the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}
