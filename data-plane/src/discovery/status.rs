//! How the link to the control plane stands, for readiness, metrics and people.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// Where the snapshot in use came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nothing is held yet.
    None,
    /// From disk; the control plane has not been reached since the start.
    Cached,
    /// From a control plane, which may be away by now.
    Live,
    /// From a static file.
    Static,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Cached => "cached",
            Self::Live => "live",
            Self::Static => "static",
        })
    }
}

/// A control plane that was followed, and is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which one.
    pub url: Arc<str>,
    /// Why its stream ended, as metrics name it.
    pub reason: &'static str,
    /// When it did.
    pub at: SystemTime,
}

/// Why streams end, as metrics name it: each is there from the start, so that the first one is seen as an increase.
const ENDS: [&str; 10] = [
    "unreachable",
    "failed",
    "superseded",
    "closed",
    "silent",
    "not_read",
    "behind",
    "refused",
    "resubscribed",
    "outdated",
];

/// The link as it is now.
#[derive(Debug, Clone)]
pub struct Status {
    /// Where the snapshot in use came from.
    pub source: Source,
    /// Whether a control plane is being followed.
    pub connected: bool,
    /// Since when [`Status::connected`] is what it is.
    pub changed: Instant,
    /// The control plane that is followed, or was last; none before the first.
    pub url: Option<Arc<str>>,
    /// The one that was followed before it.
    pub left: Option<Left>,
    /// The one that was followed last, from the end of its stream on.
    last: Option<Left>,
    /// Times that another control plane was followed than before.
    pub moves: u64,
    /// Streams that ended, and attempts to begin one that failed, by why.
    pub ended: BTreeMap<&'static str, u64>,
    /// Updates refused since the start.
    pub nacks: u64,
    /// The refusal that the last message met; none when the last one was taken.
    pub refusal: Option<String>,
    /// That the content hash differs although all was sent anew; none once another stream has begun.
    pub dispute: Option<String>,
    /// Since when the store has been silent to the control plane that is followed, as far as that one says so; none while it is in
    /// touch.
    pub store_silent_since: Option<Instant>,
    /// Whether that one says that the registry goes on in another store.
    pub goes_on_elsewhere: bool,
    /// When the snapshot was last known to be current, and how old it was then.
    confirmed: Option<(Instant, Duration)>,
}

impl Status {
    pub(crate) fn new(source: Source, age: Duration, now: Instant) -> Self {
        let confirmed = (source == Source::Cached).then_some((now, age));
        Self {
            source,
            connected: false,
            changed: now,
            url: None,
            left: None,
            last: None,
            moves: 0,
            ended: ENDS.map(|reason| (reason, 0)).into(),
            nacks: 0,
            refusal: None,
            dispute: None,
            store_silent_since: None,
            goes_on_elsewhere: false,
            confirmed,
        }
    }

    /// How long ago the snapshot was last known to be current. None when nothing is held, or by a static file.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.confirmed.map(|(at, age)| now.saturating_duration_since(at) + age)
    }

    pub(crate) fn set_connected(&mut self, connected: bool, now: Instant) {
        if self.connected != connected {
            self.connected = connected;
            self.changed = now;
        }
        if connected {
            self.dispute = None;
        }
        (self.store_silent_since, self.goes_on_elsewhere) = (None, false);
    }

    /// Notes that the control plane at `url` is followed now.
    pub(crate) fn follow(&mut self, url: &str, now: Instant) {
        self.left = self.left_for(url);
        self.set_connected(true, now);
        if self.url.as_deref() != Some(url) {
            self.moves += u64::from(self.url.replace(url.into()).is_some());
        }
    }

    /// The one that will have been followed before the one at `url`, once that is followed.
    pub(crate) fn left_for(&self, url: &str) -> Option<Left> {
        let last = self.last.as_ref().filter(|last| *last.url != *url);
        last.or(self.left.as_ref()).cloned()
    }

    /// Notes why a stream ended, or could not begin. `wall` is `now` by the wall clock.
    pub(crate) fn end(&mut self, reason: &'static str, now: Instant, wall: SystemTime) {
        if self.connected {
            self.last = self.url.clone().map(|url| Left { url, reason, at: wall });
        }
        self.set_connected(false, now);
        *self.ended.entry(reason).or_default() += 1;
    }

    /// Notes that what is held is what a control plane has that has heard nothing of its store for `silence`.
    pub(crate) fn confirm(&mut self, now: Instant, silence: Duration) {
        self.source = Source::Live;
        self.confirmed = Some((now, silence));
        self.refusal = None;
    }

    /// Takes in how long the store has been silent to the control plane that is followed; zero: it is in touch.
    /// Yields whether it has changed sides.
    pub(crate) fn hear_of_store(&mut self, silence: Duration, now: Instant) -> bool {
        let was_silent = self.store_silent_since.is_some();
        self.store_silent_since = (!silence.is_zero()).then(|| now.checked_sub(silence).unwrap_or(now));
        was_silent != self.store_silent_since.is_some()
    }

    pub(crate) fn refuse(&mut self, refusal: String) {
        self.nacks += 1;
        self.refusal = Some(refusal);
    }

    pub(crate) fn dispute(&mut self, why: String) {
        self.dispute = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_snapshot_goes_on_ageing_until_it_is_confirmed() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let mut status = Status::new(Source::Cached, 5 * minute, start);
        assert_eq!(status.age(start + minute), Some(6 * minute));
        assert!(
            status.hear_of_store(Duration::from_secs(20), start + minute),
            "it has confirmed nothing by that"
        );
        assert_eq!(status.age(start + minute), Some(6 * minute));
        status.confirm(start + minute, Duration::ZERO);
        assert_eq!(status.age(start + 3 * minute), Some(2 * minute));
        assert_eq!(status.source, Source::Live);
    }

    #[test]
    fn what_is_confirmed_by_a_control_plane_without_its_store_is_as_old_as_its_last_word_from_there() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut status = Status::new(Source::Cached, Duration::ZERO, start);
        status.follow("a", start);
        status.confirm(start + 30 * second, 20 * second);
        assert!(status.hear_of_store(20 * second, start + 30 * second));
        assert_eq!(status.store_silent_since, Some(start + 10 * second));
        assert_eq!(status.age(start + 31 * second), Some(21 * second));
        assert!(!status.hear_of_store(25 * second, start + 35 * second), "as before");
        assert!(status.hear_of_store(Duration::ZERO, start + 36 * second));
        assert!(status.hear_of_store(20 * second, start + 37 * second));
        status.end("closed", start + 38 * second, SystemTime::UNIX_EPOCH);
        assert_eq!(status.store_silent_since, None, "nobody says so any more");
    }

    #[test]
    fn nothing_held_and_a_static_list_have_no_age() {
        let now = Instant::now();
        for source in [Source::None, Source::Static] {
            assert_eq!(Status::new(source, Duration::ZERO, now).age(now), None);
        }
    }

    #[test]
    fn a_move_is_to_another_control_plane_than_before_and_not_back_to_the_same() {
        let now = Instant::now();
        let mut status = Status::new(Source::None, Duration::ZERO, now);
        for (url, moves) in [("a", 0), ("a", 0), ("b", 1), ("a", 2)] {
            status.follow(url, now);
            assert!(status.connected);
            assert_eq!(status.moves, moves);
            status.end("closed", now, SystemTime::UNIX_EPOCH);
        }
        assert_eq!((status.connected, status.url.as_deref(), status.ended["closed"]), (false, Some("a"), 4));
    }

    #[test]
    fn what_was_left_is_the_other_control_plane_that_was_followed_last_and_why_its_stream_ended() {
        let (now, at) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let mut status = Status::new(Source::None, Duration::ZERO, now);
        let left = |status: &Status| status.left.clone().map(|left| (left.url.to_string(), left.reason));
        status.end("unreachable", now, at);
        status.follow("a", now);
        assert_eq!(left(&status), None, "it was never followed");
        status.end("outdated", now, at);
        status.end("unreachable", now, at);
        status.follow("b", now);
        assert_eq!(left(&status), Some(("a".into(), "outdated")));
        // The same one again.
        status.end("closed", now, at);
        status.follow("b", now);
        assert_eq!(left(&status), Some(("a".into(), "outdated")));
        status.end("silent", now, at);
        status.follow("a", now);
        assert_eq!(left(&status), Some(("b".into(), "silent")));
    }

    #[test]
    fn the_time_of_connecting_stays_while_it_stays_connected() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut status = Status::new(Source::None, Duration::ZERO, start);
        status.set_connected(true, start + second);
        status.set_connected(true, start + 2 * second);
        assert_eq!(status.changed, start + second);
    }
}
