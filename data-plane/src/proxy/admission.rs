//! The gate in front of every replica: refuses what cannot be forwarded, finds the service for the rest.

use std::sync::Arc;

use gateway_proto::policy::RequestRules;
use http::Method;

use super::{errors::GatewayError, h1::Length, head::RequestHead, route, worker::Worker};
use crate::{request_rules::check_head, table::Service};

/// Refuses what cannot be forwarded; finds the service for the rest, and how many bytes of the target are only there to
/// name it.
///
/// The error comes with the name of the service that was asked for, as far as it is known.
pub(super) fn admit(
    worker: &Worker,
    head: &RequestHead,
) -> Result<(Arc<Service>, usize), (GatewayError, String)> {
    let refuse = |error| (error, String::new());
    if head.method == Method::CONNECT {
        return Err(refuse(GatewayError::TunnelRefused));
    }
    if head.method == Method::TRACE {
        // It would show the client what only replicas may see.
        return Err(refuse(GatewayError::TraceRefused));
    }
    if worker.via().is_in(&head.fields) {
        return Err(refuse(GatewayError::Loop));
    }
    let found = route::route(head.host(), head.path(), worker.domain())
        .ok_or_else(|| refuse(GatewayError::NoRoute))?;
    let Some(service) = worker.table().service(found.service) else {
        let error = match worker.table().is_filled() {
            true => GatewayError::UnknownService,
            false => GatewayError::NoSnapshot,
        };
        return Err((error, found.service.to_owned()));
    };
    let stripped = if found.is_by_path { 1 + found.service.len() } else { 0 };
    Ok((service, stripped))
}

/// Refuses what the service's policy does not let through, as far as the head tells.
pub(super) fn check_policy(
    rules: &RequestRules,
    head: &RequestHead,
    length: Length,
) -> Result<(), GatewayError> {
    let length = match length {
        Length::Empty => Some(0),
        Length::Exact(length) => Some(length),
        Length::Chunked | Length::UntilClose => None,
    };
    check_head(rules, &head.method, &head.fields, length).map_err(GatewayError::Refused)
}
