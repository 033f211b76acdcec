//! Whole lists: every page is fetched and merged into one response, so that `-o json` is one stable message.

use gateway_proto::{
    ReplicaId, ReplicaKey, ServiceName, reason,
    v1::{
        ExplainReplicaRequest, ExplainReplicaResponse, ExplainServiceRequest, ExplainServiceResponse,
        GetReplicaRequest, ListBreakersRequest, ListBreakersResponse, ListEventsRequest, ListEventsResponse,
        ListNodesRequest, ListNodesResponse, ListOverridesRequest, ListOverridesResponse,
        ListPoliciesRequest, ListPoliciesResponse, ListReplicasRequest, ListReplicasResponse,
        ListRoutesRequest, ListRoutesResponse, ListServicesRequest, ListServicesResponse, Replica,
        WhatIfRequest, WhatIfResponse,
    },
};

use super::Control;
use crate::{
    error::{Error, Exit},
    status::Subject,
    target::Target,
};

/// Rows asked for at once: few calls, and a page stays far below the largest message.
const PAGE_SIZE: i32 = 1000;
/// A server that hands out more pages than this does not end: ten million rows.
const MAX_PAGES: usize = 10_000;

/// A response that may be followed by another.
trait Page {
    /// Takes the token of the next page out; empty when this is the last.
    fn take_token(&mut self) -> String;
    /// How many rows it has.
    fn count(&self) -> usize;
    /// Appends the rows of the next page, and takes over its token.
    fn absorb(&mut self, next: Self);
}

macro_rules! page {
    ($response:ty, $rows:ident $(, $field:ident)*) => {
        impl Page for $response {
            fn take_token(&mut self) -> String {
                std::mem::take(&mut self.next_page_token)
            }
            fn count(&self) -> usize {
                self.$rows.len()
            }
            fn absorb(&mut self, next: Self) {
                self.$rows.extend(next.$rows);
                self.next_page_token = next.next_page_token;
                // What holds for the whole list is newest on the last page.
                $(self.$field = next.$field;)*
            }
        }
    };
}
page!(ListServicesResponse, services, revision);
page!(ListReplicasResponse, replicas, revision);
page!(ListBreakersResponse, breakers, unreachable_node_ids, silent_control_planes);
page!(ListNodesResponse, nodes, revision, silent_control_planes, peers);
page!(ListEventsResponse, events, silent_control_planes);
page!(ListOverridesResponse, overrides, revision);
page!(ListPoliciesResponse, policies, revision);
page!(ListRoutesResponse, routes, revision);

/// Fetches pages until the last one, or until there are `limit` rows.
async fn collect<P: Page>(
    limit: usize,
    mut fetch: impl AsyncFnMut(String) -> Result<P, Error>,
) -> Result<P, Error> {
    let mut all = fetch(String::new()).await?;
    for _ in 1..MAX_PAGES {
        let token = all.take_token();
        if token.is_empty() || all.count() >= limit {
            return Ok(all);
        }
        all.absorb(fetch(token).await?);
    }
    Err(Error::new(Exit::Failed, format!("the control plane sent {MAX_PAGES} pages without an end")))
}

impl Control {
    /// All services, in the order of their names.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn services(&self) -> Result<ListServicesResponse, Error> {
        self.services_of(&Query::default()).await
    }

    /// The services that a query asks for, in its order.
    ///
    /// # Errors
    /// What the control plane refuses, also of the query.
    pub(crate) async fn services_of(&self, query: &Query) -> Result<ListServicesResponse, Error> {
        let subject = Subject { request: "list of services", service: "" };
        collect(usize::MAX, async |page_token| {
            let Query { filter, order_by } = query.clone();
            let request = ListServicesRequest { page_size: PAGE_SIZE, page_token, filter, order_by };
            self.call("ListServices", subject, self.registry.clone().list_services(request)).await
        })
        .await
    }

    /// All replicas of one service, or of all services, in the order of their names.
    ///
    /// # Errors
    /// Of an unknown service, with the name that was probably meant.
    pub(crate) async fn replicas(
        &self,
        service: Option<&ServiceName>,
    ) -> Result<ListReplicasResponse, Error> {
        self.replicas_of(service, &Query::default()).await
    }

    /// Those replicas of one service, or of all services, that a query asks for, in its order.
    ///
    /// # Errors
    /// As [`Control::replicas`], and what is refused of the query.
    pub(crate) async fn replicas_of(
        &self,
        service: Option<&ServiceName>,
        query: &Query,
    ) -> Result<ListReplicasResponse, Error> {
        let name = service.map_or("", ServiceName::as_str);
        let subject = Subject { request: "list of replicas", service: name };
        let listed = collect(usize::MAX, async |page_token| {
            let service = if name.is_empty() { "-" } else { name }.to_owned();
            let Query { filter, order_by } = query.clone();
            let request = ListReplicasRequest { service, page_size: PAGE_SIZE, page_token, filter, order_by };
            self.call("ListReplicas", subject, self.registry.clone().list_replicas(request)).await
        })
        .await;
        match listed {
            Err(error) => Err(self.with_suggestion(error, name).await),
            listed => listed,
        }
    }

    /// The replica that somebody names. A whole id is asked for by itself, which its owner may do, too; the beginning of one is
    /// looked for among all of its service, which takes the role reader.
    ///
    /// # Errors
    /// As [`Target::find`], and what is refused.
    pub(crate) async fn replica(&self, target: &Target) -> Result<Replica, Error> {
        self.seek(target, &mut true).await
    }

    /// The same for who looks again and again: `may_list` is told when the list is not for him, and then it is not asked for. That
    /// there is none means then that no replica has what was typed for its whole id.
    ///
    /// # Errors
    /// As [`Control::replica`].
    pub(crate) async fn seek(&self, target: &Target, may_list: &mut bool) -> Result<Replica, Error> {
        let unlisted = || {
            let hint = "only the role reader finds it by the beginning of its id: type all of it";
            Err(target.unknown().hint(hint))
        };
        let service = target.service.as_str();
        let mut is_known_as_none = false;
        if ReplicaId::parse(&target.prefix).is_ok() {
            let subject = Subject { request: "look at a replica", service };
            let request =
                GetReplicaRequest { service: service.to_owned(), replica_id: target.prefix.clone() };
            match self.call("GetReplica", subject, self.registry.clone().get_replica(request)).await {
                Ok(found) => return Ok(found.replica.unwrap_or_default()),
                // It was a whole id a short while ago: no other replica is meant whose id begins with it.
                Err(error) if error.is_of(reason::REPLICA_REMOVED) => return Err(error),
                Err(error) if error.exit == Exit::NotFound => is_known_as_none = true,
                // Whoever may look at all of them is told so by the list.
                Err(error) if error.exit == Exit::Denied && *may_list => {}
                Err(error) => return Err(error),
            }
        }
        if is_known_as_none && !*may_list {
            return unlisted();
        }
        match self.replicas(Some(&target.service)).await {
            Ok(listed) => target.find(&listed.replicas).cloned(),
            Err(error) if error.exit == Exit::Denied && is_known_as_none => {
                *may_list = false;
                unlisted()
            }
            Err(error) => Err(error),
        }
    }

    /// Why a replica gets requests or does not.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn explain_replica(
        &self,
        request: ExplainReplicaRequest,
    ) -> Result<ExplainReplicaResponse, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "question", service: &service };
        let told =
            self.call("ExplainReplica", subject, self.observability.clone().explain_replica(request)).await?;
        self.tell_of(&told.silent_control_planes);
        Ok(told)
    }

    /// What breakers would have done by other rules.
    ///
    /// # Errors
    /// Of an unknown service, with the name that was probably meant.
    pub(crate) async fn what_if(&self, request: WhatIfRequest) -> Result<WhatIfResponse, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "question", service: &service };
        match self.call("WhatIf", subject, self.observability.clone().what_if(request)).await {
            Err(error) => Err(self.with_suggestion(error, &service).await),
            Ok(told) => {
                self.tell_of(&told.silent_control_planes);
                Ok(told)
            }
        }
    }

    /// Why a service is served or is not.
    ///
    /// # Errors
    /// Of an unknown service, with the name that was probably meant.
    pub(crate) async fn explain_service(
        &self,
        request: ExplainServiceRequest,
    ) -> Result<ExplainServiceResponse, Error> {
        let service = request.service.clone();
        let subject = Subject { request: "question", service: &service };
        match self.call("ExplainService", subject, self.observability.clone().explain_service(request)).await
        {
            Err(error) => Err(self.with_suggestion(error, &service).await),
            Ok(told) => {
                self.tell_of(&told.silent_control_planes);
                Ok(told)
            }
        }
    }

    /// Breakers in every state: merged over data planes, or one row for each data plane.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn breakers(
        &self,
        scope: &Scope,
        per_node: bool,
    ) -> Result<ListBreakersResponse, Error> {
        self.breakers_of(scope, per_node, "").await
    }

    /// Those of them that pass a filter.
    ///
    /// # Errors
    /// What the control plane refuses, also of the filter.
    pub(crate) async fn breakers_of(
        &self,
        scope: &Scope,
        per_node: bool,
        filter: &str,
    ) -> Result<ListBreakersResponse, Error> {
        let subject = Subject { request: "list of breakers", service: &scope.service };
        collect(usize::MAX, async |page_token| {
            let request = ListBreakersRequest {
                service: scope.service.clone(),
                replica_id: scope.replica_id.clone(),
                per_node,
                page_size: PAGE_SIZE,
                page_token,
                filter: filter.to_owned(),
                ..Default::default()
            };
            self.call("ListBreakers", subject, self.observability.clone().list_breakers(request)).await
        })
        .await
    }

    /// All data planes.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn nodes(&self) -> Result<ListNodesResponse, Error> {
        self.nodes_of("").await
    }

    /// The data planes that pass a filter.
    ///
    /// # Errors
    /// What the control plane refuses, also of the filter.
    pub(crate) async fn nodes_of(&self, filter: &str) -> Result<ListNodesResponse, Error> {
        let subject = Subject { request: "list of data planes", service: "" };
        collect(usize::MAX, async |page_token| {
            let request = ListNodesRequest { page_size: PAGE_SIZE, page_token, filter: filter.to_owned() };
            self.call("ListNodes", subject, self.observability.clone().list_nodes(request)).await
        })
        .await
    }

    /// What operators have decided against the rules, for one service or for all.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn overrides(&self, service: &str) -> Result<ListOverridesResponse, Error> {
        let subject = Subject { request: "list of overrides", service };
        collect(usize::MAX, async |page_token| {
            let request =
                ListOverridesRequest { service: service.to_owned(), page_size: PAGE_SIZE, page_token };
            self.call("ListOverrides", subject, self.observability.clone().list_overrides(request)).await
        })
        .await
    }

    /// All stored policies, that of `*` first.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn policies(&self) -> Result<ListPoliciesResponse, Error> {
        self.policies_of("").await
    }

    /// The stored policies that pass a filter.
    ///
    /// # Errors
    /// What the control plane refuses, also of the filter.
    pub(crate) async fn policies_of(&self, filter: &str) -> Result<ListPoliciesResponse, Error> {
        let subject = Subject { request: "list of policies", service: "" };
        collect(usize::MAX, async |page_token| {
            let request = ListPoliciesRequest { page_size: PAGE_SIZE, page_token, filter: filter.to_owned() };
            self.call("ListPolicies", subject, self.policies.clone().list_policies(request)).await
        })
        .await
    }

    /// All explicit routes, in the order of their names.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn routes(&self) -> Result<ListRoutesResponse, Error> {
        let subject = Subject { request: "list of routes", service: "" };
        collect(usize::MAX, async |page_token| {
            let request = ListRoutesRequest { page_size: PAGE_SIZE, page_token };
            self.call("ListRoutes", subject, self.routes.clone().list_routes(request)).await
        })
        .await
    }

    /// The newest events, at most `limit` of them, newest first; with a filter, of those that pass it.
    ///
    /// # Errors
    /// What the control plane refuses.
    pub(crate) async fn events(
        &self,
        scope: &Scope,
        filter: &str,
        limit: usize,
    ) -> Result<ListEventsResponse, Error> {
        let subject = Subject { request: "list of events", service: &scope.service };
        let page_size = i32::try_from(limit).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let mut all = collect(limit, async |page_token| {
            let request = ListEventsRequest {
                service: scope.service.clone(),
                replica_id: scope.replica_id.clone(),
                page_size,
                page_token,
                filter: filter.to_owned(),
                ..Default::default()
            };
            self.call("ListEvents", subject, self.observability.clone().list_events(request)).await
        })
        .await?;
        all.events.truncate(limit);
        self.tell_of(&all.silent_control_planes);
        Ok(all)
    }
}

/// Which rows of a list, and in which order; the control plane evaluates it.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Query {
    /// Only rows for which this holds, e.g. 'health = LOST AND version != "2"'; = != < <= > >= : AND OR NOT ( )
    #[arg(long, default_value = "", value_name = "EXPRESSION", hide_default_value = true)]
    pub(crate) filter: String,
    /// Fields to sort by, e.g. 'priority, weight desc'
    #[arg(long, default_value = "", value_name = "FIELDS", hide_default_value = true)]
    pub(crate) order_by: String,
}

impl Query {
    /// The same, of those with these labels.
    ///
    /// # Errors
    /// A usage error for what is no selector.
    pub(crate) fn and(mut self, selector: Option<&str>) -> Result<Self, Error> {
        let Some(selector) = selector else { return Ok(self) };
        let labels = filter_of(selector).map_err(|why| {
            Error::new(Exit::Usage, format!("the selector \"{selector}\" {why}"))
                .hint("for example  team=web,env!=dev  or  pinned,!canary")
        })?;
        self.filter = match self.filter.as_str() {
            "" => labels,
            filter => format!("({filter}) AND {labels}"),
        };
        Ok(self)
    }
}

/// `team=web,env!=dev,pinned,!canary` as the control plane's filters have it.
fn filter_of(selector: &str) -> Result<String, String> {
    let term = |term: &str| {
        let term = term.trim();
        let (key, filter) = match (term.split_once("!="), term.split_once('=')) {
            (Some((key, value)), _) => (key, format!("labels.{} != {}", quoted(key), quoted(value))),
            (None, Some((key, value))) => {
                let value = value.strip_prefix('=').unwrap_or(value);
                (key, format!("labels.{} = {}", quoted(key), quoted(value)))
            }
            (None, None) => match term.strip_prefix('!') {
                Some(key) => (key, format!("NOT labels : {}", quoted(key))),
                None => (term, format!("labels : {}", quoted(term))),
            },
        };
        if key.trim().is_empty() { Err("has a term without a key".to_owned()) } else { Ok(filter) }
    };
    Ok(selector.split(',').map(term).collect::<Result<Vec<_>, _>>()?.join(" AND "))
}

/// Text in a filter, in quotes, so that every character stands for itself; a `*` in a value stands for any.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.trim().replace('\\', "\\\\").replace('"', "\\\""))
}

/// Which rows of a list; the control plane evaluates it.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Filter {
    /// Only rows for which this holds, e.g. 'state = OPEN AND trip_count > 2'; = != < <= > >= : AND OR NOT ( )
    #[arg(long = "filter", default_value = "", value_name = "EXPRESSION", hide_default_value = true)]
    pub(crate) expression: String,
}

/// Whose breakers or events: everybody's, a service's, or a replica's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) service: String,
    pub(crate) replica_id: String,
}

impl From<Option<&ServiceName>> for Scope {
    fn from(service: Option<&ServiceName>) -> Self {
        Self { service: service.map(ToString::to_string).unwrap_or_default(), replica_id: String::new() }
    }
}

impl From<&ReplicaKey> for Scope {
    fn from(key: &ReplicaKey) -> Self {
        Self { service: key.service.to_string(), replica_id: key.replica.to_string() }
    }
}

impl From<&Replica> for Scope {
    fn from(replica: &Replica) -> Self {
        Self { service: replica.service.clone(), replica_id: replica.replica_id.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_filter_of_labels() {
        for (selector, filter) in [
            ("team=web", r#"labels."team" = "web""#),
            ("team==web", r#"labels."team" = "web""#),
            ("team=web,env!=dev", r#"labels."team" = "web" AND labels."env" != "dev""#),
            ("pinned, !canary", r#"labels : "pinned" AND NOT labels : "canary""#),
            (r#"a.b/c="x""#, r#"labels."a.b/c" = "\"x\"""#),
        ] {
            assert_eq!(filter_of(selector), Ok(filter.to_owned()), "{selector}");
        }
        for selector in ["", "=web", "team=web,", "!"] {
            assert!(filter_of(selector).is_err(), "{selector:?}");
        }
        let query = Query { filter: "health = LOST OR weight > 1".into(), ..Default::default() };
        let both = query.and(Some("team=web")).unwrap().filter;
        assert_eq!(both, r#"(health = LOST OR weight > 1) AND labels."team" = "web""#);
    }
}
