//! What whoever holds a lease asks of the registry and hears from it, whether it supervises a program or is one.

use std::time::Duration;

use gateway_proto::{
    ReplicaKey, reason,
    v1::{DeregisterRequest, RegisterRequest},
};
use rand::Rng as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Longest wait for a call that waits for nothing itself.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between tries begin with this, double, and end with [`MAX_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Bounds a call, so that a silent control plane is one that is away.
pub(crate) async fn within<T>(
    longest: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(longest, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {longest:?}"))),
    }
}

/// Why a lease keeps its replica alive no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It has lapsed, or somebody removed the replica: register anew.
    Gone,
    /// Another process has registered this replica: it is no longer ours.
    Superseded,
}

impl Lost {
    /// Whether a refusal means that.
    pub(crate) fn of(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        match details.error_info()?.reason.as_str() {
            reason::LEASE_MISMATCH => Some(Self::Superseded),
            reason::LEASE_EXPIRED | reason::REPLICA_REMOVED | reason::REPLICA_NOT_FOUND => Some(Self::Gone),
            _ => None,
        }
    }
}

/// Names a request, so that the registry knows a repetition by it: a UUID of version 4 (RFC 9562).
pub(crate) fn request_id() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// Makes of a registration that has failed so the one to send next: the same, which the registry knows by its id for a repetition;
/// or another one, where it was carried out and what came of it is gone.
pub(crate) fn prepare_again(request: &mut RegisterRequest, failure: &Status) {
    if is_spent(failure) {
        request.request_id = request_id();
    }
}

/// Whether a request of that id was carried out, and what came of it is gone or another's: the next one is another request.
pub(crate) fn is_spent(status: &Status) -> bool {
    let details = status.get_error_details();
    let is_reused = details.error_info().is_some_and(|info| info.reason == reason::REQUEST_ID_REUSED);
    is_reused || Lost::of(status).is_some()
}

/// What leaves the registry. A control plane that does not hear it lets the lease lapse.
pub(crate) fn leaving(key: &ReplicaKey, lease_id: String) -> DeregisterRequest {
    DeregisterRequest {
        service: key.service.to_string(),
        replica_id: key.replica.to_string(),
        lease_id,
        reason: "the process ends".into(),
        ..Default::default()
    }
}

/// How long to rest before a call is tried again that has failed like this; `None`: no second try would come to more. As long as
/// the control plane asks for, and with full jitter up to `longest` beyond that.
pub(crate) fn rest_after(status: &Status, longest: Duration) -> Option<Duration> {
    if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) {
        return None;
    }
    let asked = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    Some(asked.unwrap_or_default() + rand::rng().random_range(Duration::ZERO..=longest))
}

/// Full jitter, so that many replicas do not come back together.
pub(crate) async fn jittered(longest: Duration) {
    let pause = rand::rng().random_range(Duration::ZERO..=longest);
    tokio::time::sleep(pause).await;
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_request_is_named_by_a_uuid_of_its_own() {
        let id = request_id();
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
        assert!(id.chars().all(|c| c == '-' || c.is_ascii_hexdigit()), "{id}");
        assert!(id[14..].starts_with('4') && matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        assert_ne!(id, request_id());
    }

    #[test]
    fn what_may_pass_is_tried_again_no_sooner_than_is_asked_for() {
        let busy = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        let busy = Status::with_error_details(Code::ResourceExhausted, "busy", busy);
        let rest = rest_after(&busy, MAX_PAUSE).unwrap();
        assert!((Duration::from_secs(3)..=Duration::from_secs(3) + MAX_PAUSE).contains(&rest), "{rest:?}");
        assert!(rest_after(&Status::unavailable("away"), MAX_PAUSE).is_some_and(|rest| rest <= MAX_PAUSE));
        assert!(rest_after(&Status::deadline_exceeded("slow"), MAX_PAUSE).is_some());
        assert_eq!(rest_after(&Status::permission_denied("no"), MAX_PAUSE), None);
    }

    #[test]
    fn a_refusal_tells_whether_to_register_anew_to_leave_it_or_to_try_again() {
        let refused = |reason: &str| {
            let mut details = ErrorDetails::new();
            details.set_error_info(reason, reason::DOMAIN, []);
            Lost::of(&Status::with_error_details(Code::FailedPrecondition, "no", details))
        };
        for reason in [reason::LEASE_EXPIRED, reason::REPLICA_REMOVED, reason::REPLICA_NOT_FOUND] {
            assert_eq!(refused(reason), Some(Lost::Gone));
        }
        assert_eq!(refused(reason::LEASE_MISMATCH), Some(Lost::Superseded));
        assert_eq!(refused(reason::STORE_UNAVAILABLE), None);
        assert_eq!(Lost::of(&Status::unavailable("away")), None);
    }
}
