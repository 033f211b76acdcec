//! Whether a failed attempt is followed by another, decided by what the replica can have seen of it.
//!
//! A request that a replica may have acted on is repeated only if repeating it is harmless. The decision needs no
//! state: the caller says how far the request has come, and carries out the [`Verdict`].

use std::{fmt, time::Duration};

use gateway_proto::policy;
use http::Method;

use super::backoff;

/// What the replica can have seen of the failed attempt, from nothing to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// Nothing: no byte of the request was written. Connect refused or timed out, a failed handshake.
    Unsent,
    /// It said that it did not process it: HTTP/2 `REFUSED_STREAM`, or a `GOAWAY` with a lower last stream.
    RefusedUnseen,
    /// Anything: bytes were written, and no response came.
    Unknown,
    /// All of it, and it answered with a failure of which nothing was forwarded yet.
    Answered,
}

/// What is known of the request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFacts {
    /// Doing it twice is like doing it once, as far as the policy is concerned; see [`may_repeat`].
    pub idempotent: bool,
    /// It can be sent again from its first byte: all of the body that was read is still held.
    pub replayable: bool,
}

/// How far the request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Retries so far that were [`counted`](Verdict::Retry::counted).
    pub retries_used: u8,
    /// Whether a replica is left that this request has not tried, with a place for it if it does not wait for one.
    pub untried_replicas: bool,
    /// Time until the request's deadline.
    pub remaining: Duration,
    /// What the replica asks for, if it answered.
    pub pushback: Option<Pushback>,
    /// Whether another has asked for something like that before.
    pub was_pushed_back: bool,
}

/// What a replica that answered with a failure says about another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// There had better be none.
    Never,
    /// Not before so long.
    After(Duration),
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try an untried replica.
    Retry {
        /// After this pause, which is shorter than the time that remains.
        after: Duration,
        /// Whether this adds one to [`Progress::retries_used`].
        counted: bool,
    },
    /// Answer the client with this attempt's failure.
    Stop(Stop),
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The replica may have acted on it, and its method does not allow to do so twice.
    NotIdempotent,
    /// Its body is no longer held in full.
    NotReplayable,
    /// It has had all retries that the policy, or the refusing replica, allows.
    RetriesUsed,
    /// Every replica that may be asked was asked, or has no place for it.
    NoOtherReplica,
    /// The service's retry budget is spent.
    BudgetExhausted,
    /// The pause would outlast the deadline.
    NoTimeLeft,
    /// Its replica asked for no other attempt, or for one later than there is time, or it is the second that asks for time.
    PushedBack,
}

impl Stop {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NotIdempotent,
        Self::NotReplayable,
        Self::RetriesUsed,
        Self::NoOtherReplica,
        Self::BudgetExhausted,
        Self::NoTimeLeft,
        Self::PushedBack,
    ];

    /// One word for it, for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotIdempotent => "not_idempotent",
            Self::NotReplayable => "not_replayable",
            Self::RetriesUsed => "retries_used",
            Self::NoOtherReplica => "no_other_replica",
            Self::BudgetExhausted => "budget_exhausted",
            Self::NoTimeLeft => "no_time_left",
            Self::PushedBack => "pushed_back",
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotIdempotent => "the request is not idempotent and may have been seen",
            Self::NotReplayable => "the request body is too large to be sent again",
            Self::RetriesUsed => "all retries are used",
            Self::NoOtherReplica => "no other replica is left to try",
            Self::BudgetExhausted => "the retry budget of the service is exhausted",
            Self::NoTimeLeft => "the deadline leaves no time for a retry",
            Self::PushedBack => {
                "the replica asked for no retry before the deadline, or is the second to ask for time"
            }
        })
    }
}

/// Decides what follows a failed attempt.
///
/// | the replica | which requests | how often | pause and budget |
/// |---|---|---|---|
/// | cannot have seen it | all | while an untried replica is left | none |
/// | says it did not process it | replayable | the first time | none |
/// | says so once more | replayable | `max_retry_count` | back-off, one from the budget |
/// | may have seen it, or answered | idempotent and replayable | `max_retry_count` | back-off, one from the budget |
///
/// Each replica is tried at most once. `try_budget` is called last, and only if nothing else stands against the
/// retry; `random` (0.0..1.0) sizes the back-off.
///
/// A replica that pushes back is heeded for up to `max_pushback`, once: when two ask for time, all are likely to be short of
/// it. So it says in RFC 9110 section 10.2.3 (`Retry-After`) and in gRFC A6 (`grpc-retry-pushback-ms`).
///
/// RFC 9110 section 9.2.2 forbids a proxy to repeat non-idempotent requests; RFC 9113 section 8.7 excepts those that
/// were provably not processed. gRFC A6 has them repeated without further ado once only, lest servers that refuse are asked forever:
/// from then on they are retries like any other.
pub fn decide(
    proof: Proof,
    facts: RequestFacts,
    progress: Progress,
    policy: &policy::Retry,
    try_budget: impl FnOnce() -> bool,
    random: f64,
) -> Verdict {
    if let Some(stop) = forbidden(proof, facts, progress, policy) {
        return Verdict::Stop(stop);
    }
    if !progress.untried_replicas {
        return Verdict::Stop(Stop::NoOtherReplica);
    }
    let unseen = is_unseen(proof, progress);
    let after = if unseen {
        Duration::ZERO
    } else {
        let backoff =
            backoff::delay(policy.base_backoff, policy.max_backoff, progress.retries_used.into(), random);
        match pushed_back(progress, policy) {
            Some(wait) => backoff.max(wait),
            None => return Verdict::Stop(Stop::PushedBack),
        }
    };
    if after >= progress.remaining {
        return Verdict::Stop(Stop::NoTimeLeft);
    }
    if !unseen && !try_budget() {
        return Verdict::Stop(Stop::BudgetExhausted);
    }
    Verdict::Retry { after, counted: proof != Proof::Unsent }
}

/// How long its replica has the request wait; `None`: it had better go no further.
fn pushed_back(progress: Progress, policy: &policy::Retry) -> Option<Duration> {
    match progress.pushback {
        None => Some(Duration::ZERO),
        Some(_) if policy.max_pushback.is_zero() => Some(Duration::ZERO),
        Some(Pushback::Never) => None,
        Some(Pushback::After(_)) if progress.was_pushed_back => None,
        Some(Pushback::After(wait)) => (wait < progress.remaining).then(|| wait.min(policy.max_pushback)),
    }
}

/// Whether the replica's not having seen it is reason enough to go on at once, and for nothing. A refusal is so once.
fn is_unseen(proof: Proof, progress: Progress) -> bool {
    match proof {
        Proof::Unsent => true,
        Proof::RefusedUnseen => progress.retries_used == 0,
        Proof::Unknown | Proof::Answered => false,
    }
}

/// What in the request, or in its past, forbids to send it again.
fn forbidden(proof: Proof, facts: RequestFacts, progress: Progress, policy: &policy::Retry) -> Option<Stop> {
    match proof {
        Proof::Unsent => None,
        Proof::Unknown | Proof::Answered if !facts.idempotent => Some(Stop::NotIdempotent),
        _ if !facts.replayable => Some(Stop::NotReplayable),
        _ if is_unseen(proof, progress) => None,
        _ => (progress.retries_used >= policy.max_retry_count).then_some(Stop::RetriesUsed),
    }
}

/// Whether a request may be done twice: by its method, or because its replicas know it again by its key
/// (draft-ietf-httpapi-idempotency-key-header).
pub fn may_repeat(
    method: &Method,
    has_idempotency_key: impl FnOnce() -> bool,
    policy: &policy::Retry,
) -> bool {
    let by_method = if policy.methods == policy::Methods::IDEMPOTENT {
        // As nearly always; quicker than by names.
        is_idempotent(method)
    } else {
        policy.methods.has(method.as_str())
    };
    by_method || policy.idempotency_key && has_idempotency_key()
}

/// Whether doing a request with this method twice is like doing it once: RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const BOTH: [bool; 2] = [true, false];
    /// As long as half of the first back-off.
    const SHORT: Duration = Duration::from_micros(12_500);

    const NOTHING_YET: Progress = Progress {
        retries_used: 0,
        untried_replicas: true,
        remaining: Duration::ZERO,
        pushback: None,
        was_pushed_back: false,
    };

    /// The verdict with a `random` of a half, and whether the budget was asked.
    fn decision(proof: Proof, facts: RequestFacts, progress: Progress, budget: bool) -> (Verdict, bool) {
        let mut asked = false;
        let try_budget = || {
            asked = true;
            budget
        };
        let verdict = decide(proof, facts, progress, &policy::Retry::default(), try_budget, 0.5);
        (verdict, asked)
    }

    /// Every combination of what `decide` looks at, up to four retries.
    fn every_case() -> impl Iterator<Item = (RequestFacts, Progress, bool)> {
        let flags = (0..16_u8).map(|bits| [1, 2, 4, 8].map(|bit| bits & bit != 0));
        flags.flat_map(|[idempotent, replayable, untried_replicas, budget]| {
            (0..4).flat_map(move |retries_used| {
                [Duration::ZERO, SHORT, 100 * MS].map(move |remaining| {
                    let facts = RequestFacts { idempotent, replayable };
                    (facts, Progress { retries_used, untried_replicas, remaining, ..NOTHING_YET }, budget)
                })
            })
        })
    }

    #[test]
    fn an_unsent_request_of_any_kind_goes_on_while_a_replica_and_time_are_left() {
        for (facts, progress, budget) in every_case() {
            let wanted = if !progress.untried_replicas {
                Verdict::Stop(Stop::NoOtherReplica)
            } else if progress.remaining.is_zero() {
                Verdict::Stop(Stop::NoTimeLeft)
            } else {
                Verdict::Retry { after: Duration::ZERO, counted: false }
            };
            let decided = decision(Proof::Unsent, facts, progress, budget);
            assert_eq!(decided, (wanted, false), "{facts:?} {progress:?} {budget}");
        }
    }

    #[test]
    fn a_request_that_may_have_been_seen_is_repeated_only_if_nothing_stands_against_it() {
        for proof in [Proof::Unknown, Proof::Answered] {
            for (facts, progress, budget) in every_case() {
                let Progress { retries_used, untried_replicas, remaining, .. } = progress;
                let after = SHORT * 2_u32.pow(retries_used.into());
                let stands_against = [
                    (!facts.idempotent, Stop::NotIdempotent),
                    (!facts.replayable, Stop::NotReplayable),
                    (retries_used >= 2, Stop::RetriesUsed),
                    (!untried_replicas, Stop::NoOtherReplica),
                    (after >= remaining, Stop::NoTimeLeft),
                    (!budget, Stop::BudgetExhausted),
                ];
                let first = stands_against.iter().find(|(stands, _)| *stands);
                let wanted =
                    first.map_or(Verdict::Retry { after, counted: true }, |(_, stop)| Verdict::Stop(*stop));
                let asked = matches!(wanted, Verdict::Retry { .. } | Verdict::Stop(Stop::BudgetExhausted));
                let decided = decision(proof, facts, progress, budget);
                assert_eq!(decided, (wanted, asked), "{proof:?} {facts:?} {progress:?} {budget}");
            }
        }
    }

    #[test]
    fn a_first_refusal_is_followed_by_another_attempt_for_any_method_and_without_a_pause() {
        let progress = Progress { remaining: SHORT, ..NOTHING_YET };
        for (idempotent, budget) in BOTH.into_iter().flat_map(|flag| BOTH.map(|other| (flag, other))) {
            let facts = RequestFacts { idempotent, replayable: true };
            let wanted = Verdict::Retry { after: Duration::ZERO, counted: true };
            assert_eq!(decision(Proof::RefusedUnseen, facts, progress, budget), (wanted, false));
        }
        let facts = RequestFacts { idempotent: false, replayable: true };
        let stop = |facts, progress| match decision(Proof::RefusedUnseen, facts, progress, true) {
            (Verdict::Stop(stop), false) => stop,
            other => panic!("{other:?}"),
        };
        assert_eq!(stop(facts, Progress { untried_replicas: false, ..progress }), Stop::NoOtherReplica);
        assert_eq!(stop(facts, Progress { remaining: Duration::ZERO, ..progress }), Stop::NoTimeLeft);
        assert_eq!(stop(RequestFacts { replayable: false, ..facts }, progress), Stop::NotReplayable);
    }

    #[test]
    fn a_second_refusal_is_followed_by_what_follows_for_a_request_that_may_be_sent_twice() {
        for (facts, progress, budget) in every_case() {
            if progress.retries_used > 0 {
                let twice = RequestFacts { idempotent: true, ..facts };
                let unknown = decision(Proof::Unknown, twice, progress, budget);
                assert_eq!(decision(Proof::RefusedUnseen, facts, progress, budget), unknown);
            }
        }
    }

    #[test]
    fn the_methods_of_rfc_9110_may_be_repeated_and_others_by_key_or_by_policy() {
        let policy = policy::Retry::default();
        let keyless = policy::Retry { idempotency_key: false, ..policy };
        let repeats =
            |method: &str, has_key, policy| may_repeat(&method.parse().unwrap(), || has_key, policy);
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(repeats(method, false, &policy), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "PURGE", "get"] {
            assert!(!repeats(method, false, &policy), "{method}");
            assert!(repeats(method, true, &policy), "{method}");
            assert!(!repeats(method, true, &keyless), "{method}");
        }
        let methods = policy::Methods::parse(["POST", "GET"]).unwrap();
        let policy = policy::Retry { methods, ..policy };
        assert!(repeats("POST", false, &policy) && !repeats("PUT", false, &policy));
    }

    fn pushed(pushback: Pushback, was_pushed_back: bool, remaining: Duration) -> Verdict {
        let progress = Progress { remaining, pushback: Some(pushback), was_pushed_back, ..NOTHING_YET };
        let facts = RequestFacts { idempotent: true, replayable: true };
        decision(Proof::Answered, facts, progress, true).0
    }

    #[test]
    fn a_replica_that_says_when_to_come_back_is_heeded_once_and_for_so_long() {
        let retry = |after| Verdict::Retry { after, counted: true };
        let stop = Verdict::Stop(Stop::PushedBack);
        let after = |millis: u32| Pushback::After(millis * MS);
        assert_eq!(pushed(after(600), false, 5000 * MS), retry(600 * MS));
        assert_eq!(pushed(after(1), false, 5000 * MS), retry(SHORT), "the back-off is longer");
        assert_eq!(pushed(after(4000), false, 5000 * MS), retry(1000 * MS), "as long as the policy lets it");
        assert_eq!(pushed(after(5000), false, 5000 * MS), stop, "there is less time than it wants");
        assert_eq!(pushed(after(600), true, 5000 * MS), stop, "the second that asks for time");
        assert_eq!(pushed(Pushback::Never, false, 5000 * MS), stop);
    }

    #[test]
    fn what_replicas_say_of_waiting_is_ignored_where_the_policy_says_so() {
        let policy = policy::Retry { max_pushback: Duration::ZERO, ..policy::Retry::default() };
        for pushback in [Pushback::Never, Pushback::After(3600 * 1000 * MS)] {
            let progress = Progress {
                remaining: 100 * MS,
                pushback: Some(pushback),
                was_pushed_back: true,
                ..NOTHING_YET
            };
            let facts = RequestFacts { idempotent: true, replayable: true };
            let verdict = decide(Proof::Answered, facts, progress, &policy, || true, 0.5);
            assert_eq!(verdict, Verdict::Retry { after: SHORT, counted: true });
        }
    }

    #[test]
    fn every_stop_says_why() {
        let all = [
            (Stop::NotIdempotent, "the request is not idempotent and may have been seen"),
            (Stop::NotReplayable, "the request body is too large to be sent again"),
            (Stop::RetriesUsed, "all retries are used"),
            (Stop::NoOtherReplica, "no other replica is left to try"),
            (Stop::BudgetExhausted, "the retry budget of the service is exhausted"),
            (Stop::NoTimeLeft, "the deadline leaves no time for a retry"),
            (
                Stop::PushedBack,
                "the replica asked for no retry before the deadline, or is the second to ask for time",
            ),
        ];
        for (stop, text) in all {
            assert_eq!(stop.to_string(), text);
        }
    }
}
