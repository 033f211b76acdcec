//! What is known of a request when its answer has ended, handed over by its worker as it is: spans are made elsewhere.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Method, Version};

use super::Context;
use crate::{access_log::Outcome, table::Replica};

/// One request. Times are since it began.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) context: Context,
    /// As it came, and as it is passed on.
    pub(crate) tracestate: String,
    pub(crate) began: SystemTime,
    pub(crate) duration: Duration,
    pub(crate) method: Method,
    /// Without a query.
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    pub(crate) is_secure: bool,
    pub(crate) version: Version,
    pub(crate) user_agent: Option<Vec<u8>>,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) service: Option<String>,
    /// The path prefix of the explicit route that it took.
    pub(crate) route: Option<String>,
    /// `None` when there was no answer before its client was gone.
    pub(crate) status: Option<u16>,
    /// Why the gateway made the answer itself, if it did.
    pub(crate) error: Option<&'static str>,
    pub(crate) end: &'static str,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) request_id: String,
    /// The path that replicas get, without a query.
    pub(crate) sent_path: String,
    pub(crate) attempts: Vec<Tried>,
    /// How many there were.
    pub(crate) attempt_count: usize,
    pub(crate) events: Vec<(Duration, Event)>,
}

/// One attempt at a replica.
#[derive(Debug)]
pub(crate) struct Tried {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) replica: Arc<Replica>,
    pub(crate) is_probe: bool,
    pub(crate) began: Duration,
    /// `None`: it was given up with its request.
    pub(crate) ended: Option<(Outcome, Duration)>,
}

/// What happened to a request beside its attempts.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A replica was passed over, whose breaker was in that state.
    PassedOver(Arc<Replica>, &'static str),
    /// An attempt began beside others that take long.
    Hedged(usize),
    /// A failed attempt is followed by another, after a pause.
    Retried(Duration),
    /// A failed attempt is not followed by another, for that reason.
    Stopped(&'static str),
    /// Something else answers in place of a failure.
    FellBack(&'static str),
    /// Something was done to it on purpose.
    FaultInjected(&'static str),
}

impl Story {
    pub(super) fn span_count(&self) -> u64 {
        1 + self.attempts.len() as u64
    }
}
