//! The gate in front of every replica: refuses what cannot be forwarded, finds the service for the rest.

use std::sync::Arc;

use http::{
    HeaderValue, Method, Version,
    header::HOST,
    request,
    uri::{Authority, PathAndQuery},
};

use super::{errors::GatewayError, route, worker::Worker};
use crate::table::Service;

/// What a replica is told about the request's target.
pub(super) struct Target {
    pub(super) host: Option<HeaderValue>,
    pub(super) target: PathAndQuery,
    pub(super) stripped_prefix: Option<HeaderValue>,
}

/// Refuses what cannot be forwarded; finds the service and the target for the rest.
///
/// The error comes with the name of the service that was asked for, as far as it is known.
pub(super) fn admit(
    worker: &Worker,
    head: &request::Parts,
) -> Result<(Arc<Service>, Target), (GatewayError, String)> {
    let refuse = |error| (error, String::new());
    if head.method == Method::CONNECT {
        return Err(refuse(GatewayError::TunnelRefused));
    }
    if worker.via().is_in(&head.headers) {
        return Err(refuse(GatewayError::Loop));
    }
    let host = host_of(head).map_err(refuse)?;
    let Some(path_and_query) = head.uri.path_and_query() else {
        return Err(refuse(GatewayError::BadRequest("the request has no path")));
    };
    let host_text = host.as_ref().and_then(|host| host.to_str().ok());
    let found =
        route::route(host_text, &head.uri, worker.domain()).ok_or_else(|| refuse(GatewayError::NoRoute))?;
    let Some(service) = worker.table().service(found.service) else {
        let error = match worker.table().is_filled() {
            true => GatewayError::UnknownService,
            false => GatewayError::NoSnapshot,
        };
        return Err((error, found.service.to_owned()));
    };
    if !found.is_by_path {
        let target = path_and_query.clone();
        return Ok((service, Target { host, target, stripped_prefix: None }));
    }
    let target = route::strip_first_segment(path_and_query)
        .ok_or_else(|| refuse(GatewayError::BadRequest("the path behind the service's name is not valid")))?;
    let stripped_prefix = HeaderValue::from_str(&format!("/{}", service.name())).ok();
    Ok((service, Target { host, target, stripped_prefix }))
}

/// The one host that the request names: an absolute target goes before the field (RFC 9112 section 3.2.2).
fn host_of(head: &request::Parts) -> Result<Option<HeaderValue>, GatewayError> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(GatewayError::BadRequest("the request has more than one Host field"));
    }
    let authority = head.uri.authority();
    // In HTTP/2 the authority stands for the field.
    let is_named = field.is_some() || (head.version == Version::HTTP_2 && authority.is_some());
    if !is_named && head.version >= Version::HTTP_11 {
        return Err(GatewayError::BadRequest("the request has no Host field"));
    }
    let invalid = GatewayError::BadRequest("the request's host is not valid");
    let host = match authority.map(|authority| HeaderValue::from_str(authority.as_str())) {
        Some(Ok(authority)) => Some(authority),
        Some(Err(_)) => return Err(invalid),
        None => field.cloned(),
    };
    // An empty one is what a request has whose target has no authority.
    let is_valid = |host: &HeaderValue| {
        host.is_empty() || Authority::try_from(host.as_bytes()).is_ok_and(|host| !host.as_str().contains('@'))
    };
    match host {
        Some(host) if !is_valid(&host) => Err(invalid),
        host => Ok(host),
    }
}
