//! The one table from gRPC statuses to errors for people.
//!
//! The control plane puts the facts into `google.rpc.Status` details; this file turns violations into lines, the
//! reason into the code, and what can be done into hints. It never matches on the text of a message.

use std::time::Duration;

use gateway_proto::{code_name, reason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::{Error, Exit};

/// What a call was about, for the headline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// E.g. `registration of orders`: "invalid registration of orders".
    pub(crate) request: &'a str,
    /// The service in question; empty when it is about all of them.
    pub(crate) service: &'a str,
}

/// Explains a refused call.
pub(crate) fn explain(status: &Status, subject: Subject<'_>) -> Error {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| info.reason.as_str());
    let violations = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);

    let headline = match reason {
        reason::SERVICE_NOT_FOUND if !subject.service.is_empty() => {
            format!("service \"{}\" is not registered", subject.service)
        }
        // The control plane's message names its field for what the hint below names as a flag.
        reason::LAST_READY_REPLICA if !subject.service.is_empty() => {
            format!("service \"{}\" would have no ready replica left", subject.service)
        }
        _ if !violations.is_empty() => format!("invalid {}", subject.request),
        _ if status.message().is_empty() => format!("the {} was refused without a message", subject.request),
        _ => status.message().to_owned(),
    };
    let mut error = Error::new(exit(status.code()), headline);
    error.details.extend(violations.iter().map(|v| format!("{}: {}", v.field, v.description)));
    error.hints.extend(next_step(reason, subject.service));
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        error.hints.push(format!("retry in {}", humantime::format_duration(rounded(delay))));
    }
    if let Some(help) = details.help() {
        error.hints.extend(help.links.iter().map(|link| format!("{} {}", link.description, link.url)));
    }
    error.code = code_name(status.code()).to_owned();
    if !reason.is_empty() {
        error.code = format!("{} / {reason}", error.code);
    }
    error
}

/// To seconds, and below one to milliseconds; never to less than it is.
fn rounded(delay: Duration) -> Duration {
    let unit = if delay < Duration::from_secs(1) { 1_000_000 } else { 1_000_000_000 };
    Duration::from_nanos(
        u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX).div_ceil(unit).saturating_mul(unit),
    )
}

/// Whether a status did not come from a control plane that knows the call: ours give a reason for what they refuse,
/// while these codes are made up for answers that are not gRPC, and for methods that do not exist.
pub(crate) fn is_foreign(status: &Status) -> bool {
    let made_up = matches!(status.code(), Code::Unimplemented | Code::Internal | Code::Unknown);
    (made_up || is_of_a_blind_gateway(status)) && status.get_error_details().error_info().is_none()
}

/// Whether a data plane said so that knows of no service yet, and so of no control plane behind it.
fn is_of_a_blind_gateway(status: &Status) -> bool {
    let said = status.metadata().get("proxy-status").and_then(|said| said.to_str().ok());
    said.is_some_and(|said| said.contains("details=\"no_snapshot\""))
}

fn next_step(reason: &str, service: &str) -> Option<String> {
    match reason {
        reason::SERVICE_NOT_FOUND => Some("gwctl get services".to_owned()),
        reason::REPLICA_NOT_FOUND | reason::ADDRESS_IN_USE => {
            Some(format!("gwctl get replicas {service}").trim_end().to_owned())
        }
        reason::LAST_READY_REPLICA => Some("add --allow-last to drain it all the same".to_owned()),
        reason::REREGISTER_BLOCKED => Some(format!("gwctl get overrides {service}").trim_end().to_owned()),
        reason::POLICY_NOT_FOUND => Some("gwctl policy get".to_owned()),
        reason::ROUTE_NOT_FOUND | reason::ROUTE_CONFLICT => Some("gwctl route get".to_owned()),
        reason::ETAG_MISMATCH => Some("look at it again, then try again".to_owned()),
        reason::STORE_UNAVAILABLE => {
            Some("nothing was changed; look at the control plane's log and its store".to_owned())
        }
        reason::INTERRUPTED => Some("it may have been made or not: look, and ask again if it was not".to_owned()),
        reason::CREDENTIALS_REQUIRED => {
            Some("name a file with a token by  --token-file FILE,  or a certificate by  --cert-file  and  --key-file".to_owned())
        }
        reason::CREDENTIALS_INVALID | reason::CREDENTIALS_EXPIRED | reason::PERMISSION_DENIED => {
            Some("gwctl auth whoami  says who you are there, and what you may do".to_owned())
        }
        reason::SHUTTING_DOWN => Some("try again when the control plane is back".to_owned()),
        _ => None,
    }
}

/// The exit code of a gRPC code.
fn exit(code: Code) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Exit::Conflict,
        // A server-side timeout arrives as CANCELLED: gwctl itself never cancels a call it reports on.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unreachable,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::Ok
        | Code::Unknown
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    const ORDERS: Subject<'_> = Subject { request: "registration of orders", service: "orders" };

    #[test]
    fn violations_become_lines_under_what_was_invalid() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("endpoint.address", "has no port: write host:port")
            .add_bad_request_violation("weight", "2000 is not in 1..=1000")
            .set_error_info(reason::INVALID_FIELD, reason::DOMAIN, HashMap::new());
        let status = Status::with_error_details(Code::InvalidArgument, "two things", details);
        let error = explain(&status, ORDERS);
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.headline, "invalid registration of orders");
        assert_eq!(
            error.details,
            ["endpoint.address: has no port: write host:port", "weight: 2000 is not in 1..=1000"]
        );
        assert_eq!(error.code, "INVALID_ARGUMENT / INVALID_FIELD");
    }

    #[test]
    fn an_unknown_service_is_named_and_the_way_to_the_known_ones_shown() {
        let details =
            ErrorDetails::with_error_info(reason::SERVICE_NOT_FOUND, reason::DOMAIN, HashMap::new());
        let error = explain(&Status::with_error_details(Code::NotFound, "no", details), ORDERS);
        assert_eq!(error.headline, "service \"orders\" is not registered");
        assert_eq!(error.hints, ["gwctl get services"]);
        assert_eq!((error.exit, error.code.as_str()), (Exit::NotFound, "NOT_FOUND / SERVICE_NOT_FOUND"));
    }

    #[test]
    fn a_taken_address_leads_to_the_replicas_of_its_service() {
        let details = ErrorDetails::with_error_info(reason::ADDRESS_IN_USE, reason::DOMAIN, HashMap::new());
        let error = explain(&Status::with_error_details(Code::AlreadyExists, "r-1 has it", details), ORDERS);
        assert_eq!((error.exit, error.headline.as_str()), (Exit::Conflict, "r-1 has it"));
        assert_eq!(error.hints, ["gwctl get replicas orders"]);
    }

    #[test]
    fn how_to_drain_the_last_ready_replica_is_told_once_and_as_it_is_typed() {
        let details =
            ErrorDetails::with_error_info(reason::LAST_READY_REPLICA, reason::DOMAIN, HashMap::new());
        let said =
            "orders/r-1 is the last ready replica of its service: set allow_last to drain it all the same";
        let error = explain(&Status::with_error_details(Code::FailedPrecondition, said, details), ORDERS);
        assert_eq!(error.headline, "service \"orders\" would have no ready replica left");
        assert_eq!(error.hints, ["add --allow-last to drain it all the same"]);
    }

    #[test]
    fn a_retry_delay_becomes_a_hint() {
        let mut details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        details.set_error_info(reason::OVERLOADED, reason::DOMAIN, HashMap::new());
        let status = Status::with_error_details(Code::ResourceExhausted, "4096 commands wait", details);
        let error = explain(&status, ORDERS);
        assert_eq!(error.headline, "4096 commands wait");
        assert_eq!(error.hints, ["retry in 3s"]);
        assert_eq!(error.exit, Exit::Failed);
    }

    #[test]
    fn a_retry_delay_is_rounded_to_what_people_can_wait_for_and_never_to_less() {
        for (nanos, told) in
            [(28_179_314, "29ms"), (999_999_999, "1s"), (1_000_000_001, "2s"), (90_000_000_000, "1m 30s")]
        {
            assert_eq!(humantime::format_duration(rounded(Duration::from_nanos(nanos))).to_string(), told);
        }
    }

    #[test]
    fn a_change_that_may_have_been_made_is_never_said_to_have_changed_nothing() {
        let hints = |reason| {
            let details = ErrorDetails::with_error_info(reason, reason::DOMAIN, HashMap::new());
            explain(&Status::with_error_details(Code::Unavailable, "no", details), ORDERS).hints
        };
        assert_eq!(
            hints(reason::INTERRUPTED),
            ["it may have been made or not: look, and ask again if it was not"]
        );
        assert!(hints(reason::STORE_UNAVAILABLE)[0].starts_with("nothing was changed"));
    }

    #[test]
    fn a_status_without_details_still_has_a_headline_and_a_code() {
        let error = explain(&Status::new(Code::PermissionDenied, ""), ORDERS);
        assert_eq!(error.headline, "the registration of orders was refused without a message");
        assert_eq!((error.exit, error.code.as_str()), (Exit::Denied, "PERMISSION_DENIED"));
    }

    #[test]
    fn a_made_up_status_is_foreign_and_one_with_a_reason_is_not() {
        assert!(is_foreign(&Status::unimplemented("grpc-status header missing")));
        assert!(is_foreign(&Status::internal("invalid compression flag")));
        assert!(!is_foreign(&Status::unavailable("tcp connect error")));
        let mut by_a_gateway = Status::unavailable("it knows no service yet");
        let said = "gw-dp-1; error=destination_unavailable; details=\"no_snapshot\"";
        by_a_gateway.metadata_mut().insert("proxy-status", said.parse().unwrap());
        assert!(is_foreign(&by_a_gateway));
        let details = ErrorDetails::with_error_info(reason::OVERLOADED, reason::DOMAIN, HashMap::new());
        assert!(!is_foreign(&Status::with_error_details(Code::Internal, "no", details)));
    }

    #[test]
    fn each_kind_of_refusal_has_its_exit_code() {
        let exits: Vec<u8> = [
            Code::Internal,
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Unauthenticated,
        ]
        .map(|code| exit(code).code())
        .into();
        assert_eq!(exits, [1, 2, 3, 4, 4, 4, 5, 5, 6]);
    }
}
