//! The one table from what can go wrong to what callers are told, over gRPC and over HTTP.
//!
//! gRPC: the canonical code with `google.rpc` details. HTTP: `application/problem+json` (RFC 9457) with the same
//! reason. Both carry the same sentence.

mod problem;

use std::{collections::HashMap, time::Duration};

use axum::response::{IntoResponse, Response};
use gateway_proto::{Invalid, ReplicaKey, ServiceName, reason};
use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

pub(crate) use self::problem::Problem;
use crate::{
    auth::Denied,
    observe::TooManyNodes,
    registry::{RegistryError, Revision},
    writer::WriteError,
};

/// When to try again what failed for want of room or of the store.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Bytes of a sentence, and half of those about fields: a status travels in headers, three bytes for each that is not ASCII, and many a client
/// ends its connection at more than 8 KiB of them. What repeats a caller's words is as long, or lists all settings.
const MAX_SAID_BYTES: usize = 1000;

/// Why a request is not done. Nothing was changed by it, unless its text says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The request's fields.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    #[error("service {0} is not registered")]
    ServiceNotFound(ServiceName),
    /// A rule of the registry, the queue or the store.
    #[error("{0}")]
    Write(#[from] WriteError),
    #[error("the page token is not of this list: begin again without one")]
    PageToken,
    /// Who asks may not, or nobody knows who he is.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// Too many of something that each caller takes one of.
    #[error("{what}: {limit} are allowed at once")]
    Quota { what: &'static str, limit: usize },
    #[error("a newer stream of data plane {0} has begun: node ids must be unique")]
    Superseded(gateway_proto::NodeId),
    #[error("what was sent was not acked in time")]
    AckOverdue,
    /// A move to another store.
    #[error("{0}")]
    Move(#[from] CannotMove),
    #[error("the message is larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// A body, or the first message of a stream.
    #[error("no whole message came within {}s", .0.as_secs())]
    TooSlow(Duration),
    /// A panic in the handler.
    #[error(
        "the control plane met a defect in this request, which its log tells; the request may have been carried out"
    )]
    Internal,
    /// HTTP only.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// HTTP only.
    #[error("send the body as content-type: application/json")]
    MediaType,
    /// HTTP only.
    #[error("this path does not take {0}")]
    Method(http::Method),
    /// HTTP only.
    #[error("there is nothing at this path: GET /openapi.json lists what there is")]
    Path,
    /// HTTP only: a name that a page of somebody else's may have been made to lead here.
    #[error("this server does not go by the name {0:?}: start it with --allowed-host if it should")]
    Host(String),
    /// HTTP only: the request was made by a page of another site.
    #[error("changes are not taken from pages of {0}")]
    Origin(String),
    /// HTTP only: a web page asked for a change.
    #[error(
        "this control plane listens beyond this machine and takes no changes from web pages: use gwctl, or start it with \
         --allow-dashboard-writes"
    )]
    PageWrite,
    /// HTTP only.
    #[error("there is no stream of events at this path")]
    NotAStream,
}

/// Why what is registered cannot be moved to another store, or not yet be taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CannotMove {
    #[error(
        "control planes share this one's store, which is copied, moved and reopened without them: name it, etcd://HOST:PORT/PREFIX"
    )]
    Shared,
    #[error(
        "this control plane takes no changes now: its store is away, or has moved already; its log and  gwctl events  say which, and  gwctl store \
         reopen  has changes taken again where it has moved"
    )]
    Closed,
    #[error("it is being moved to {to}: end that  gwctl store migrate , and changes are taken again")]
    UnderWay { to: String },
    #[error("the registry is at revision {now}, and {read} is what was read: begin again")]
    Outdated { read: Revision, now: Revision },
    #[error("the move took longer than {}s: changes are taken again, so remove what is in the new store, and begin again", .0.as_secs())]
    Overdue(Duration),
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        Self::Write(error.into())
    }
}

impl From<TooManyNodes> for Refusal {
    fn from(error: TooManyNodes) -> Self {
        Self::Quota { what: "too many data planes are connected", limit: error.limit }
    }
}

/// One row of the table.
struct Row {
    code: Code,
    http: StatusCode,
    reason: &'static str,
    retry: Option<Duration>,
    /// Kind and name of what it is about.
    resource: Option<(&'static str, String)>,
}

impl Refusal {
    /// Whether the store is what is in the way, and nothing about the request.
    pub(crate) fn is_of_store(&self) -> bool {
        matches!(
            self,
            Self::Write(
                WriteError::StoreUnavailable
                    | WriteError::StoreMoves
                    | WriteError::StoreMoved(_)
                    | WriteError::StoreFull
                    | WriteError::StoreFullUnanswered
                    | WriteError::Interrupted
            )
        )
    }

    fn row(&self) -> Row {
        use reason as r;
        let (code, http, reason) = match self {
            Self::Invalid(_) | Self::Write(WriteError::Refused(RegistryError::LeaseRequired(_))) => {
                (Code::InvalidArgument, StatusCode::BAD_REQUEST, r::INVALID_FIELD)
            }
            Self::ServiceNotFound(_) => (Code::NotFound, StatusCode::NOT_FOUND, r::SERVICE_NOT_FOUND),
            Self::Write(WriteError::Refused(refused)) => match refused {
                RegistryError::ReplicaNotFound(_) => {
                    (Code::NotFound, StatusCode::NOT_FOUND, r::REPLICA_NOT_FOUND)
                }
                RegistryError::LeaseExpired(_) => (Code::NotFound, StatusCode::NOT_FOUND, r::LEASE_EXPIRED),
                // 409 rather than 400, so that people tell a state that forbids it from a typo.
                RegistryError::LeaseMismatch(_) | RegistryError::LeaseRequired(_) => {
                    (Code::FailedPrecondition, StatusCode::CONFLICT, r::LEASE_MISMATCH)
                }
                RegistryError::DrainedByOperator(_) => {
                    (Code::PermissionDenied, StatusCode::FORBIDDEN, r::PERMISSION_DENIED)
                }
                RegistryError::AddressInUse { .. } => {
                    (Code::AlreadyExists, StatusCode::CONFLICT, r::ADDRESS_IN_USE)
                }
                RegistryError::ReplicaRemoved { .. } => {
                    (Code::FailedPrecondition, StatusCode::CONFLICT, r::REPLICA_REMOVED)
                }
                RegistryError::ReplicaGone { .. } => {
                    (Code::NotFound, StatusCode::NOT_FOUND, r::REPLICA_REMOVED)
                }
                RegistryError::RegistrationBlocked { .. } => {
                    (Code::FailedPrecondition, StatusCode::CONFLICT, r::REREGISTER_BLOCKED)
                }
                RegistryError::LastReadyReplica(_) => {
                    (Code::FailedPrecondition, StatusCode::CONFLICT, r::LAST_READY_REPLICA)
                }
                RegistryError::RequestIdReused(_) => {
                    (Code::InvalidArgument, StatusCode::BAD_REQUEST, r::REQUEST_ID_REUSED)
                }
                RegistryError::EtagMismatch(_) => {
                    (Code::Aborted, StatusCode::PRECONDITION_FAILED, r::ETAG_MISMATCH)
                }
                RegistryError::PolicyNotFound(_) => {
                    (Code::NotFound, StatusCode::NOT_FOUND, r::POLICY_NOT_FOUND)
                }
                RegistryError::Invalid(_) => {
                    (Code::InvalidArgument, StatusCode::BAD_REQUEST, r::POLICY_INVALID)
                }
                RegistryError::FaultInjectionNotAllowed(_) => {
                    (Code::FailedPrecondition, StatusCode::CONFLICT, r::FAULT_INJECTION_NOT_ALLOWED)
                }
                RegistryError::RouteNotFound(_) => {
                    (Code::NotFound, StatusCode::NOT_FOUND, r::ROUTE_NOT_FOUND)
                }
                RegistryError::InvalidRoute(_) => {
                    (Code::InvalidArgument, StatusCode::BAD_REQUEST, r::ROUTE_INVALID)
                }
                RegistryError::RouteConflict { .. } => {
                    (Code::AlreadyExists, StatusCode::CONFLICT, r::ROUTE_CONFLICT)
                }
                RegistryError::ServiceNotFound(_) => {
                    (Code::NotFound, StatusCode::NOT_FOUND, r::SERVICE_NOT_FOUND)
                }
                RegistryError::QuotaExceeded { .. } | RegistryError::IdentityQuota { .. } => {
                    (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, r::QUOTA_EXCEEDED)
                }
            },
            Self::Write(
                WriteError::StoreUnavailable | WriteError::StoreMoves | WriteError::StoreMoved(_),
            ) => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, r::STORE_UNAVAILABLE),
            Self::Write(WriteError::StoreFull) => {
                (Code::ResourceExhausted, StatusCode::INSUFFICIENT_STORAGE, r::STORE_UNAVAILABLE)
            }
            Self::Write(WriteError::StoreFullUnanswered) => {
                (Code::ResourceExhausted, StatusCode::INSUFFICIENT_STORAGE, r::INTERRUPTED)
            }
            Self::Write(WriteError::Overloaded | WriteError::Overtaken) => {
                (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, r::OVERLOADED)
            }
            Self::Write(WriteError::Interrupted) => {
                (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, r::INTERRUPTED)
            }
            Self::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, r::INTERNAL_ERROR),
            Self::Write(WriteError::ShuttingDown) => {
                (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, r::SHUTTING_DOWN)
            }
            Self::PageToken => (Code::InvalidArgument, StatusCode::BAD_REQUEST, r::PAGE_TOKEN_INVALID),
            Self::Quota { .. } => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, r::QUOTA_EXCEEDED),
            Self::Superseded(_) => (Code::Aborted, StatusCode::CONFLICT, r::STREAM_SUPERSEDED),
            Self::Move(CannotMove::Overdue(_)) => {
                (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, r::MOVE_REFUSED)
            }
            Self::Move(_) => (Code::FailedPrecondition, StatusCode::CONFLICT, r::MOVE_REFUSED),
            Self::AckOverdue => (Code::DeadlineExceeded, StatusCode::REQUEST_TIMEOUT, r::ACK_OVERDUE),
            Self::TooLarge { .. } => {
                (Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE, r::MALFORMED_REQUEST)
            }
            Self::TooSlow(_) => (Code::DeadlineExceeded, StatusCode::REQUEST_TIMEOUT, r::MALFORMED_REQUEST),
            Self::NotJson(_) => (Code::InvalidArgument, StatusCode::BAD_REQUEST, r::MALFORMED_REQUEST),
            Self::MediaType => {
                (Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE, r::MALFORMED_REQUEST)
            }
            Self::Method(_) => (Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED, r::MALFORMED_REQUEST),
            Self::Path => (Code::NotFound, StatusCode::NOT_FOUND, r::MALFORMED_REQUEST),
            Self::Host(_) => (Code::PermissionDenied, StatusCode::MISDIRECTED_REQUEST, r::HOST_NOT_ALLOWED),
            Self::Origin(_) | Self::PageWrite => {
                (Code::PermissionDenied, StatusCode::FORBIDDEN, r::ORIGIN_NOT_ALLOWED)
            }
            Self::Denied(denied) => {
                let (code, http) = match denied {
                    Denied::Nobody(_) => (Code::Unauthenticated, StatusCode::UNAUTHORIZED),
                    Denied::Permission { .. } | Denied::Address { .. } => {
                        (Code::PermissionDenied, StatusCode::FORBIDDEN)
                    }
                    Denied::TooOften { .. } | Denied::Guesses { .. } | Denied::Crowd { .. } => {
                        (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS)
                    }
                };
                (code, http, denied.reason())
            }
            Self::NotAStream => (Code::InvalidArgument, StatusCode::NOT_ACCEPTABLE, r::MALFORMED_REQUEST),
        };
        let retry = match self {
            Self::Write(WriteError::Refused(RegistryError::RegistrationBlocked { remaining, .. })) => {
                Some(*remaining)
            }
            Self::Write(WriteError::Refused(_)) => None,
            Self::Write(_) => Some(RETRY_DELAY),
            Self::Denied(Denied::TooOften { retry, .. } | Denied::Guesses { retry }) => Some(*retry),
            _ => None,
        };
        Row { code, http, reason, retry, resource: self.resource() }
    }

    fn resource(&self) -> Option<(&'static str, String)> {
        let replica = |key: &ReplicaKey| Some(("replica", key.to_string()));
        match self {
            Self::ServiceNotFound(name) => Some(("service", name.to_string())),
            Self::Denied(denied) => Some(("service", denied.service()?.to_string())),
            Self::Write(WriteError::Refused(refused)) => match refused {
                RegistryError::ReplicaNotFound(key)
                | RegistryError::LeaseExpired(key)
                | RegistryError::LeaseRequired(key)
                | RegistryError::ReplicaRemoved { key, .. }
                | RegistryError::ReplicaGone { key, .. }
                | RegistryError::RequestIdReused(key)
                | RegistryError::LastReadyReplica(key)
                | RegistryError::DrainedByOperator(key)
                | RegistryError::LeaseMismatch(key) => replica(key),
                RegistryError::AddressInUse { service, owner, .. } => {
                    replica(&ReplicaKey { service: service.clone(), replica: owner.clone() })
                }
                RegistryError::ServiceNotFound(name) => Some(("service", name.to_string())),
                RegistryError::PolicyNotFound(scope) | RegistryError::FaultInjectionNotAllowed(scope) => {
                    Some(("policy", scope.to_string()))
                }
                RegistryError::RouteNotFound(name) => Some(("route", name.to_string())),
                RegistryError::RouteConflict { other, .. } => Some(("route", other.to_string())),
                RegistryError::QuotaExceeded { .. }
                | RegistryError::IdentityQuota { .. }
                | RegistryError::RegistrationBlocked { .. }
                | RegistryError::EtagMismatch(_)
                | RegistryError::InvalidRoute(_)
                | RegistryError::Invalid(_) => None,
            },
            _ => None,
        }
    }

    fn violations(&self) -> Vec<(String, String)> {
        match self {
            Self::Invalid(invalid)
            | Self::Write(WriteError::Refused(
                RegistryError::Invalid(invalid) | RegistryError::InvalidRoute(invalid),
            )) => invalid.violations().iter().map(|v| (v.field.clone(), v.description.clone())).collect(),
            Self::Write(WriteError::Refused(RegistryError::LeaseRequired(_))) => {
                vec![(
                    "lease_id".into(),
                    "is required for a replica with a lease, unless force is set".into(),
                )]
            }
            Self::Write(WriteError::Refused(RegistryError::RequestIdReused(_))) => {
                vec![("request_id".into(), "was used before for another registration".into())]
            }
            Self::PageToken => vec![("page_token".into(), "is not of this list".into())],
            _ => Vec::new(),
        }
    }

    fn metadata(row: &Row) -> HashMap<String, String> {
        let entry = |(kind, name): &(&'static str, String)| ((*kind).to_owned(), name.clone());
        row.resource.iter().map(entry).collect()
    }

    /// The machine-readable reason.
    pub(crate) fn reason(&self) -> &'static str {
        self.row().reason
    }

    /// The gRPC status.
    pub(crate) fn status(&self) -> Status {
        let row = self.row();
        let mut details = ErrorDetails::new();
        details.set_error_info(row.reason, reason::DOMAIN, Self::metadata(&row));
        let violations = self.violations();
        if !violations.is_empty() {
            let mut room = 2 * MAX_SAID_BYTES;
            let fits = |said: &FieldViolation| {
                room.checked_sub(said.description.len()).inspect(|left| room = *left).is_some()
            };
            let violation = |(field, description)| FieldViolation::new(field, cut(description));
            details
                .set_bad_request(violations.into_iter().map(violation).take_while(fits).collect::<Vec<_>>());
        }
        if row.retry.is_some() {
            details.set_retry_info(row.retry);
        }
        if let Some((kind, name)) = &row.resource {
            details.set_resource_info(format!("gateway.v1/{kind}"), name, "", cut(self.to_string()));
        }
        Status::with_error_details(row.code, cut(self.to_string()), details)
    }
}

/// The beginning of a text that is too long, which an ellipsis shows.
fn cut(mut text: String) -> String {
    if text.len() > MAX_SAID_BYTES {
        let end = (0..=MAX_SAID_BYTES - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.status()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

#[cfg(test)]
mod tests;
