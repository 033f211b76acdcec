//! Machine-readable reasons of errors: `google.rpc.ErrorInfo.reason` over gRPC, `reason` in problem+json over HTTP.
//!
//! The list is closed: clients may match on it.

/// `google.rpc.ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "gateway.v1";

/// A field of the request holds what it must not; the details name it.
pub const INVALID_FIELD: &str = "INVALID_FIELD";
/// The request's body, method or path is not what this endpoint takes.
pub const MALFORMED_REQUEST: &str = "MALFORMED_REQUEST";
/// No replica of this service is registered.
pub const SERVICE_NOT_FOUND: &str = "SERVICE_NOT_FOUND";
/// The service has no such replica.
pub const REPLICA_NOT_FOUND: &str = "REPLICA_NOT_FOUND";
/// The lease has lapsed and its replica is gone: register again.
pub const LEASE_EXPIRED: &str = "LEASE_EXPIRED";
/// The replica is there under another lease: somebody registered it anew.
pub const LEASE_MISMATCH: &str = "LEASE_MISMATCH";
/// Another replica of the service owns the address.
pub const ADDRESS_IN_USE: &str = "ADDRESS_IN_USE";
/// The replica was removed a short while ago: by an operator, by its owner, or otherwise.
pub const REPLICA_REMOVED: &str = "REPLICA_REMOVED";
/// An operator keeps the replica from registering for a time.
pub const REREGISTER_BLOCKED: &str = "REREGISTER_BLOCKED";
/// The id of a request was used for another request.
pub const REQUEST_ID_REUSED: &str = "REQUEST_ID_REUSED";
/// It has changed since the caller read it.
pub const ETAG_MISMATCH: &str = "ETAG_MISMATCH";
/// No ready replica of the service would remain.
pub const LAST_READY_REPLICA: &str = "LAST_READY_REPLICA";
/// No policy is stored for this service, or for all.
pub const POLICY_NOT_FOUND: &str = "POLICY_NOT_FOUND";
/// A policy holds a value that is out of range, or that contradicts another one.
pub const POLICY_INVALID: &str = "POLICY_INVALID";
/// A policy would inject a fault, and this control plane was not started with `--allow-fault-injection`.
pub const FAULT_INJECTION_NOT_ALLOWED: &str = "FAULT_INJECTION_NOT_ALLOWED";
/// There is no explicit route of this name.
pub const ROUTE_NOT_FOUND: &str = "ROUTE_NOT_FOUND";
/// A field of an explicit route holds what it must not, or the mask names none.
pub const ROUTE_INVALID: &str = "ROUTE_INVALID";
/// Another explicit route could match the same request, and nothing says which of the two counts.
pub const ROUTE_CONFLICT: &str = "ROUTE_CONFLICT";
/// A page token that this server did not issue for this request.
pub const PAGE_TOKEN_INVALID: &str = "PAGE_TOKEN_INVALID";
/// The store could not be asked for the change, or did not take it; nothing was changed.
pub const STORE_UNAVAILABLE: &str = "STORE_UNAVAILABLE";
/// The registry cannot be moved to another store from here, or not now, or not like this; nothing was changed.
pub const MOVE_REFUSED: &str = "MOVE_REFUSED";
/// More commands wait than the queue holds, or for longer than their callers do; nothing was changed.
pub const OVERLOADED: &str = "OVERLOADED";
/// A limit on replicas, streams, connections or data planes is reached.
pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
/// The store did not answer, or the control plane failed, with the change in hand, which may have been made or not; to repeat it is safe.
pub const INTERRUPTED: &str = "INTERRUPTED";
/// The request met a defect of the control plane, whose log tells it. What it asked for may have been done or not.
pub const INTERNAL_ERROR: &str = "INTERNAL_ERROR";
/// The control plane is shutting down.
pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// A newer stream of the same data plane has begun: node ids must be unique.
pub const STREAM_SUPERSEDED: &str = "STREAM_SUPERSEDED";
/// The data plane did not ack what it was sent in time.
pub const ACK_OVERDUE: &str = "ACK_OVERDUE";
/// Over HTTP, the server does not go by the name in `Host`: one of its names must be allowed first.
pub const HOST_NOT_ALLOWED: &str = "HOST_NOT_ALLOWED";
/// Over HTTP, a page of another site asked for a change.
pub const ORIGIN_NOT_ALLOWED: &str = "ORIGIN_NOT_ALLOWED";

/// Nobody said who asks, and this is not for everybody: show a token or a certificate.
pub const CREDENTIALS_REQUIRED: &str = "CREDENTIALS_REQUIRED";
/// The token is not known, or the signed token is not what it must be.
pub const CREDENTIALS_INVALID: &str = "CREDENTIALS_INVALID";
/// The token or the certificate was good, and its time is over: get a new one.
pub const CREDENTIALS_EXPIRED: &str = "CREDENTIALS_EXPIRED";
/// Who asks is known, and may not do this, or not to this service.
pub const PERMISSION_DENIED: &str = "PERMISSION_DENIED";
/// No replica may be registered at this address: it is not in the caller's networks, or leads where no replica is.
pub const ADDRESS_NOT_ALLOWED: &str = "ADDRESS_NOT_ALLOWED";
/// The caller asks more often than it may, or shows wrong credentials that often.
pub const RATE_LIMITED: &str = "RATE_LIMITED";

/// Every reason.
pub const ALL: [&str; 36] = [
    INVALID_FIELD,
    MALFORMED_REQUEST,
    SERVICE_NOT_FOUND,
    REPLICA_NOT_FOUND,
    LEASE_EXPIRED,
    LEASE_MISMATCH,
    ADDRESS_IN_USE,
    REPLICA_REMOVED,
    REREGISTER_BLOCKED,
    REQUEST_ID_REUSED,
    ETAG_MISMATCH,
    LAST_READY_REPLICA,
    POLICY_NOT_FOUND,
    POLICY_INVALID,
    FAULT_INJECTION_NOT_ALLOWED,
    ROUTE_NOT_FOUND,
    ROUTE_INVALID,
    ROUTE_CONFLICT,
    PAGE_TOKEN_INVALID,
    STORE_UNAVAILABLE,
    MOVE_REFUSED,
    OVERLOADED,
    QUOTA_EXCEEDED,
    INTERRUPTED,
    INTERNAL_ERROR,
    SHUTTING_DOWN,
    STREAM_SUPERSEDED,
    ACK_OVERDUE,
    HOST_NOT_ALLOWED,
    ORIGIN_NOT_ALLOWED,
    CREDENTIALS_REQUIRED,
    CREDENTIALS_INVALID,
    CREDENTIALS_EXPIRED,
    PERMISSION_DENIED,
    ADDRESS_NOT_ALLOWED,
    RATE_LIMITED,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_reason_once() {
        let declared = include_str!("reason.rs").lines().filter_map(|line| line.strip_prefix("pub const "));
        let declared = declared.filter_map(|line| line.split_once(": &str = ").map(|(name, _)| name));
        let declared: Vec<_> = declared.filter(|name| *name != "DOMAIN").collect();
        assert_eq!(declared, ALL);
    }
}
