//! The gate in front of every replica: refuses what cannot be forwarded, finds the service for the rest.

use std::rc::Rc;

use gateway_proto::policy::RequestRules;
use http::Method;

use super::{route, stay::Stay};
use crate::{
    proxy::{errors::GatewayError, h1::Length, head::RequestHead, worker::Worker},
    request_rules::check_head,
    routes::{Asked, HeldRoute, Rewrite, Rule},
};

/// Where a request goes.
pub(in crate::proxy) struct Admitted {
    pub(in crate::proxy) stay: Stay,
    found_by: FoundBy,
}

/// What led to the service.
enum FoundBy {
    Host,
    /// The target's first segment, of so many bytes with its slash.
    Path(usize),
    Route(HeldRoute),
}

impl Admitted {
    /// The path prefix of the explicit route that led there, if one did.
    pub(in crate::proxy) fn route(&self) -> Option<&str> {
        match &self.found_by {
            FoundBy::Host | FoundBy::Path(_) => None,
            FoundBy::Route(route) => Some(&route.path_prefix),
        }
    }

    /// What becomes of the request's target, if it does not stay as it is.
    pub(in crate::proxy) fn rewrite(&self, head: &RequestHead) -> Option<Rewrite<'_>> {
        match &self.found_by {
            FoundBy::Host => None,
            FoundBy::Path(name) => Some(Rewrite::new(head.target(), *name, "")),
            FoundBy::Route(route) => Rewrite::by(route, head.target()),
        }
    }
}

/// Refuses what cannot be forwarded; finds the service for the rest.
///
/// The error comes with the name of the service that was asked for, as far as it is known.
pub(in crate::proxy) fn admit(
    worker: &Rc<Worker>,
    head: &RequestHead,
) -> Result<Admitted, (GatewayError, String)> {
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
    if let Some(routes) = worker.table().routes() {
        let asked =
            Asked { host: head.host(), path: head.path(), method: &head.method, fields: &head.fields };
        if let Some(rule) = routes.find(asked) {
            return follow(rule, worker);
        }
    }
    let found = route::route(head.host_bytes(), head.target_bytes(), worker.domain())
        .ok_or_else(|| refuse(GatewayError::NoRoute))?;
    let Some(service) = worker.table().service_or_departed(worker.index(), found.service, worker.now())
    else {
        let error = match worker.table().is_filled() {
            true => GatewayError::UnknownService,
            false => GatewayError::NoSnapshot,
        };
        return Err((error, found.service.to_owned()));
    };
    let found_by = if found.is_by_path { FoundBy::Path(1 + found.service.len()) } else { FoundBy::Host };
    Ok(Admitted { stay: Stay::begin(worker, service), found_by })
}

/// Where an explicit route leads.
fn follow(rule: &Rule, worker: &Rc<Worker>) -> Result<Admitted, (GatewayError, String)> {
    let name = rule.route().service.as_str();
    let Some(service) = worker.table().service_or_departed(worker.index(), name, worker.now()) else {
        // It is no unknown one: somebody has declared it, and it has no replica yet or any more.
        let error = match worker.table().is_filled() {
            true => GatewayError::NoneReady,
            false => GatewayError::NoSnapshot,
        };
        return Err((error, name.to_owned()));
    };
    let found_by = FoundBy::Route(rule.held_by(worker.index()));
    Ok(Admitted { stay: Stay::begin(worker, service), found_by })
}

/// Refuses what the service's policy does not let through, as far as the head tells.
pub(in crate::proxy) fn check_policy(
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
